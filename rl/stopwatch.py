"""Where the seconds of a step went."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named parts of a step."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to `time/<name>_s`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            key = f"time/{name}_s"
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start


def overhead(seconds: Mapping[str, float], *, overlapped: bool) -> dict[str, float]:
    """Return what a step spends outside generation, forward and backward, and the optimizer.

    Args:
        seconds: `time/...` of the step.
        overlapped: Rollouts were made beside another step; only the wait for them counts.

    Returns:
        `time/overhead_s`, and `time/overhead_fraction` of the step.
    """
    generation = "time/wait_s" if overlapped else "time/rollout_s"
    worked = (generation, "time/forward_backward_s", "time/optimizer_s")
    left = seconds["time/step_s"] - sum(seconds.get(name, 0.0) for name in worked)
    left = max(left, 0.0)
    return {"time/overhead_s": left, "time/overhead_fraction": left / seconds["time/step_s"]}
