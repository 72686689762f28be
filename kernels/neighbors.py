"""Neighbours in clouds: compiled through a hash grid on CPUs, sorted along x on GPUs.

The torch twins are vectorised over blocks of points; candidates are padded per block, at most about
PAIRS_AT_ONCE of them at a time.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenerl.kernels.backend import Backend, choose_backend
from scenerl.kernels.threads import even_parts, map_threads
from scenerl.kernels.voxel import pack_cells

if TYPE_CHECKING:
    from scenerl.kernels.cells_numba import Grid

PAIRS_AT_ONCE = 4_000_000
"""Candidate pairs held in memory at once; a pair takes about 40 bytes."""
FEW_POINTS = 32
"""So many points are compared with all others instead of through a grid."""
SAMPLE_SIZE = 64
"""Points from which the size of the grid cells is estimated; it decides speed only."""
CELL_REACH = 1.6
"""Edge of a grid cell, in typical distances to the last neighbour that is wanted: with smaller ones
more points have to be looked for a second time, with larger ones more candidates are compared."""


def neighbor_distances(
    points: Float[Tensor, "n 3"], count: int, backend: Backend = "auto"
) -> Float[Tensor, "n count"]:
    """Find the distances to the `count` nearest points, the point itself (0) included.

    Exact.

    Args:
        points: The cloud.
        count: Neighbours per point, at most n.
        backend: "auto" takes numba on the CPU and Triton elsewhere.

    Returns:
        Distances in ascending order.
    """
    if len(points) and uses(points, backend) == "triton":
        from scenerl.kernels.neighbors_triton import nearest_distances_triton

        return nearest_distances_triton(points, count)
    if len(points) == 0 or not is_compiled(points, backend):
        return _neighbor_distances_torch(points, count)
    return torch.from_numpy(_neighbor_distances_numba(as_float64(points), count)).to(points.dtype)


def _neighbor_distances_numba(points: np.ndarray, count: int) -> np.ndarray:
    """Search a grid, for what is not settled one of larger cells, for the last all points."""
    from scenerl.kernels.cells_numba import OFFSET, build_grid, nearest, nearest_of_all, reach_of

    out, todo = np.empty((len(points), count)), np.ones(len(points), bool)
    sample = np.arange(0, len(points), max(1, len(points) // 16))
    least = max(1e-9, 4 * max(float(np.ptp(axis)) for axis in points.T) / OFFSET)  # for copies
    cell = max(CELL_REACH * float(np.quantile(reach_of(points, sample, count), 0.75)), least)
    while np.count_nonzero(todo) > FEW_POINTS:
        grid = build_grid(points, cell)
        map_threads(lambda part: nearest(grid, count, todo, *part, out), cell_parts(grid))  # noqa: B023
        cell *= 3
    nearest_of_all(points, count, todo, out)
    return out


def neighbors_within(
    points: Float[Tensor, "n 3"],
    radius_m: float,
    backend: Backend = "auto",
    enough: int | None = None,
) -> Int[Tensor, "n"]:
    """Count the points nearer than `radius_m` to each point, the point itself included.

    Args:
        points: The cloud.
        radius_m: Positive; a point exactly so far away does not count, as in Open3D.
        backend: "auto" compiles on the CPU.
        enough: A count that reaches it may end there, whatever else is near.
    """
    if len(points) and is_compiled(points, backend):
        from scenerl.kernels.cells_numba import build_grid

        return neighbors_in_grid(build_grid(as_float64(points), radius_m), radius_m, enough)
    counts = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for rows, candidates, valid in candidate_blocks(points.double(), radius_m):
        gap = (points[rows][:, None] - points[candidates]).double().square().sum(dim=2)
        counts[rows] = (valid & (gap < radius_m**2)).sum(dim=1)
    return counts


def neighbors_in_grid(grid: "Grid", radius_m: float, enough: int | None) -> Int[Tensor, "n"]:
    """Count as `neighbors_within` does, in a grid with edges of `radius_m`."""
    from scenerl.kernels.cells_numba import count_within

    out = np.zeros(len(grid.points), np.int64)
    most = len(out) if enough is None else enough
    map_threads(lambda part: count_within(grid, radius_m, most, *part, out), cell_parts(grid))
    return torch.from_numpy(out)


def uses(points: Tensor, backend: Backend) -> Backend:
    """Return the implementation that serves these points."""
    return choose_backend(points.device.type) if backend == "auto" else backend


def is_compiled(points: Tensor, backend: Backend) -> bool:
    """Tell whether numba serves these points."""
    return uses(points, backend) == "numba"


def as_float64(points: Tensor) -> np.ndarray:
    """Return points as the compiled side takes them."""
    return np.ascontiguousarray(points.detach().double().numpy())


def cell_parts(grid: "Grid") -> list[tuple[int, int]]:
    """Cut the cells of a grid into parts for the threads."""
    return even_parts(len(grid.cells), least=256)


def _neighbor_distances_torch(points: Tensor, count: int) -> Tensor:
    """Search a grid, for what is not settled one of twice the cell, for the last all points."""
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
