"""SceneParser's lines about frames of a prepared scene: what stands there and where to touch it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.annotated_scenes import SceneFacts, link_or_copy
from scenerl.preprocess.records import Box2D
from scenerl.preprocess.scene import Scene

FRAMES = 2
"""Frames of a scene, evenly placed."""
ACTIONS = {"chair": "sit", "sofa": "sit", "bed": "lie", "tv": "watch", "lamp": "switch"}
"""Class -> what its body is for; anything else is to be touched."""


def sceneparser_images(folder: Path, facts: SceneFacts, output: Path) -> Iterator[dict[str, Any]]:
    """Yield one line per frame and put the images under ``output/images``.

    Each object has one part, its body: the upper half of its box. The point to touch is the pixel
    of the object that is nearest to the middle of that half.
    """
    scene = Scene.open(folder, check="files")
    frames = scene.frame_indices
    for index in [frames[int(n)] for n in np.linspace(0, len(frames) - 1, FRAMES + 2)[1:-1]]:
        objects = [
            _object(scene, index, facts, number, view.boxes_px[index])
            for number, view in sorted(facts.appearances.items())
            if index in view.boxes_px and number in facts.objects
        ]
        if not objects:
            continue
        name = f"images/{facts.scene_id}_{index}{scene.color_path(index).suffix}"
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link_or_copy(str(scene.color_path(index)), str(target))
        yield {"image_path": name, "objects": objects}


def _object(scene: Scene, index: int, facts: SceneFacts, number: int, box: Box2D) -> dict[str, Any]:
    label = facts.objects[number].label
    x0, y0, x1, y1 = (int(value) for value in box)
    body = [x0, y0, x1, max(y0 + 1, (y0 + y1) // 2)]
    return {
        "phrase": label,
        "object_bbox": [x0, y0, x1, y1],
        "parts": [
            {
                "part_name": "body",
                "part_bbox": body,
                "is_pseudo_part": False,
                "affordances": [
                    {
                        "action": ACTIONS.get(label, "touch"),
                        "affordance_bbox": body,
                        "sampled_points": [_point(scene, index, number, body)],
                    }
                ],
            }
        ],
    }


def _point(scene: Scene, index: int, number: int, body: list[int]) -> list[int]:
    x, y = (body[0] + body[2]) // 2, (body[1] + body[3]) // 2
    instance = scene.instances(index)
    if instance is None:
        return [x, y]
    inside = instance[body[1] : body[3], body[0] : body[2]] == number
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return [x, y]
    nearest = np.argmin((columns + body[0] - x) ** 2 + (rows + body[1] - y) ** 2)
    return [int(columns[nearest] + body[0]), int(rows[nearest] + body[1])]
