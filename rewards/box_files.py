"""Files of boxes: true boxes of objects, and predictions in every format that holds boxes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import Box3D, DataError
from scenerl.rewards.benchmark import Predictions
from scenerl.rewards.grounding_records import BoxAnswer
from scenerl.rewards.predictions import (
    collect,
    first_object,
    numbers,
    read_json,
    read_json_lines,
    read_own_predictions,
)

BOXES_HELP = (
    "where the true boxes of the objects are: a prepared data folder (scenes/*/objects.json), a "
    "folder of ScanRefer's <scene>_aligned_bbox.npy, or lines of "
    '{"scene_id", "object_id", "box"}'
)
PREDICTIONS_HELP = (
    'lines {"id", "box": [x0, y0, z0, x1, y1, z1]} in metres of the axis-aligned scan ("boxes" '
    "for several); a folder of M3DRef-CLIP's <scene>.json; a GS-Reasoner result file (.jsonl)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectBoxes:
    """Boxes of annotated objects by scene; ids are those of ScanNet's aggregation files."""

    by_scene: Mapping[str, Mapping[str, Box3D]]
    source: str

    def find(self, scene_id: str, object_id: str, where: str) -> Box3D:
        """Return the box of an object.

        Raises:
            DataError: If there is none.
        """
        box = self.by_scene.get(scene_id, {}).get(object_id)
        if box is None:
            raise DataError(
                f"{where}: object {object_id} of {scene_id} has no box in {self.source}; "
                "annotations hold no boxes, --boxes says where they are"
            )
        return box


def open_boxes(location: str | None) -> ObjectBoxes:
    """Return the boxes of a folder or a file; none at all for None.

    Raises:
        DataError: If there is nothing to read there.
    """
    if location is None:
        return ObjectBoxes(by_scene={}, source="the references")
    path = Path(location)
    by_scene: dict[str, dict[str, Box3D]] = {}
    for scene_id, object_id, box in _object_boxes(path):
        by_scene.setdefault(scene_id, {})[object_id] = box
    if not by_scene:
        raise DataError(f"{path} holds no boxes; expected {BOXES_HELP}")
    return ObjectBoxes(by_scene=by_scene, source=str(path))


def _object_boxes(path: Path) -> Iterator[tuple[str, str, Box3D]]:
    if not path.is_dir():
        for where, row in read_json_lines(path):
            if "scene_id" not in row or "object_id" not in row:
                raise DataError(f'{where}: expected "scene_id", "object_id" and "box"')
            yield str(row["scene_id"]), str(row["object_id"]), box_of(row.get("box"), where)
        return
    for file in sorted(path.glob("*_aligned_bbox.npy")):
        import numpy as np

        for row in np.load(file, allow_pickle=False).tolist():
            scene_id = file.name.removesuffix("_aligned_bbox.npy")
            yield scene_id, str(int(row[-1])), box_of_size(row[:6], str(file))
    for file in sorted(path.glob("scenes/*/objects.json")):
        for item in read_json(file):
            # A prepared ScanNet scene counts from 1, since 0 means no object in its images.
            object_id = item.get("attributes", {}).get("scannet_object_id", item["id"])
            if item.get("box_world") is not None:
                yield file.parent.name, str(object_id), box_of(item["box_world"], str(file))


def box_of(value: Any, where: str) -> Box3D:
    """Return the box between two opposite corners, in whatever order they are given."""
    x0, y0, z0, x1, y1, z1 = numbers(value, 6, "box", where)
    return (min(x0, x1), min(y0, y1), min(z0, z1), max(x0, x1), max(y0, y1), max(z0, z1))


def box_of_size(value: Any, where: str) -> Box3D:
    """Return the box of [centre x, y, z, size x, y, z]."""
    cx, cy, cz, dx, dy, dz = numbers(value, 6, "box (centre and size)", where)
    hx, hy, hz = abs(dx / 2), abs(dy / 2), abs(dz / 2)
    return (cx - hx, cy - hy, cz - hz, cx + hx, cy + hy, cz + hz)


def box_of_corners(value: Any, where: str) -> Box3D:
    """Return the box around 8 corners, as the official scripts take it."""
    if not isinstance(value, list) or len(value) != 8:
        raise DataError(f"{where}: found {value!r:.80}; expected 8 corners of a box")
    corners = [numbers(corner, 3, "corner", where) for corner in value]
    x0, y0, z0 = (min(corner[axis] for corner in corners) for axis in range(3))
    x1, y1, z1 = (max(corner[axis] for corner in corners) for axis in range(3))
    return (x0, y0, z0, x1, y1, z1)


def parse_boxes(row: Mapping[str, Any], where: str) -> BoxAnswer:
    """Return one of our own lines: "box" (null for none), "boxes" or "object_id".

    Raises:
        DataError: If none of them is there, or a box is no box.
    """
    if "object_id" in row:
        return BoxAnswer(object_id=str(row["object_id"]))
    if "box" not in row and "boxes" not in row:
        raise DataError(f'{where}: found neither "box" nor "boxes", but {sorted(row)}')
    boxes = row["boxes"] if "boxes" in row else [row["box"]]
    if not isinstance(boxes, list):
        raise DataError(f'{where}: "boxes" is {boxes!r:.80}; expected a list of boxes')
    return BoxAnswer(boxes=tuple(box_of(box, where) for box in boxes if box is not None))


def is_result_file(path: Path) -> bool:
    """Say whether a file holds GS-Reasoner's lines, with both the answer and the truth."""
    return path.is_file() and path.suffix == ".jsonl" and "gt_response" in first_object(path)


def result_lines(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (where, sample id, line) of a GS-Reasoner result file.

    Raises:
        DataError: If a line lacks a key.
    """
    for where, row in read_json_lines(path):
        missing = {"sample_id", "pred_response", "gt_response"} - row.keys()
        if missing:
            raise DataError(f"{where}: {sorted(missing)[0]!r} is missing; is it a result file?")
        yield where, str(row["sample_id"]), row


def result_boxes(value: Any, where: str) -> tuple[Box3D, ...]:
    """Return [centre, size] boxes: one, a list of them, or null for none."""
    if value is None:
        return ()
    several = value if isinstance(value, list) and not value else None
    if several is None:
        several = value if isinstance(value[0], list) else [value]
    return tuple(box_of_size(box, where) for box in several)


def _result_answer(row: Mapping[str, Any], where: str) -> BoxAnswer:
    """Return the boxes of a result line: its choice first, then all that were predicted.

    ``all_pred_bbox`` is [centre, size] where the choice was made by looking at the truth, else
    [low corner, high corner]; the choice, always [centre, size], tells which.
    """
    chosen = result_boxes(row["pred_response"], where)
    every = row.get("all_pred_bbox") or []
    if row["pred_response"] in every:
        return BoxAnswer(boxes=(*chosen, *result_boxes(every, where)))
    return BoxAnswer(boxes=(*chosen, *(box_of(box, where) for box in every)))


Key = Callable[[str, str | None, Any], str]
"""(scene id, object id, ann id) -> item id."""


def read_box_predictions(path: Path, key: Key) -> Predictions:
    """Return item id -> BoxAnswer of any file or folder of boxes.

    Args:
        path: Our own lines, ScanRefer's pred.json, M3DRef-CLIP's folder or GS-Reasoner's results.
        key: Item id of a row that is named by scene, object and annotation.

    Raises:
        DataError: If a file cannot be read; says where and what is expected.
    """
    if path.suffix in (".p", ".pkl", ".pickle"):
        raise DataError(
            f"{path} is a pickle, which may run any program when it is opened, so it is never "
            "read; in the environment that wrote it, write one line of JSON per annotation: "
            '{"id": "scene|object|ann", "box": [x0, y0, z0, x1, y1, z1]}, with the lowest and '
            "highest coordinates of pred_bbox"
        )
    if path.is_dir():
        return collect(_scene_files(path, key))
    if is_result_file(path):
        return collect((i, _result_answer(row, where)) for where, i, row in result_lines(path))
    if path.suffix == ".jsonl":
        return collect(read_own_predictions(path, parse_boxes))
    return collect(_official_rows(read_json(path), path, key))


def _scene_files(path: Path, key: Key) -> Iterator[tuple[str, BoxAnswer]]:
    """Yield the rows of M3DRef-CLIP's <scene>.json files; "aabb" is a list of 8 corners each."""
    files = sorted(path.glob("*.json"))
    if not files:
        raise DataError(f"{path} has no <scene>.json; expected one of M3DRef-CLIP per scene")
    for file in files:
        for where, row in _rows(read_json(file), file, ("ann_id", "aabb")):
            object_id = row.get("object_id")
            boxes = tuple(box_of_corners(corners, where) for corners in row["aabb"])
            item_id = key(file.stem, None if object_id is None else str(object_id), row["ann_id"])
            yield item_id, BoxAnswer(boxes=boxes)


def _official_rows(value: Any, path: Path, key: Key) -> Iterator[tuple[str, BoxAnswer]]:
    """Yield the rows of ScanRefer's pred.json."""
    for where, row in _rows(value, path, ("scene_id", "object_id", "ann_id", "bbox")):
        multiple, others = row.get("unique_multiple"), row.get("others")
        yield (
            key(str(row["scene_id"]), str(row["object_id"]), row["ann_id"]),
            BoxAnswer(
                boxes=(box_of_corners(row["bbox"], where),),
                unique=None if multiple is None else multiple == 0,
                others=None if others is None else others == 1,
            ),
        )


def _rows(value: Any, path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list):
        raise DataError(f"{path}: found {type(value).__name__}, expected a list of predictions")
    for number, row in enumerate(value):
        where = f"{path}: row {number}"
        missing = [name for name in keys if not isinstance(row, dict) or name not in row]
        if missing:
            raise DataError(f"{where}: {missing[0]!r} is missing; expected {', '.join(keys)}")
        yield where, row
