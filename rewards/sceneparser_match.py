"""Which predicted objects, parts and affordances of SceneParser-Bench match which true ones.

Source: SceneParser/SceneParser evaluation/metrics/sceneparser_hierarchical_metric.py (the "object"
script) and sceneparser_scene_hierarchical_metric.py (the "scene" script). Matching is greedy in the
order of the truth, not optimal: each true thing takes the best free prediction of its name.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Thing: TypeAlias = Mapping[str, Any]
"""An object, a part or an affordance as it stands in the JSON."""
Mask: TypeAlias = npt.NDArray[np.bool_]
Pairs: TypeAlias = list[tuple[int, int]]
"""(index of the true thing, index of the predicted one)."""


def no_mask(_path: str) -> Mask | None:
    """Return no mask, so that boxes decide."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How names and points are compared."""

    scene: bool = False
    """The scene script's rules instead of the object script's."""
    part_aliases: Mapping[str, str] = field(default_factory=dict)
    action_aliases: Mapping[str, str] = field(default_factory=dict)
    mask_at: Callable[[str], Mask | None] = no_mask
    """mask_path -> mask, None when it cannot be opened."""

    def object_name(self, thing: Thing) -> Any:
        """Return the name that must be equal: as it is, in the scene script without case."""
        return normalized(thing.get("name")) if self.scene else thing.get("name")

    def part_name(self, part: Thing) -> str:
        """Return the part's name, stripped, in lower case, through the aliases."""
        name = normalized(part.get("part_name"))
        return self.part_aliases.get(name, name)

    def action(self, affordance: Thing) -> str:
        """Return the action, stripped, in lower case, through the aliases."""
        name = normalized(affordance.get("action"))
        return self.action_aliases.get(name, name)

    def part_affordances(self, part: Thing) -> list[Thing]:
        """Return the affordances of a part; the scene script skips those without an action."""
        found = part.get("affordances") or []
        return [a for a in found if a.get("action")] if self.scene else list(found)

    def object_affordances(self, thing: Thing) -> list[Thing]:
        """Return the affordances of an object.

        Object script: those of its parts, its own only when the parts have none. Scene script:
        both.
        """
        of_parts = [
            {"part_bbox": part.get("bbox"), **affordance}
            for part in parts_of(thing)
            for affordance in self.part_affordances(part)
        ]
        own = thing.get("affordances") or []
        if self.scene:
            return [*of_parts, *(a for a in own if a.get("action"))]
        return list(of_parts or own)

    def point(self, affordance: Thing) -> Sequence[float] | None:
        """Return the point of a predicted affordance."""
        if not self.scene:
            point: Sequence[float] | None = affordance.get(
                "point", affordance.get("affordance_point")
            )
            return point
        points = affordance.get("points") or affordance.get("sampled_points") or [None]
        for candidate in (affordance.get("point"), points[0]):
            if isinstance(candidate, list) and len(candidate) >= 2:
                return candidate[:2]
        return None

    def is_inside(self, predicted: Thing, true: Thing, fallback: Any) -> bool:
        """Say whether a predicted point lies in the true affordance's mask, else in its box.

        The mask decides when it can be opened (point rounded half to even, outside the image is
        outside), else affordance_bbox or bbox, else the fallback box; borders count as inside. No
        point is outside: the scene script stops there when the mask can be opened.
        """
        point = self.point(predicted)
        if point is None:
            return False
        mask = self.mask_at(true["mask_path"]) if true.get("mask_path") else None
        if mask is not None:
            if not np.isfinite(point[:2]).all():
                return False
            x, y = round(point[0]), round(point[1])
            return bool(0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x])
        box = true.get("affordance_bbox", true.get("bbox"))
        box = fallback if box is None else box
        if box is None or len(point) != 2:
            return False
        xs, ys = sorted((box[0], box[2])), sorted((box[1], box[3]))
        return bool(xs[0] <= point[0] <= xs[1] and ys[0] <= point[1] <= ys[1])


def normalized(value: Any) -> str:
    """Return a label stripped and in lower case; "" for nothing."""
    return str(value or "").strip().lower()


def parts_of(thing: Thing) -> list[Thing]:
    """Return the parts of an object."""
    return thing.get("parts") or []


def box_iou_px(box: Any, true_box: Any) -> float:
    """Return the IoU of two pixel boxes, 0 when one is missing or they only touch."""
    if box is None or true_box is None:
        return 0.0
    width = min(box[2], true_box[2]) - max(box[0], true_box[0])
    height = min(box[3], true_box[3]) - max(box[1], true_box[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    areas = [max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) for b in (box, true_box)]
    union = areas[0] + areas[1] - inter
    return float(inter / union) if union > 0 else 0.0


def match_boxes(
    true: Sequence[Thing],
    predicted: Sequence[Thing],
    name: Callable[[Thing], Any],
    threshold: float,
    floor: float = 0.0,
) -> Pairs:
    """Return greedy pairs of equal name with IoU >= threshold, the first of equally good ones.

    Args:
        true: True things with "bbox".
        predicted: Predicted ones.
        name: What must be equal.
        threshold: Least IoU of a pair.
        floor: The IoU must be above it.
    """
    names = [name(thing) for thing in predicted]
    used: set[int] = set()
    pairs = []
    for i, thing in enumerate(true):
        wanted = name(thing)
        best, best_iou = -1, floor
        for j, other in enumerate(predicted):
            if j in used or names[j] != wanted:
                continue
            iou = box_iou_px(thing.get("bbox"), other.get("bbox"))
            if iou >= threshold and iou > best_iou:
                best, best_iou = j, iou
        if best >= 0:
            used.add(best)
            pairs.append((i, best))
    return pairs


def count_points(
    true: Sequence[Thing],
    predicted: Sequence[Thing],
    rules: Rules,
    fallback: Callable[[Thing], Any],
) -> int:
    """Return how many true affordances get a free prediction: same action, point inside."""
    used: set[int] = set()
    for affordance in true:
        action, box = rules.action(affordance), fallback(affordance)
        for j, other in enumerate(predicted):
            if j in used or rules.action(other) != action:
                continue
            if rules.is_inside(other, affordance, box):
                used.add(j)
                break
    return len(used)


def count_points_in_parts(true: Thing, predicted: Thing, pairs: Pairs, rules: Rules) -> int:
    """Return the matched affordances inside matched parts; the part's box is the fallback."""
    true_parts, parts = parts_of(true), parts_of(predicted)
    total = 0
    for i, j in pairs:
        box = true_parts[i].get("bbox")
        total += count_points(
            rules.part_affordances(true_parts[i]),
            rules.part_affordances(parts[j]),
            rules,
            lambda _affordance, box=box: box,  # type: ignore[misc]
        )
    return total


def part_bbox(affordance: Thing) -> Any:
    """Return the box of the part that an affordance was taken from."""
    return affordance.get("part_bbox")


def common(true: Sequence[str], predicted: Sequence[str]) -> int:
    """Return how many labels two lists share, repeats counted."""
    return (Counter(true) & Counter(predicted)).total()


def is_parsed(true: Thing, predicted: Thing, rules: Rules, *, strict: bool = False) -> bool:
    """Say whether a matched prediction *has* the levels that the truth has.

    Only presence is asked for: any part with any affordance passes, wherever it is and whatever its
    name. `strict` also asks that levels the truth lacks are absent.
    """
    true_parts, parts = bool(parts_of(true)), bool(parts_of(predicted))
    if true_parts and has_part_affordances(true, rules):
        return parts and has_part_affordances(predicted, rules)
    affordances = bool(rules.object_affordances(predicted))
    if true_parts:
        return parts and not (strict and affordances)
    if rules.object_affordances(true):
        return affordances and not (strict and parts)
    return False


def has_part_affordances(thing: Thing, rules: Rules) -> bool:
    """Say whether some part of an object has an affordance."""
    return any(rules.part_affordances(part) for part in parts_of(thing))
