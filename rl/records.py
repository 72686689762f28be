"""Records of the update: what the learner trains on and what it returns."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scenerl.rollout.records import EncodedPrompt, reduce_to_arrays


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainGroup:
    """The scored rollouts of one prompt, ready for the loss.

    Example: two completions of 3 and 2 tokens, the second cut off at the length limit and masked:
    completion_ids ([7, 8, 2], [7, 9]), completion_masks ([1, 1, 1], [0, 0]), advantages [1, -1].
    """

    group_id: str
    encoded: EncodedPrompt
    completion_ids: tuple[Tensor, ...]
    """int64 [completion] each, ragged; never empty."""
    completion_masks: tuple[Tensor, ...]
    """bool [completion] each: True on tokens that are trained."""
    advantages: Tensor
    """float32 [group]."""
    rollout_logprobs: tuple[Tensor, ...]
    """float32 [completion] each, by the engine."""
    old_logprobs: tuple[Tensor, ...] | None = None
    """float32 [completion] each; None takes the learner's own before its first optimizer step."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as arrays."""
        return reduce_to_arrays(self)

    @property
    def num_tokens(self) -> int:
        """Tokens of the packed sequence [prompt, c1, ..., cG]."""
        return len(self.encoded.prompt_ids) + sum(len(ids) for ids in self.completion_ids)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainBatch:
    """Everything one optimizer step sees. Normalisers of the loss are counted over all of it."""

    groups: tuple[TrainGroup, ...]

    @property
    def num_sequences(self) -> int:
        """Completions, masked ones included."""
        return sum(len(group.completion_ids) for group in self.groups)

    @property
    def num_trained_tokens(self) -> int:
        """Completion tokens that the masks leave."""
        return sum(int(mask.sum()) for group in self.groups for mask in group.completion_masks)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SftExample:
    """One prompt with the reply it should get."""

    encoded: EncodedPrompt
    completion_ids: Tensor
    """int64 [completion], with the end-of-turn token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateResult:
    """What one update did."""

    policy_version: int
    """Updates that the weights have seen, this one included."""
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    """policy/loss, policy/kl, policy/clip_fraction, policy/entropy, policy/grad_norm, ..."""
