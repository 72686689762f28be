"""`launch preprocess rooms`."""

import argparse
from pathlib import Path

from scenerl.launch.preprocess_options import add_preview, progress
from scenerl.preprocess.records import Sample

EXAMPLES = """examples:
  launch preprocess rooms --output data/rooms --train 200 --test 40
  launch preprocess rooms --output data/big --train 2000 --val 50 --test 100 --workers 8 --seed 7
  launch preprocess rooms --output /tmp/look --train 4 --test 0 --preview 4
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "rooms",
        help="make synthetic furnished rooms with true labels",
        description="Make synthetic furnished rooms: RGB-D frames, poses, instance images, and "
        "queries with true spans, boxes, 3D boxes and answers. The same seed gives the same bytes.",
        epilog=EXAMPLES,
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
    add_preview(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
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
    samples = make_rooms(arguments.output, config, progress=progress("rooms"))
    print(f"{len(samples)} samples in {arguments.output}")
    if arguments.preview:
        path = Path(arguments.output) / "preview.png"
        folders: dict[str, list[Sample]] = {}
        for sample in samples:
            folders.setdefault(sample.media.scene or "", []).append(sample)
        write_preview(path, arguments.output, folders, num_scenes=arguments.preview)
        print(f"picture: {path}")
    return 0
