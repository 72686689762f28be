"""Planes that bound a room (floor, ceiling, walls): nearly the whole scene lies on one side."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HYPOTHESES = 1500
SAMPLE_SIZE = 4000
COARSE_SIZE, FINALISTS = 512, 64
"""All hypotheses are tried on so many points, and so many of them on the whole sample."""


def bounding_planes(
    points: Float[Tensor, "n 3"],
    tolerance_m: float = 0.03,
    min_share: float = 0.04,
    max_beyond: float = 0.03,
    max_planes: int = 8,
) -> Float[Tensor, "planes 4"]:
    """Find planes with many points on them and almost none beyond, largest first.

    RANSAC over three-point hypotheses with a fixed seed; a table top has points on both sides and
    is never taken.

    Args:
        points: Points that sample surfaces evenly, for example voxels.
        tolerance_m: Largest distance of a point on a plane.
        min_share: Share of all points that must lie on a plane.
        max_beyond: Share of all points that may lie on its empty side.
        max_planes: At most so many.

    Returns:
        (nx, ny, nz, d) with unit normals into the room: n . x + d >= 0 inside.
    """
    planes = points.new_zeros(0, 4)
    if len(points) < 100:
        return planes
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(points), generator=generator).to(points.device)
    sample = points[shuffled[:SAMPLE_SIZE]]
    free = torch.ones(len(sample), dtype=torch.bool, device=points.device)
    while len(planes) < max_planes and int(free.sum()) > 3:
        candidates = _hypotheses(sample[free], generator)
        few = slice(0, COARSE_SIZE)  # the sample is in random order
        _, share = _support(sample[few], free[few], candidates, tolerance_m, 2 * max_beyond)
        candidates = candidates[share.argsort(descending=True, stable=True)[:FINALISTS]]
        plane = _best(sample, free, candidates, tolerance_m, min_share, max_beyond)
        if plane is None:
            break
        planes = torch.cat([planes, plane[None]])
        free &= ~on_planes(sample, plane[None], tolerance_m)
    return planes


def on_planes(
    points: Float[Tensor, "n 3"], planes: Float[Tensor, "planes 4"], tolerance_m: float
) -> Bool[Tensor, "n"]:
    """Mark points on, or beyond, any of the planes."""
    signed = points @ planes[:, :3].T + planes[:, 3]  # [n, planes]
    return (signed <= tolerance_m).any(dim=1)


def _hypotheses(points: Tensor, generator: torch.Generator) -> Tensor:
    picks = torch.randint(len(points), (HYPOTHESES, 3), generator=generator).to(points.device)
    a, b, c = points[picks].unbind(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    length = normal.norm(dim=1, keepdim=True)
    good = length[:, 0] > 1e-3
    normal = normal[good] / length[good]
    return torch.cat([normal, -(normal * a[good]).sum(dim=1, keepdim=True)], dim=1)


def _support(
    sample: Tensor, free: Tensor, candidates: Tensor, tolerance_m: float, max_beyond: float
) -> tuple[Tensor, Tensor]:
    """Return who is near each candidate, [points, candidates], and the share of all that is free.

    The share is 0 where too many points lie on the emptier side.
    """
    signed = sample @ candidates[:, :3].T + candidates[:, 3]  # [points, candidates]
    near = signed.abs() <= tolerance_m
    share = (near & free[:, None]).double().mean(dim=0)
    above = (signed > tolerance_m).double().mean(dim=0)
    below = (signed < -tolerance_m).double().mean(dim=0)
    return near, torch.where(torch.minimum(above, below) <= max_beyond, share, 0.0)


def _best(
    sample: Tensor,
    free: Tensor,
    candidates: Tensor,
    tolerance_m: float,
    min_share: float,
    max_beyond: float,
) -> Tensor | None:
    near, share = _support(sample, free, candidates, tolerance_m, max_beyond)
    best = int(share.argmax())
    if float(share[best]) < min_share:
        return None
    inliers = sample[near[:, best] & free]
    centre = inliers.mean(dim=0)
    normal = torch.linalg.svd(inliers - centre, full_matrices=False).Vh[2]
    side = ((sample - centre) @ normal).median()
    normal = normal if float(side) >= 0 else -normal
    return torch.cat([normal, -(normal @ centre)[None]])
