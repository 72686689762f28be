"""The rollout engines as something that answers prompts."""

from collections.abc import Callable, Sequence

from scenerl.envs.records import Prompt
from scenerl.rl.fleet import EncodeFailure, Fleet
from scenerl.rollout.records import Completion
from scenerl.rollout.replies import Reply, Unanswered


class FleetAnswerer:
    """Encodes, generates and releases. See `rollout.replies.Answerer`."""

    def __init__(
        self, fleet: Fleet, *, decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        """Wrap running engines.

        Args:
            fleet: The engines; stays open until `close`.
            decode: Text of completion ids; None takes the engine's, which leaves special tokens
                out.
        """
        self._fleet, self._decode = fleet, decode

    def answer(
        self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]], *, temperature: float
    ) -> list[list[Reply] | Unanswered]:
        """Answer the prompts in one batch; one that cannot be encoded keeps its reason."""
        items = self._fleet.encode(prompts)
        usable = [at for at, item in enumerate(items) if not isinstance(item, EncodeFailure)]
        encoded = [item for item in items if not isinstance(item, EncodeFailure)]
        wanted = [seeds[at] for at in usable]
        try:
            made = self._fleet.generate(encoded, wanted, temperature=temperature) if encoded else []
        finally:
            self._fleet.release(encoded)
        replies: list[list[Reply] | Unanswered] = [
            Unanswered(reason=item.reason) if isinstance(item, EncodeFailure) else []
            for item in items
        ]
        for at, completions in zip(usable, made, strict=True):
            replies[at] = [self._reply(completion) for completion in completions]
        return replies

    def close(self) -> None:
        """Close the engines."""
        self._fleet.close()

    def _reply(self, completion: Completion) -> Reply:
        ids = completion.completion_ids
        return Reply(
            text=completion.text if self._decode is None else self._decode(ids),
            finish_reason=completion.finish_reason,
            num_tokens=len(ids),
        )
