"""What answers prompts: the rollout engines, or anybody's model behind an address."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scenerl.envs.records import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str
    finish_reason: str
    """"stop", "length", or what an endpoint says."""
    num_tokens: int | None
    """None when the endpoint does not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unanswered:
    """A prompt that cannot be asked (unreadable, too long, refused): data, not an exception."""

    reason: str


class Answerer(Protocol):
    """Answers prompts."""

    def answer(
        self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]], *, temperature: float
    ) -> list[list[Reply] | Unanswered]:
        """Return ``len(seeds[i])`` replies to prompt i, in order; temperature 0 is greedy."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...
