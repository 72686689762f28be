"""Time alternatives side by side: warm-up, a memory pass, then interleaved rounds.

Rounds are interleaved (every entry once, then every entry again, in turning order), so that a
machine that gets busy or hot slows all of them alike and ratios hold.
"""

import ctypes
import gc
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_SETTLE_S = 0.3
"""Wait before each timed call: OpenMP's threads look for work for 0.2 s after the call before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One way to do the work of a comparison."""

    name: str
    run: Callable[[], object]
    """Does the whole work once. It may start work on a GPU and return: the clock waits for it."""
    floor_ms: float | None = None
    """What the hardware needs at least, for example bytes that must be read over bandwidth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The same work, same input, done by us and by what a user would take instead."""

    case: str
    """What is done on what, for example "400 frames, 2 cm"."""
    ours: tuple[Entry, ...]
    peers: tuple[Entry, ...] = ()
    left_out: tuple[str, ...] = ()
    """Peers that could not run here, each with its reason."""
    notes: tuple[str, ...] = ()
    """Further lines under the table, for example how good each result is."""
    timings: tuple["Timing", ...] | None = None
    """Of ours, then peers, where the work has measured itself; None has them run and timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """What a case is asked for."""

    quick: bool = False
    """Small sizes that show in seconds that the case works; its figures mean little."""
    device: str = "cpu"
    """Torch device of the work, for cases that have a choice."""
    only: str = ""
    """Part of the name of the comparisons that are wanted, where a case can leave others out."""
    rounds: int = 5
    """Timed calls of each entry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What was measured of one entry."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    peak_mb: float | None
    """Most memory (10^6 bytes) in use above that before the call: GPU memory where there is a GPU,
    else resident memory; None where the system does not tell."""


def measure(entries: Sequence[Entry], rounds: int) -> list[Timing]:
    """Run every entry once to warm up, once for its memory and `rounds` times for its time.

    Args:
        entries: Names may repeat; each is measured.
        rounds: Timed calls of each entry, at least 1.

    Returns:
        One timing per entry.
    """
    for entry in entries:
        logger.info("warm-up of %s", entry.name)
        entry.run()
        synchronize()
    peaks = [peak_memory_mb(entry.run) for entry in entries]
    times: list[list[float]] = [[] for _ in entries]
    for number in range(rounds):
        for place in range(len(entries)):
            turned = (place + number) % len(entries)
            time.sleep(_SETTLE_S)
            times[turned].append(_time_ms(entries[turned].run))
        logger.info("round %d of %d", number + 1, rounds)
    return [timing(mine, peak) for mine, peak in zip(times, peaks, strict=True)]


def timing(times_ms: Sequence[float], peak_mb: float | None = None) -> Timing:
    """Return the quantiles of some times."""
    return Timing(
        median_ms=statistics.median(times_ms),
        p20_ms=_quantile(times_ms, 0.2),
        p80_ms=_quantile(times_ms, 0.8),
        peak_mb=peak_mb,
    )


def synchronize() -> None:
    """Wait for all work on the GPU; nothing where torch is not loaded or sees no GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb(run: Callable[[], object]) -> float | None:
    """Return the most memory that a call adds, in 10^6 bytes; None where nothing tells."""
    torch = sys.modules.get("torch")
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 1e6
    _release_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is in use
        before_kb = _status_kb("VmRSS")
    except (OSError, KeyError):
        run()
        return None
    run()
    return max(0.0, (_status_kb("VmHWM") - before_kb) * 1024 / 1e6)


def read_bandwidth() -> float:
    """Return how fast all threads together read memory, in bytes per second: the best of five."""
    import numpy as np

    from scenerl.kernels.threads import even_parts, map_threads

    block = np.ones(32 * 2**20, np.int64)  # 256 MiB, more than any cache
    parts = even_parts(len(block))
    times = [
        _time_ms(lambda: map_threads(lambda part: block[part[0] : part[1]].max(), parts))
        for _ in range(5)
    ]
    return block.nbytes / (min(times) / 1000)


def copy_bandwidth(device: str) -> float:
    """Return how fast a torch device copies memory, read plus written bytes per second."""
    import torch

    source = torch.ones(2**27 if device != "cpu" else 2**22, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    times = [_time_ms(lambda: target.copy_(source)) for _ in range(7)]
    return 2 * source.nbytes / (min(times) / 1000)


def matmul_speed(device: str, dtype: Any) -> float:
    """Return the operations per second of a product of 8192 x 8192 random matrices: best of ten."""
    import torch

    size = 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [_time_ms(lambda: left @ right) for _ in range(11)][1:]
    return 2 * size**3 / (min(times) / 1000)


def _time_ms(run: Callable[[], object]) -> float:
    gc.collect()
    synchronize()
    begin = time.perf_counter()
    run()
    synchronize()
    return 1000 * (time.perf_counter() - begin)


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _release_free_memory() -> None:
    """Give freed blocks back to the system; kept ones would hide what a call needs."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _status_kb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    raise KeyError(field)
