"""VSI-Bench's questions about a prepared scene, answered from its boxes and appearances.

Only classes that occur once are asked about, only where the answer stands out.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scenerl.configs.seeding import derive_seed
from scenerl.preprocess.annotated_scenes import SceneFacts
from scenerl.preprocess.records import Box3D, Sample

CLEAR_M = 0.3
"""A nearest object is nearer than the others by this much."""
CLEAR_DEGREES = 20.0
"""A direction is this far from straight ahead and straight behind."""
MOST = 3
"""Questions of a kind in a scene."""


def vsibench_rows(facts: SceneFacts, counts: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the rows of a scene, without ids.

    Args:
        facts: The scene.
        counts: Its samples that ask how many there are.
    """
    labels = Counter(item.label for item in facts.objects.values())
    boxes = {
        item.label: item.box_world
        for item in facts.objects.values()
        if labels[item.label] == 1 and item.box_world is not None
    }
    seen = {
        facts.objects[number].label: view.spans_s[0][0]
        for number, view in facts.appearances.items()
        if number in facts.objects and view.spans_s
    }
    first_seen = {label: time for label, time in seen.items() if label in boxes}
    rng = np.random.default_rng(derive_seed(0, "vsibench", facts.scene_id))
    rows = [
        *_counting(counts),
        *_sizes(boxes),
        *_distances(boxes),
        *_nearest(boxes, rng),
        *_directions(boxes),
        *_orders(first_seen, rng),
    ]
    return [{"dataset": "rooms", "scene_name": facts.scene_id, **row} for row in rows]


def _row(kind: str, question: str, truth: str, options: list[str] | None = None) -> dict[str, Any]:
    lettered = None if options is None else [f"{'ABCD'[n]}. {o}" for n, o in enumerate(options)]
    letter = truth if options is None else "ABCD"[options.index(truth)]
    return {
        "question_type": kind,
        "question": question,
        "ground_truth": letter,
        "options": lettered,
    }


def _counting(counts: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    for sample in counts:
        answer = (sample.target.answers or ("0",))[0]
        if re.fullmatch(r"[1-9][0-9]*", answer):
            yield _row("object_counting", sample.question, answer)


def _sizes(boxes: dict[str, Box3D]) -> Iterator[dict[str, Any]]:
    for label, box in sorted(boxes.items())[:MOST]:
        longest = max(box[axis + 3] - box[axis] for axis in range(3))
        question = f"How long is the longest side of the {label}, in centimetres?"
        yield _row("object_size_estimation", question, str(round(100 * longest)))


def gap_m(first: Box3D, second: Box3D) -> float:
    """Return the distance of two boxes at their closest points, metres."""
    gaps = [
        max(0.0, first[axis] - second[axis + 3], second[axis] - first[axis + 3])
        for axis in range(3)
    ]
    return math.hypot(*gaps)


def _distances(boxes: dict[str, Box3D]) -> Iterator[dict[str, Any]]:
    names = sorted(boxes)
    pairs = [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    far = [(a, b) for a, b in pairs if gap_m(boxes[a], boxes[b]) >= CLEAR_M]
    for a, b in far[:MOST]:
        question = f"How far apart are the {a} and the {b} at their closest points, in metres?"
        yield _row("object_abs_distance", question, f"{gap_m(boxes[a], boxes[b]):.1f}")


def _nearest(boxes: dict[str, Box3D], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for label in sorted(boxes)[:MOST]:
        others = [name for name in sorted(boxes) if name != label][:4]
        ordered = sorted(others, key=lambda name: gap_m(boxes[label], boxes[name]))
        if len(ordered) < 2:
            return
        nearest, second = (gap_m(boxes[label], boxes[name]) for name in ordered[:2])
        if second - nearest >= CLEAR_M:
            options = [others[int(n)] for n in rng.permutation(len(others))]
            question = f"Which of these is the nearest to the {label}: {', '.join(options)}?"
            yield _row("object_rel_distance", question, ordered[0], options)


def _directions(boxes: dict[str, Box3D]) -> Iterator[dict[str, Any]]:
    names = sorted(boxes)
    made = 0
    for place in names:
        for ahead in names:
            for asked in names:
                if len({place, ahead, asked}) < 3 or made >= MOST:
                    continue
                degrees = _turn_degrees(boxes[place], boxes[ahead], boxes[asked])
                if CLEAR_DEGREES <= abs(degrees) <= 180 - CLEAR_DEGREES:
                    side = "left" if degrees > 0 else "right"
                    question = (
                        f"If I stand at the {place} and look at the {ahead}, on which side of me "
                        f"is the {asked}?"
                    )
                    made += 1
                    yield _row("object_rel_direction_easy", question, side, ["left", "right"])


def _turn_degrees(place: Box3D, ahead: Box3D, asked: Box3D) -> float:
    """Return how far to turn left from one thing to the other, seen from above, -180 to 180."""

    def heading(to: Box3D) -> float:
        dx = (to[0] + to[3] - place[0] - place[3]) / 2
        dy = (to[1] + to[4] - place[1] - place[4]) / 2
        return math.degrees(math.atan2(dy, dx))

    return (heading(asked) - heading(ahead) + 180) % 360 - 180


def _orders(first_seen: dict[str, float], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    names = sorted(first_seen, key=lambda name: (first_seen[name], name))
    chosen = [
        n for at, n in enumerate(names) if not at or first_seen[n] > first_seen[names[at - 1]]
    ]
    chosen = chosen[:4]
    if len(chosen) < 3:
        return
    options = {", ".join(chosen)}
    while len(options) < 4:
        options.add(", ".join(chosen[int(n)] for n in rng.permutation(len(chosen))))
    shuffled = [sorted(options)[int(n)] for n in rng.permutation(4)]
    things = ", ".join(sorted(chosen))
    question = f"In which order does the video first show these: {things}?"
    yield _row("obj_appearance_order", question, ", ".join(chosen), shuffled)
