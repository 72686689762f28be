"""Overlap of spans and boxes: intersection over union in one, two and three dimensions.

Layout: the last axis holds the lower corner, then the upper corner: (start, end), (x0, y0, x1, y1),
(xmin, ymin, zmin, xmax, ymax, zmax). All leading axes broadcast; ``a[:, None], b[None]`` gives a
table.

    IoU(a, b) = |a n b| / (|a| + |b| - |a n b|)

Every input has a value. A box whose upper corner is not above its lower one in some axis is empty;
an empty box, and one with a coordinate that is not finite, overlaps nothing: IoU 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def span_iou(
    a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*#batch"]:
    """Compute the temporal IoU of spans (start, end).

    Some scorers divide by the hull, max(end) - min(start), instead of by the union. The two differ
    only for disjoint spans, where the intersection is empty: both conventions give the same number.
    """
    return _iou(a, b)


def box_iou(
    a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]
) -> Float[Tensor, "*#batch"]:
    """Compute the IoU of image boxes (x0, y0, x1, y1) with exclusive upper edges."""
    return _iou(a, b)


def box_giou(
    a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]
) -> Float[Tensor, "*#batch"]:
    """Compute the generalised IoU of image boxes, in [-1, 1] (arXiv:1902.09630).

        GIoU = IoU - (|hull| - |a u b|) / |hull|

    An empty box counts as the point or line it collapses to at its lower corner; where even the
    hull has no area the value is 0, and -1 where a coordinate is not finite.
    """
    finite = (torch.isfinite(a) & torch.isfinite(b)).all(dim=-1)
    a, b = torch.nan_to_num(a, 0.0, 0.0, 0.0), torch.nan_to_num(b, 0.0, 0.0, 0.0)
    upper = torch.maximum(_upper(a), _upper(b))
    hull = (upper - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    overlap = _overlap(a, b)
    union = _size(a) + _size(b) - overlap
    giou = _ratio(overlap, union) - _ratio(hull - union, hull)
    return torch.where(finite, giou.clamp(-1.0, 1.0), torch.full_like(giou, -1.0))


def box3d_iou(
    a: Float[Tensor, "*#batch 6"], b: Float[Tensor, "*#batch 6"]
) -> Float[Tensor, "*#batch"]:
    """Compute the IoU of axis-aligned boxes (xmin, ymin, zmin, xmax, ymax, zmax) in metres."""
    return _iou(a, b)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    finite = (torch.isfinite(a) & torch.isfinite(b)).all(dim=-1)
    a, b = torch.nan_to_num(a, 0.0, 0.0, 0.0), torch.nan_to_num(b, 0.0, 0.0, 0.0)
    overlap = _overlap(a, b)
    iou = _ratio(overlap, _size(a) + _size(b) - overlap)
    return torch.where(finite, iou.clamp(0.0, 1.0), torch.zeros_like(iou))


def _upper(box: Tensor) -> Tensor:
    dims = box.shape[-1] // 2
    return torch.maximum(box[..., :dims], box[..., dims:])


def _size(box: Tensor) -> Tensor:
    dims = box.shape[-1] // 2
    return (_upper(box) - box[..., :dims]).prod(dim=-1)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    dims = a.shape[-1] // 2
    lower = torch.maximum(a[..., :dims], b[..., :dims])
    upper = torch.minimum(_upper(a), _upper(b))
    return (upper - lower).clamp(min=0.0).prod(dim=-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), torch.zeros_like(part))
