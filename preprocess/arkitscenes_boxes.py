"""Objects of an ARKitScenes recording, from VIDEO_3dod_annotation.json.

    {"skipped": false, "data": [{"uid": "a1", "label": "tv_monitor", "segments": {"obbAligned":
      {"centroid": [x, y, z], "axesLengths": [dx, dy, dz], "normalizedAxes": [9 numbers]}}}, ...]}

Full sizes in metres; the rows of normalizedAxes are the box's axes. As upstream's extract_gt
(apple/ARKitScenes, threedod/benchmark_scripts/utils/tenFpsDataLoader.py).
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.raw_scenes import Fault
from scenerl.preprocess.records import SceneObject
from scenerl.preprocess.safe_files import FileError, read_json
from scenerl.preprocess.scannetpp_objects import oriented_attributes

PROVENANCE = "human_3d_box"
CLASSES = frozenset(
    ("cabinet", "refrigerator", "shelf", "stove", "bed", "sink", "washer", "toilet", "bathtub")
    + ("oven", "dishwasher", "fireplace", "stool", "chair", "table", "tv_monitor", "sofa")
)
"""What the benchmark knows; upstream leaves other labels out."""


def box_corners(centroid: np.ndarray, sizes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the corners of an oriented box, float64 [8, 3].

    Args:
        centroid: [3] metres.
        sizes: [3] full sizes along the axes.
        axes: [3, 3], one axis a row.
    """
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return np.asarray((signs * sizes) @ axes + centroid)


def read_boxes(path: Path) -> tuple[tuple[SceneObject, ...], list[Fault]]:
    """Return the objects of an annotation, and the entries left out.

    An object's id is its place in the file, from 1. Its box is the axis-aligned one over the
    corners of the oriented box, which stands in the attributes.

    Raises:
        FileError: If the file is no such annotation.
    """
    content = read_json(path, dict)
    rows = content.get("data")
    if not isinstance(rows, list):
        raise FileError("json_kind", f"{path}: expected a list data")
    objects, faults = [], []
    if content.get("skipped"):
        detail = f"{path} says that its annotators skipped the recording"
        faults.append(Fault(item="annotation", code="skipped", detail=detail, broken=False))
    for number, row in enumerate(rows):
        item = f"data[{number}]"
        try:
            found = _object(row, number + 1, f"{path}: {item}")
        except FileError as error:
            faults.append(Fault(item=item, code=error.code, detail=str(error)))
            continue
        if found is None:
            label = row["label"]
            detail = f"{path}: {item}: {label!r:.80} is none of the {len(CLASSES)} classes"
            faults.append(Fault(item=item, code="label_unknown", detail=detail, broken=False))
        else:
            objects.append(found)
    return tuple(objects), faults


def _object(row: Any, object_id: int, where: str) -> SceneObject | None:
    """Return one object; None when its label is no class of the benchmark."""
    if not isinstance(row, dict) or not isinstance(row.get("label"), str) or not row["label"]:
        raise FileError("object_entry", f"{where}: expected an object with a label")
    label = row["label"]
    if label.replace(" ", "_").replace("-", "_").replace("/", "_") not in CLASSES:
        return None
    segments = row.get("segments")
    try:
        attributes = oriented_attributes(
            segments.get("obbAligned") if isinstance(segments, dict) else None
        )
    except FileError as error:
        raise FileError(error.code, f"{where}: {error}") from error
    centroid, sizes, axes = (
        np.array([float(word) for word in attributes[name].split()])
        for name in ("obb_centroid", "obb_sizes", "obb_axes")
    )
    axes = axes.reshape(3, 3)
    if (sizes < 0).any() or np.abs(axes @ axes.T - np.eye(3)).max() > 1e-2:
        text = f"{where}: sizes {sizes.tolist()} or axes {axes.tolist()} are no box"
        raise FileError("box", text)
    corners = box_corners(centroid, sizes, axes)
    x0, y0, z0 = (float(value) for value in corners.min(axis=0))
    x1, y1, z1 = (float(value) for value in corners.max(axis=0))
    return SceneObject(
        object_id=object_id,
        label=label,
        box_world=(x0, y0, z0, x1, y1, z1),
        attributes={
            **attributes,
            "uid": str(row.get("uid", "")),
            "box_world": "axis-aligned box over the corners of the oriented one",
        },
    )
