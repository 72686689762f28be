"""Cleaning of fused clouds: statistical outliers, components, agreement between views."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenerl.kernels.backend import Backend
from scenerl.kernels.neighbors import (
    PAIRS_AT_ONCE,
    as_float64,
    candidate_blocks,
    cell_parts,
    is_compiled,
    neighbor_distances,
    neighbors_in_grid,
    neighbors_within,
    uses,
)
from scenerl.kernels.threads import map_threads
from scenerl.kernels.unproject import nearest_pixels, project
from scenerl.kernels.voxel import voxel_index


def keep_statistical(
    points: Float[Tensor, "n 3"], neighbors: int, std_ratio: float, backend: Backend = "auto"
) -> Bool[Tensor, "n"]:
    """Drop points that are far from their neighbours, with Open3D's definition.

        d_i = mean distance to the `neighbors` nearest points, itself included
        keep i when 0 < d_i < m + std_ratio s
        m = sum(d) / n,  s^2 = sum over positive d of (d - m)^2 / (n - 1)

    Where all d are equal, which leaves Open3D's answer to rounding, every point with d > 0 stays;
    fewer than 2 neighbours or points say nothing, and all stay.

    Args:
        points: The cloud.
        neighbors: Neighbours per point; fewer when the cloud is smaller.
        std_ratio: Allowed deviation.
        backend: "auto" compiles on the CPU.

    Returns:
        Which points stay.
    """
    if len(points) < 2 or neighbors < 2:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    nearest = neighbor_distances(points.double(), min(neighbors, len(points)), backend)
    if is_compiled(points, backend):
        distance = torch.from_numpy(nearest.numpy().mean(axis=1))
    else:
        distance = nearest.mean(dim=1)
    positive = distance[distance > 0]
    if len(positive) == 0 or positive.amax() - positive.amin() <= 1e-9:
        return distance > 0 if len(positive) else torch.ones_like(distance, dtype=torch.bool)
    mean = positive.sum() / len(points)
    spread = ((positive - mean).square().sum() / (len(points) - 1)).sqrt()
    return (distance > 0) & (distance < mean + std_ratio * spread)


def keep_radius(
    points: Float[Tensor, "n 3"], neighbors: int, radius_m: float, backend: Backend = "auto"
) -> Bool[Tensor, "n"]:
    """Keep points with more than `neighbors` points, itself included, nearer than `radius_m`.

    Open3D's remove_radius_outlier.
    """
    return neighbors_within(points, radius_m, backend, enough=neighbors + 1) > neighbors


def dbscan(
    points: Float[Tensor, "n 3"], radius_m: float, min_points: int, backend: Backend = "auto"
) -> Int[Tensor, "n"]:
    """Cluster by density with Open3D's cluster_dbscan, numbers included.

    A core point has at least `min_points` points, itself included, nearer than `radius_m`. Core
    points nearer than that to each other share a cluster; clusters are numbered by their first core
    point; any other point takes the lowest number among the core points near it.

    Returns:
        Cluster of each point, -1 for noise.
    """
    grid = None
    if len(points) and is_compiled(points, backend):
        from scenerl.kernels.cells_numba import border_labels, build_grid

        grid = build_grid(as_float64(points), radius_m)
        count = neighbors_in_grid(grid, radius_m, enough=min_points)
    else:
        count = neighbors_within(points, radius_m, backend, enough=min_points)
    core = count >= min_points
    label = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if not bool(core.any()):
        return label
    where = core.nonzero()[:, 0]
    roots = components(points[where], radius_m, closed=False, backend=backend)
    label[where] = torch.unique(roots, return_inverse=True)[1]
    if grid is not None:
        is_core, out = core.numpy(), label.numpy()
        map_threads(
            lambda part: border_labels(grid, radius_m, is_core, *part, out), cell_parts(grid)
        )
        return label
    rest = (~core).nonzero()[:, 0]
    edges = _near_pairs(points, radius_m, rest, closed=False)
    edges = edges[:, core[edges[1]]]
    clusters = label[edges[1]]
    lowest = torch.full_like(label, len(points)).scatter_reduce(0, edges[0], clusters, "amin")
    return torch.where(lowest < len(points), lowest, label)


def components(
    points: Float[Tensor, "n 3"],
    radius_m: float,
    closed: bool = True,
    backend: Backend = "auto",
) -> Int[Tensor, "n"]:
    """Label connected points: two belong together when a chain of steps <= `radius_m` joins them.

    Exact, but most pairs are never looked at: points of one cell with diagonal `radius_m` are
    connected, so one point of each cell is compared first, and then only what lies outside the
    largest component so far.

    Args:
        points: The cloud.
        radius_m: Longest step.
        closed: False wants steps < `radius_m`.
        backend: "auto" compiles on the CPU.

    Returns:
        For each point the smallest index of a point in its component.
    """
    count = len(points)
    label = torch.arange(count, device=points.device)
    if count == 0:
        return label
    if uses(points, backend) == "triton":
        from scenerl.kernels.neighbors_triton import components_triton

        return components_triton(points, radius_m, closed)
    cell_m = radius_m * (1 - 1e-6) / 3**0.5
    if is_compiled(points, backend):
        from scenerl.kernels.cells_numba import build_grid, join_cells

        grid = build_grid(as_float64(points), cell_m)
        return torch.from_numpy(join_cells(grid, radius_m, closed))
    _, cell, _ = voxel_index(points, cell_m)
    first = torch.full((int(cell.max()) + 1,), count, device=points.device)
    first = first.scatter_reduce(0, cell, label, "amin")
    between = _near_pairs(points[first], radius_m, closed=closed)
    edges = torch.cat([torch.stack([first[cell], label]), first[between]], dim=1)
    label = _propagate(label, edges)
    rest = (label != label.bincount(minlength=count).argmax()).nonzero()[:, 0]
    pairs = _near_pairs(points, radius_m, rest, closed=closed)
    return _propagate(label, torch.cat([edges, pairs], dim=1))


def keep_strong_components(
    points: Float[Tensor, "n 3"],
    radius_m: float,
    weights: Float[Tensor, "n"] | None = None,
    min_share: float = 1.0,
) -> Bool[Tensor, "n"]:
    """Keep the component with the largest sum of weights, and those not far behind it.

    Args:
        points: The cloud.
        radius_m: Longest step inside a component.
        weights: Evidence of each point; None counts each once.
        min_share: A component stays with at least this share of the strongest one's sum; with 1
            only the strongest stays (the first of equals).

    Returns:
        Which points stay.
    """
    if len(points) == 0:
        return torch.ones(0, dtype=torch.bool, device=points.device)
    label = components(points, radius_m)
    weights = points.new_ones(len(points)) if weights is None else weights.to(points.dtype)
    total = points.new_zeros(len(points)).index_add_(0, label, weights)
    strongest = label == total.argmax()
    return strongest if min_share >= 1 else strongest | (total[label] >= min_share * total.max())


def view_votes(
    points_world: Float[Tensor, "n 3"],
    depth_m: Float[Tensor, "frames height width"],
    mask: Bool[Tensor, "frames height width"],
    intrinsics: Float[Tensor, "3 3"],
    camera_to_world: Float[Tensor, "frames 4 4"],
    tolerance_m: float,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Count the frames that could see each point, and those of them that mark it as the object.

    A frame could see a point that falls on a pixel with depth d when the point is not behind the
    surface there: z <= d + tolerance. It marks the point when the pixel is in the mask and the
    point lies on the surface: |z - d| <= tolerance. A frame that looks through the point
    (z < d - tolerance) could see it and does not mark it: free space is carved.

    Returns:
        Number of frames that could see, and number that mark, each point.
    """
    height, width = depth_m.shape[1:]
    could_see = torch.zeros(len(points_world), dtype=torch.int64, device=points_world.device)
    marks = torch.zeros_like(could_see)
    step = max(1, PAIRS_AT_ONCE // max(1, len(points_world)))
    for start in range(0, len(depth_m), step):
        part = slice(start, start + step)
        uv, z = project(points_world, intrinsics, camera_to_world[part])
        row, column, inside = nearest_pixels(uv, height, width)  # [frames, n]
        frame = torch.arange(len(z), device=z.device)[:, None]
        surface = depth_m[part][frame, row, column].to(z.dtype)
        inside &= (z > 0) & (surface > 0)
        visible = inside & (z <= surface + tolerance_m)
        on_surface = visible & (z >= surface - tolerance_m)
        could_see += visible.sum(dim=0)
        marks += (on_surface & mask[part][frame, row, column]).sum(dim=0)
    return could_see, marks


def _near_pairs(
    points: Tensor, radius_m: float, rows: Tensor | None = None, *, closed: bool
) -> Tensor:
    """List the pairs [2, pairs] nearer than `radius_m`, or also those just so far."""
    pairs = [torch.zeros(2, 0, dtype=torch.int64, device=points.device)]
    limit = radius_m**2
    for block, candidates, valid in candidate_blocks(points, radius_m, rows):
        gap = (points[block][:, None] - points[candidates]).square().sum(dim=2)
        near = valid & ((gap <= limit) if closed else (gap < limit))
        pairs.append(torch.stack([block[:, None].expand_as(candidates)[near], candidates[near]]))
    return torch.cat(pairs, dim=1)


def _propagate(label: Tensor, edges: Tensor) -> Tensor:
    """Give all points that edges connect the smallest label among them."""
    first, second = edges
    while True:
        smaller = torch.minimum(label[first], label[second])
        updated = label.scatter_reduce(0, first, smaller, "amin")
        updated = updated.scatter_reduce(0, second, smaller, "amin")
        updated = updated[updated]
        if torch.equal(updated, label):
            return label
        label = updated
