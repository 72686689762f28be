"""The part of the report about the chain: answers in 3D and where accuracy is lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.launch.report_cloud import open_scene, pack_cloud
from scenerl.launch.report_files import Packer, is_number, shortened, spread_over

SWAPS = {
    "predicted": ("everything predicted", "span"),
    "true_span": ("true span", "box"),
    "true_span_box": ("true span and boxes", "tracking"),
    "true_masks": ("true masks", "lifting"),
}
"""Swap -> how the table calls it, and the stage that the next row replaces."""
PICTURE_WIDTH = 1312
MAX_TEXT = 2000
MAX_UNANSWERED = 20
"""Queries without a 3D box that are listed one by one."""


def chain_section(folder: Path, num_answers: int, packer: Packer) -> dict[str, Any]:
    """Collect what the report shows of the output of `launch ground`."""
    summary = packer.values(folder / "summary.json")
    rows = packer.lines(folder / "answers.jsonl")
    lost = summary.get("lost_in") or {}
    unanswered = [row for row in rows if not row.get("box_world")]
    return {
        "name": folder.name,
        "about": _about(summary, rows),
        "oracle": oracle_rows(summary.get("oracle") or {}),
        "lost_in": [[name, lost[name]] for name in ORDER if name in lost],
        "errors": _counted(summary.get("errors")),
        "skipped": _counted(summary.get("skipped")),
        "num_unanswered": len(unanswered),
        "unanswered": [
            [str(row.get("question")), "; ".join(row.get("errors") or ["no reason is known"])]
            for row in unanswered[:MAX_UNANSWERED]
        ],
        "answers": [_answer(folder, row, packer) for row in _chosen(rows, num_answers)],
        "tiles": [
            {"label": f"{folder.name}: 3D Acc@{name}", "before": None, "value": summary[key]}
            for key, name in (("acc25", "0.25"), ("acc50", "0.5"))
            if is_number(summary.get(key))
        ],
    }


ORDER = ("right", "span", "box", "tracking", "lifting")


def _about(summary: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    names = (("temporal_iou", "mean temporal IoU"), ("box_iou", "mean box IoU"))
    facts = [f"{name} {summary[key]:.3f}" for key, name in names if is_number(summary.get(key))]
    return [f"{len(rows)} queries", *facts]


def _counted(counts: Any) -> list[list[Any]]:
    """Arrange reason -> count, most frequent first."""
    rows = [[str(reason), count] for reason, count in (counts or {}).items()]
    return sorted(rows, key=lambda row: -row[1])


def oracle_rows(table: Mapping[str, Mapping[str, float]]) -> list[list[Any]]:
    """Arrange the oracle table and say what each stage loses.

    The loss of a stage is what 3D IoU wins when the truth replaces it as well; that of lifting is
    what true masks lack to 1.

    Args:
        table: Swap -> {"iou3d", "acc25", "acc50", "queries"}.

    Returns:
        Rows of name, queries, 3D IoU, Acc@0.25, Acc@0.5, stage and its loss; stages whose swap is
        missing are charged together.
    """
    known = [swap for swap in SWAPS if swap in table]
    rows: list[list[Any]] = []
    names = list(SWAPS)
    for number, swap in enumerate(known):
        after = known[number + 1] if number + 1 < len(known) else None
        end = len(names) if after is None else names.index(after)
        stages = ", ".join(SWAPS[name][1] for name in names[names.index(swap) : end])
        row, best = table[swap], 1.0 if after is None else table[after]["iou3d"]
        values = [row.get(key) for key in ("queries", "iou3d", "acc25", "acc50")]
        rows.append([SWAPS[swap][0], *values, stages, best - row["iou3d"]])
    return rows


def _chosen(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Take answers spread evenly over those with a picture, so that right and wrong ones show."""
    drawn = [row for row in rows if row.get("picture")] or rows
    return [drawn[i] for i in spread_over(len(drawn), count)]


def _answer(folder: Path, row: dict[str, Any], packer: Packer) -> dict[str, Any]:
    image = folder / row["picture"] if row.get("picture") else None
    ply = folder / row["ply"] if row.get("ply") else None
    path = Path(row["scene_path"]) if row.get("scene_path") else None
    scene = open_scene(path, packer)
    return {
        "query": shortened(str(row.get("question", "")), MAX_TEXT),
        "about": str(row.get("scene", "")),
        "picture": _picture(image, packer) if image is not None and image.is_file() else None,
        "span_s": row.get("span_s"),
        "true_spans": row.get("true_spans_s"),
        "duration_s": None if scene is None else scene.times_s(scene.frame_indices[-1]),
        "facts": _facts(row),
        "verdict": row.get("lost_in"),
        "errors": list(row.get("errors") or ()),
        "replies": _replies(row),
        "cloud": pack_cloud(ply, scene, packer),
        "box": row.get("box_world"),
        "true_box": row.get("true_box_world"),
    }


def _facts(row: dict[str, Any]) -> list[list[Any]]:
    names = (("temporal_iou", "temporal IoU"), ("box_iou", "box IoU"))
    facts: list[list[Any]] = [[name, row[key]] for key, name in names if is_number(row.get(key))]
    for swap, iou in (row.get("iou3d") or {}).items():
        if is_number(iou):
            facts.append([f"3D IoU, {SWAPS[swap][0] if swap in SWAPS else swap}", iou])
    facts += [
        [f"lifted {key}", row[f"num_{key}"]] for key in ("points", "frames") if row.get("ply")
    ]
    if row.get("box_world"):
        box = row["box_world"]
        sides = " x ".join(f"{box[i + 3] - box[i]:.2f}" for i in range(3))
        facts.append(["size of the box", f"{sides} m"])
    return facts


def _replies(row: dict[str, Any]) -> list[list[str]]:
    """List what the policy wrote, word for word."""
    replies = [["span", shortened(str(row.get("span_reply") or ""), MAX_TEXT)]]
    for box in row.get("boxes") or ():
        replies.append([f"frame {box.get('frame')}", shortened(str(box.get("text")), MAX_TEXT)])
    return replies


def _picture(file: Path, packer: Packer) -> str | None:
    from PIL import Image

    try:
        pixels = np.asarray(Image.open(file).convert("RGB"))
    except OSError:
        packer.note(f"{file.name} is not a whole picture and is left out")
        return None
    source = packer.picture(pixels, PICTURE_WIDTH)["src"]
    return None if source is None else str(source)
