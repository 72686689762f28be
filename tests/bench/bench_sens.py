"""A whole `.sens` recording to a scene folder: time, memory, scaling with processes.

    python tests/bench/bench_sens.py                      # 5,000 frames, 7 GB of disk
    python tests/bench/bench_sens.py --frames 500 --workers 1 2 4

Each side runs in a process of its own, so that its peak memory is its own; with several processes
it is that of the largest. `launch bench sens` times fewer frames in interleaved rounds.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scenerl.launch.bench_sens import convert, inflate_ms, reencode, write_recording


def _timed(connection: Any, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    begin = time.perf_counter()
    work(*arguments)
    spent_ms = 1000 * (time.perf_counter() - begin)
    cpu_ms = 1000 * sum(os.times()[:4])
    # The high-water mark in getrusage outlives exec, so it would be the parent's here.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    connection.send((spent_ms, cpu_ms, max(int(status.split()[0]), children) * 1024 / 1e6))


def measure(work: Callable[..., object], *arguments: Any) -> tuple[float, float, float]:
    """Return (milliseconds, those of all cores, peak resident MB) of a call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_timed, args=(theirs, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} ended with {process.exitcode}")
    spent_ms, cpu_ms, peak_mb = mine.recv()
    return spent_ms, cpu_ms, peak_mb


def run(
    frames: int = 5000, workers: Sequence[int] = (1, 2), peer_frames: int | None = 300
) -> list[dict[str, Any]]:
    """Convert one recording with each number of processes and re-encode it once.

    Args:
        frames: Of the recording.
        workers: Numbers of processes to try.
        peer_frames: The peer does so many of the frames, and its time is scaled to all of them
            (its memory is not); None does all.

    Returns:
        Rows as `launch bench` writes them, and the time of all cores together, which a busy machine
        changes little.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = root / "scene0000_00.sens"
        measure(write_recording, path, frames)
        floor_ms = frames * inflate_ms(path)
        done = min(frames, peer_frames or frames)
        peer_ms, peer_cpu_ms, peer_mb = measure(reencode, path, root / "peer", done)
        shutil.rmtree(root / "peer")
        rows = []
        for count in workers:
            spent_ms, cpu_ms, peak_mb = measure(convert, path, root / "ours", count)
            written = len(list((root / "ours" / "scenes" / path.stem / "depth").iterdir()))
            assert written == frames, f"{written} of {frames} frames were written"
            shutil.rmtree(root / "ours")
            rows.append(
                {
                    "case": f"{frames} frames, 1296x968 JPEG, 640x480 zlib depth",
                    "variant": f"{count} processes" if count > 1 else "1 process",
                    "peer": f"decode and encode {done} frames, scaled",
                    "median_ms": round(spent_ms),
                    "peer_median_ms": round(peer_ms * frames / done),
                    "ratio": round(peer_ms * frames / done / spent_ms, 2),
                    "peak_mb": round(peak_mb),
                    "peer_peak_mb": round(peer_mb),
                    "floor_ms": round(floor_ms / count),
                    "cpu_ms": round(cpu_ms),
                    "peer_cpu_ms": round(peer_cpu_ms * frames / done),
                    "cpu_ratio": round(peer_cpu_ms * frames / done / cpu_ms, 2),
                }
            )
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peer-frames", type=int, default=300)
    options = parser.parse_args()
    for row in run(options.frames, options.workers, options.peer_frames):
        print(json.dumps(row))  # noqa: T201
