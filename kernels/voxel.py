"""Voxel averaging: one point per occupied cell, the mean of the points in it.

    index(p) = floor((p - origin) / voxel);  out_k = mean of {p : index(p) = k}

Open3D's voxel_down_sample puts the origin half a voxel below the smallest coordinate; that is the
default here. Memory: points [n, 3] are read twice; the rest is O(n) in int64.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def voxel_index(
    points: Float[Tensor, "n 3"], voxel_m: float, origin: Float[Tensor, "3"] | None = None
) -> tuple[Int[Tensor, "voxels 3"], Int[Tensor, "n"], Int[Tensor, "voxels"]]:
    """Assign points to cells.

    Args:
        points: Points in metres.
        voxel_m: Edge of a cell; positive.
        origin: A corner of the grid; None takes min(points) - voxel_m / 2, as Open3D does.

    Returns:
        Integer coordinates of the occupied cells in lexicographic order, the cell of every point,
        and the number of points per cell.

    Raises:
        ValueError: If `voxel_m` is not positive.
    """
    if not voxel_m > 0:
        raise ValueError(f"voxel_m is {voxel_m}, expected a positive edge in metres")
    if len(points) == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=points.device)
        return empty.reshape(0, 3), empty, empty
    if origin is None:
        origin = points.amin(dim=0) - voxel_m * 0.5
    cells = torch.floor((points - origin) / voxel_m).long()  # [n, 3]
    lower = cells.amin(dim=0)
    extent = cells.amax(dim=0) - lower + 1
    keys, inverse, counts = torch.unique(
        pack_cells(cells - lower, extent), return_inverse=True, return_counts=True
    )
    z = keys % extent[2]
    y = keys // extent[2] % extent[1]
    x = keys // (extent[1] * extent[2])
    return torch.stack([x, y, z], dim=1) + lower, inverse, counts


def pack_cells(cells: Int[Tensor, "*n 3"], extent: Int[Tensor, "3"]) -> Int[Tensor, "*n"]:
    """Number cells with coordinates in [0, extent) in lexicographic order."""
    return (cells[..., 0] * extent[1] + cells[..., 1]) * extent[2] + cells[..., 2]


def voxel_mean(
    values: Float[Tensor, "n channels"],
    inverse: Int[Tensor, "n"],
    counts: Int[Tensor, "voxels"],
) -> Float[Tensor, "voxels channels"]:
    """Average the values of each cell."""
    total = values.new_zeros(len(counts), values.shape[1])
    return total.index_add_(0, inverse, values) / counts[:, None]


def voxel_downsample(
    points: Float[Tensor, "n 3"],
    voxel_m: float,
    colors: Float[Tensor, "n 3"] | None = None,
    origin: Float[Tensor, "3"] | None = None,
) -> tuple[Float[Tensor, "voxels 3"], Float[Tensor, "voxels 3"] | None]:
    """Average points, and colours with them, per cell.

    Returns:
        Mean point of every occupied cell, and the mean colours when there are any.
    """
    _, inverse, counts = voxel_index(points, voxel_m, origin)
    means = voxel_mean(points, inverse, counts)
    return means, None if colors is None else voxel_mean(colors, inverse, counts)
