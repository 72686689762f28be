"""What scoring returns."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The reward of one rollout."""

    value: float | None
    """Weighted sum of the parts that apply; None when the rollout could not be scored."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Raw (unweighted) value of each reward by name; None where it does not apply."""
    reason: str | None = None
    """Why value is None, naming the reward and the cause."""
