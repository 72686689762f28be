"""What scoring returns."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The reward of one rollout."""

    value: float | None
    """Weighted sum of the parts that apply; None when the rollout could not be scored."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Raw (unweighted) value of each reward by name; None where it does not apply."""
    reason: str | None = None
    """Why value is None, naming the reward and the cause."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What rewards logged about this rollout with `log_extra`, as "<reward>/<column>"."""


class RewardError(RuntimeError):
    """A reward that cannot be used or that failed: names the reward, the sample and the cause."""
