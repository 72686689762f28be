"""Objects of a ScanNet++ scene: boxes over their mesh vertices, and the mesh to look at.

    scans/mesh_aligned_0.05.ply   scans/segments.json {"segIndices": [...]}, one per vertex
    scans/segments_anno.json      {"segGroups": [{"objectId": 3, "label": "chair", "segments":
                                    [...], "obb": {"centroid", "axesLengths", "normalizedAxes"}}]}

Object ids count from 1, 0 is none (scannetpp/scannetpp, common/utils/anno.py).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.raw_scenes import Fault
from scenerl.preprocess.records import SceneObject
from scenerl.preprocess.safe_files import FileError, inside, read_json
from scenerl.preprocess.scannet_objects import read_mesh, read_segments

PROVENANCE = "projected_from_3d_mask"
ANNOTATION = "segments_anno.json"
FILES = ("mesh_aligned_0.05.ply", "segments.json", ANNOTATION)
MAX_OBJECT_ID = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedMesh:
    """A scene's mesh with an object on each vertex."""

    points: np.ndarray
    """float32 [n, 3]."""
    triangles: np.ndarray
    """int32 [m, 3]."""
    vertex_ids: np.ndarray
    """uint32 [n], objectId; 0 is none. Where groups overlap, the later one has the vertex."""
    objects: tuple[SceneObject, ...]
    faults: tuple[Fault, ...]


def number_text(values: Any) -> str:
    """Return numbers as text that reads back exactly."""
    return " ".join(repr(float(value)) for value in values)


def oriented_attributes(obb: Any) -> dict[str, str]:
    """Return centroid, full sizes and axes (rows) of an oriented box as attributes.

    Raises:
        FileError: box, if it is none.
    """
    parts = {}
    for name, key, count in (
        ("obb_centroid", "centroid", 3),
        ("obb_sizes", "axesLengths", 3),
        ("obb_axes", "normalizedAxes", 9),
    ):
        values = obb.get(key) if isinstance(obb, dict) else None
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        ):
            raise FileError("box", f"{key} is {values!r:.120}; expected {count} finite numbers")
        parts[name] = number_text(values)
    return parts


def _group(row: Any, number: int, path: Path) -> tuple[int, str, np.ndarray]:
    """Return objectId, label and segments of a segGroup.

    Raises:
        FileError: object_entry.
    """
    where = f"{path}: segGroups[{number}]"
    if not isinstance(row, dict):
        raise FileError("object_entry", f"{where} is no object")
    object_id, label, segments = row.get("objectId"), row.get("label"), row.get("segments")
    if not isinstance(object_id, int) or not 1 <= object_id <= MAX_OBJECT_ID:
        text = f"{where}: objectId is {object_id!r:.80}; expected 1 to {MAX_OBJECT_ID}"
        raise FileError("object_entry", text)
    if not isinstance(label, str) or not label:
        raise FileError("object_entry", f"{where}: label is {label!r:.80}; expected a text")
    if not isinstance(segments, list) or not all(
        isinstance(segment, int) and abs(segment) < 1 << 62 for segment in segments
    ):
        raise FileError("object_entry", f"{where}: segments is no list of whole numbers")
    return object_id, label, np.array(segments, np.int64)


def read_annotated_mesh(folder: Path) -> AnnotatedMesh:
    """Return the mesh and objects of a scans/ folder.

    Raises:
        DataError: If a file is missing or broken, or mesh and segments do not belong together.
    """
    mesh, segment_file, annotation = (inside(folder / name, folder) for name in FILES)
    for path in (mesh, segment_file, annotation):
        if not path.is_file():
            raise FileError("file_missing", f"{path} does not exist")
    rows = read_json(annotation, dict).get("segGroups")
    if not isinstance(rows, list):
        raise FileError("json_kind", f"{annotation}: expected a list segGroups")
    points, triangles = read_mesh(mesh)
    segments = read_segments(segment_file)
    if len(segments) != len(points):
        raise FileError(
            "counts_differ",
            f"{segment_file} has {len(segments)} entries, {mesh.name} {len(points)} vertices; the "
            "files belong to different versions of the scene",
        )
    vertex_ids = np.zeros(len(points), np.uint32)
    objects: dict[int, SceneObject] = {}
    faults = []
    for number, row in enumerate(rows):
        try:
            object_id, label, own_segments = _group(row, number, annotation)
            if object_id in objects:
                raise FileError(
                    "duplicate_object", f"{annotation}: segGroups[{number}]: {object_id} again"
                )
            own = np.isin(segments, own_segments)
            if not own.any():
                text = f"{annotation}: segGroups[{number}] ({label}) has no vertex"
                raise FileError("object_empty", text)
            attributes = oriented_attributes(row["obb"]) if "obb" in row else {}
        except FileError as error:
            faults.append(Fault(item=f"segGroups[{number}]", code=error.code, detail=str(error)))
            continue
        vertex_ids[own] = object_id
        objects[object_id] = _object(object_id, label, points[own], attributes)
    return AnnotatedMesh(
        points=points,
        triangles=triangles,
        vertex_ids=vertex_ids,
        objects=tuple(objects.values()),
        faults=tuple(faults),
    )


def _object(
    object_id: int, label: str, points: np.ndarray, attributes: dict[str, str]
) -> SceneObject:
    x0, y0, z0 = (float(value) for value in points.min(axis=0))
    x1, y1, z1 = (float(value) for value in points.max(axis=0))
    return SceneObject(
        object_id=object_id,
        label=label,
        box_world=(x0, y0, z0, x1, y1, z1),
        attributes={**attributes, "box_world": "over the vertices of its segments"},
    )
