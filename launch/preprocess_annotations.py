"""`launch preprocess scanrefer | nr3d | scanqa | ...`: annotation files to samples."""

import argparse
import functools
from pathlib import Path

from scenerl.launch.preprocess_options import add_allow_skipped, progress, report_skipped
from scenerl.preprocess.annotation_formats import FORMATS, Format

FILTERED = ("nr3d", "sr3d")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add one subcommand per format."""
    for kind in FORMATS.values():
        parser = commands.add_parser(
            kind.command,
            help=kind.title,
            description=f"{kind.title}. Annotations become samples of a data folder, with the "
            "spans, boxes and answers that their scenes give.",
            epilog=_epilog(kind),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--input", required=True, type=Path, metavar="FILE", help=kind.files)
        parser.add_argument(
            "--scenes",
            type=Path,
            metavar="DIR",
            help="data folder with the prepared scenes; may be the output itself",
        )
        if kind.media:
            parser.add_argument("--media", type=Path, metavar="DIR", help=f"files: {kind.media}")
        parser.add_argument(
            "--output", required=True, type=Path, metavar="DIR", help="data folder to write into"
        )
        parser.add_argument(
            "--split", help="name of the split; default: train, val or test in the file's name"
        )
        parser.add_argument(
            "--scene-list", type=Path, metavar="TXT", help="take only these scenes, one id a line"
        )
        if kind.name in FILTERED:
            parser.add_argument(
                "--filter",
                default="none",
                choices=("none", "mentions-target-class", "correct-guess", "both"),
                help="utterances to take, as in launch score (default none: all)",
            )
        add_allow_skipped(parser)
        parser.set_defaults(run=functools.partial(_run, kind))


def _epilog(kind: Format) -> str:
    file = kind.files.split(",")[0].split(" ")[0].replace("SPLIT", "val")
    where = "--media videos" if kind.name in ("temporal", "vsibench") else "--scenes data/scannet"
    if kind.name == "sceneparser":
        where = "--media ."
    lines = [
        "examples:",
        f"  launch preprocess {kind.command} --input {file} {where} --output data/{kind.name}",
    ]
    if kind.name == "nr3d":
        lines += [
            "  the validation scans only, as the benchmark tests:",
            f"    launch preprocess nr3d --input nr3d.csv {where} --output data/nr3d \\",
            "      --split val --scene-list scannetv2_val.txt --filter mentions-target-class",
        ]
    if kind.name in ("scanrefer", "scanqa"):
        lines += [
            "  into the folder of the scenes itself, nothing is linked or copied:",
            f"    launch preprocess {kind.name} --input {file} --scenes data/scannet \\",
            "      --output data/scannet",
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"Files: {kind.files},",
            f"{kind.origin}. Nothing is downloaded.",
            "",
            "Rows that cannot be used (unknown scene or object, broken text, an id twice) are left",
            "out and listed in manifest.json; the exit status is 65 then, unless --allow-skipped.",
            "docs/annotations.md says what becomes what.",
        ]
    )


def _run(kind: Format, arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.prepare_annotations import AnnotationsConfig, prepare_annotations

    config = AnnotationsConfig(
        input=arguments.input,
        output=arguments.output,
        scenes=arguments.scenes,
        media=getattr(arguments, "media", None),
        split=arguments.split,
        scene_list=arguments.scene_list,
        filter=getattr(arguments, "filter", "none"),
    )
    made = prepare_annotations(kind, config, progress=progress("rows"))
    print(f"{len(made.samples)} samples of {made.rows} rows in {config.output}, split {made.split}")
    return report_skipped(
        made.skipped, arguments, where=str(config.output / "manifest.json"), is_empty=False
    )
