"""Overlap of spans and boxes: intersection over union in one, two and three dimensions.

A span or box is its lower corner, then its upper corner: (start, end), (x0, y0, x1, y1),
(xmin, ymin, zmin, xmax, ymax, zmax), in plain numbers: a reward is asked for one pair at a time.

    IoU(a, b) = |a n b| / (|a| + |b| - |a n b|)

Every input has a value. A box whose upper corner is not above its lower one in some axis is empty;
an empty box, and one with a coordinate that is not finite, overlaps nothing: IoU 0.
"""

import math
from collections.abc import Sequence

Corners = Sequence[float]


def span_iou(a: Corners, b: Corners) -> float:
    """Compute the temporal IoU of spans (start, end).

    Some scorers divide by the hull, max(end) - min(start), instead of by the union. The two differ
    only for disjoint spans, where the intersection is empty: both conventions give the same number.
    """
    return _iou(a, b, 1)


def box_iou(a: Corners, b: Corners) -> float:
    """Compute the IoU of image boxes (x0, y0, x1, y1) with exclusive upper edges."""
    return _iou(a, b, 2)


def box_giou(a: Corners, b: Corners) -> float:
    """Compute the generalised IoU of image boxes, in [-1, 1] (arXiv:1902.09630).

        GIoU = IoU - (|hull| - |a u b|) / |hull|

    An empty box counts as the point or line it collapses to at its lower corner; where even the
    hull has no area the value is 0, and -1 where a coordinate is not finite.
    """
    if not _are_finite(a, b):
        return -1.0
    overlap, union = _overlap_and_union(a, b, 2)
    hull = math.prod(max(a[k], a[2 + k], b[k], b[2 + k]) - min(a[k], b[k]) for k in range(2))
    return min(max(_ratio(overlap, union) - _ratio(hull - union, hull), -1.0), 1.0)


def box3d_iou(a: Corners, b: Corners) -> float:
    """Compute the IoU of axis-aligned boxes (xmin, ymin, zmin, xmax, ymax, zmax) in metres."""
    return _iou(a, b, 3)


def _iou(a: Corners, b: Corners, dims: int) -> float:
    if not _are_finite(a, b):
        return 0.0
    return min(max(_ratio(*_overlap_and_union(a, b, dims)), 0.0), 1.0)


def _are_finite(a: Corners, b: Corners) -> bool:
    return all(map(math.isfinite, a)) and all(map(math.isfinite, b))


def _overlap_and_union(a: Corners, b: Corners, dims: int) -> tuple[float, float]:
    overlap = math.prod(
        max(min(a[dims + k], b[dims + k]) - max(a[k], b[k]), 0.0) for k in range(dims)
    )
    return overlap, _size(a, dims) + _size(b, dims) - overlap


def _size(box: Corners, dims: int) -> float:
    return math.prod(max(box[dims + k] - box[k], 0.0) for k in range(dims))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
