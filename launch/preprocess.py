"""`launch preprocess`: raw RGB-D data or synthetic rooms to a prepared data folder."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOMS_EXAMPLES = """examples:
  launch preprocess rooms --output data/rooms --train 200 --test 40
  launch preprocess rooms --output data/big --train 2000 --val 50 --test 100 --workers 8 --seed 7
  launch preprocess rooms --output /tmp/look --train 4 --test 0 --preview 4
"""


def _progress(start: float, unit: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        step = max(1, total // 20)
        if done % step and done != total:
            return
        spent = time.monotonic() - start
        left = spent / done * (total - done)
        print(f"{done}/{total} {unit}, {spent:.0f} s, about {left:.0f} s left", flush=True)

    return report


def _add_rooms(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "rooms",
        help="make synthetic furnished rooms with true labels",
        description="Make synthetic furnished rooms: RGB-D frames, poses, instance images, and "
        "queries with true spans, boxes, 3D boxes and answers. The same seed gives the same bytes.",
        epilog=ROOMS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, help="data folder to write")
    parser.add_argument("--train", type=int, default=200, help="training rooms (default 200)")
    parser.add_argument("--val", type=int, default=0, help="validation rooms (default 0)")
    parser.add_argument("--test", type=int, default=40, help="test rooms (default 40)")
    parser.add_argument("--frames", type=int, default=32, help="frames a room (default 32)")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second (default 2)")
    parser.add_argument("--width", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--height", type=int, default=168, help="pixels (default 168)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    _add_common(parser)
    parser.set_defaults(run=_run_rooms)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="also draw the first N scenes with their boxes into OUTPUT/preview.png",
    )


def _run_rooms(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.preview import write_preview
    from scenerl.preprocess.rooms import RoomsConfig, make_rooms

    splits = (("train", arguments.train), ("val", arguments.val), ("test", arguments.test))
    config = RoomsConfig(
        rooms=tuple((split, count) for split, count in splits if count),
        num_frames=arguments.frames,
        fps=arguments.fps,
        width=arguments.width,
        height=arguments.height,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    samples = make_rooms(arguments.output, config, progress=_progress(time.monotonic(), "rooms"))
    print(f"{len(samples)} samples in {arguments.output}")
    if arguments.preview:
        path = Path(arguments.output) / "preview.png"
        write_preview(path, arguments.output, samples, num_scenes=arguments.preview)
        print(f"picture: {path}")
    return 0


def make_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description="Turn raw RGB-D data, or nothing but a seed, into a prepared data folder: "
        "scenes, samples and a manifest.",
        epilog="Each has its own help with examples: launch preprocess rooms --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    _add_rooms(commands)
    return parser


def main(argv: list[str], command: str = "preprocess") -> int:
    """Run `launch preprocess` and return its exit code."""
    try:
        arguments = make_parser(command).parse_args(argv)
    except SystemExit as stop:
        return 64 if stop.code else 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError) as error:
        print(f"launch {command}: {error}", file=sys.stderr)
        return 65
