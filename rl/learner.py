"""The learner's face: the loop sees only this, whatever trains behind it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from scenerl.rl.records import SftExample, TrainBatch, UpdateResult
from scenerl.rollout.records import Group

ExtraLoss = Callable[[nn.Module], Tensor]
"""A scalar added to the cross-entropy of a supervised step, computed from the policy."""


class Learner(Protocol):
    """Holds the policy and its optimizer."""

    policy_version: int
    """Number of `update` and `update_sft` calls that the weights have seen."""

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Return float32 [completion] log-probs of every rollout under the current policy."""
        ...

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train `num_iterations` optimizer steps on every batch; one update for the version."""
        ...

    def update_sft(
        self, examples: Sequence[SftExample], extra_loss: ExtraLoss | None = None
    ) -> UpdateResult:
        """Take one optimizer step on the mean cross-entropy per completion token."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight under its name in a hub checkpoint, LoRA merged."""
        ...

    def save_model(self, folder: Path) -> None:
        """Write config and weights in the layout of a hub checkpoint, LoRA merged."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue exactly: tensors, numbers, strings, lists, dicts.

        `torch.load(weights_only=True)` can read it back.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; raises ValueError when any weight is missing or left over."""
        ...

    def close(self) -> None:
        """Release what the learner holds (process groups, files)."""
        ...
