"""The part of the report about the chain: answers in 3D and where accuracy is lost."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.launch.report_run import picture, read_jsonl

SWAP_NAMES = {
    "predicted": "everything predicted",
    "true_span": "true span",
    "true_span_box": "true span and boxes",
    "true_masks": "true masks",
}
MAX_POINTS = 12_000
PICTURE_WIDTH = 900


def chain_section(folder: Path, num_answers: int) -> dict[str, Any]:
    """Collect what the report shows of the output of `launch ground`."""
    file = folder / "summary.json"
    summary = json.loads(file.read_text()) if file.is_file() else {}
    rows = read_jsonl(folder / "answers.jsonl")
    oracle = summary.get("oracle") or {}
    unanswered = {**(summary.get("errors") or {}), **(summary.get("skipped") or {})}
    lost = summary.get("lost_in") or {}
    return {
        "name": folder.name,
        "title": f"{folder.name}: from question to 3D box",
        "about": f"{len(rows)} queries, " + ", ".join(f"{k} {v}" for k, v in lost.items()),
        "oracle": [
            [SWAP_NAMES.get(swap, swap), row["iou3d"], row["acc25"], row["acc50"]]
            for swap, row in oracle.items()
        ],
        "diagnostics": [[reason, count] for reason, count in unanswered.items()],
        "answers": [_answer(folder, row) for row in _chosen(rows, num_answers)],
        "tiles": [
            {"label": f"{folder.name}: 3D Acc@{name}", "before": None, "value": summary[key]}
            for key, name in (("acc25", "0.25"), ("acc50", "0.5"))
            if summary.get(key) is not None
        ],
    }


def _chosen(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Take answers spread evenly over those with a picture, so that right and wrong ones show."""
    drawn = [row for row in rows if row.get("picture")] or rows
    if len(drawn) <= count:
        return drawn
    return [drawn[round(i * (len(drawn) - 1) / max(count - 1, 1))] for i in range(count)]


def _answer(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    image = folder / row["picture"] if row.get("picture") else None
    answer: dict[str, Any] = {
        "query": row["question"],
        "about": row["scene"],
        "picture": _picture(image) if image is not None and image.is_file() else None,
        "facts": _facts(row),
        "points": None,
        "up": 2,
        "box": row.get("box_world"),
        "true_box": row.get("true_box_world"),
    }
    ply = folder / row["ply"] if row.get("ply") else None
    if ply is not None and ply.is_file():
        answer |= _cloud(ply)
    return answer


def _facts(row: dict[str, Any]) -> list[list[Any]]:
    facts: list[list[Any]] = []
    if row.get("span_s"):
        start, end = row["span_s"]
        facts.append(["predicted span", f"{start:.1f}s to {end:.1f}s"])
    if row.get("true_spans_s"):
        spans = ", ".join(f"{a:.1f}s to {b:.1f}s" for a, b in row["true_spans_s"])
        facts.append(["true span", spans])
    names = (("temporal_iou", "temporal IoU"), ("box_iou", "box IoU"))
    facts += [[name, row[key]] for key, name in names if row.get(key) is not None]
    ious = row.get("iou3d") or {}
    facts += [[f"3D IoU, {SWAP_NAMES.get(k, k)}", v] for k, v in ious.items() if v is not None]
    if row.get("lost_in"):
        facts.append(["lost in", row["lost_in"]])
    facts += [["problem", error] for error in row.get("errors") or ()]
    return facts


def _picture(file: Path) -> str:
    from PIL import Image

    return str(picture(np.asarray(Image.open(file).convert("RGB")), PICTURE_WIDTH)["src"])


def _cloud(file: Path) -> dict[str, Any]:
    """Read a point cloud, thinned to what a browser turns smoothly."""
    import open3d

    cloud = open3d.io.read_point_cloud(str(file))
    points = np.asarray(cloud.points, dtype=np.float32)
    if not len(points):
        return {}
    colors = np.asarray(cloud.colors)
    colors = colors if len(colors) else np.full(points.shape, 0.7)
    step = -(-len(points) // MAX_POINTS)
    points, colors = points[::step], colors[::step]
    low, high = points.min(0), points.max(0)

    def pack(values: np.ndarray) -> str:
        return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()

    return {
        "points": pack(points),
        "colors": pack((colors * 255).round().astype(np.uint8)),
        "center": ((low + high) / 2).tolist(),
        "radius": float(np.linalg.norm(high - low) / 2) * 1.3,
    }
