"""The chain from boxes to metres, and whose fault it is when the result is wrong.

    span -> boxes in frames of the span -> masks by a tracker -> points and a 3D box

An oracle swap replaces the first steps by the truth; what the swap wins was lost in those steps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scenerl.configs.schema import LiftConfig
from scenerl.envs.lift import MaskedObject, lift_masks, lift_objects
from scenerl.envs.media_refs import spread
from scenerl.envs.records import LiftedObject
from scenerl.envs.tracking import Tracker
from scenerl.kernels.iou import box3d_iou
from scenerl.preprocess.records import Box2D, Box3D, Span, Target
from scenerl.preprocess.scene import Scene

PREDICTED = "predicted"
SWAPS = (PREDICTED, "true_span", "true_span_box", "true_masks")
"""From nothing true to everything true but the lifting."""

STAGES = {"true_span": "span", "true_span_box": "box", "true_masks": "tracking"}
"""Swap -> the stage that it takes out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lifted:
    """What boxes became."""

    object: LiftedObject
    masks: dict[int, np.ndarray]
    """Frame -> bool [height, width] in colour size."""


def lift_boxes(
    scene: Scene,
    boxes: Mapping[int, Box2D],
    frame_indices: Sequence[int],
    tracker: Tracker,
    config: LiftConfig,
    label: str = "object",
) -> Lifted:
    """Track boxes over frames and lift the masks.

    Args:
        scene: The recording.
        boxes: Prompted frame -> box in native pixels.
        frame_indices: Frames to track; the prompted ones are always among them.
        tracker: Makes the masks.
        config: Section `lift`.
        label: Name of the object.

    Returns:
        The object and its masks.
    """
    frames = sorted({*frame_indices, *boxes})
    masks = tracker.track(scene, boxes, frames)
    return Lifted(object=lift_masks(scene, masks, label, config), masks=masks)


def lift_true_masks(
    scene: Scene, object_id: int, config: LiftConfig, label: str = "object"
) -> Lifted | None:
    """Lift the annotated masks of an object; None when the scene has no instance images."""
    masks = {}
    for index in scene.frame_indices:
        instances = scene.instances(index)
        if instances is None:
            return None
        mask = instances == object_id
        if mask.any():
            masks[index] = mask
    return Lifted(object=lift_masks(scene, masks, label, config), masks=masks)


def lifted_box_ious(
    scene: Scene,
    prompts: Sequence[Mapping[int, Box2D]],
    true_box: Box3D,
    tracker: Tracker,
    lift_config: LiftConfig,
) -> list[float]:
    """Score sets of boxes by the 3D IoU of what each lifts to, over all frames of the scene.

    Args:
        scene: The recording.
        prompts: For each answer, prompted frame -> box in native pixels. A box without area prompts
            nothing.
        true_box: The object's box in world axes.
        tracker: Makes the masks; it keeps what it knows of a scene between calls.
        lift_config: Section `lift`.

    Returns:
        One IoU in [0, 1] per answer; 0 when nothing could be lifted.
    """
    frames = scene.frame_indices
    tracked: dict[int, MaskedObject] = {}
    for number, boxes in enumerate(prompts):
        usable = {n: box for n, box in boxes.items() if box[2] > box[0] and box[3] > box[1]}
        if usable:
            masks = tracker.track(scene, usable, sorted({*frames, *usable}))
            tracked[number] = MaskedObject(label="object", masks=masks)
    lifted = lift_objects(scene, list(tracked.values()), lift_config, with_colors=False)
    ious = [0.0] * len(prompts)
    for number, found in zip(tracked, lifted, strict=True):
        ious[number] = world_iou(found.box_world, true_box)
    return ious


def world_iou(box: Box3D | None, true_box: Box3D) -> float:
    """Return the 3D IoU; 0 for no box."""
    return 0.0 if box is None else box3d_iou(box, true_box)


def frames_near_span(scene: Scene, span_s: Span, margin_s: float = 0.0) -> list[int]:
    """Return the frames inside a span widened by a margin; the nearest frame when there is none."""
    start, end = span_s[0] - margin_s, span_s[1] + margin_s
    inside = [n for n in scene.frame_indices if start <= scene.times_s(n) <= end]
    if inside:
        return inside
    middle = (start + end) / 2
    return [min(scene.frame_indices, key=lambda n: abs(scene.times_s(n) - middle))]


def true_prompt_boxes(scene: Scene, target: Target, count: int) -> dict[int, Box2D]:
    """Choose up to `count` true boxes, evenly over the frames that have one in a true span."""
    boxes = target.boxes_px or {}
    spans = target.spans_s or ()
    known = [n for n in scene.frame_indices if n in boxes]
    inside = [n for n in known if any(a <= scene.times_s(n) <= b for a, b in spans)]
    return {n: boxes[n] for n in spread(inside or known, count, [0.5] * count)}


def blame(ious: Mapping[str, float | None], threshold: float = 0.25) -> str:
    """Name the stage that loses an answer.

    Args:
        ious: Swap -> 3D IoU, None or absent where a swap could not be made.
        threshold: IoU from which an answer is right.

    Returns:
        "right", or the first stage whose swap makes it right ("span", "box", "tracking"), or
        "lifting" when even true masks do not.
    """
    for swap in SWAPS:
        value = ious.get(swap)
        if value is not None and value >= threshold:
            return "right" if swap == PREDICTED else STAGES[swap]
    return "lifting"


def oracle_table(rows: Iterable[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Average 3D IoU and accuracies per swap.

    Args:
        rows: For each query, swap -> 3D IoU, None where it could not be made.

    Returns:
        Swap -> {"iou3d", "acc25", "acc50", "queries"}; swaps that nobody could make are absent.
    """
    table = {}
    every = list(rows)
    for swap in SWAPS:
        ious = np.array([row[swap] for row in every if row.get(swap) is not None], np.float64)
        if len(ious):
            table[swap] = {
                "iou3d": float(ious.mean()),
                "acc25": float((ious >= 0.25).mean()),
                "acc50": float((ious >= 0.5).mean()),
                "queries": len(ious),
            }
    return table
