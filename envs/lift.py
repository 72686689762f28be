"""Masks through depth and poses to one object in metres.

masks -> points (masked pixels with depth, flying pixels left out) -> voxels on one world grid
-> voxels that enough views agree on -> statistical outliers out -> strong components -> box
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenerl.configs.schema import LiftConfig
from scenerl.envs.records import LiftedObject
from scenerl.kernels.box_fit import fit_box
from scenerl.kernels.clean import keep_statistical, keep_strong_components, view_votes
from scenerl.kernels.unproject import flying_pixels, grid_pixels, unproject
from scenerl.kernels.voxel import voxel_index, voxel_mean
from scenerl.preprocess.records import Box3D
from scenerl.preprocess.scene import Scene


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """Depth, mask and pose of some frames, on the pixel grid of the depth images."""

    frame_indices: tuple[int, ...]
    depth_m: Tensor
    """float32 [frames, height, width]; 0 where there is none or it is out of range."""
    mask: Tensor
    """bool [frames, height, width]."""
    intrinsics: Tensor
    """float64 [3, 3] of the depth images."""
    camera_to_world: Tensor
    """float64 [frames, 4, 4]."""
    color_row: Tensor
    """int64 [height, width]: row of the colour image at each depth pixel."""
    color_column: Tensor
    """int64 [height, width]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cloud:
    """Voxels with what was averaged into them."""

    points: Tensor  # float64 [voxels, 3]
    colors: Tensor  # float64 [voxels, 3]
    frame: Tensor  # int64 [n] position in Views of each raw point
    inverse: Tensor  # int64 [n] voxel of each raw point
    counts: Tensor  # int64 [voxels] raw points in each voxel


def lift_masks(
    scene: Scene,
    masks: Mapping[int, np.ndarray],
    label: str,
    config: LiftConfig,
    device: str = "cpu",
) -> LiftedObject:
    """Fuse the masked pixels of all frames into one cleaned cloud and its box.

    Args:
        scene: The recording.
        masks: Frame -> bool [height, width] in colour size. An all-False mask says that the object
            is not seen there; a frame that is absent says nothing.
        label: Name of the object.
        config: Section `lift`.
        device: Torch device of the arithmetic.

    Returns:
        The object; its box is None when no point survived.

    Raises:
        ValueError: If a frame is not usable in the scene or a mask has another size than the
            colour frames.
    """
    views = load_views(scene, masks, config, device)
    mask = views.mask
    if config.edge_jump_m > 0 and len(mask):
        mask = mask & ~flying_pixels(views.depth_m, config.edge_jump_m)
    points, pixels = unproject(views.depth_m, mask, views.intrinsics, views.camera_to_world)
    if len(points) == 0:
        return _empty(label)
    cloud = _fuse(scene, views, points, pixels, config.voxel_m)
    keep = _clean(cloud.points, views, config)
    if not bool(keep.any()):
        return _empty(label)
    seen = torch.unique(cloud.frame[keep[cloud.inverse]]).tolist()
    kept = cloud.points[keep]
    box = fit_box(kept, config.box_trim, weights=cloud.counts[keep].to(kept.dtype)).tolist()
    return LiftedObject(
        label=label,
        points_world=kept.float().cpu().numpy(),
        colors=cloud.colors[keep].round().to(torch.uint8).cpu().numpy(),
        box_world=_as_box(box),
        frame_indices=tuple(views.frame_indices[position] for position in seen),
    )


def load_views(
    scene: Scene, masks: Mapping[int, np.ndarray], config: LiftConfig, device: str = "cpu"
) -> Views:
    """Read depth and pose of the masked frames and bring the masks onto the depth grid.

    Raises:
        ValueError: As documented at `lift_masks`.
    """
    check_masks(scene, masks)
    K_depth = torch.as_tensor(scene.intrinsics_depth, dtype=torch.float64, device=device)
    K_color = torch.as_tensor(scene.intrinsics_color, dtype=torch.float64, device=device)
    row, column, inside = grid_pixels(scene.depth_size, scene.color_size, K_depth, K_color)
    width, height = scene.depth_size
    frames = tuple(sorted(masks))
    depth_m = torch.zeros(len(frames), height, width, device=device)
    mask = torch.zeros(len(frames), height, width, dtype=torch.bool, device=device)
    poses = torch.zeros(len(frames), 4, 4, dtype=torch.float64, device=device)
    for position, index in enumerate(frames):
        depth_m[position] = torch.tensor(scene.depth_m(index), device=device)
        full = torch.tensor(np.asarray(masks[index], dtype=bool), device=device)
        mask[position] = full[row, column] & inside
        poses[position] = torch.tensor(scene.camera_to_world(index), device=device)
    usable = (depth_m >= config.min_depth_m) & (depth_m <= config.max_depth_m)
    return Views(
        frame_indices=frames,
        depth_m=torch.where(usable, depth_m, 0.0),
        mask=mask,
        intrinsics=K_depth,
        camera_to_world=poses,
        color_row=row,
        color_column=column,
    )


def check_masks(scene: Scene, masks: Mapping[int, np.ndarray]) -> None:
    """Refuse masks of unknown frames or of another size.

    Raises:
        ValueError: As documented at `lift_masks`.
    """
    unknown = sorted(set(masks) - set(scene.frame_indices))
    if unknown:
        raise ValueError(
            f"masks of frames {unknown[:5]}, which scene {scene.scene_id} cannot use (it has "
            f"{len(scene.frame_indices)} usable frames); name masks after usable frames"
        )
    width, height = scene.color_size
    for index, mask in masks.items():
        if mask.shape != (height, width):
            shape = "x".join(str(side) for side in reversed(mask.shape))
            raise ValueError(
                f"mask of frame {index} is {shape}, but the colour frames of scene "
                f"{scene.scene_id} are {width}x{height}; resize it with nearest neighbour"
            )


def _fuse(scene: Scene, views: Views, points: Tensor, pixels: Tensor, voxel_m: float) -> _Cloud:
    frame, v, u = pixels.unbind(dim=1)
    row, column = views.color_row[v, u], views.color_column[v, u]
    colors = torch.zeros_like(points)
    for position in torch.unique(frame).tolist():
        here = frame == position
        image = torch.tensor(scene.color(views.frame_indices[position]), device=points.device)
        colors[here] = image[row[here], column[here]].to(points.dtype)
    _, inverse, counts = voxel_index(points, voxel_m, origin=points.new_zeros(3))
    return _Cloud(
        points=voxel_mean(points, inverse, counts),
        colors=voxel_mean(colors, inverse, counts),
        frame=frame,
        inverse=inverse,
        counts=counts,
    )


def _clean(points: Tensor, views: Views, config: LiftConfig) -> Tensor:
    """Decide which voxels belong to the object; each step looks at what the last one left."""
    could_see, marks = view_votes(
        points,
        views.depth_m,
        views.mask,
        views.intrinsics,
        views.camera_to_world,
        config.surface_tolerance_m,
    )
    keep = marks >= config.min_view_share * could_see.clamp(min=1)
    if config.outlier_neighbors > 0:
        left = keep.nonzero()[:, 0]
        stays = keep_statistical(points[left], config.outlier_neighbors, config.outlier_std_ratio)
        keep[left[~stays]] = False
    if config.component_radius_m > 0:
        left = keep.nonzero()[:, 0]
        stays = keep_strong_components(
            points[left],
            config.component_radius_m,
            weights=marks[left].to(points.dtype),
            min_share=config.component_min_share,
        )
        keep[left[~stays]] = False
    return keep


def _empty(label: str) -> LiftedObject:
    return LiftedObject(
        label=label,
        points_world=np.zeros((0, 3), dtype=np.float32),
        colors=np.zeros((0, 3), dtype=np.uint8),
        box_world=None,
        frame_indices=(),
    )


def _as_box(values: list[float]) -> Box3D:
    xmin, ymin, zmin, xmax, ymax, zmax = values
    return (xmin, ymin, zmin, xmax, ymax, zmax)
