"""The part of the report about one training run: curves, evaluations, rollouts, diagnostics."""

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Rewards", ("reward/", "eval/")),
    ("Policy", ("policy/", "sft/", "logprob_gate/")),
    ("Rollouts", ("rollout/", "data/")),
    ("Time and throughput", ("time/", "throughput/", "memory/")),
)
THUMBNAIL_WIDTH = 160
FRAME_WIDTH = 448


def run_section(folder: Path, num_groups: int) -> dict[str, Any]:
    """Collect what the report shows of a run directory."""
    metrics = read_jsonl(folder / "metrics.jsonl")
    keys = sorted({key for row in metrics for key, v in row.items() if _is_number(v)} - {"step"})
    evals = [
        {"name": file.stem, "values": _numbers(json.loads(file.read_text()))}
        for file in sorted((folder / "eval").glob("*.json"), key=_eval_order)
    ]
    config = folder / "config.yaml"
    return {
        "name": folder.name,
        "about": f"{len(metrics)} steps" if metrics else "no step yet",
        "steps": [row.get("step", index) for index, row in enumerate(metrics)],
        "series": {key: [row.get(key) for row in metrics] for key in keys},
        "charts": [
            {"title": title, "keys": [key for key in keys if key.startswith(prefixes)]}
            for title, prefixes in CHARTS
        ],
        "evals": evals,
        "eval_keys": sorted({key for item in evals for key in item["values"]}),
        "groups": _sample_groups(folder, num_groups),
        "diagnostics": _diagnostics(folder, metrics),
        "config": config.read_text(encoding="utf-8") if config.is_file() else "",
        "tiles": _tiles(folder.name, evals),
    }


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line; a torn last line (a killed run) is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def picture(pixels: Any, width: int) -> dict[str, Any]:
    """Encode an RGB array [H, W, 3] as a JPEG data URI of at most `width` pixels across."""
    from PIL import Image

    image = Image.fromarray(pixels)
    size = {"width": image.width, "height": image.height}
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/jpeg;base64,{text}", **size}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict) and not prefix:
            numbers |= _numbers(value, f"{key}/")
        elif _is_number(value):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _eval_order(file: Path) -> tuple[int, str]:
    return ({"before": 0, "after": 2}.get(file.stem, 1), file.stem)


def _tiles(name: str, evals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Headline numbers: the first known metric, before and after."""
    by_name = {item["name"]: item["values"] for item in evals}
    before, after = by_name.get("before", {}), by_name.get("after", {})
    for key in ("miou", "mean_iou", "box_iou", "exact_match", "accuracy"):
        if key in after:
            label = f"{name}: {key}"
            return [{"label": label, "before": before.get(key), "value": after[key]}]
    return []


def _sample_groups(folder: Path, count: int) -> list[dict[str, Any]]:
    """Take groups spread evenly over the steps, the first of each chosen step."""
    files = sorted((folder / "rollouts").glob("step_*.jsonl"))
    if not files:
        return []
    last = len(files) - 1
    chosen = sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
    groups = []
    for number, index in enumerate(chosen):
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for row in read_jsonl(files[index]):
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        if by_prompt:
            rows = list(by_prompt.values())[number % len(by_prompt)]
            groups.append(_group(rows))
    return groups


def _group(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    media = first["media"][0] if first["media"] else None
    target = first.get("target") or {}
    frames, duration = _frames(media) if media else ([], 1.0)
    boxes = target.get("boxes_px") or {}
    if isinstance(boxes, list):
        boxes = {str(item["frame"]): item["box"] for item in boxes}
    frame = str(media["frame_indices"][0]) if media else ""
    return {
        "step": first["step"],
        "prompt_id": first["prompt_id"],
        "question": first["question"],
        "kind": media["kind"] if media else "text",
        "frames": frames,
        "duration_s": duration,
        "true_spans": target.get("spans_s"),
        "true_box": boxes.get(frame),
        "completions": [_completion(row) for row in rows],
    }


def _completion(row: dict[str, Any]) -> dict[str, Any]:
    answer = row.get("answer") or {}
    return {
        "completion": row["completion"],
        "reward": row["reward"],
        "advantage": row.get("advantage"),
        "rewards": row.get("rewards") or {},
        "parse_error": row.get("parse_error"),
        "span_s": answer.get("span_s"),
        "box_px": answer.get("box_px"),
    }


def _frames(media: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """Read the frames of a rollout again; a medium that is gone gives no pictures."""
    from scenerl.preprocess.media import open_media

    times = list(media["times_s"])
    duration = max([*times, 0.1])
    if len(times) > 1:
        duration += times[1] - times[0]
    try:
        pixels = open_media(media["path"]).read(media["frame_indices"])
    except (OSError, ValueError):
        return [], duration
    width = FRAME_WIDTH if media["kind"] == "image" else THUMBNAIL_WIDTH
    frames = [
        {**picture(image, width), "time_s": time} for image, time in zip(pixels, times, strict=True)
    ]
    return frames, duration


def _diagnostics(folder: Path, metrics: list[dict[str, Any]]) -> list[list[Any]]:
    """Count why replies could not be parsed, and what the groups lost."""
    reasons: Counter[str] = Counter()
    truncated = total = 0
    for file in sorted((folder / "rollouts").glob("step_*.jsonl")):
        for row in read_jsonl(file):
            total += 1
            truncated += row.get("finish_reason") == "length"
            if row.get("parse_error"):
                reasons[str(row["parse_error"])] += 1
    rows: list[list[Any]] = []
    if total:
        rows.append(["completions kept in rollouts/", total, None])
        rows.append(["truncated at the length limit", truncated, truncated / total])
        rows += [[f"not parsed: {why}", n, n / total] for why, n in reasons.most_common()]
    spread = [
        row["rollout/zero_spread_fraction"]
        for row in metrics
        if _is_number(row.get("rollout/zero_spread_fraction"))
    ]
    if spread:
        mean = sum(spread) / len(spread)
        rows.append(["groups with equal rewards (no gradient), mean share", None, mean])
    return rows
