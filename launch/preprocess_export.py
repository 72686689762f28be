"""`launch preprocess rooms-export`: prepared rooms as the benchmarks' own files."""

import argparse
from pathlib import Path

FORMATS = (
    *("scanrefer", "multi3drefer", "scanqa", "sqa3d", "vsibench", "temporal"),
    "sceneparser",
)
EXAMPLES = """examples:
  launch preprocess rooms --output data/rooms --train 0 --val 20 --test 0
  launch preprocess rooms-export --input data/rooms --format scanrefer --output bench/scanrefer
  launch preprocess scanrefer --input bench/scanrefer/ScanRefer_filtered_val.json \\
    --scenes data/rooms --output data/bench
  the files that `launch score` compares with:
    launch score scanrefer --references bench/scanrefer/ScanRefer_filtered_val.json \\
      --boxes bench/scanrefer/boxes_val.jsonl --predictions mine.jsonl

ScanRefer's and Multi3DRefer's exports have their true boxes beside them (boxes_SPLIT.jsonl),
SceneParser's its images. Object numbers count from 0 there, as in ScanNet's files.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "rooms-export",
        help="write prepared rooms in the benchmarks' own layouts",
        description="Write prepared synthetic rooms as the annotation files of a benchmark, to try "
        "every reader, scorer and evaluation on data of known truth.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, type=Path, help="data folder of rooms")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, type=Path, help="folder to write into")
    parser.add_argument("--split", action="append", default=[], help="only this split (repeatable)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.export_rooms import export_rooms

    written = export_rooms(arguments.input, arguments.format, arguments.output, arguments.split)
    for name, count in written.items():
        print(f"{arguments.output / name}: {count} entries")
    return 0
