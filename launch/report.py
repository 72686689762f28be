"""`launch report`: one self-contained HTML file about a run, or about a folder of runs."""

import argparse
import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError
from scenerl.launch.exit_codes import exit_code
from scenerl.launch.report_files import is_number

DESCRIPTION = """\
Write the report of a run as one HTML file that needs no server and no network: learning curves,
sample rollouts with their frames, true and predicted spans and boxes, answers in 3D to turn with
the mouse, where the chain loses accuracy, and what could not be parsed.

RUN is a run directory (stage1, stage2, sft), the output of `launch ground`, or a folder of them."""
EPILOG = """\
examples:
  launch report runs/stage1
  launch report runs/demo --output /tmp/demo.html
"""
FOLDER = Path(__file__).parent
SCRIPTS = ("report_draw.js", "report_cloud.js", "report.js")
MAX_SECTIONS = 12
"""Runs and chains of one report."""


def main(argv: list[str], command: str) -> int:
    """Write the report and print its path."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--output", type=Path, help="HTML file (default: RUN/report.html)")
    parser.add_argument("--groups", type=int, default=6, help="sample groups of each run (6)")
    parser.add_argument("--answers", type=int, default=8, help="answers in 3D of each chain (8)")
    arguments = parser.parse_args(argv)
    try:
        file = write_report(
            arguments.run,
            arguments.output,
            num_groups=arguments.groups,
            num_answers=arguments.answers,
        )
    except (ConfigError, OSError) as error:
        print(f"launch {command}: {error}", file=sys.stderr)
        return exit_code(error)
    print(file)
    return 0


def write_report(
    run: Path, output: Path | None = None, *, num_groups: int = 6, num_answers: int = 8
) -> Path:
    """Write the report of a run directory.

    Args:
        run: A run directory, the output folder of `launch ground`, or a folder that holds some.
        output: HTML file; None writes ``report.html`` into `run`.
        num_groups: Sample groups shown of each run, evenly over its steps.
        num_answers: 3D answers shown of each chain, evenly over them, right or wrong.

    Returns:
        The file.

    Raises:
        ConfigError: If `run` holds neither a run nor answers.
    """
    from scenerl.launch.report_chain import chain_section
    from scenerl.launch.report_files import Packer
    from scenerl.launch.report_run import is_run, run_section

    if not run.is_dir():
        raise ConfigError(f"no run directory {run}; expected a folder that `launch` wrote")
    folders = [run, *sorted(path for path in run.iterdir() if path.is_dir())]
    is_chain = {folder: (folder / "answers.jsonl").is_file() for folder in folders}
    found = [folder for folder in folders if is_chain[folder] or is_run(folder)]
    if not found:
        raise ConfigError(
            f"{run} has no metrics.jsonl and no answers.jsonl, nor has a folder in it; "
            "give the directory that stage1, stage2, sft, ground or demo wrote"
        )
    packer = Packer()
    if len(found) > MAX_SECTIONS:
        packer.note(f"only the first {MAX_SECTIONS} of {len(found)} folders are shown")
    shown = found[:MAX_SECTIONS]
    runs = [run_section(f, num_groups, packer) for f in shown if not is_chain[f]]
    chains = [chain_section(f, num_answers, packer) for f in shown if is_chain[f]]
    tiles = [tile for section in (*runs, *chains) for tile in section.pop("tiles")]
    summary = packer.values(run / "summary.json")
    data = {
        "title": run.resolve().name,
        "about": _about(summary),
        "tiles": _summary_tiles(summary) or tiles,
        "notes": packer.notes,
        "runs": runs,
        "chains": chains,
    }
    file = output or run / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(data), encoding="utf-8", errors="replace")
    return file


def page(data: dict[str, Any]) -> str:
    """Put the data and the scripts into the template: one file that loads nothing else."""
    # Inside a script element only "<" can end it or open a comment.
    packed = json.dumps(_finite(data)).replace("<", "\\u003c")
    parts = {
        "title": html.escape(f"{data['title']}: scenerl report"),
        "script": "".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS),
        "data": packed,
    }
    template = (FOLDER / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _about(summary: dict[str, Any]) -> list[str]:
    """Say on how much and with what the numbers of a folder of runs were made."""
    parts = [f"{summary['queries']} held-out queries"] if "queries" in summary else []
    parts += [f"seed {summary['seed']}"] if "seed" in summary else []
    for key, words in (("train_seconds", "of training"), ("total_seconds", "in all")):
        if is_number(summary.get(key)):
            parts.append(f"{summary[key]:.0f} s {words}")
    return parts


def _summary_tiles(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the headline numbers of a folder of runs, as `launch demo` writes them."""
    names = (
        ("stage1", "miou", "Stage 1: mean temporal IoU"),
        ("stage2", "box_iou", "Stage 2: mean box IoU"),
    )
    tiles = []
    for stage, key, label in names:
        values = summary.get(stage)
        if isinstance(values, dict):
            before, after = values.get(f"{key}_before"), values.get(f"{key}_after")
            tiles.append({"label": label, "before": before, "value": after})
    chain = summary.get("chain")
    for key, name in (("acc25", "0.25"), ("acc50", "0.5")):
        if isinstance(chain, dict) and is_number(chain.get(key)):
            label = f"Whole chain: 3D Acc@{name}"
            tiles.append({"label": label, "before": None, "value": chain[key]})
    return tiles


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
