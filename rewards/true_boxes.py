"""The 3D boxes of annotated objects, from wherever they are kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import Box3D, DataError
from scenerl.rewards.predictions import numbers, read_json_lines

BOXES_HELP = (
    'where the true boxes are: a file of lines {"scene_id", "object_id", "box"}, or a folder with '
    "<scene>_aligned_bbox.npy of ScanRefer's preparation"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueBoxes:
    """Boxes by scene and object."""

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
                f"{where}: object {object_id} of {scene_id} has no box in {self.source}; the "
                "annotations do not hold boxes, give them with --boxes"
            )
        return box


def open_boxes(location: str | None) -> TrueBoxes:
    """Return the boxes of a file or a folder; none at all for None."""
    if location is None:
        return TrueBoxes(by_scene={}, source="the references")
    path = Path(location)
    by_scene: dict[str, dict[str, Box3D]] = {}
    if path.is_dir():
        import numpy as np

        for file in sorted(path.glob("*_aligned_bbox.npy")):
            rows = np.load(file, allow_pickle=False)
            scene = by_scene.setdefault(file.name.removesuffix("_aligned_bbox.npy"), {})
            for row in rows.tolist():
                scene[str(int(row[-1]))] = box_of_size(row[:6], str(file))
    else:
        for where, row in read_json_lines(path):
            x0, y0, z0, x1, y1, z1 = numbers(row.get("box"), 6, "box", where)
            by_scene.setdefault(str(row["scene_id"]), {})[str(row["object_id"])] = (
                x0,
                y0,
                z0,
                x1,
                y1,
                z1,
            )
    return TrueBoxes(by_scene=by_scene, source=str(path))


def box_of_size(value: Any, where: str) -> Box3D:
    """Return the box of [centre x, y, z, size x, y, z]."""
    cx, cy, cz, dx, dy, dz = numbers(value, 6, "box (centre and size)", where)
    hx, hy, hz = abs(dx / 2), abs(dy / 2), abs(dz / 2)
    return (cx - hx, cy - hy, cz - hz, cx + hx, cy + hy, cz + hz)


def box_of_corners(value: Any, where: str) -> Box3D:
    """Return the box around 8 corners, as the official scripts take it."""
    if not isinstance(value, list) or len(value) != 8:
        raise DataError(f"{where}: bbox is {value!r}; expected 8 corners")
    corners = [numbers(corner, 3, "corner", where) for corner in value]
    low = [min(corner[axis] for corner in corners) for axis in range(3)]
    high = [max(corner[axis] for corner in corners) for axis in range(3)]
    assert all(math.isfinite(v) for v in (*low, *high))
    return (low[0], low[1], low[2], high[0], high[1], high[2])
