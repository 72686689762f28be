"""The lift on GPUs: one Triton program per block of pixels of a patch, one hash table in memory.

The same arithmetic as the torch twin, float64 and without fused multiply-add, and whole numbers in
the sums, so that the order of atomic additions does not matter. Runs under TRITON_INTERPRET=1 too.

Memory: depth [views, height, width] and the patches' masks one after another (uint8); table keys
int64 [places + 1] (the last one takes lanes that are done), sums int64 [places + 1, 8].
"""

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from scenerl.kernels.fuse_torch import UNIT, DenseViews
from scenerl.kernels.views import Camera, FuseSettings, Patch, Voxels

EMPTY, OFFSET, BLOCK = -1, 1 << 20, 256


@triton.jit
def _usable(depth, near, far):
    return (depth >= near) & (depth <= far) & (depth > 0)


@triton.jit
def _fuse_kernel(
    depth, masks, patches, poses, color, color_row, color_column, numbers, origin, base,
    keys, sums, bits, far_away, height, width, color_height, color_width, places, words,
    HAS_COLOR: tl.constexpr, HAS_JUMP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the pixels of a block of a patch to the table."""
    patch = patches + tl.program_id(0) * 6
    view, top, left = tl.load(patch), tl.load(patch + 1), tl.load(patch + 2)
    rows, columns, start = tl.load(patch + 3), tl.load(patch + 4), tl.load(patch + 5)
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = index < rows * columns
    v = top + index // tl.maximum(columns, 1)
    u = left + index % tl.maximum(columns, 1)
    image = depth + view * height * width
    near, far = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
    marked = tl.load(masks + start + index, mask=inside, other=0) > 0
    z32 = tl.load(image + v * width + u, mask=inside & marked, other=0.0)
    good = inside & marked & _usable(z32, near, far)
    if HAS_JUMP:
        edge = z32 - tl.load(numbers + 6).to(tl.float32)
        for step in range(9):
            row, column = v + step // 3 - 1, u + step % 3 - 1
            there = good & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            other = tl.load(image + row * width + column, mask=there, other=0.0)
            good = good & ~(there & _usable(other, near, far) & (other < edge))
    z, pose = z32.to(tl.float64), poses + view * 16
    x = (u - tl.load(numbers + 2)) / tl.load(numbers) * z
    y = (v - tl.load(numbers + 3)) / tl.load(numbers + 1) * z
    voxel, unit = tl.load(numbers + 7), tl.load(numbers + 8)
    key = tl.zeros([BLOCK], tl.int64)
    for k in range(3):
        row = pose + 4 * k
        point = tl.load(row) * x + tl.load(row + 1) * y + tl.load(row + 2) * z + tl.load(row + 3)
        cell = tl.floor((point - tl.load(origin + k)) / voxel).to(tl.int64) - tl.load(base + k)
        tl.atomic_max(far_away + index * 0, 1, mask=good & (tl.abs(cell) >= 1048576))
        key = (key << 21) | (cell + 1048576)
    place = _insert(keys, key, good, places, BLOCK)
    for k in range(3):
        row = pose + 4 * k
        point = tl.load(row) * x + tl.load(row + 1) * y + tl.load(row + 2) * z + tl.load(row + 3)
        low = tl.load(origin + k)
        corner = low + tl.floor((point - low) / voxel) * voxel
        steps = tl.floor((point - corner) * unit + 0.5).to(tl.int64)
        tl.atomic_add(sums + place * 8 + k, steps, mask=good)
        if HAS_COLOR:
            row = tl.load(color_row + v, mask=good, other=0)
            column = tl.load(color_column + u, mask=good, other=0)
            pixel = ((view * color_height + row) * color_width + column) * 3 + k
            seen = tl.load(color + pixel, mask=good, other=0).to(tl.int64)
            tl.atomic_add(sums + place * 8 + 3 + k, seen, mask=good)
    tl.atomic_add(sums + place * 8 + 6, (place * 0 + 1).to(tl.int64), mask=good)
    bit = (place * 0 + 1).to(tl.int64) << (view % 64)
    tl.atomic_or(bits + place * words + view // 64, bit, mask=good)


@triton.jit
def _insert(keys, key, good, places, BLOCK: tl.constexpr):
    """Return the place of each key; lanes that are done knock at the place past the end."""
    mixed = key * -7046029254386353131  # as kernels/cells_numba.py: first_place
    place = (((mixed ^ (mixed >> 32)) * -7046029254386353131) >> 32) & (places - 1)
    pending = good
    while tl.max(pending.to(tl.int32), axis=0) > 0:
        door = tl.where(pending, place, places)
        empty = tl.full([BLOCK], -1, tl.int64)
        found = tl.atomic_cas(keys + door, empty, tl.where(pending, key, empty))
        pending = pending & (found != -1) & (found != key)
        place = tl.where(pending, (place + 1) & (places - 1), place)
    return place


@triton.jit
def _vote_kernel(
    depth, masks, patches, poses, numbers, points, could_see, marks, count, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the votes of one view for a block of points, float64 [3, count]."""
    patch = patches + tl.program_id(0) * 6
    view, top, left = tl.load(patch), tl.load(patch + 1), tl.load(patch + 2)
    rows, columns, start = tl.load(patch + 3), tl.load(patch + 4), tl.load(patch + 5)
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known, pose = index < count, poses + view * 16
    x = tl.load(points + index, mask=known, other=0.0) - tl.load(pose + 3)
    y = tl.load(points + count + index, mask=known, other=0.0) - tl.load(pose + 7)
    z = tl.load(points + 2 * count + index, mask=known, other=0.0) - tl.load(pose + 11)
    right = x * tl.load(pose) + y * tl.load(pose + 4) + z * tl.load(pose + 8)
    down = x * tl.load(pose + 1) + y * tl.load(pose + 5) + z * tl.load(pose + 9)
    ahead = x * tl.load(pose + 2) + y * tl.load(pose + 6) + z * tl.load(pose + 10)
    known = known & (ahead > 1e-9)
    over = tl.where(known, ahead, 1.0)
    u = tl.floor(right / over * tl.load(numbers) + tl.load(numbers + 2) + 0.5)
    v = tl.floor(down / over * tl.load(numbers + 1) + tl.load(numbers + 3) + 0.5)
    known = known & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    row, column = tl.where(known, v, 0).to(tl.int64), tl.where(known, u, 0).to(tl.int64)
    surface = tl.load(depth + (view * height + row) * width + column, mask=known, other=0.0)
    near, far = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
    known = known & _usable(surface, near, far)
    surface, tolerance = surface.to(tl.float64), tl.load(numbers + 9)
    known = known & (ahead <= surface + tolerance)
    one = (index * 0 + 1).to(tl.int64)
    tl.atomic_add(could_see + index, one, mask=known)
    row, column = row - top, column - left
    known = known & (ahead >= surface - tolerance) & (row >= 0) & (row < rows)
    known = known & (column >= 0) & (column < columns)
    marked = tl.load(masks + start + row * columns + column, mask=known, other=0)
    tl.atomic_add(marks + index, marked.to(tl.int64), mask=known)


def fuse_object_triton(
    dense: DenseViews, patches: Sequence[Patch], camera: Camera, settings: FuseSettings
) -> Voxels:
    """Fuse one object and count its votes; see `kernels/fuse.py`.

    Raises:
        ValueError: If points lie farther than 2^20 voxels from the first camera.
    """
    device, (num_views, height, width) = dense.depth_m.device, dense.depth_m.shape
    sizes = [patch.mask.size for patch in patches]
    marked = sum(int(np.count_nonzero(patch.mask)) for patch in patches)
    places, words = 1 << max(4, (2 * marked).bit_length()), max(1, (num_views + 63) // 64)
    table, masks = _upload(patches, sizes, device)
    numbers = _numbers(camera, settings, device)
    origin = torch.tensor(settings.origin, dtype=torch.float64, device=device)
    base = torch.zeros(3, dtype=torch.int64, device=device)
    if num_views:
        base = torch.floor((dense.poses[0, :3, 3] - origin) / settings.voxel_m).long()
    keys = torch.full((places + 1,), EMPTY, dtype=torch.int64, device=device)
    sums = torch.zeros(places + 1, 8, dtype=torch.int64, device=device)
    bits = torch.zeros(places + 1, words, dtype=torch.int64, device=device)
    far_away = torch.zeros(1, dtype=torch.int32, device=device)
    color = masks if dense.color is None else dense.color
    color_row = torch.from_numpy(camera.color_row).to(device)
    color_column = torch.from_numpy(camera.color_column).to(device)
    if marked:
        _fuse_kernel[(len(patches), triton.cdiv(max(sizes), BLOCK))](
            dense.depth_m, masks, table, dense.poses, color, color_row, color_column, numbers,
            origin, base, keys, sums, bits, far_away, height, width,
            *(color.shape[1:3] if dense.color is not None else (0, 0)), places, words,
            HAS_COLOR=dense.color is not None, HAS_JUMP=settings.edge_jump_m > 0, BLOCK=BLOCK,
            enable_fp_fusion=False,
        )  # fmt: skip
    if int(far_away):
        raise ValueError(
            f"points lie more than {OFFSET * settings.voxel_m:.0f} m from the first camera; check "
            "the poses and the depth, or take larger voxels"
        )
    found = (keys[:places] != EMPTY).nonzero()[:, 0]
    found = found[keys[found].argsort()]
    low = (1 << 21) - 1
    key, total = keys[found], sums[found]
    cells = torch.stack([key >> 42, (key >> 21) & low, key & low], dim=1) - OFFSET + base
    corners = origin + cells.double() * settings.voxel_m
    points = corners + total[:, :3].double() / UNIT / total[:, 6:7]
    ballots = _votes(dense, settings.voters(patches), points, numbers)
    return Voxels(
        points=points.cpu().numpy(),
        colors=(total[:, 3:6] / total[:, 6:7].double()).cpu().numpy(),
        counts=total[:, 6].cpu().numpy(),
        could_see=ballots[0].cpu().numpy(),
        marks=ballots[1].cpu().numpy(),
        views=bits[found].cpu().numpy().view(np.uint64),
    )


def _votes(dense: DenseViews, voters: Sequence[Patch], points: Tensor, numbers: Tensor) -> Tensor:
    """Count the votes of the views, int64 [could see or marks, points]."""
    (_, height, width), count = dense.depth_m.shape, len(points)
    ballots = torch.zeros(2, count, dtype=torch.int64, device=points.device)
    if voters and count:
        table, masks = _upload(voters, [patch.mask.size for patch in voters], points.device)
        _vote_kernel[(len(voters), triton.cdiv(count, BLOCK))](
            dense.depth_m, masks, table, dense.poses, numbers, points.T.contiguous(),
            ballots[0], ballots[1], count, height, width, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return ballots


def _upload(
    patches: Sequence[Patch], sizes: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (view, top, left, rows, columns, start) of each patch, and all masks in one run."""
    starts = np.cumsum([0, *sizes])
    rows = [
        (patch.view, patch.top, patch.left, *patch.mask.shape, int(start))
        for patch, start in zip(patches, starts, strict=False)
    ]
    flat = np.concatenate([patch.mask.reshape(-1) for patch in patches] or [np.zeros(0, np.uint8)])
    table = torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, 6)
    return table, torch.from_numpy(flat).to(device)


def _numbers(camera: Camera, settings: FuseSettings, device: torch.device) -> Tensor:
    """Return fx, fy, cx, cy, near, far, jump, voxel, unit, tolerance."""
    K = camera.intrinsics
    values = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], settings.min_depth_m, settings.max_depth_m]
    values += [settings.edge_jump_m, settings.voxel_m, UNIT, settings.tolerance_m or 0.0]
    return torch.tensor(values, dtype=torch.float64, device=device)
