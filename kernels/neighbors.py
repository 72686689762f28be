"""Neighbours in clouds through a hash grid, vectorised over blocks of points.

Memory: candidates are padded per block, at most about PAIRS_AT_ONCE of them at a time.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenerl.kernels.voxel import pack_cells

PAIRS_AT_ONCE = 4_000_000
"""Candidate pairs held in memory at once; a pair takes about 40 bytes."""
FEW_POINTS = 32
"""So many points are compared with all others instead of through a grid."""
SAMPLE_SIZE = 64
"""Points from which the size of the grid cells is estimated; it decides speed only."""


def neighbor_distances(points: Float[Tensor, "n 3"], count: int) -> Float[Tensor, "n count"]:
    """Find the distances to the `count` nearest points, the point itself (0) included.

    Exact. A grid serves the points whose neighbours are near; the others are searched again in a
    grid of twice the cell, and the last few against all points.

    Args:
        points: The cloud.
        count: Neighbours per point, at most n.

    Returns:
        Distances in ascending order.
    """
    cell = _typical_reach(points, count)
    result = points.new_full((len(points), count), torch.inf)
    unsure = torch.arange(len(points), device=points.device)
    while len(unsure) > FEW_POINTS:
        for rows, candidates, valid in candidate_blocks(points, cell, unsure):
            if candidates.shape[1] >= count:
                gap = (points[rows][:, None] - points[candidates]).norm(dim=2)
                gap = torch.where(valid, gap, torch.inf)  # [rows, candidates]
                result[rows] = gap.topk(count, largest=False).values
        unsure = unsure[result[unsure, -1] > cell]
        cell *= 2
    if len(unsure):
        gap = torch.cdist(points[unsure], points, compute_mode="donot_use_mm_for_euclid_dist")
        result[unsure] = gap.topk(count, largest=False).values
    return result


def candidate_blocks(
    points: Float[Tensor, "n 3"], cell_m: float, rows: Int[Tensor, "m"] | None = None
) -> Iterator[tuple[Int[Tensor, "rows"], Int[Tensor, "rows c"], Bool[Tensor, "rows c"]]]:
    """Pair points with all points of their own and the 26 surrounding grid cells.

    Args:
        points: The cloud.
        cell_m: Edge of a grid cell; every pair nearer than this is among the candidates.
        rows: Points that are asked about; None asks about all.

    Yields:
        (rows, candidates, valid): a block has at most about PAIRS_AT_ONCE entries, and the rows of
        one block have similar numbers of candidates, so that little is padding.
    """
    if len(points) == 0 or (rows is not None and len(rows) == 0):
        return
    cells = torch.floor((points - points.amin(dim=0)) / cell_m).long() + 1  # [n, 3], border of 1
    extent = cells.amax(dim=0) + 2
    keys = pack_cells(cells, extent)
    order = keys.argsort()
    sorted_keys = keys[order]
    steps = torch.arange(-1, 2, device=points.device)
    # Cells that differ only in z are neighbours in the sorted order: 9 runs of 3 cells each.
    offset = (steps[:, None] * extent[1] + steps[None]) * extent[2]  # [3, 3]
    asked = torch.arange(len(points), device=points.device) if rows is None else rows
    around = keys[asked][:, None] + offset.reshape(-1)  # [m, 9]
    first = torch.searchsorted(sorted_keys, around - 1, right=False)
    counts = torch.searchsorted(sorted_keys, around + 1, right=True) - first  # [m, 9]
    total = counts.sum(dim=1)
    by_total = total.argsort()
    start = 0
    while start < len(asked):
        block = by_total[start : start + _block_size(total, by_total, start)]
        yield (asked[block], *_gather_runs(order, first[block], counts[block]))
        start += len(block)


def _typical_reach(points: Tensor, count: int) -> float:
    """Return a distance within which most points have `count` neighbours, from an even sample."""
    sample = points[:: max(1, len(points) // SAMPLE_SIZE)]
    gap = torch.cdist(sample, points, compute_mode="donot_use_mm_for_euclid_dist")
    reach = gap.topk(count, largest=False).values[:, -1]
    return max(float(reach.quantile(0.6)), 1e-9)


def _block_size(total: Tensor, by_total: Tensor, start: int) -> int:
    """Take as many rows as fit into PAIRS_AT_ONCE when padded to the longest of them."""
    low, high = 1, len(by_total) - start
    while low < high:
        middle = (low + high + 1) // 2
        if middle * int(total[by_total[start + middle - 1]]) <= PAIRS_AT_ONCE:
            low = middle
        else:
            high = middle - 1
    return low


def _gather_runs(order: Tensor, first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Write the runs [first, first + count) of each row one after another, padded to one length."""
    ends = counts.cumsum(dim=1)  # [rows, 9]
    longest = int(ends[:, -1].max())
    slot = torch.arange(longest, device=order.device).expand(len(first), longest).contiguous()
    run = torch.searchsorted(ends, slot, right=True).clamp(max=counts.shape[1] - 1)
    before = ends.gather(1, run) - counts.gather(1, run)
    position = first.gather(1, run) + slot - before
    valid = slot < ends[:, -1:]
    return order[position.clamp(0, len(order) - 1)], valid
