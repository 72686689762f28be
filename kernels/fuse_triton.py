"""The lift on GPUs: dense masks are streamed once, and marked pixels go straight into voxels.

A program is one warp: it reads a tile of the mask as 64-bit words and ends where nothing is marked.
Else each lane walks down a column of 32: loads are coalesced, the nearest depth around a pixel
comes from three rows that are read once, and pixels that stay in a voxel are added up in registers
before they are added to the table. The arithmetic is the torch twin's, float64 and without fused
multiply-add, and whole numbers in the sums, so that the order of atomic additions does not matter.
Runs under TRITON_INTERPRET=1 too.

Memory: depth float32 [views, height, width], mask uint8 [views, height, stride]; the table, int64
[places, 8], holds key, offset x, y, z, red and green in one word, blue and pixels in one word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from scenerl.kernels.fuse_torch import UNIT, DenseViews, dense_mask
from scenerl.kernels.views import Camera, FuseSettings, Patch, Voxels

OFFSET = 1 << 20
ROWS, GROUPS = 32, 4
"""A tile is ROWS high and GROUPS times 32 pixels wide."""
FIRST_PLACES, MOST_PLACES = 1 << 18, 1 << 28
"""The table grows by 4 from one to the other."""
MOST_PIXELS = 1 << 24
"""Pixels in a voxel up to which the packed sums of colours hold."""
VOTE_BLOCK, VOTE_VIEWS = 128, 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeviceVoxels:
    """The fields of `kernels/views.py: Voxels` as tensors on the device."""

    points: Tensor
    colors: Tensor
    counts: Tensor
    could_see: Tensor
    marks: Tensor
    views: Tensor
    """int64 [n, words]."""

    def to_voxels(self) -> Voxels:
        """Copy to the host."""
        return Voxels(
            points=self.points.cpu().numpy(),
            colors=self.colors.cpu().numpy(),
            counts=self.counts.cpu().numpy(),
            could_see=self.could_see.cpu().numpy(),
            marks=self.marks.cpu().numpy(),
            views=self.views.cpu().numpy().view(np.uint64),
        )


@triton.jit
def _usable(depth, near, far):
    return (depth >= near) & (depth <= far) & (depth > 0) & (depth < float("inf"))


@triton.jit
def _nearest_in_row(image, v, u, height, width, near, far):
    """Return the nearest usable depth of three pixels of a row."""
    nearest = tl.full([32], float("inf"), tl.float32)
    for step in tl.static_range(-1, 2):
        there = (u + step >= 0) & (u + step < width) & (v >= 0) & (v < height)
        z = tl.load(image + v * width + u + step, mask=there, other=0.0)
        nearest = tl.minimum(nearest, tl.where(_usable(z, near, far), z, float("inf")))
    return nearest


@triton.jit
def _cell(x, y, z, pose, origin, base, voxel, unit):
    """Return a world coordinate's cell (counted from base) and its offset inside, in steps."""
    point = tl.load(pose) * x + tl.load(pose + 1) * y + tl.load(pose + 2) * z + tl.load(pose + 3)
    cell = tl.floor((point - origin) / voxel)
    steps = (point - (origin + cell * voxel)) * unit
    steps = (steps + 6755399441055744.0) - 6755399441055744.0  # 1.5 x 2^52: to the nearest even
    return (cell - base).to(tl.int64), steps.to(tl.int64)


@triton.jit
def _insert(table, key, wanted, places, flags):
    """Return the place of each wanted key. A compare-and-swap is made where a place was empty."""
    mixed = key * -7046029254386353131  # as kernels/cells_numba.py: first_place
    place = ((mixed ^ (mixed >> 32)) * -7046029254386353131 >> 32) & (places - 1)
    pending, tries = wanted, 0
    while tl.max(pending.to(tl.int32), axis=0) > 0:
        found = tl.load(table + place * 8, mask=pending, other=0)
        if tl.min(found, axis=0) == -1:
            put = tl.where(pending, key, -1)
            found = tl.atomic_cas(table + place * 8, put * 0 - 1, put, sem="relaxed")
        pending = pending & (found != -1) & (found != key)
        place = tl.where(pending, (place + 1) & (places - 1), place)
        tries += 1
        if tries == 128:
            tl.atomic_max(flags + 1, 1, sem="relaxed")
            pending = pending & (tries < 0)
    return place


@triton.jit
def _add(table, bits, place, x, y, z, red_green, blue_pixels, wanted, view, words, HAS_COLOR):
    """Add a run of pixels to the table; all to which nothing was added are left alone."""
    row = table + place * 8
    tl.atomic_add(row + 1, x, mask=wanted, sem="relaxed")
    tl.atomic_add(row + 2, y, mask=wanted, sem="relaxed")
    tl.atomic_add(row + 3, z, mask=wanted, sem="relaxed")
    if HAS_COLOR:
        tl.atomic_add(row + 4, red_green, mask=wanted, sem="relaxed")
    tl.atomic_add(row + 5, blue_pixels, mask=wanted, sem="relaxed")
    bit = (place * 0 + 1) << (view % 64)
    word = bits + place * words + view // 64
    seen = tl.load(word, mask=wanted, other=0)
    tl.atomic_or(word, bit, mask=wanted & ((seen & bit) == 0), sem="relaxed")


@triton.jit
def _fuse_kernel(
    depth, mask, mask_words, poses, color, color_row, color_column, numbers, table, bits, flags,
    height, width, stride, color_height, color_width, places, words,
    HAS_COLOR: tl.constexpr, HAS_JUMP: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Add the marked pixels of a tile of a view to the table."""
    view, across = tl.program_id(1).to(tl.int64), tl.cdiv(width, 32 * GROUPS)
    top = tl.program_id(0) // across * ROWS
    left = tl.program_id(0) % across * 32 * GROUPS
    row = tl.arange(0, ROWS)[:, None]
    word = left // 8 + tl.arange(0, 4 * GROUPS)[None, :]
    line = (view * height + top + row) * (stride // 8)
    there = (top + row < height) & (word < stride // 8)
    if tl.max(tl.load(mask_words + line + word, mask=there, other=0) != 0) > 0:
        for group in range(GROUPS):
            part = (left + 32 * group) // 8 + tl.arange(0, 4)[None, :]
            known = (top + row < height) & (part < stride // 8)
            if tl.max(tl.load(mask_words + line + part, mask=known, other=0) != 0) > 0:
                _fuse_columns(
                    depth, mask, poses, color, color_row, color_column, numbers, table, bits,
                    flags, view, top, left + 32 * group, height, width, stride, color_height,
                    color_width, places, words, HAS_COLOR, HAS_JUMP, ROWS,
                )  # fmt: skip


@triton.jit
def _fuse_columns(
    depth, mask, poses, color, color_row, color_column, numbers, table, bits, flags,
    view, top, left, height, width, stride, color_height, color_width, places, words,
    HAS_COLOR: tl.constexpr, HAS_JUMP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Walk down 32 columns, one per lane."""
    u = left + tl.arange(0, 32)
    image, pose = depth + view * height * width, poses + view * 16
    near, far = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
    jump, voxel, unit = (
        tl.load(numbers + 6).to(tl.float32),
        tl.load(numbers + 7),
        tl.load(numbers + 8),
    )
    ox, oy, oz = tl.load(numbers + 10), tl.load(numbers + 11), tl.load(numbers + 12)
    bx, by = tl.load(numbers + 13), tl.load(numbers + 14)
    bz = tl.load(numbers + 15)
    ray_x = (u - tl.load(numbers + 2)) / tl.load(numbers)
    nothing = tl.zeros([32], tl.int64)
    key, place, red_green, blue_pixels = nothing - 1, nothing, nothing, nothing
    sum_x, sum_y, sum_z = nothing, nothing, nothing
    column = nothing
    if HAS_COLOR:
        column = tl.load(color_column + u, mask=u < width, other=0)
    if HAS_JUMP:
        above = _nearest_in_row(image, top - 1, u, height, width, near, far)
        here = _nearest_in_row(image, top, u, height, width, near, far)
    for v in range(top, min(top + ROWS, height)):
        good = tl.load(mask + (view * height + v) * stride + u, mask=u < width, other=0) != 0
        z32 = tl.load(image + v * width + u, mask=good, other=0.0)
        good = good & _usable(z32, near, far)
        if HAS_JUMP:
            below = _nearest_in_row(image, v + 1, u, height, width, near, far)
            nearest = tl.minimum(tl.minimum(above, here), below)
            good = good & (nearest >= z32 - jump)
            above, here = here, below
        if tl.max(good.to(tl.int32), axis=0) > 0:
            z = z32.to(tl.float64)
            x, y = ray_x * z, (v - tl.load(numbers + 3)) / tl.load(numbers + 1) * z
            cell_x, step_x = _cell(x, y, z, pose, ox, bx, voxel, unit)
            cell_y, step_y = _cell(x, y, z, pose + 4, oy, by, voxel, unit)
            cell_z, step_z = _cell(x, y, z, pose + 8, oz, bz, voxel, unit)
            reach = tl.maximum(tl.maximum(tl.abs(cell_x), tl.abs(cell_y)), tl.abs(cell_z))
            if tl.max(tl.where(good, reach, 0), axis=0) >= 1048576:
                tl.atomic_max(flags, 1, sem="relaxed")
            new = ((cell_x + 1048576) << 42) | ((cell_y + 1048576) << 21) | (cell_z + 1048576)
            changed = good & (new != key)
            if tl.max(changed.to(tl.int32), axis=0) > 0:
                _add(
                    table, bits, place, sum_x, sum_y, sum_z, red_green, blue_pixels,
                    changed & (blue_pixels != 0), view, words, HAS_COLOR,
                )  # fmt: skip
                place = tl.where(changed, _insert(table, new, changed, places, flags), place)
                key = tl.where(changed, new, key)
                sum_x, sum_y = tl.where(changed, 0, sum_x), tl.where(changed, 0, sum_y)
                sum_z = tl.where(changed, 0, sum_z)
                red_green = tl.where(changed, 0, red_green)
                blue_pixels = tl.where(changed, 0, blue_pixels)
            sum_x += tl.where(good, step_x, 0)
            sum_y += tl.where(good, step_y, 0)
            sum_z += tl.where(good, step_z, 0)
            blue_pixels += good.to(tl.int64)
            if HAS_COLOR:
                line = (view * color_height + tl.load(color_row + v)) * color_width
                pixel = color + (line + column) * 3
                red = tl.load(pixel, mask=good, other=0).to(tl.int64)
                green = tl.load(pixel + 1, mask=good, other=0).to(tl.int64)
                blue = tl.load(pixel + 2, mask=good, other=0).to(tl.int64)
                red_green += (red << 32) | green
                blue_pixels += blue << 32
    _add(
        table, bits, place, sum_x, sum_y, sum_z, red_green, blue_pixels, blue_pixels != 0, view,
        words, HAS_COLOR,
    )  # fmt: skip


@triton.jit
def _gather_kernel(table, found, flags, BLOCK: tl.constexpr):
    """Write the keys and places of the voxels one after another."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(table + place.to(tl.int64) * 8)
    filled = key != -1
    count = tl.sum(filled.to(tl.int32), axis=0)
    if count > 0:
        begin = tl.atomic_add(flags + 2, count, sem="relaxed")
        slot = begin + tl.cumsum(filled.to(tl.int32), axis=0) - 1
        tl.store(found + slot, place, mask=filled)


@triton.jit
def _vote_kernel(
    depth, mask, voters, poses, numbers, points, could_see, marks, count, num_voters, height,
    width, stride, BLOCK: tl.constexpr, VIEWS: tl.constexpr,
):  # fmt: skip
    """Count the votes of some views for a block of points, float64 [3, count]."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = index < count
    px = tl.load(points + index, mask=exists, other=0.0)
    py = tl.load(points + count + index, mask=exists, other=0.0)
    pz = tl.load(points + 2 * count + index, mask=exists, other=0.0)
    near, far = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
    tolerance = tl.load(numbers + 9)
    visible, agree = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    first = tl.program_id(1) * VIEWS
    for voter in range(first, min(first + VIEWS, num_voters)):
        view = tl.load(voters + voter)
        pose = poses + view * 16
        x, y, z = px - tl.load(pose + 3), py - tl.load(pose + 7), pz - tl.load(pose + 11)
        right = x * tl.load(pose) + y * tl.load(pose + 4) + z * tl.load(pose + 8)
        down = x * tl.load(pose + 1) + y * tl.load(pose + 5) + z * tl.load(pose + 9)
        ahead = x * tl.load(pose + 2) + y * tl.load(pose + 6) + z * tl.load(pose + 10)
        known = exists & (ahead > 1e-9)
        over = tl.where(known, ahead, 1.0)
        u = tl.floor(right / over * tl.load(numbers) + tl.load(numbers + 2) + 0.5)
        v = tl.floor(down / over * tl.load(numbers + 1) + tl.load(numbers + 3) + 0.5)
        known = known & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        row, column = tl.where(known, v, 0).to(tl.int64), tl.where(known, u, 0).to(tl.int64)
        line = view * height + row
        surface = tl.load(depth + line * width + column, mask=known, other=0.0)
        known = known & _usable(surface, near, far)
        surface = surface.to(tl.float64)
        known = known & (ahead <= surface + tolerance)
        visible += known.to(tl.int32)
        known = known & (ahead >= surface - tolerance)
        marked = tl.load(mask + line * stride + column, mask=known, other=0)
        agree += (marked != 0).to(tl.int32)
    tl.atomic_add(could_see + index, visible.to(tl.int64), mask=exists, sem="relaxed")
    tl.atomic_add(marks + index, agree.to(tl.int64), mask=exists, sem="relaxed")


def fuse_object_triton(
    dense: DenseViews, patches: Sequence[Patch], camera: Camera, settings: FuseSettings
) -> Voxels:
    """Fuse one object and count its votes; see `kernels/fuse.py`.

    Raises:
        ValueError: As documented at `fuse_masks_triton`.
    """
    mask = dense_mask(patches, dense.depth_m)
    voters = [patch.view for patch in settings.voters(patches)]
    return fuse_masks_triton(dense, mask, voters, camera, settings).to_voxels()


def fuse_masks_triton(
    dense: DenseViews, mask: Tensor, voters: Sequence[int], camera: Camera, settings: FuseSettings
) -> DeviceVoxels:
    """Fuse one object whose masks are on the device; the host waits once, for the voxels' number.

    Args:
        dense: Depth, poses and colours.
        mask: bool or uint8 [views, height, width], on the grid of the depth.
        voters: Views that are asked for their votes.
        camera: Shared by all views.
        settings: Range, flying pixels, grid and tolerance.

    Raises:
        ValueError: If points lie farther than 2^20 voxels from the first camera, or more than 2^24
            pixels in one voxel.
    """
    mask = _aligned(mask)
    numbers = _numbers(dense, camera, settings)
    places = min(FIRST_PLACES, max(1024, 1 << (2 * mask.numel()).bit_length()))
    while True:
        table, bits, found, flags = _fuse(dense, mask, camera, settings, numbers, places)
        too_far, full, count = flags.tolist()[:3]
        if too_far:
            raise ValueError(
                f"points lie more than {OFFSET * settings.voxel_m:.0f} m from the first camera; "
                "check the poses and the depth, or take larger voxels"
            )
        if not full and count <= 0.7 * places:
            break
        if places >= MOST_PLACES:
            raise ValueError(
                f"one object fills more than {count} voxels; take larger voxels or fewer frames"
            )
        places *= 4
    rows = table[found[:count]]
    order = rows[:, 0].argsort()
    rows, bits = rows[order], bits[found[:count][order]]
    low = (1 << 21) - 1
    cells = torch.stack([rows[:, 0] >> 42, (rows[:, 0] >> 21) & low, rows[:, 0] & low], dim=1)
    origin, base = numbers[10:13], numbers[13:16]
    corners = origin + ((cells - OFFSET).double() + base) * settings.voxel_m
    half = (1 << 32) - 1
    counts = rows[:, 5] & half
    colors = torch.stack([rows[:, 4] >> 32, rows[:, 4] & half, rows[:, 5] >> 32], dim=1)
    points = corners + rows[:, 1:4].double() / UNIT / counts[:, None]
    ballots = _votes(dense, mask, voters, points, numbers)
    return DeviceVoxels(
        points=points,
        colors=colors / counts[:, None].double(),
        counts=counts,
        could_see=ballots[0],
        marks=ballots[1],
        views=bits,
    )


def _fuse(
    dense: DenseViews,
    mask: Tensor,
    camera: Camera,
    settings: FuseSettings,
    numbers: Tensor,
    places: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the table, its view bits, the filled places (any order), and flags: far, full, count."""
    device, (num_views, height, width) = mask.device, dense.depth_m.shape
    words = max(1, (num_views + 63) // 64)
    table = torch.zeros(places, 8, dtype=torch.int64, device=device)
    table[:, 0] = -1
    bits = torch.zeros(places, words, dtype=torch.int64, device=device)
    found = torch.empty(places, dtype=torch.int64, device=device)
    flags = torch.zeros(3, dtype=torch.int32, device=device)
    color = mask if dense.color is None else dense.color
    color_row = torch.from_numpy(camera.color_row).to(device)
    color_column = torch.from_numpy(camera.color_column).to(device)
    tiles = triton.cdiv(height, ROWS) * triton.cdiv(width, 32 * GROUPS)
    if mask.numel():
        _fuse_kernel[(tiles, num_views)](
            dense.depth_m, mask, mask.view(torch.int64), dense.poses, color, color_row,
            color_column, numbers, table, bits, flags, height, width, mask.shape[2],
            *(color.shape[1:3] if dense.color is not None else (0, 0)), places, words,
            HAS_COLOR=dense.color is not None, HAS_JUMP=settings.edge_jump_m > 0, ROWS=ROWS,
            GROUPS=GROUPS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        _gather_kernel[(places // 1024,)](table, found, flags, BLOCK=1024)
    return table, bits, found, flags


def _votes(
    dense: DenseViews, mask: Tensor, voters: Sequence[int], points: Tensor, numbers: Tensor
) -> Tensor:
    """Count the votes of the views, int64 [could see or marks, points]."""
    (_, height, width), count = dense.depth_m.shape, len(points)
    ballots = torch.zeros(2, count, dtype=torch.int64, device=points.device)
    if len(voters) and count:
        asked = torch.tensor(voters, dtype=torch.int64).to(points.device)
        grid = (triton.cdiv(count, VOTE_BLOCK), triton.cdiv(len(voters), VOTE_VIEWS))
        _vote_kernel[grid](
            dense.depth_m, mask, asked, dense.poses, numbers, points.T.contiguous(), ballots[0],
            ballots[1], count, len(voters), height, width, mask.shape[2], BLOCK=VOTE_BLOCK,
            VIEWS=VOTE_VIEWS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return ballots


def _aligned(mask: Tensor) -> Tensor:
    """Return a mask as uint8 whose rows are whole 64-bit words; a copy only where they are not."""
    mask = mask.contiguous().view(torch.uint8)
    beyond = -mask.shape[2] % 8
    return torch.nn.functional.pad(mask, (0, beyond)) if beyond else mask


def _numbers(dense: DenseViews, camera: Camera, settings: FuseSettings) -> Tensor:
    """Return fx, fy, cx, cy, near, far, jump, voxel, unit, tolerance, origin, base."""
    K = camera.intrinsics
    values = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], settings.min_depth_m, settings.max_depth_m]
    values += [settings.edge_jump_m, settings.voxel_m, UNIT, settings.tolerance_m or 0.0]
    values += settings.origin
    numbers = torch.tensor(values, dtype=torch.float64).to(dense.poses.device)
    if not len(dense.poses):
        return torch.nn.functional.pad(numbers, (0, 3))
    base = torch.floor((dense.poses[0, :3, 3] - numbers[10:13]) / settings.voxel_m)
    return torch.cat([numbers, base])
