"""The part of the report about one training run: evaluations, curves, diagnostics, rollouts."""

from collections import Counter
from pathlib import Path
from typing import Any

from scenerl.launch.report_files import Packer, is_number, mean, numbers
from scenerl.launch.report_rollouts import sample_groups

CHARTS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Learning curves", ("reward/", "eval/", "sft/"), True),
    ("Policy", ("policy/", "logprob_gate/", "loss"), True),
    ("Rollouts", ("rollout/", "parse_error/", "data/"), False),
    ("Spread of rewards", ("/spread",), False),
    ("Time, throughput, memory", ("time/", "throughput/", "memory/"), False),
    ("Other", ("",), False),
)
"""Title, what the names of its metrics start with (or end with), and whether it is open."""

ABOUT_REWARDS = ("reward/std", "reward/unscored_fraction")
PRIMARY = {
    "temporal_iou": "mean temporal IoU",
    "box_iou": "mean box IoU",
    "exact_match": "exact match",
}
STEP_PARTS = {
    "sync": "weights to the engines",
    "encode": "waiting for prompts to be decoded and encoded",
    "rollout": "generation",
    "reward": "rewards",
    "gate": "comparing engine and learner",
    "forward_backward": "forward and backward",
    "optimizer": "optimizer",
    "wait": "waiting for rollouts that were made beside the update",
}
"""Name in `time/<name>_s` -> what a reader calls it."""
MAX_POINTS = 400
"""Points of a curve; a longer run shows the means of equal numbers of steps."""
MAX_CONFIG = 30_000
"""Characters of the settings."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run, finished or not."""
    return (folder / "metrics.jsonl").is_file() or (folder / "environment.json").is_file()


def run_section(folder: Path, num_groups: int, packer: Packer) -> dict[str, Any]:
    """Collect what the report shows of a run directory."""
    metrics = packer.lines(folder / "metrics.jsonl")
    points, per_point = _thinned(metrics)
    keys = sorted({key for row in points for key in row} - {"step"}, key=_key_order)
    evals = [
        {"name": file.stem, "values": numbers(packer.values(file))}
        for file in sorted((folder / "eval").glob("*.json"), key=lambda file: file.name)
    ]
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return {
        "name": folder.name,
        "about": _about(folder, text, metrics, packer),
        "per_point": per_point,
        "steps": [row["step"] for row in points],
        "series": {key: [row.get(key) for row in points] for key in keys},
        "charts": _charts(keys),
        "evals": _eval_table(evals),
        "groups": sample_groups(folder, num_groups, packer),
        "diagnostics": _diagnostics(folder, metrics, packer),
        "config": text[:MAX_CONFIG],
        "tiles": _tiles(folder.name, evals),
    }


def _about(folder: Path, config: str, metrics: list[dict[str, Any]], packer: Packer) -> list[str]:
    """Say what ran, how far it came and how it ended."""
    end = packer.values(folder / "exit.json")
    summary = packer.values(folder / "summary.json")
    facts = [config.splitlines()[0].lstrip("# ")] if config.startswith("# launch") else []
    facts.append(f"{len(metrics)} steps" if metrics else "no step yet")
    if is_number(summary.get("best_step")):
        facts.append(f"best checkpoint: step {summary['best_step']}")
    if is_number(summary.get("seed")):
        facts.append(f"seed {summary['seed']}")
    seconds = [row["time/step_s"] for row in metrics if is_number(row.get("time/step_s"))]
    if seconds:
        facts.append(f"{sum(seconds):.0f} s of steps")
    if not end:
        facts.append("runs still, or was killed")
    elif end.get("code") != 0:
        facts.append(f"ended with code {end.get('code')}: {end.get('reason')}")
    return facts


def _thinned(metrics: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Average neighbouring steps until at most MAX_POINTS are left; returns steps per point."""
    size = max(1, -(-len(metrics) // MAX_POINTS))
    points = []
    for start in range(0, len(metrics), size):
        rows = metrics[start : start + size]
        keys = dict.fromkeys(key for row in rows for key in numbers(row))
        point: dict[str, Any] = {key: mean([row.get(key) for row in rows]) for key in keys}
        last = rows[-1].get("step")
        points.append({**point, "step": last if is_number(last) else start + len(rows)})
    return points, size


def _key_order(key: str) -> tuple[int, str]:
    first = ("reward/mean", "eval/temporal_iou", "eval/box_iou", "eval/exact_match")
    return (first.index(key) if key in first else len(first), key)


def _charts(keys: list[str]) -> list[dict[str, Any]]:
    spread = [key for key in keys if key.endswith("/spread") or key in ABOUT_REWARDS]
    left = [key for key in keys if key not in spread]
    charts = []
    for title, words, is_open in CHARTS:
        if words == ("/spread",):
            mine = spread
        else:
            mine = [key for key in left if key.startswith(words)]
            left = [key for key in left if key not in mine]
        if mine:
            charts.append({"title": title, "keys": mine, "open": is_open})
    return charts


def _eval_table(evals: list[dict[str, Any]]) -> dict[str, Any]:
    """Arrange evaluations: a metric per row; before, after and the difference as columns."""
    by_name = {item["name"]: item["values"] for item in evals}
    steps = sorted(name for name in by_name if name.startswith("step_"))
    others = sorted(set(by_name) - {"before", "after"} - set(steps))
    columns = [name for name in ("before", *steps[-1:], "after", *others) if name in by_name]
    if "after" in by_name:
        columns = [name for name in columns if name not in steps]
    keys = list(dict.fromkeys(key for name in columns for key in by_name[name]))
    if "temporal_iou" in keys and "miou" in keys:
        keys.remove("miou")
    rows = []
    for key in keys:
        before, after = (by_name.get(name, {}).get(key) for name in ("before", "after"))
        change = None if before is None or after is None else after - before
        rows.append([key, *(by_name[name].get(key) for name in columns), change])
    return {"columns": columns, "rows": rows}


def _tiles(name: str, evals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Headline numbers: the metric that the run was trained for, before and after."""
    by_name = {item["name"]: item["values"] for item in evals}
    before, after = by_name.get("before", {}), by_name.get("after", {})
    for key, words in PRIMARY.items():
        if key in after or key in before:
            label = f"{name}: {words}"
            return [{"label": label, "before": before.get(key), "value": after.get(key)}]
    return []


def _diagnostics(folder: Path, metrics: list[dict[str, Any]], packer: Packer) -> dict[str, Any]:
    """Count why replies could not be parsed, what was cut off and what the groups lost."""
    reasons: Counter[str] = Counter()
    truncated = unscored = total = 0
    for file in sorted((folder / "rollouts").glob("step_*.jsonl")):
        for row in packer.lines(file):
            total += 1
            truncated += row.get("finish_reason") == "length"
            unscored += row.get("reward") is None
            if row.get("parse_error"):
                reasons[str(row["parse_error"])] += 1
    completions: list[list[Any]] = []
    if total:
        completions.append(["truncated at the length limit", truncated, truncated / total])
        completions.append(["without a reward", unscored, unscored / total])
        completions += [[f"not parsed: {why}", n, n / total] for why, n in reasons.most_common(20)]
    return {
        "step_time": _step_time(metrics),
        "num_completions": total,
        "completions": completions,
        "prompts": _prompt_outcomes(folder, packer),
        "zero_spread": mean([row.get("rollout/zero_spread_fraction") for row in metrics]),
    }


def _step_time(metrics: list[dict[str, Any]]) -> list[list[Any]]:
    """Break the mean step down: what, seconds, share; parts that run beside it are not in it."""
    rows = [row for row in metrics if is_number(row.get("time/step_s"))]
    total = sum(row["time/step_s"] for row in rows)
    if not rows or not total:
        return []
    overlapped = any(is_number(row.get("time/wait_s")) for row in rows)
    parts = dict(STEP_PARTS)
    for name in ("sync", "rollout", "encode", "reward") if overlapped else ("wait",):
        del parts[name]
    seconds = {
        words: sum(numbers(row).get(f"time/{name}_s", 0.0) for row in rows)
        for name, words in parts.items()
    }
    seconds["everything else"] = max(total - sum(seconds.values()), 0.0)
    return [[what, part / len(rows), part / total] for what, part in seconds.items() if part > 0]


def _prompt_outcomes(folder: Path, packer: Packer) -> list[list[Any]]:
    """Count what became of the drawn prompts."""
    ledger = packer.lines(folder / "ledger.jsonl")
    names = {"zero_spread": "equal rewards in the group: no gradient", "trained": "trained on"}
    outcomes = Counter(
        names.get(str(row.get("outcome")), f"{row.get('outcome')}: {row.get('reason')}")
        for row in ledger
    )
    return [[what, count, count / len(ledger)] for what, count in outcomes.most_common(20)]
