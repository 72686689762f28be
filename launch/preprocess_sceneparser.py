"""`launch preprocess sceneparser`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from scenerl.launch.preprocess_options import add_allow_skipped, progress, report_skipped

DESCRIPTION = """\
Turn SceneParser's JSONL into the TSV files that its training reads (images.tsv, annotations.tsv,
annotations.tsv.lineidx), equal to those of its converter to the byte; turn such files back; check
them. Records that cannot be used are listed with line, byte and reason in report.json."""

EXAMPLES = """examples:
  launch preprocess sceneparser --input val.jsonl --images . --output tsv/val
  keep the bytes of JPEGs instead of encoding them again (faster, no loss, other bytes):
    launch preprocess sceneparser --input train.jsonl --images . --output tsv/train --copy-jpeg
  look at every byte of the three files:
    launch preprocess sceneparser --input tsv/val --check
  back to JSONL and JPEG files:
    launch preprocess sceneparser --input tsv/val --to-jsonl --output back/val

image_path is read below --images and nowhere else: no URL, no '..', no link that leads out of it.
The exit status is 65 when a record was left out; --allow-skipped makes it 0.
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "sceneparser",
        help="convert SceneParser's JSONL and TSV files into each other, or check them",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar="PLACE", help="JSONL, or folder of TSVs")
    parser.add_argument("--output", metavar="DIR", help="folder for the files (not with --check)")
    parser.add_argument(
        "--images", default=".", metavar="DIR", help="folder that image_path is in (default .)"
    )
    parser.add_argument("--copy-jpeg", action="store_true", help="keep the bytes of JPEGs")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--to-jsonl", action="store_true", help="TSV files to JSONL and images")
    task.add_argument("--check", action="store_true", help="only check TSV files")
    add_allow_skipped(parser)
    parser.set_defaults(run=_run)


def _bytes_progress() -> Callable[[int, int], None]:
    """Return a reporter of (bytes done, bytes in all) that prints at every twentieth."""
    report, last = progress("twentieths of the input"), 0

    def step(done: int, total: int) -> None:
        nonlocal last
        now = 20 * done // total if total else 20
        if now > last:
            last = now
            report(now, 20)

    return step


def _run(arguments: argparse.Namespace) -> int:
    from scenerl.preprocess.sceneparser_reader import check_tsv, write_jsonl
    from scenerl.preprocess.sceneparser_tsv import REPORT, write_tsv

    source = Path(arguments.input)
    if arguments.workers < 1 or (arguments.output is None and not arguments.check):
        raise ValueError("expected --output DIR, or --check; and --workers of at least 1")
    where = "the lines above"
    if arguments.check:
        report = check_tsv(source, progress=progress("records"))
        verb = "good"
        for item in report.skipped[:100]:
            print(f"  {item.item}: {item.reason}: {item.detail}")
    else:
        output, verb = Path(arguments.output), "written"
        where = str(output / REPORT)
        if arguments.to_jsonl:
            report = write_jsonl(source, output, progress=progress("records"))
        else:
            report = write_tsv(
                source,
                output,
                images=Path(arguments.images),
                copy_jpeg=arguments.copy_jpeg,
                workers=arguments.workers,
                progress=_bytes_progress(),
            )
    print(f"{report.records} records, {report.written} {verb}")
    return report_skipped(report.skipped, arguments, where=where, is_empty=report.written == 0)
