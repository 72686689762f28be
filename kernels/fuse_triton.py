"""The lift on GPUs: dense masks are streamed once, and marked pixels go straight into voxels.

One kernel lists the tiles with a marked pixel. In the next a program is one warp, which walks down
a tile, a column per lane: loads are coalesced and made a row ahead, the nearest depth around a
pixel comes from three rows that are read once, and pixels that stay in a voxel are added up in
registers before they go to the table. A third kernel turns the table into voxels, a fourth lets the
views vote. Grids do not depend on what is found, so that the host waits once, at the end. Runs
under TRITON_INTERPRET=1 too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import triton
from torch import Tensor

from scenerl.kernels.fuse_passes_triton import (
    fuse_kernel,
    tile_kernel,
    vote_kernel,
    voxel_kernel,
)
from scenerl.kernels.fuse_torch import UNIT, DenseViews, dense_mask
from scenerl.kernels.views import Camera, FuseSettings, Patch, Voxels

OFFSET = 1 << 20
ROWS, GROUPS = 16, 8
"""A tile is ROWS high and 32 pixels wide; GROUPS of them side by side are looked at together."""
WARPS_PER_PROCESSOR = 16
FIRST_PLACES, MOST_PLACES = 1 << 18, 1 << 28
"""The table grows by 4 from one to the other."""
VOTE_BLOCK, VOTE_VIEWS = 128, 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeviceVoxels:
    """The fields of `kernels/views.py: Voxels` as tensors on the device, in any order."""

    keys: Tensor
    """int64 [n]: ascending in the order of the cells."""
    points: Tensor
    colors: Tensor
    counts: Tensor
    could_see: Tensor
    marks: Tensor
    views: Tensor
    """int64 [n, words]."""

    def take(self, index: Tensor | slice) -> "DeviceVoxels":
        """Return the voxels at these places."""
        return DeviceVoxels(
            keys=self.keys[index],
            points=self.points[index],
            colors=self.colors[index],
            counts=self.counts[index],
            could_see=self.could_see[index],
            marks=self.marks[index],
            views=self.views[index],
        )

    def to_voxels(self) -> Voxels:
        """Copy to the host, in the order of the cells."""
        ordered = self.take(self.keys.argsort())
        return Voxels(
            points=ordered.points.cpu().numpy(),
            colors=ordered.colors.cpu().numpy(),
            counts=ordered.counts.cpu().numpy(),
            could_see=ordered.could_see.cpu().numpy(),
            marks=ordered.marks.cpu().numpy(),
            views=ordered.views.cpu().numpy().view(np.uint64),
        )


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
        settings: Range, flying pixels, grid and tolerance. A voxel of more than 2^24 pixels would
            overflow the sums of its colours.

    Raises:
        ValueError: If points lie farther than 2^20 voxels from the first camera, or the voxels do
            not fit into the largest table.
    """
    mask = _aligned(mask)
    places = min(FIRST_PLACES, max(1024, 1 << (2 * mask.numel()).bit_length()))
    while True:
        voxels, flags = _fuse(dense, mask, voters, camera, settings, places)
        too_far, full, count = flags.tolist()[:3]
        if too_far:
            raise ValueError(
                f"points lie more than {OFFSET * settings.voxel_m:.0f} m from the first camera; "
                "check the poses and the depth, or take larger voxels"
            )
        if not full and count <= len(voxels.keys):
            return voxels.take(slice(count))
        if places >= MOST_PLACES:
            raise ValueError(
                f"one object fills more than {count} voxels; take larger voxels or fewer frames"
            )
        places *= 4


def _fuse(
    dense: DenseViews,
    mask: Tensor,
    voters: Sequence[int],
    camera: Camera,
    settings: FuseSettings,
    places: int,
) -> tuple[DeviceVoxels, Tensor]:
    """Start all work; returns voxels, of which the first flags[2] exist, and the flags."""
    device, (num_views, height, width) = mask.device, dense.depth_m.shape
    words, most = max(1, (num_views + 63) // 64), int(0.7 * places)
    down, across = triton.cdiv(height, ROWS), triton.cdiv(width, 32)
    numbers, color_row, color_column = _constants(camera, settings, device)
    keys = torch.full((places,), -1, dtype=torch.int64, device=device)
    sizes = (places * 4, places, places * words, 2 * most, 3)
    zeros = torch.zeros(sum(sizes), dtype=torch.int64, device=device).split(sizes)
    sums, colors, bits, ballots, rest = zeros
    flags = rest.view(torch.int32)
    out = torch.empty(most * (2 + words), dtype=torch.int64, device=device)
    out_keys, counts, views = out.split((most, most, most * words))
    points, means = torch.empty(2, most, 3, dtype=torch.float64, device=device)
    if mask.numel():
        tiles = torch.empty(num_views * down * across, dtype=torch.int64, device=device)
        shape = (down * triton.cdiv(across, GROUPS), num_views)
        tile_kernel[shape](
            mask.view(torch.int64), tiles, flags, height, down, across, mask.shape[2] // 8,
            ROWS=ROWS, GROUPS=GROUPS, num_warps=4,
        )  # fmt: skip
        color = mask if dense.color is None else dense.color
        color_size = (0, 0) if dense.color is None else color.shape[1:3]
        fuse_kernel[(min(len(tiles), _programs(device)),)](
            dense.depth_m, mask, dense.poses, color, color_row, color_column, numbers, tiles, keys,
            sums, colors, bits, flags, height, width, mask.shape[2], down, across, *color_size,
            places, words, HAS_COLOR=dense.color is not None, HAS_JUMP=settings.edge_jump_m > 0,
            ROWS=ROWS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        voxel_kernel[(places // 1024,)](
            keys, sums, colors, bits, flags, numbers, dense.poses, out_keys, points, means, counts,
            views, most, words, BLOCK=1024, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    if len(voters) and mask.numel():
        groups = triton.cdiv(len(voters), VOTE_VIEWS)
        blocks = min(triton.cdiv(most, VOTE_BLOCK), max(1, _programs(device) // groups))
        vote_kernel[(blocks, groups)](
            dense.depth_m, mask, _voters(tuple(voters), device), dense.poses, numbers, points,
            flags, ballots, most, len(voters), height, width, mask.shape[2], BLOCK=VOTE_BLOCK,
            VIEWS=VOTE_VIEWS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    voxels = DeviceVoxels(
        keys=out_keys,
        points=points,
        colors=means,
        counts=counts,
        could_see=ballots[:most],
        marks=ballots[most:],
        views=views.view(most, words),
    )
    return voxels, flags


def _aligned(mask: Tensor) -> Tensor:
    """Return a mask as uint8 whose rows are whole 64-bit words; a copy only where they are not."""
    mask = mask.contiguous().view(torch.uint8)
    beyond = -mask.shape[2] % 8
    return torch.nn.functional.pad(mask, (0, beyond)) if beyond else mask


@lru_cache(maxsize=16)
def _constants(
    camera: Camera, settings: FuseSettings, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of the kernels, and where the rows and columns of depth lie in colour.

    Numbers: fx, fy, cx, cy, near, far, jump, voxel, unit, tolerance, origin, 1 / voxel, and from
    16 on y / z of every row, then x / z of every column.
    """
    K, (width, height) = camera.intrinsics, camera.size
    values = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], settings.min_depth_m, settings.max_depth_m]
    values += [settings.edge_jump_m, settings.voxel_m, UNIT, settings.tolerance_m or 0.0]
    values += [*settings.origin, 1 / settings.voxel_m, 0.0, 0.0]
    rays = (np.arange(height) - K[1, 2]) / K[1, 1], (np.arange(width) - K[0, 2]) / K[0, 0]
    numbers = torch.from_numpy(np.concatenate([values, *rays]))
    maps = torch.from_numpy(camera.color_row), torch.from_numpy(camera.color_column)
    return numbers.to(device), maps[0].to(device), maps[1].to(device)


@lru_cache(maxsize=16)
def _voters(voters: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(voters, dtype=torch.int64).to(device)


@lru_cache(maxsize=16)
def _programs(device: torch.device) -> int:
    """Return how many programs of one warp a device works on at once, about."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count * WARPS_PER_PROCESSOR
