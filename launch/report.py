"""`launch report`: one self-contained HTML file about a run, or about a folder of runs."""

import argparse
import json
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError

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
TEMPLATE = Path(__file__).parent / "report.html"
SCRIPT = Path(__file__).parent / "report.js"


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
    parser.add_argument("--groups", type=int, default=6, help="sample groups of each run")
    parser.add_argument("--answers", type=int, default=8, help="answers in 3D")
    arguments = parser.parse_args(argv)
    try:
        file = write_report(
            arguments.run,
            arguments.output,
            num_groups=arguments.groups,
            num_answers=arguments.answers,
        )
    except ConfigError as error:
        print(f"launch {command}: {error}")
        return 64
    print(file)
    return 0


def write_report(
    run: Path, output: Path | None = None, *, num_groups: int = 6, num_answers: int = 8
) -> Path:
    """Write the report of a run directory.

    Args:
        run: A run directory, the output folder of `launch ground`, or a folder that holds some.
        output: HTML file; None writes ``report.html`` into `run`.
        num_groups: Sample groups shown of each run, spread over its steps.
        num_answers: 3D answers shown of each chain, the first ones, right or wrong.

    Returns:
        The file.

    Raises:
        ConfigError: If `run` holds neither metrics nor answers.
    """
    from scenerl.launch.report_chain import chain_section
    from scenerl.launch.report_run import run_section

    if not run.is_dir():
        raise ConfigError(f"no run directory {run}; expected a folder that `launch` wrote")
    folders = [run, *sorted(path for path in run.iterdir() if path.is_dir())]
    runs = [run_section(f, num_groups) for f in folders if (f / "metrics.jsonl").is_file()]
    chains = [chain_section(f, num_answers) for f in folders if (f / "answers.jsonl").is_file()]
    if not runs and not chains:
        raise ConfigError(
            f"{run} has no metrics.jsonl and no answers.jsonl, nor has a folder in it; "
            "give the directory that stage1, stage2, sft, ground or demo wrote"
        )
    data = {
        "title": run.resolve().name,
        "about": _about(run),
        "tiles": [tile for section in (*runs, *chains) for tile in section.pop("tiles")],
        "runs": runs,
        "chains": chains,
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    # "</" would end the script element early.
    packed = json.dumps(_finite(data), ensure_ascii=False).replace("</", "<\\/")
    for key, value in (
        ("{{title}}", f"scenerl: {_escape(str(data['title']))}"),
        ("{{script}}", SCRIPT.read_text(encoding="utf-8")),
        ("{{data}}", packed),
    ):
        text = text.replace(key, value, 1)
    file = output or run / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _about(run: Path) -> str:
    file = run / "summary.json"
    if not file.is_file():
        return ""
    summary = json.loads(file.read_text())
    parts = [f"seed {summary['seed']}"] if "seed" in summary else []
    if "train_seconds" in summary:
        parts.append(f"{summary['train_seconds']:.0f} s of training")
    if "total_seconds" in summary:
        parts.append(f"{summary['total_seconds']:.0f} s in all")
    return " · ".join(parts)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
