"""What the sources of `launch preprocess` share: progress, options, and how they end."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scenerl.launch.exit_codes import BAD_DATA, DONE

if TYPE_CHECKING:
    from scenerl.preprocess.store import Skipped


def progress(unit: str) -> Callable[[int, int], None]:
    """Return a reporter of (done, total) that prints about twenty lines, with the time left."""
    start = time.monotonic()

    def report(done: int, total: int) -> None:
        step = max(1, total // 20)
        if done % step and done != total:
            return
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


def add_allow_skipped(parser: argparse.ArgumentParser) -> None:
    """Add --allow-skipped."""
    parser.add_argument(
        "--allow-skipped",
        action="store_true",
        help="end with 0 even if broken items were left out (65 otherwise; they are listed)",
    )


def image_size(text: str) -> tuple[int, int]:
    """Return (width, height) of an argument such as 640x480."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return int(width), int(height)


def report_skipped(
    skipped: "Sequence[Skipped]", arguments: argparse.Namespace, *, where: str, is_empty: bool
) -> int:
    """Print what was left out, by reason, and return the exit code.

    Args:
        skipped: All of it.
        arguments: With `allow_skipped`.
        where: The file that lists it.
        is_empty: Whether nothing could be prepared.

    Returns:
        65 when nothing could be prepared, or something broken was left out and that is not
        allowed; 0 otherwise.
    """
    by_reason: dict[str, list[Skipped]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason, []).append(item)
    for reason, items in sorted(by_reason.items()):
        first = items[0]
        kind = "broken" if any(item.broken for item in items) else "left out"
        place = f"{first.scene_id}, {first.item}".strip(", ")
        print(f"  {kind}: {len(items)} x {reason}; the first: {place}: {first.detail}")
    broken = sum(item.broken for item in skipped)
    if skipped:
        print(f"{len(skipped)} left out, {broken} of them broken; all in {where}")
    return BAD_DATA if is_empty or (broken and not arguments.allow_skipped) else DONE
