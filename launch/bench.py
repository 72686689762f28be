"""`launch bench`: our fast paths beside what a user would pick instead, on this machine."""

import argparse
import importlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scenerl.launch.exit_codes import DONE, exit_code
from scenerl.launch.logs import set_up_logging
from scenerl.launch.measure import BenchSettings, Comparison, Entry, Timing, measure

logger = logging.getLogger(__name__)

BENCHES: dict[str, tuple[str, str]] = {
    "lift": ("scenerl.launch.bench_lift", "masks to a 3D box: the lift against Open3D"),
    "decode": (
        "scenerl.launch.bench_decode",
        "video frames: our choice of decoder against each",
    ),
    "sens": (
        "scenerl.launch.bench_sens",
        "a ScanNet recording to a scene folder, against decoding and encoding every image",
    ),
    "learner": (
        "scenerl.launch.bench_learner",
        "a group forward and backward: one packed sequence against TRL's padded batch",
    ),
    "loop": (
        "scenerl.launch.bench_loop",
        "the training loop: rollouts beside the update against one after the other",
    ),
    "logprobs": (
        "scenerl.launch.bench_logprobs",
        "log-prob and entropy from hidden states: tiles of the vocabulary against TRL and torch",
    ),
}
"""Name -> module with `comparisons(settings)` and `PACKAGES`, and what is compared."""

DESCRIPTION = """\
Time a part of scenerl and its alternatives side by side, in one process and in interleaved rounds:
medians with the 20th and 80th percentile, peak memory, the ratio (alternative over ours, so more
than 1 is faster) and, where it can be said, the least time that the hardware allows."""
EPILOG = """\
examples:
  launch bench lift                              this machine, a table
  launch bench lift --json lift.json --rounds 9  steadier, and for programs
  launch bench decode --quick                    small sizes: does it run here?
  launch bench learner --only "prompt 1024"      one of its two groups

The JSON is {"rows": [{"case", "variant", "peer", "median_ms", "peer_median_ms", "ratio",
"peak_mb", "peer_peak_mb", "floor_ms"}], "machine": {...}, "versions": {...}}."""


def main(argv: list[str], command: str) -> int:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "; ".join(f"{name}: {summary}" for name, (_, summary) in BENCHES.items())
    parser.add_argument("name", choices=tuple(BENCHES), help=what)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file to write the rows to")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--threads", type=int, help="threads of each; default: all cores")
    parser.add_argument("--device", default="cpu", help="torch device, for lift: cpu or cuda")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="of learner, what has this in its name"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}, expected at least 1")
    set_up_logging()
    threads = arguments.threads or os.cpu_count() or 1
    try:
        with _threads(threads):
            module = importlib.import_module(BENCHES[arguments.name][0])
            settings = BenchSettings(
                quick=arguments.quick,
                device=arguments.device,
                only=arguments.only,
                rounds=arguments.rounds,
            )
            facts = machine() | {"threads": threads}
            rows: list[dict[str, Any]] = []
            for comparison in module.comparisons(settings):
                rows += run_comparisons([comparison], arguments.rounds)
                if arguments.json is not None:  # what is measured stays if a later case fails
                    report = {"rows": rows, "machine": facts, "versions": versions(module.PACKAGES)}
                    _write(arguments.json, report)
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code
    if arguments.json is not None:
        print(f"rows: {arguments.json}")
    return DONE


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_comparisons(comparisons: Iterable[Comparison], rounds: int) -> list[dict[str, Any]]:
    """Measure every comparison, print it, and return one row per pair of ours and a peer.

    Args:
        comparisons: Taken one after another, so that a generator can free its data in between.
        rounds: Timed calls of each entry.

    Returns:
        The rows of the JSON; without any peer the peer's fields are None.
    """
    rows: list[dict[str, Any]] = []
    for comparison in comparisons:
        entries = [*comparison.ours, *comparison.peers]
        logger.info("%s: %s", comparison.case, ", ".join(entry.name for entry in entries))
        timings = list(comparison.timings or measure(entries, rounds))
        count = len(comparison.ours)
        print(describe(comparison, timings), flush=True)
        for entry, mine in zip(comparison.ours, timings, strict=False):
            against = zip(comparison.peers, timings[count:], strict=True)
            rows += [_row(comparison.case, entry, mine, peer) for peer in against]
            if not comparison.peers:
                rows.append(_row(comparison.case, entry, mine, None))
    return rows


def _row(
    case: str, entry: Entry, mine: Timing, against: tuple[Entry, Timing] | None
) -> dict[str, Any]:
    peer, theirs = against or (None, None)
    return {
        "case": case,
        "variant": entry.name,
        "peer": peer.name if peer else None,
        "median_ms": _rounded(mine.median_ms),
        "peer_median_ms": _rounded(theirs.median_ms) if theirs else None,
        "ratio": _rounded(theirs.median_ms / mine.median_ms) if theirs else None,
        "peak_mb": _rounded(mine.peak_mb),
        "peer_peak_mb": _rounded(theirs.peak_mb) if theirs else None,
        "floor_ms": _rounded(entry.floor_ms),
    }


def describe(comparison: Comparison, timings: list[Timing]) -> str:
    """Write one comparison as a table; the ratio is to each of the peers."""
    peers = comparison.peers
    peer_timings = timings[len(comparison.ours) :]
    width = max(len(entry.name) for entry in (*comparison.ours, *peers))
    lines = [
        f"\n{comparison.case}",
        f"  {'':<{width}} {'median ms':>10} {'p20':>9} {'p80':>9} {'peak MB':>8} {'floor ms':>9}",
    ]
    for entry, timing in zip((*comparison.ours, *peers), timings, strict=True):
        peak = "" if timing.peak_mb is None else f"{timing.peak_mb:.0f}"
        floor = "" if entry.floor_ms is None else f"{entry.floor_ms:.2f}"
        line = (
            f"  {entry.name:<{width}} {timing.median_ms:>10.2f} {timing.p20_ms:>9.2f} "
            f"{timing.p80_ms:>9.2f} {peak:>8} {floor:>9}"
        )
        if entry in comparison.ours:
            ratios = [
                f"{theirs.median_ms / timing.median_ms:.2f}x {peer.name}"
                for peer, theirs in zip(peers, peer_timings, strict=True)
            ]
            line += "  " + ", ".join(ratios)
        lines.append(line.rstrip())
    lines += [f"  {note}" for note in comparison.notes]
    lines += [f"  left out: {reason}" for reason in comparison.left_out]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, and with which command."""
    from scenerl.launch.environment import describe_environment

    facts = describe_environment()
    kept = ("python", "platform", "cpu", "cpus", "memory_gib", "git", "command")
    return {key: facts[key] for key in kept} | {"gpu": _gpu()}


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return package -> installed version, None where it is missing."""
    found: dict[str, str | None] = {}
    for package in ("scenerl", "numpy", "torch", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _gpu() -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give every library the same number of threads; most read it when they are loaded."""
    before = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    if "numba" not in sys.modules:  # a change under a loaded numba is an error
        os.environ["NUMBA_NUM_THREADS"] = str(count)
    import torch

    torch_before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(torch_before)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
