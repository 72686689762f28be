"""`launch preprocess rgbd | scannet-export`."""

import argparse
from pathlib import Path

from scenerl.launch.preprocess_options import (
    add_allow_skipped,
    add_preview,
    progress,
    report_skipped,
)

RGBD_EXAMPLES = """examples:
  a recording with its own instances.json and masks/ (queries are derived):
    launch preprocess rgbd --input recordings/office --output data/mine
  with your own queries, kept for testing:
    launch preprocess rgbd --input recordings/lab --output data/mine --split test \\
      --annotations lab_queries.json
  several recordings at once, every third frame, and a picture to check the boxes:
    launch preprocess rgbd --input rec/a rec/b --output data/mine --every 3 --preview 2

Frames with bad poses, images or depth are left out and listed in manifest.json; the exit status is
65 then, unless --allow-skipped. docs/data.md shows the folder layouts and the annotation file.
"""

SCANNET_EXAMPLES = """examples:
  launch preprocess scannet-export --input scans/scene0000_00 --output data/scannet
  launch preprocess scannet-export --input scans/scene0011_0* --output data/scannet --split test

The folder is what ScanNet's SensReader exports. instance-filt/ and NAME.aggregation.json beside
it, where present, give objects; each label that occurs once becomes a query.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    _add(
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
    _add(
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


def _add(
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
    add_allow_skipped(parser)
    add_preview(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.preview import write_preview
    from scenerl.preprocess.recordings import RecordingsConfig, prepare_recordings

    config = RecordingsConfig(
        dataset=arguments.dataset,
        split=arguments.split,
        annotations=arguments.annotations,
        every=arguments.every,
    )
    report = progress("recordings")
    prepared = prepare_recordings(arguments.input, arguments.output, config, progress=report)
    for made in prepared:
        if made.scene is not None:
            print(f"{made.scene.scene_id}: {made.scene.frames} frames, {len(made.samples)} samples")
        for item in made.skipped[:10]:
            print(f"  left out: {item.item}: {item.reason} {item.detail}".rstrip())
        if len(made.skipped) > 10:
            print(f"  and {len(made.skipped) - 10} more, all in manifest.json")
    if arguments.preview:
        path = Path(arguments.output) / "preview.png"
        folders = {
            f"scenes/{made.scene.scene_id}": list(made.samples)
            for made in prepared
            if made.scene is not None
        }
        write_preview(path, arguments.output, folders, num_scenes=arguments.preview)
        print(f"picture: {path}")
    skipped = [item for made in prepared for item in made.skipped]
    return report_skipped(skipped, arguments, where="manifest.json", is_empty=False)
