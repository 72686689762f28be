"""The torch twin of the fused lift: the reference of the compiled ones, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenerl.kernels.clean import view_votes
from scenerl.kernels.unproject import flying_pixels, unproject
from scenerl.kernels.views import Camera, FuseSettings, Patch, View, Voxels
from scenerl.kernels.voxel import voxel_index

UNIT = 2.0**32
"""Steps per metre of the summed offsets."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseViews:
    """All views as tensors on one device."""

    depth_m: Tensor
    """float32 [views, height, width]; 0 where there is none or it is out of range."""
    poses: Tensor
    """float64 [views, 4, 4]."""
    intrinsics: Tensor
    """float64 [3, 3]."""
    color: Tensor | None
    """uint8 [views, color height, color width, 3]."""


def dense_views(
    views: Sequence[View], camera: Camera, settings: FuseSettings, device: str
) -> DenseViews:
    """Stack views on a device and blank depth that is out of range."""
    width, height = camera.size
    depth_m = torch.zeros(len(views), height, width, device=device)
    poses = torch.zeros(len(views), 4, 4, dtype=torch.float64, device=device)
    images = []
    for position, view in enumerate(views):
        depth_m[position] = torch.from_numpy(np.ascontiguousarray(view.depth_m, np.float32))
        poses[position] = torch.from_numpy(np.array(view.camera_to_world, np.float64))
        if view.color is not None:
            images.append(torch.from_numpy(np.array(view.color)).to(device))
    usable = (depth_m >= settings.min_depth_m) & (depth_m <= settings.max_depth_m)
    usable &= (depth_m > 0) & torch.isfinite(depth_m)
    return DenseViews(
        depth_m=torch.where(usable, depth_m, 0.0),
        poses=poses,
        intrinsics=torch.tensor(camera.intrinsics, dtype=torch.float64, device=device),
        color=torch.stack(images) if images else None,
    )


def dense_mask(patches: Sequence[Patch], depth_m: Tensor) -> Tensor:
    """Write the patches of one object into bool [views, height, width]."""
    mask = torch.zeros_like(depth_m, dtype=torch.bool)
    for patch in patches:
        rows, columns = patch.mask.shape
        part = (slice(patch.top, patch.top + rows), slice(patch.left, patch.left + columns))
        mask[patch.view][part] = torch.from_numpy(np.array(patch.mask, bool)).to(mask.device)
    return mask


def fuse_object_torch(
    dense: DenseViews, patches: Sequence[Patch], camera: Camera, settings: FuseSettings
) -> Voxels:
    """Fuse one object; see `kernels/fuse.py`."""
    mask = dense_mask(patches, dense.depth_m)
    clear = mask
    if settings.edge_jump_m > 0 and len(mask):
        clear = mask & ~flying_pixels(dense.depth_m, settings.edge_jump_m)
    points, pixels = unproject(dense.depth_m, clear, dense.intrinsics, dense.poses)
    frame, v, u = pixels.unbind(dim=1)
    origin = torch.tensor(settings.origin, dtype=torch.float64, device=points.device)
    cells, inverse, counts = voxel_index(points, settings.voxel_m, origin)
    corners = origin + cells.double() * settings.voxel_m  # [voxels, 3]
    offsets = torch.round((points - corners[inverse]) * UNIT).long()
    sums = torch.zeros_like(cells).index_add_(0, inverse, offsets)
    means = corners + sums.double() / UNIT / counts[:, None]
    colors = torch.zeros_like(means)
    if dense.color is not None:
        row = torch.from_numpy(camera.color_row).to(v.device)[v]
        column = torch.from_numpy(camera.color_column).to(v.device)[u]
        seen = dense.color[frame, row, column].long()
        colors = torch.zeros_like(cells).index_add_(0, inverse, seen) / counts[:, None].double()
    could_see = marks = torch.zeros_like(counts)
    if settings.tolerance_m is not None:
        voters = settings.voters(patches)
        could_see, marks = _votes(means, mask, voters, dense, settings.tolerance_m)
    return Voxels(
        points=means.cpu().numpy(),
        colors=colors.cpu().numpy(),
        counts=counts.cpu().numpy(),
        could_see=could_see.cpu().numpy(),
        marks=marks.cpu().numpy(),
        views=_view_bits(inverse.cpu().numpy(), frame.cpu().numpy(), len(counts), len(mask)),
    )


def _votes(
    points: Tensor, mask: Tensor, patches: Sequence[Patch], dense: DenseViews, tolerance_m: float
) -> tuple[Tensor, Tensor]:
    asked = torch.tensor([p.view for p in patches], dtype=torch.int64, device=points.device)
    depth_m, poses = dense.depth_m[asked], dense.poses[asked]
    return view_votes(points, depth_m, mask[asked], dense.intrinsics, poses, tolerance_m)


def _view_bits(inverse: np.ndarray, frame: np.ndarray, voxels: int, views: int) -> np.ndarray:
    words = np.zeros((voxels, (views + 63) // 64), np.uint64)
    np.bitwise_or.at(words, (inverse, frame // 64), np.uint64(1) << (frame % 64).astype(np.uint64))
    return words


def lowest_corner_torch(dense: DenseViews, patches: Sequence[Patch]) -> np.ndarray:
    """Return the smallest coordinates of the points of an object; see `kernels/fuse.py`."""
    mask = dense_mask(patches, dense.depth_m)
    points, _ = unproject(dense.depth_m, mask, dense.intrinsics, dense.poses)
    return (points.amin(dim=0) if len(points) else torch.full((3,), torch.inf)).cpu().numpy()
