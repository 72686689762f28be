"""Objects of a ScanNet scan from its segments and their aggregation, with their boxes.

    NAME.aggregation.json                   {"segGroups": [{"objectId": 0, "label": "chair",
                                              "segments": [17, 4, 90]}, ...], ...}
    NAME_vh_clean_2.0.010000.segs.json      {"segIndices": [17, 17, 4, ...], ...}  one per vertex

Boxes follow ScanRefer (daveredrum/ScanRefer, data/scannet/load_scannet_data.py::export and
batch_load_scannet_data.py), which every benchmark on ScanNet compares with, to the bit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scannet_files import read_text

BOX_CLASSES = tuple(number for number in range(3, 41) if number != 22)
"""nyu40 classes that ScanRefer keeps: all but wall (1), floor (2) and ceiling (22)."""
MAX_OBJECT_ID = 65534
"""Instance images hold 16 bits, and objectId + 1 must fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One object of an aggregation file."""

    object_id: int
    """objectId, from 0."""
    label: str
    segments: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """Which vertices belong to which object, and the objects' boxes."""

    vertex_ids: np.ndarray
    """uint32 [vertices], objectId + 1; 0 is none."""
    boxes: np.ndarray
    """float64 [objects, 8]: center x y z, size x y z (metres), nyu40 class, objectId."""
    faults: tuple[tuple[str, str, str], ...] = ()
    """(object, short reason, detail) of what the files do not say."""

    def kept(self) -> np.ndarray:
        """Return the boxes that ScanRefer's benchmark data holds.

        A scene of a single object is not filtered there, and neither here.
        """
        if len(self.boxes) <= 1:
            return self.boxes
        return self.boxes[np.isin(self.boxes[:, 6], BOX_CLASSES)]


def _load(path: Path, key: str) -> list[Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON: {error}; copy the file again") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: expected an object with a list {key!r}")
    found: list[Any] = content[key]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_groups(path: Path) -> tuple[Group, ...]:
    """Return the objects of an aggregation file, in its order.

    Raises:
        DataError: If it is not of the form above.
    """
    groups = []
    for number, row in enumerate(_load(path, "segGroups")):
        if not (
            isinstance(row, dict)
            and _is_number(row.get("objectId"))
            and 0 <= row["objectId"] <= MAX_OBJECT_ID
            and isinstance(row.get("label"), str)
            and isinstance(row.get("segments"), list)
            and all(_is_number(segment) for segment in row["segments"])
        ):
            raise DataError(
                f"{path}: segGroups[{number}] is not an object with objectId (0 to "
                f"{MAX_OBJECT_ID}), label and a list of segment numbers"
            )
        groups.append(
            Group(
                object_id=row["objectId"],
                label=row["label"],
                segments=tuple(row["segments"]),
            )
        )
    return tuple(groups)


def read_segments(path: Path) -> np.ndarray:
    """Return the segment of every vertex, int64 [vertices].

    Raises:
        DataError: If it is not a list of whole numbers.
    """
    rows = _load(path, "segIndices")
    if not all(_is_number(value) and abs(value) < 1 << 62 for value in rows):
        raise DataError(f"{path}: segIndices must be whole numbers, one for each vertex")
    return np.array(rows, np.int64)


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices, float32 [n, 3], and triangles, int32 [m, 3], of a PLY file.

    Raises:
        DataError: If it cannot be read, is empty, or names vertices that it does not have.
    """
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        mesh = o3d.io.read_triangle_mesh(str(path))
    vertices = np.asarray(mesh.vertices).astype(np.float32)
    triangles = np.asarray(mesh.triangles).astype(np.int32)
    if not len(vertices) or not len(triangles):
        raise DataError(f"{path} is no mesh that can be read, or is cut off; copy the file again")
    if triangles.min() < 0 or triangles.max() >= len(vertices) or not np.isfinite(vertices).all():
        raise DataError(
            f"{path}: a triangle names a vertex that is not there, or one is not finite"
        )
    return vertices, triangles


def align(vertices: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return vertices moved by a transform, float32 [n, 3], as ScanRefer rounds them."""
    if matrix is None:
        return vertices
    points = np.ones((len(vertices), 4))
    points[:, :3] = vertices
    return np.dot(points, matrix.transpose())[:, :3].astype(np.float32)


class _Vertices:
    """The vertices of each segment, found once."""

    def __init__(self, segments: np.ndarray) -> None:
        self._order = np.argsort(segments, kind="stable")
        names, starts = np.unique(segments[self._order], return_index=True)
        self._starts = dict(zip(names.tolist(), starts.tolist(), strict=True))
        ends = [*starts[1:].tolist(), len(segments)]
        self._ends = dict(zip(names.tolist(), ends, strict=True))

    def __contains__(self, segment: int) -> bool:
        return segment in self._starts

    def of(self, segment: int) -> np.ndarray:
        return self._order[self._starts[segment] : self._ends[segment]]


def _box(points: np.ndarray, nyu40: float, object_id: int) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    return np.array([*((low + high) / 2), *(high - low), nyu40, object_id], np.float64)


def _faults(
    groups: tuple[Group, ...], vertices: _Vertices, nyu40: Mapping[str, int]
) -> tuple[tuple[str, str, str], ...]:
    faults, seen = [], set()
    for group in groups:
        item = f"object {group.object_id}, {group.label}"
        absent = [segment for segment in group.segments if segment not in vertices]
        if absent:
            detail = f"{len(absent)} of {len(group.segments)}, the first is {absent[0]}"
            faults.append((item, "segment_missing", detail))
        if not group.segments:
            faults.append((item, "no_segments", ""))
        if nyu40 and group.label not in nyu40:
            faults.append((item, "label_unknown", f"{group.label!r} is not in the table of labels"))
        if group.object_id in seen:
            faults.append((item, "duplicate_object", "the last one of the file counts"))
        seen.add(group.object_id)
    return tuple(faults)


def official_instances(
    points: np.ndarray,
    segments: np.ndarray,
    groups: tuple[Group, ...],
    nyu40: Mapping[str, int],
) -> Instances:
    """Return objects as ScanRefer's `export` makes them.

    Where segments belong to several groups it has three habits: the vertices go to the later
    group; classes are painted label by label, in the order in which labels first occur; and the
    class of an object is that of the first vertex of its first segment after the painting, which
    may be another object's. An object left without vertices has a box of zeros. Where upstream
    stops (a segment or a label that does not exist), the fault is listed and the rest goes on;
    the class of an unknown label is 0.

    Args:
        points: float32 [vertices, 3], aligned or not.
        segments: int64 [vertices].
        groups: In the order of the file.
        nyu40: Raw label -> class; empty makes every class 0.
    """
    vertices = _Vertices(segments)
    lists: dict[int, list[int]] = {}
    by_label: dict[str, list[int]] = {}
    for group in groups:
        mine = [segment for segment in group.segments if segment in vertices]
        lists[group.object_id] = mine
        if group.label in by_label:
            by_label[group.label].extend(mine)  # this is the first object's list too, as upstream
        else:
            by_label[group.label] = mine
    classes = np.zeros(len(segments), np.uint32)
    for label, painted in by_label.items():
        for segment in painted:
            classes[vertices.of(segment)] = nyu40.get(label, 0)
    ids = np.zeros(len(segments), np.uint32)
    first: dict[int, int] = {}
    for object_id, painted in lists.items():
        for segment in painted:
            ids[vertices.of(segment)] = object_id + 1
            first.setdefault(object_id, int(vertices.of(segment)[0]))
    boxes = np.zeros((len(lists), 8))
    for row, object_id in enumerate(sorted(lists)):
        own = ids == object_id + 1
        if own.any():
            boxes[row] = _box(points[own], classes[first[object_id]], object_id)
    return Instances(vertex_ids=ids, boxes=boxes, faults=_faults(groups, vertices, nyu40))


def sound_instances(
    points: np.ndarray,
    segments: np.ndarray,
    groups: tuple[Group, ...],
    nyu40: Mapping[str, int],
) -> Instances:
    """Return objects as their own group says: all of its segments, the class of its own label.

    A segment of several groups counts for the box of each; only its pixels go to the later one.
    An object without vertices has no box.
    """
    vertices = _Vertices(segments)
    ids = np.zeros(len(segments), np.uint32)
    boxes: dict[int, np.ndarray] = {}
    for group in groups:
        parts = [vertices.of(segment) for segment in group.segments if segment in vertices]
        if not parts:
            continue
        own = np.concatenate(parts)
        ids[own] = group.object_id + 1
        boxes[group.object_id] = _box(points[own], nyu40.get(group.label, 0), group.object_id)
    rows = np.array([boxes[object_id] for object_id in sorted(boxes)]).reshape(-1, 8)
    return Instances(vertex_ids=ids, boxes=rows, faults=_faults(groups, vertices, nyu40))
