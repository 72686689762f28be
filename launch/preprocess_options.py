"""What the sources of `launch preprocess` share: progress, and the preview option."""

import argparse
import time
from collections.abc import Callable


def progress(unit: str) -> Callable[[int, int], None]:
    """Return a reporter of (done, total) that prints about twenty lines, with the time left."""
    start, printed = time.monotonic(), 0

    def report(done: int, total: int) -> None:
        nonlocal printed
        step = max(1, total // 20)
        if done // step == printed // step and done != total:
            return
        printed = done
        spent = time.monotonic() - start
        left = spent / done * (total - done)
        print(f"{done}/{total} {unit}, {spent:.0f} s, about {left:.0f} s left", flush=True)

    return report


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Add --preview N."""
    parser.add_argument(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="also draw the first N scenes with their boxes into OUTPUT/preview.png",
    )
