"""`launch score`: anybody's predictions against a benchmark, to the official digit."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError
from scenerl.launch.exit_codes import DONE, exit_code
from scenerl.rewards.benchmark import Benchmark, Bootstrap, Metric, Predictions, References, Report
from scenerl.rewards.benchmarks import BENCHMARKS, load_benchmark
from scenerl.rewards.predictions import check_ids

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Score a file of predictions as the benchmark's own script does, with a 95 % bootstrap interval on
every number. Where that script has a bug that moves numbers, the official number and the sound one
both stand there, under their own names. Every item is expected exactly once."""
EPILOG = """\
examples:
  launch score --list                                        the benchmarks
  launch score scanrefer --help                              its files and options
  launch score scanrefer --predictions mine.jsonl --references truth.jsonl
  launch score scanrefer --predictions mine.jsonl --references truth.jsonl \\
      --json scores.json --items items.jsonl                 the numbers, and every item's scores
  launch score scanrefer --predictions part.jsonl --references truth.jsonl --allow-missing"""


def main(argv: list[str], command: str = "score") -> int:
    """Run `launch score` and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if argv and not argv[0].startswith("-"):
            return run(load_benchmark(argv[0]), argv[1:], command)
        if argv in (["--list"], ["-h"], ["--help"]):
            print(overview() if argv == ["--list"] else _help(command))
            return DONE
        raise ConfigError(
            f"expected the name of a benchmark first, found {' '.join(argv) or 'nothing'}; "
            f"launch {command} --list shows them"
        )
    except SystemExit as stop:
        return 64 if stop.code else DONE
    except Exception as error:
        code = 65 if isinstance(error, OSError) else exit_code(error)
        if code == 70:
            logger.exception("launch %s", command)
        else:
            print(f"launch {command}: {error}", file=sys.stderr)
        return code


def overview() -> str:
    """Return one line per benchmark."""
    titles = {name: load_benchmark(name).title for name in BENCHMARKS}
    width = max(map(len, titles))
    return "\n".join(f"  {name:<{width}}  {title}" for name, title in titles.items())


def _help(command: str) -> str:
    return (
        f"usage: launch {command} BENCHMARK --predictions FILE --references FILE [options]\n\n"
        f"{DESCRIPTION}\n\nbenchmarks:\n{overview()}\n\n{EPILOG}"
    )


def make_parser(benchmark: Benchmark, command: str) -> argparse.ArgumentParser:
    """Return the parser of one benchmark."""
    examples = "\n".join(f"  {example}" for example in benchmark.examples)
    parser = argparse.ArgumentParser(
        prog=f"launch {command} {benchmark.name}",
        description=f"{benchmark.title}\nSource: {benchmark.source}",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--predictions", type=Path, required=True, help=benchmark.predictions_help)
    add("--references", type=Path, required=True, help=benchmark.references_help)
    add("--json", type=Path, help="write the numbers there")
    add("--items", type=Path, help="write the scores of every item there, one JSON object a line")
    add("--allow-missing", action="store_true", help="items without a prediction count as wrong")
    add("--bootstrap", type=int, default=1000, help="resamples of the intervals; 0: none (1000)")
    add("--seed", type=int, default=0, help="of the resamples (0)")
    for option in benchmark.options:
        if option.is_switch:
            add(option.flag, action="store_true", help=option.help)
        else:
            add(
                option.flag,
                default=option.default,
                choices=option.choices or None,
                help=option.help + (f" ({option.default})" if option.default else ""),
            )
    return parser


def run(benchmark: Benchmark, argv: list[str], command: str) -> int:
    """Read, check, score, write and print."""
    arguments = make_parser(benchmark, command).parse_args(argv)
    if arguments.bootstrap < 0:
        raise ConfigError(f"--bootstrap is {arguments.bootstrap}; expected 0 or more")
    options = {option.name: getattr(arguments, option.name) for option in benchmark.options}
    references, predictions = read_inputs(benchmark, arguments, options)
    bootstrap = Bootstrap(resamples=arguments.bootstrap, seed=arguments.seed)
    report = benchmark.score(references.by_id, predictions.by_id, options, bootstrap)
    result = report.as_json()
    result["counts"] = {
        "items": len(references.by_id),
        "missing": len(predictions.missing),
        **references.counts,
        **report.counts,
    }
    result["notes"] = [*references.notes, *predictions.notes, *report.notes]
    write_outputs(arguments, report, result)
    print(format_metrics(report.metrics))
    for name, count in result["counts"].items():
        print(f"{name}: {count}")
    for note in result["notes"]:
        print(f"note: {note}")
    return DONE


def read_inputs(
    benchmark: Benchmark, arguments: argparse.Namespace, options: dict[str, Any]
) -> tuple[References, Predictions]:
    """Return both sides, every id checked.

    Raises:
        DataError: If a file cannot be read or the ids do not fit.
    """
    logger.info("reading %s", arguments.references)
    references = benchmark.read_references(arguments.references, options)
    logger.info("reading %s", arguments.predictions)
    predictions = benchmark.read_predictions(arguments.predictions, references.by_id, options)
    checked = check_ids(predictions, references.by_id, allow_missing=arguments.allow_missing)
    if checked.missing:
        logger.warning("%d items have no prediction and count as wrong", len(checked.missing))
    logger.info("scoring %d items", len(references.by_id))
    return references, checked


def write_outputs(arguments: argparse.Namespace, report: Report, result: dict[str, Any]) -> None:
    """Write --json and --items, each whole or not at all."""
    from scenerl.rl.durable import write_json, write_lines

    if arguments.json is not None:
        write_json(arguments.json, result)
    if arguments.items is not None:
        write_lines(
            arguments.items,
            (
                {"id": item.item_id, **item.values, "groups": list(item.groups)}
                for item in report.items
            ),
        )


def format_metrics(metrics: tuple[Metric, ...]) -> str:
    """Return the table that people read."""
    width = max((len(metric.name) for metric in metrics), default=6)
    lines = [f"{'metric':<{width}}     value  95 % interval         items  rule"]
    for metric in metrics:
        value = "-" if metric.value is None else f"{metric.value:.4f}"
        interval = "-"
        if metric.low is not None and metric.high is not None:
            interval = f"{metric.low:.4f} .. {metric.high:.4f}"
        lines.append(
            f"{metric.name:<{width}}  {value:>8}  {interval:<20}  {metric.count:>6}  {metric.rule}"
        )
    return "\n".join(lines)
