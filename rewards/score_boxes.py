"""Overlap of axis-aligned 3D boxes, row by row, by the rules of the official scripts."""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Boxes: TypeAlias = npt.NDArray[Any]
"""[..., 6] as (x0, y0, z0, x1, y1, z1) in metres."""

SCANREFER_EPS: Final = 1e-8
M3DREF_EPS: Final = float(np.finfo(np.float32).eps)


def box_iou(boxes: Boxes, true_boxes: Boxes, eps: float = 0.0) -> npt.NDArray[Any]:
    """Return inter / (V1 + V2 - inter + eps), in the precision of the boxes.

    eps = 1e-8 with float64 is ScanRefer's utils/box_util.py (box3d_iou): equal boxes give
    0.99999999, and a true overlap of exactly 1/2 or 1/4 falls below its threshold. eps = 1.19e-7
    with float32 is M3DRef-CLIP's util/utils.py (get_batch_aabb_pair_ious). eps = 0 is the
    definition; two boxes without volume then have IoU 0.
    """
    low = np.maximum(boxes[..., :3], true_boxes[..., :3])
    high = np.minimum(boxes[..., 3:], true_boxes[..., 3:])
    side = np.maximum(high - low, 0)
    inter = side[..., 0] * side[..., 1] * side[..., 2]
    union = _volume(boxes) + _volume(true_boxes) - inter + np.asarray(eps, dtype=boxes.dtype)
    return np.where(union == 0, 0, inter / np.where(union == 0, 1, union))


def _volume(boxes: Boxes) -> npt.NDArray[Any]:
    sides = boxes[..., 3:] - boxes[..., :3]
    return np.asarray(sides[..., 0] * sides[..., 1] * sides[..., 2])
