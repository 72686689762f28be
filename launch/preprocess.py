"""`launch preprocess`: raw RGB-D data or synthetic rooms to a prepared data folder."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scenerl.preprocess.records import DataError, Sample

ROOMS_EXAMPLES = """examples:
  launch preprocess rooms --output data/rooms --train 200 --test 40
  launch preprocess rooms --output data/big --train 2000 --val 50 --test 100 --workers 8 --seed 7
  launch preprocess rooms --output /tmp/look --train 4 --test 0 --preview 4
"""

RGBD_EXAMPLES = """examples:
  a recording with its own instances.json and masks/ (queries are derived):
    launch preprocess rgbd --input recordings/office --output data/mine
  with your own queries, kept for testing:
    launch preprocess rgbd --input recordings/lab --output data/mine --split test \\
      --annotations lab_queries.json
  several recordings at once, every third frame, and a picture to check the boxes:
    launch preprocess rgbd --input rec/a rec/b --output data/mine --every 3 --preview 2

Frames with bad poses, images or depth are left out and listed in manifest.json. docs/data.md shows
the folder layouts and the annotation file.
"""

SCANNET_EXAMPLES = """examples:
  launch preprocess scannet-export --input scans/scene0000_00 --output data/scannet
  launch preprocess scannet-export --input scans/scene0011_0* --output data/scannet --split test

The folder is what ScanNet's SensReader exports. instance-filt/ and NAME.aggregation.json beside
it, where present, give objects; each label that occurs once becomes a query.
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
        folders: dict[str, list[Sample]] = {}
        for sample in samples:
            folders.setdefault(sample.media.scene or "", []).append(sample)
        write_preview(path, arguments.output, folders, num_scenes=arguments.preview)
        print(f"picture: {path}")
    return 0


def _add_recordings(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    *,
    dataset: str,
    every: int,
    texts: tuple[str, str, str],
) -> None:
    parser = commands.add_parser(
        name,
        help=texts[0],
        description=texts[1],
        epilog=texts[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, nargs="+", metavar="DIR", help="recordings")
    parser.add_argument("--output", required=True, help="data folder; may hold others already")
    parser.add_argument("--annotations", metavar="FILE", help="JSON file of queries")
    parser.add_argument("--split", default="train", help="split of these inputs (default train)")
    parser.add_argument("--dataset", default=dataset, help=f"name in reports (default {dataset})")
    parser.add_argument(
        "--every", type=int, default=every, help=f"keep each N-th good frame (default {every})"
    )
    _add_common(parser)
    parser.set_defaults(run=_run_recordings)


def _run_recordings(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.preview import write_preview
    from scenerl.preprocess.recordings import RecordingsConfig, prepare_recordings

    config = RecordingsConfig(
        dataset=arguments.dataset,
        split=arguments.split,
        annotations=arguments.annotations,
        every=arguments.every,
    )
    report = _progress(time.monotonic(), "recordings")
    prepared = prepare_recordings(arguments.input, arguments.output, config, progress=report)
    for made in prepared:
        print(f"{made.scene.scene_id}: {made.scene.frames} frames, {len(made.samples)} samples")
        for item in made.skipped[:10]:
            print(f"  left out: {item.item}: {item.reason} {item.detail}".rstrip())
        if len(made.skipped) > 10:
            print(f"  and {len(made.skipped) - 10} more, all in manifest.json")
    if arguments.preview:
        path = Path(arguments.output) / "preview.png"
        folders = {f"scenes/{made.scene.scene_id}": list(made.samples) for made in prepared}
        write_preview(path, arguments.output, folders, num_scenes=arguments.preview)
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
    _add_recordings(
        commands,
        "rgbd",
        dataset="rgbd",
        every=1,
        texts=(
            "check and prepare your own RGB-D recordings",
            "Check RGB-D recordings (color, depth, poses, intrinsics), leave bad frames out, say "
            "why, copy the rest into a data folder and make samples from queries or masks.",
            RGBD_EXAMPLES,
        ),
    )
    _add_recordings(
        commands,
        "scannet-export",
        dataset="scannet",
        every=15,
        texts=(
            "check and prepare exported ScanNet scenes",
            "Check exported ScanNet scenes and copy them into a data folder, two frames a second.",
            SCANNET_EXAMPLES,
        ),
    )
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
        return 65 if isinstance(error, DataError | OSError) else 64
