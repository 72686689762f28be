"""From the shards of an evaluation to predictions, traces and the benchmark's numbers."""

import argparse
import dataclasses
import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from scenerl.configs.schema import ConfigError
from scenerl.envs.benchmark_prompts import Payload
from scenerl.envs.benchmark_replies import prediction_line
from scenerl.launch.eval_items import Items, read_ids
from scenerl.launch.eval_run import value_sha256
from scenerl.launch.exit_codes import BAD_DATA, DONE
from scenerl.launch.score import format_metrics
from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Benchmark, Bootstrap, References, Report
from scenerl.rewards.predictions import check_ids
from scenerl.rl.answer_log import Merged, merge_shards, named
from scenerl.rl.durable import write_json, write_lines
from scenerl.rl.sampled_scores import over_samples

logger = logging.getLogger(__name__)

THRESHOLDS: Final[dict[Payload, tuple[float, ...]]] = {
    "box": (0.25, 0.5),
    "span_s": (0.3, 0.5, 0.7),
}
"""Overlaps from which a reply is right."""


def read_references(
    benchmark: Benchmark, arguments: argparse.Namespace, ids: Sequence[str], *, is_whole: bool
) -> References:
    """Read the truth of the items that are asked.

    Args:
        benchmark: Reads them.
        arguments: ``references``, ``allow_missing`` and the benchmark's own options.
        ids: The items.
        is_whole: Whether no list or limit leaves items out: then every reference needs a sample.

    Raises:
        DataError: If an item has no reference, or a reference no item.
    """
    found = benchmark.read_references(arguments.references, score_options(benchmark, arguments))
    unknown = [item for item in ids if item not in found.by_id]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(ids)} items are not in {arguments.references}: "
            f"{named(unknown)}; give the file that the samples were prepared from, or --ids"
        )
    if is_whole and len(ids) < len(found.by_id) and not arguments.allow_missing:
        asked = set(ids)
        absent = [item for item in found.by_id if item not in asked]
        raise DataError(
            f"{len(absent)} of {len(found.by_id)} items of {arguments.references} have no sample: "
            f"{named(absent)}; prepare their scenes, fix a list (--write-ids, --ids), or count "
            "them as wrong (--allow-missing)"
        )
    if is_whole:
        return found
    counts = {**found.counts, "references": len(found.by_id)}
    by_id = {item: found.by_id[item] for item in ids}
    return References(by_id=by_id, counts=counts, notes=found.notes)


def without_left_out(items: Items, benchmark: Benchmark, arguments: argparse.Namespace) -> Items:
    """Return the items without those that the scorer's own options leave out (ReferIt3D's filters).

    Only where the references say that they left something out; any other item without a reference
    is `read_references`' error.
    """
    found = benchmark.read_references(arguments.references, score_options(benchmark, arguments))
    left_out = {key: count for key, count in found.counts.items() if key.startswith("left out")}
    if not left_out:
        return items
    kept = {item: sample for item, sample in items.samples.items() if item in found.by_id}
    logger.info("not asked: %d items (%s)", len(items.samples) - len(kept), left_out)
    return dataclasses.replace(items, samples=kept)


def score_options(benchmark: Benchmark, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the benchmark's own options of the command line."""
    return {option.name: getattr(arguments, option.name) for option in benchmark.options}


def finish(name: str, benchmark: Benchmark | None, arguments: argparse.Namespace, out: Path) -> int:
    """Merge the shards, write predictions, traces and numbers, and print.

    Returns:
        The exit code: 65 when items could not be asked and that was not allowed.
    """
    merged = merge_shards(out, read_ids(out / "ids.txt"))
    if merged.identity["benchmark"] != name:
        raise ConfigError(f"{out} holds an evaluation of {merged.identity['benchmark']!r}")
    files = write_predictions(out, merged)
    for item, reason in list(merged.errors.items())[:5]:
        logger.warning("%s could not be asked: %s", item, reason)
    refused = bool(merged.errors) and not arguments.allow_missing
    result: dict[str, Any] = {"benchmark": name}
    reports: list[Report] = []
    if benchmark is None or arguments.references is None or refused:
        why = "no --references" if benchmark is not None else "launch score does not know it"
        result["not_scored"] = "items could not be asked" if refused else why
    else:
        references, reports = score_predictions(benchmark, arguments, merged, files)
        result = summary(reports, merged)
        left = {"items": len(references.by_id), "missing": len(merged.errors), **references.counts}
        result["counts"] = {**left, **result["counts"]}
        result["notes"] = [*references.notes, *result["notes"]]
    result["evaluation"] = facts(merged)
    write_traces(out, merged, reports)
    write_json(out / "score.json", result)
    describe(result, reports, merged, out)
    if refused:
        logger.error(
            "%d of %d items could not be asked, so there is no score; the same command tries them "
            "again, --allow-missing counts them as wrong",
            len(merged.errors),
            len(merged.errors) + len(merged.rows),
        )
    return BAD_DATA if refused else DONE


def write_predictions(out: Path, merged: Merged) -> list[Path]:
    """Write what `launch score` reads: one file, or one for each reply to every item."""
    payload = merged.identity["payload"]
    count = merged.identity["samples_per_question"]
    files = []
    for number in range(count):
        name = "predictions.jsonl" if count == 1 else f"predictions_{number:03d}.jsonl"
        lines = [
            prediction_line(item, payload, row["samples"][number]["parsed"], row.get("given_box"))
            for item, row in merged.rows.items()
        ]
        write_lines(out / name, lines)
        files.append(out / name)
    return files


def score_predictions(
    benchmark: Benchmark,
    arguments: argparse.Namespace,
    merged: Merged,
    files: Sequence[Path],
) -> tuple[References, list[Report]]:
    """Score every file of predictions; intervals only where there is one file."""
    ids = [*merged.rows, *merged.errors]
    options = score_options(benchmark, arguments)
    is_whole = not merged.identity["is_part"]
    references = read_references(benchmark, arguments, ids, is_whole=is_whole)
    resamples = arguments.bootstrap if len(files) == 1 else 0
    bootstrap = Bootstrap(resamples=resamples, seed=arguments.seed)
    reports = []
    for file in files:
        found = benchmark.read_predictions(file, references.by_id, options)
        check_ids(found, references.by_id, allow_missing=arguments.allow_missing)
        reports.append(benchmark.score(references.by_id, found.by_id, options, bootstrap))
    return references, reports


def summary(reports: Sequence[Report], merged: Merged) -> dict[str, Any]:
    """Return the numbers: of greedy replies as `launch score` gives them, else means over replies.

    The best of several replies stands under its own name in "samples", nowhere else.
    """
    result = reports[0].as_json()
    if len(reports) == 1:
        return result
    for name, metric in result["metrics"].items():
        values = [report[name].value for report in reports]
        known = [value for value in values if value is not None]
        metric |= {"value": statistics.fmean(known) if known else None, "low": None, "high": None}
        metric["std_over_replies"] = statistics.pstdev(known) if known else None
    result["samples"] = {
        "samples_per_question": len(reports),
        "temperature": merged.identity["temperature"],
        "metrics": {
            name: over_samples(values)
            for name, values in per_item(reports, merged.identity["payload"]).items()
        },
    }
    return result


def per_item(reports: Sequence[Report], payload: Payload) -> dict[str, dict[str, list[float]]]:
    """Return metric -> item id -> its value for each reply, over all items and over each group.

    An overlap also counts as reached or not at the field's thresholds, so that it has a pass@k.
    Items without a value are left out.
    """
    table: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        for item in report.items:
            values = {name: value for name, value in item.values.items() if value is not None}
            if "iou" in values:
                levels = THRESHOLDS.get(payload, ())
                values |= {f"iou>={level}": float(values["iou"] >= level) for level in levels}
            for name, value in values.items():
                for key in (name, *(f"{group}/{name}" for group in item.groups)):
                    table.setdefault(key, {}).setdefault(item.item_id, []).append(float(value))
    count = len(reports)
    whole = {
        name: {item: values for item, values in rows.items() if len(values) == count}
        for name, rows in table.items()
    }
    return {name: rows for name, rows in whole.items() if rows}


def facts(merged: Merged) -> dict[str, Any]:
    """Return what the numbers were made from."""
    replies = [reply for row in merged.rows.values() for reply in row["samples"]]
    unread = Counter(reply["parse_error"] for reply in replies if reply["parse_error"])
    return {
        **merged.identity,
        "config_sha256": value_sha256(dict(merged.identity)),
        "model": sorted({str(about.get("model")) for about in merged.about}),
        "shards": len(merged.about),
        "items": len(merged.rows) + len(merged.errors),
        "could_not_be_asked": len(merged.errors),
        "replies": len(replies),
        "cut_at_max_tokens": sum(reply["finish_reason"] == "length" for reply in replies),
        "parse_errors": dict(unread.most_common()),
    }


def write_traces(out: Path, merged: Merged, reports: Sequence[Report]) -> None:
    """Write one line per item: what was asked, shown, replied, read and scored."""
    scores: dict[str, list[Mapping[str, float | None]]] = {}
    for report in reports:
        for item in report.items:
            scores.setdefault(item.item_id, []).append(item.values)
    lines = [{**row, "scores": scores.get(item)} for item, row in merged.rows.items()]
    lines += [{"id": item, "error": reason} for item, reason in merged.errors.items()]
    write_lines(out / "traces.jsonl", lines)


def describe(
    result: Mapping[str, Any], reports: Sequence[Report], merged: Merged, out: Path
) -> None:
    """Print the numbers and what should be known about them."""
    known = result["evaluation"]
    if len(reports) == 1:
        print(format_metrics(reports[0].metrics))
    for name, metric in result.get("metrics", {}).items() if len(reports) > 1 else ():
        value = metric["value"]
        print(f"{name:<28} " + ("-" if value is None else f"{value:.4f}") + "  mean over replies")
    for name, values in result.get("samples", {}).get("metrics", {}).items():
        for what, value in values.items():
            if what != "mean_over_samples":
                print(f"{name + ' ' + what:<44} {value:.4f}")
    print(f"items: {known['items']}, id list {known['ids_sha256'][:12]}")
    unread = sum(known["parse_errors"].values())
    print(f"replies: {known['replies']}, cut off: {known['cut_at_max_tokens']}, unread: {unread}")
    for reason, count in known["parse_errors"].items():
        print(f"  {count} x {reason}")
    if "not_scored" in result:
        print(f"not scored: {result['not_scored']}")
    print(f"traces: {out / 'traces.jsonl'}")
