"""`launch preprocess scannet`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scenerl.launch.exit_codes import BAD_DATA, DONE
from scenerl.launch.preprocess_options import add_preview, progress

if TYPE_CHECKING:
    from scenerl.preprocess.scannet import PreparedScan

DESCRIPTION = """\
Turn ScanNet v2 scans as their authors hand them out (.sens, and where present NAME.txt, mesh,
segments and aggregation) into scene folders: JPEGs copied, depth as 16-bit PNG, axis-aligned poses,
objects with the boxes of ScanRefer, and for every frame which object each pixel shows."""

EXAMPLES = """examples:
  all scans of a folder, two frames a second, with the official lists and classes:
    launch preprocess scannet --input scans --output data/scannet --workers 8 \\
      --labels scannetv2-labels.combined.tsv --splits scannetv2_train.txt scannetv2_val.txt
  every frame of one scan, colour frames shrunk:
    launch preprocess scannet --input scans/scene0011_00 --output data/one --every 1 \\
      --resize 640x480
  the same command again goes on where an interrupted one stopped, and keeps finished scans.

Nothing is downloaded: sign the ScanNet Terms of Use and use the authors' script (--type .sens,
_vh_clean_2.ply, _vh_clean_2.0.010000.segs.json, .aggregation.json, .txt; --label_map). Damaged
scans and frames are left out and listed in manifest.json; the exit status is 65 then, 0 if all
that is left out are untracked or empty frames. docs/raw_data.md says what is checked.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "scannet",
        help="prepare ScanNet v2 scans from their .sens files",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PLACE",
        help="folders of scans, scan folders, or .sens files",
    )
    parser.add_argument("--output", required=True, help="data folder; may hold others already")
    parser.add_argument("--labels", metavar="TSV", help="scannetv2-labels.combined.tsv")
    parser.add_argument(
        "--splits", nargs="+", default=(), metavar="TXT", help="scannetv2_train.txt and the like"
    )
    parser.add_argument(
        "--split", default="train", help="split of all scans, without --splits (default train)"
    )
    parser.add_argument("--dataset", default="scannet", help="name in reports (default scannet)")
    parser.add_argument(
        "--every", type=int, default=15, help="keep frames 0, N, 2 N, ... (default 15)"
    )
    parser.add_argument(
        "--resize", type=_size, metavar="WxH", help="size of the colour frames; default: as stored"
    )
    parser.add_argument(
        "--no-axis-align",
        action="store_true",
        help="leave the world as the sensor had it; boxes then are not the benchmarks'",
    )
    parser.add_argument(
        "--boxes",
        choices=("official", "sound"),
        default="official",
        help="ScanRefer's boxes with its habits, or each object's own segments (docs/raw_data.md)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    add_preview(parser)
    parser.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return int(width), int(height)


def _run(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.scannet import prepare_scans
    from scenerl.preprocess.scannet_settings import ScannetConfig

    config = ScannetConfig(
        dataset=arguments.dataset,
        split=arguments.split,
        splits=tuple(arguments.splits),
        labels=arguments.labels,
        every=arguments.every,
        resize=arguments.resize,
        axis_align=not arguments.no_axis_align,
        boxes=arguments.boxes,
        workers=arguments.workers,
    )
    prepared = prepare_scans(arguments.input, arguments.output, config, progress=progress("frames"))
    for made in prepared:
        _describe(made)
    if arguments.preview:
        _draw(Path(arguments.output), prepared, arguments.preview)
    done = sum(made.scene is not None for made in prepared)
    print(f"{done} of {len(prepared)} scans in {arguments.output}; all left out: manifest.json")
    return BAD_DATA if any(made.faults for made in prepared) else DONE


def _describe(made: "PreparedScan") -> None:
    if made.scene is None:
        print(f"{made.scan_id}: left out: {made.skipped[0].reason}: {made.skipped[0].detail}")
        return
    print(
        f"{made.scan_id}: {made.scene.frames} frames, {len(made.samples)} samples, "
        f"{len(made.skipped)} left out"
    )
    for reason, count in made.faults.items():
        first = next(item for item in made.skipped if item.reason == reason)
        print(f"  {count} x {reason}, the first is {first.item}: {first.detail}")


def _draw(output: Path, prepared: "list[PreparedScan]", num_scenes: int) -> None:
    from scenerl.preprocess.preview import write_preview

    folders = {
        f"scenes/{made.scan_id}": list(made.samples) for made in prepared if made.scene is not None
    }
    write_preview(output / "preview.png", output, folders, num_scenes=num_scenes)
    print(f"picture: {output / 'preview.png'}")
