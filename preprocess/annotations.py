"""Queries about a recording: written by a person in JSON, or derived from instance images.

One scene's entry of an annotation file:

    {"queries": [
      {"text": "the beige sofa", "object_id": 1},
      {"text": "the mug", "spans_s": [[2.0, 6.5]], "boxes_px": {"60": [310, 200, 342, 241]}},
      {"text": "How many chairs are there?", "answers": ["2", "two"]}]}
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.records import Box2D, Box3D, DataError, SceneObject, Span, Target
from scenerl.preprocess.scene import Scene, object_rows
from scenerl.preprocess.visibility import instance_boxes, visible_spans

MIN_PIXEL_SHARE = 0.001
"""An object is visible in a frame that shows it in at least this share of the pixels."""
QUERY_KEYS = {
    "text",
    "kind",
    "object_id",
    "label",
    "spans_s",
    "boxes_px",
    "box_world",
    "answers",
}
PROJECTED = "projected_from_3d_mask"
HUMAN = "human"


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One query with its truth."""

    question: str
    kind: str
    target: Target
    provenance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Appearance:
    """Where a recording shows one of its objects."""

    boxes_px: dict[int, Box2D]
    spans_s: tuple[Span, ...]


def read_annotations(path: str | Path, scene_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the raw queries of each scene of an annotation file.

    Args:
        path: JSON with "queries" (one scene) or "scenes": {scene id: {"queries": [...]}}.
        scene_ids: Scenes that are being prepared.

    Raises:
        DataError: If the file is not of that form, or names a scene that is not prepared.
    """
    try:
        content = json.loads(Path(path).read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and "queries" in content and len(scene_ids) == 1:
        scenes = {scene_ids[0]: content}
    elif isinstance(content, dict) and isinstance(content.get("scenes"), dict):
        scenes = content["scenes"]
    else:
        raise DataError(
            f'{path}: expected {{"queries": [...]}} for one recording, or {{"scenes": '
            '{"NAME": {"queries": [...]}}} for several'
        )
    unknown = sorted(set(scenes) - set(scene_ids))
    if unknown:
        raise DataError(f"{path} names scene {unknown[0]!r}; the inputs are {scene_ids}")
    for name, entry in scenes.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("queries"), list):
            raise DataError(f"{path}: scene {name!r} has no list of queries")
    return {name: entry["queries"] for name, entry in scenes.items()}


def find_appearances(scene: Scene, frame_indices: tuple[int, ...]) -> dict[int, Appearance]:
    """Return object id -> where instance images show it, over the given frames."""
    width, height = scene.color_size
    boxes: dict[int, dict[int, Box2D]] = {}
    for index in frame_indices:
        instance = scene.instances(index)
        if instance is None:
            return {}
        found = instance_boxes(instance, min_pixels=max(1, int(MIN_PIXEL_SHARE * width * height)))
        for object_id, (box, _) in found.items():
            boxes.setdefault(object_id, {})[index] = box
    times = [scene.times_s(index) for index in frame_indices]
    return {
        object_id: Appearance(
            boxes_px=seen,
            spans_s=visible_spans([index in seen for index in frame_indices], times),
        )
        for object_id, seen in boxes.items()
    }


def fuse_box(scene: Scene, object_id: int, frame_indices: list[int]) -> Box3D | None:
    """Return the 3D box of an object from its masks through depth and poses.

    Args:
        scene: A recording with instance images.
        object_id: The object.
        frame_indices: Frames that show it; at most 40 of them are used.

    Returns:
        Axis-aligned box in world metres, None when its pixels have no depth.
    """
    import torch

    from scenerl.kernels.box_fit import fit_box
    from scenerl.kernels.clean import keep_statistical, keep_strong_components
    from scenerl.kernels.unproject import unproject
    from scenerl.kernels.voxel import voxel_downsample

    depths, masks, poses = [], [], []
    for index in frame_indices[:: max(1, len(frame_indices) // 40)]:
        instance = scene.instances(index)
        if instance is None:
            return None
        depth = scene.depth_m(index)
        rows = np.linspace(0, instance.shape[0] - 1, depth.shape[0]).round().astype(int)
        columns = np.linspace(0, instance.shape[1] - 1, depth.shape[1]).round().astype(int)
        depths.append(torch.from_numpy(depth))
        masks.append(torch.from_numpy(instance[np.ix_(rows, columns)] == object_id))
        poses.append(torch.from_numpy(scene.camera_to_world(index)))
    K = torch.from_numpy(np.array(scene.intrinsics_depth))
    points, _ = unproject(torch.stack(depths), torch.stack(masks), K, torch.stack(poses))
    if len(points) == 0:
        return None
    points, _ = voxel_downsample(points.float(), 0.02)
    points = points[keep_statistical(points, 16, 2.0)]
    points = points[keep_strong_components(points, 0.1)]
    if len(points) == 0:
        return None
    x0, y0, z0, x1, y1, z1 = (round(value, 4) for value in fit_box(points, 0.002).tolist())
    return (x0, y0, z0, x1, y1, z1)


def object_target(item: SceneObject, appearance: Appearance) -> Target:
    """Return what is true about a query that means one object."""
    return Target(
        spans_s=appearance.spans_s,
        boxes_px=appearance.boxes_px,
        box_world=item.box_world,
        object_id=item.object_id,
        label=item.label,
    )


def derive_annotations(
    scene: Scene, objects: dict[int, SceneObject], appearances: dict[int, Appearance]
) -> list[Annotation]:
    """Make queries from the objects of a scene.

    An object's own referring expressions, where its file has any; else "the LABEL" when no other
    object has the label.
    """
    labels = Counter(item.label for item in objects.values())
    annotations = []
    for row in object_rows(scene.path):
        item = objects[row["id"]]
        if item.object_id not in appearances:
            continue
        referring = row.get("referring") or []
        kind = "human" if referring else "label"
        texts = referring or ([f"the {item.label}"] if labels[item.label] == 1 else [])
        annotations += [
            Annotation(
                question=str(text),
                kind=kind,
                target=object_target(item, appearances[item.object_id]),
                provenance=PROJECTED,
            )
            for text in texts
        ]
    return annotations


def parse_query(
    query: dict[str, Any],
    where: str,
    objects: dict[int, SceneObject],
    appearances: dict[int, Appearance],
) -> Annotation:
    """Turn one query of an annotation file into an annotation.

    Args:
        query: The raw JSON object.
        where: What to call it in messages.
        objects: The scene's objects by id.
        appearances: Where they are seen; fills in what the query does not say.

    Raises:
        DataError: If a key is unknown, or the query has no truth at all.
    """
    if not isinstance(query, dict) or not isinstance(query.get("text"), str) or not query["text"]:
        raise DataError(f'{where}: expected an object with a "text", found {query!r}')
    unknown = sorted(set(query) - QUERY_KEYS)
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; known are {sorted(QUERY_KEYS)}")
    object_id = query.get("object_id")
    base, provenance = Target(), HUMAN
    if object_id is not None:
        if object_id not in objects:
            raise DataError(f"{where}: object_id {object_id!r} is not one of {sorted(objects)}")
        item = objects[object_id]
        base = Target(object_id=object_id, label=item.label, box_world=item.box_world)
        if object_id in appearances:
            base, provenance = object_target(item, appearances[object_id]), PROJECTED
    own = _own_truth(query, where)
    if not own and base == Target():
        raise DataError(
            f"{where}: says nothing about the truth; give object_id, spans_s, boxes_px, box_world "
            "or answers"
        )
    fields = {name: getattr(base, name) for name in Target.__dataclass_fields__}
    return Annotation(
        question=query["text"],
        kind=str(query.get("kind", "human")),
        target=Target(**{**fields, **own}),
        provenance=HUMAN if own else provenance,
    )


def _own_truth(query: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of Target that a query states itself."""
    own: dict[str, Any] = {}
    try:
        if "spans_s" in query:
            own["spans_s"] = tuple((float(start), float(end)) for start, end in query["spans_s"])
        if "boxes_px" in query:
            own["boxes_px"] = {
                int(frame): _numbers(box, 4) for frame, box in query["boxes_px"].items()
            }
        if "box_world" in query:
            own["box_world"] = _numbers(query["box_world"], 6)
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: {error}") from error
    if "label" in query:
        own["label"] = str(query["label"])
    if "answers" in query:
        answers = query["answers"]
        if not isinstance(answers, list) or not answers:
            raise DataError(f"{where}: answers is {answers!r}; expected a list of texts")
        own["answers"] = tuple(str(answer) for answer in answers)
    return own


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count:
        raise ValueError(f"found {len(numbers)} numbers in {values!r}, expected {count}")
    return numbers
