"""The part of the report that shows single rollouts: frames, answers, completions."""

from pathlib import Path
from typing import Any

from scenerl.launch.report_files import Packer, shortened, spread_over

THUMBNAIL_WIDTH = 160
FRAME_WIDTH = 448
MAX_STRIP_FRAMES = 12
MAX_COMPLETIONS = 16
MAX_TEXT = 2000
"""Characters of a completion."""


def sample_groups(folder: Path, count: int, packer: Packer) -> list[dict[str, Any]]:
    """Take groups evenly over the steps, in turn the first, second, ... of a step."""
    files = sorted((folder / "rollouts").glob("step_*.jsonl"))
    groups = []
    for number, index in enumerate(spread_over(len(files), count)):
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for row in packer.lines(files[index]):
            by_prompt.setdefault(str(row.get("prompt_id")), []).append(row)
        if by_prompt:
            rows = list(by_prompt.values())[number % len(by_prompt)]
            groups.append(_group(rows, packer))
    return groups


def _group(rows: list[dict[str, Any]], packer: Packer) -> dict[str, Any]:
    first = rows[0]
    media = (first.get("media") or [None])[0]
    target = first.get("target") or {}
    boxes = target.get("boxes_px") or {}
    frame = str(media["frame_indices"][0]) if media else ""
    return {
        "step": first.get("step"),
        "prompt_id": first.get("prompt_id"),
        "question": shortened(str(first.get("question", "")), MAX_TEXT),
        "kind": media["kind"] if media else "text",
        "frames": _frames(media, packer) if media else [],
        "num_frames": len(media["frame_indices"]) if media else 0,
        "duration_s": _duration_s(media) if media else 1.0,
        "true_spans": target.get("spans_s"),
        "true_box": boxes.get(frame),
        "true_answers": target.get("answers"),
        "dropped": all(row.get("advantage") is None for row in rows),
        "num_completions": len(rows),
        "completions": [_completion(row) for row in rows[:MAX_COMPLETIONS]],
    }


def _completion(row: dict[str, Any]) -> dict[str, Any]:
    answer = row.get("answer") or {}
    return {
        "completion": shortened(str(row.get("completion", "")), MAX_TEXT),
        "reward": row.get("reward"),
        "unscored": row.get("unscored_reason"),
        "advantage": row.get("advantage"),
        "rewards": row.get("rewards") or {},
        "parse_error": row.get("parse_error"),
        "truncated": row.get("finish_reason") == "length",
        "num_tokens": row.get("num_tokens"),
        "span_s": answer.get("span_s"),
        "box_px": answer.get("box_px"),
    }


def _duration_s(media: dict[str, Any]) -> float:
    """Return the length of the video; at least up to its last frame."""
    times: list[float] = media["times_s"]
    step = times[1] - times[0] if len(times) > 1 else 0.0
    return max(float(media.get("duration_s") or times[-1] + step), times[-1], 0.1)


def _frames(media: dict[str, Any], packer: Packer) -> list[dict[str, Any]]:
    """Read the frames of a rollout again; a medium that is gone gives no pictures."""
    from scenerl.preprocess.decoding import decoder

    chosen = spread_over(len(media["frame_indices"]), MAX_STRIP_FRAMES)
    try:
        pixels = decoder().frames(media["path"], [media["frame_indices"][i] for i in chosen])
    except (OSError, ValueError, LookupError):
        packer.note(f"frames of {media['path']} cannot be read any more; their pictures are absent")
        return []
    width = FRAME_WIDTH if media["kind"] == "image" else THUMBNAIL_WIDTH
    return [
        {**packer.picture(image, width), "time_s": media["times_s"][i]}
        for image, i in zip(pixels, chosen, strict=True)
    ]
