"""Masks through depth and poses to objects in metres: the one lift of all commands and rewards.

masks -> voxels on one world grid (masked pixels with depth, flying pixels left out)
-> voxels that enough views agree on -> statistical outliers out -> strong components -> box
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scenerl.configs.schema import LiftConfig
from scenerl.envs.records import LiftedObject
from scenerl.kernels.backend import Backend
from scenerl.kernels.box_fit import fit_box
from scenerl.kernels.clean import dbscan, keep_statistical, keep_strong_components
from scenerl.kernels.fuse import cut_patches, fuse_objects, lowest_corner
from scenerl.kernels.fuse_torch import DenseViews
from scenerl.kernels.threads import map_threads
from scenerl.kernels.views import Camera, FuseSettings, Patch, View, Voxels
from scenerl.preprocess.records import Box3D
from scenerl.preprocess.scene import Scene


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskedObject:
    """What is to be lifted."""

    label: str
    masks: Mapping[int, np.ndarray]
    """Frame -> bool [height, width] in colour size. An all-False mask says that the object is not
    seen there; a frame that is absent says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiftedPatches:
    """What the patches of one object became."""

    points: np.ndarray
    """float64 [n, 3], metres."""
    colors: np.ndarray
    """float64 [n, 3]."""
    box_world: Box3D | None
    """None when no point survived."""
    views: tuple[int, ...]
    """Views with a pixel in what survived."""


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
        masks: As documented at `MaskedObject`.
        label: Name of the object.
        config: Section `lift`.
        device: Torch device of the arithmetic.

    Returns:
        The object; its box is None when no point survived.

    Raises:
        ValueError: If a frame is not usable in the scene or a mask has another size than the
            colour frames.
    """
    return lift_objects(scene, [MaskedObject(label=label, masks=masks)], config, device)[0]


def lift_objects(
    scene: Scene,
    objects: Sequence[MaskedObject],
    config: LiftConfig,
    device: str = "cpu",
    *,
    with_colors: bool = True,
) -> list[LiftedObject]:
    """Lift many objects, or many answers about one, at once: each frame is decoded once for all.

    Args:
        scene: The recording.
        objects: What to lift; masks may overlap.
        config: Section `lift`.
        device: Torch device of the arithmetic.
        with_colors: False leaves colours zero and does not decode colour frames.

    Returns:
        One object each; its box is None when no point survived.

    Raises:
        ValueError: As documented at `lift_masks`.
    """
    for item in objects:
        check_masks(scene, item.masks)
    frames = sorted({frame for item in objects for frame in item.masks})
    camera = Camera.of(
        scene.depth_size, scene.intrinsics_depth, scene.color_size, scene.intrinsics_color
    )

    def read(frame: int) -> View:
        return View(
            depth_m=scene.depth_m(frame),
            camera_to_world=scene.camera_to_world(frame),
            color=scene.color(frame) if with_colors else None,
        )

    views = map_threads(read, frames)
    position = {frame: number for number, frame in enumerate(frames)}
    patches = [
        cut_patches({position[n]: mask for n, mask in item.masks.items()}, camera)
        for item in objects
    ]
    found = lift_patches(views, patches, camera, config, device)
    return [
        LiftedObject(
            label=item.label,
            points_world=cloud.points.astype(np.float32),
            colors=np.rint(cloud.colors).astype(np.uint8),
            box_world=cloud.box_world,
            frame_indices=tuple(frames[number] for number in cloud.views),
        )
        for item, cloud in zip(objects, found, strict=True)
    ]


def lift_patches(
    views: Sequence[View],
    objects: Sequence[Sequence[Patch]],
    camera: Camera,
    config: LiftConfig,
    device: str = "cpu",
    backend: Backend = "auto",
) -> list[LiftedPatches]:
    """Lift patches of views that are in memory, as `lift_objects` does those of a scene."""
    if config.recipe == "open3d":
        return [_open3d_recipe(views, patches, camera, config, backend) for patches in objects]
    clouds = fuse_objects(views, objects, camera, fuse_settings(config), device, backend)
    return map_threads(lambda cloud: _consensus_recipe(cloud, config), clouds)


def lift_device_masks(
    dense: DenseViews, mask: Tensor, camera: Camera, config: LiftConfig
) -> LiftedPatches:
    """Lift one object whose masks, bool [views, height, width], lie on the GPU with the depth.

    Recipe "consensus"; every view has a say.
    """
    from scenerl.kernels.fuse_triton import fuse_masks_triton

    settings = fuse_settings(config)
    voters = settings.spread(range(len(mask)))
    cloud = fuse_masks_triton(dense, mask, voters, camera, settings)
    keep = _agreed(cloud.points, cloud.could_see, cloud.marks, config)
    cloud = cloud.take(keep.nonzero()[:, 0])
    box = None
    if len(cloud.points):
        weights = cloud.counts.double()
        box = _as_box(fit_box(cloud.points, config.box_trim, weights=weights).tolist())
    voxels = cloud.to_voxels()
    return LiftedPatches(
        points=voxels.points,
        colors=voxels.colors,
        box_world=box,
        views=tuple(voxels.seen_by(np.ones(len(voxels.points), bool))),
    )


def fuse_settings(config: LiftConfig) -> FuseSettings:
    """Return the settings of the fused pass under the recipe "consensus"."""
    return FuseSettings(
        voxel_m=config.voxel_m,
        min_depth_m=config.min_depth_m,
        max_depth_m=config.max_depth_m,
        edge_jump_m=config.edge_jump_m,
        tolerance_m=config.surface_tolerance_m,
        max_vote_views=config.max_vote_views,
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


def _consensus_recipe(cloud: Voxels, config: LiftConfig) -> LiftedPatches:
    """Keep the voxels that the views agree on."""
    points, marks = torch.from_numpy(cloud.points), torch.from_numpy(cloud.marks)
    keep = _agreed(points, torch.from_numpy(cloud.could_see), marks, config)
    return _kept(cloud, keep, config.box_trim)


def _agreed(points: Tensor, could_see: Tensor, marks: Tensor, config: LiftConfig) -> Tensor:
    """Tell which voxels the views agree on; each step looks at what the last one left."""
    keep = marks >= config.min_view_share * could_see.clip(min=1)
    if config.outlier_neighbors > 0:
        left = keep.nonzero()[:, 0]
        stays = keep_statistical(points[left], config.outlier_neighbors, config.outlier_std_ratio)
        keep[left[~stays]] = False
    if config.component_radius_m > 0:
        left = keep.nonzero()[:, 0]
        stays = keep_strong_components(
            points[left],
            config.component_radius_m,
            weights=marks[left].double(),
            min_share=config.component_min_share,
        )
        keep[left[~stays]] = False
    return keep


def _open3d_recipe(
    views: Sequence[View],
    patches: Sequence[Patch],
    camera: Camera,
    config: LiftConfig,
    backend: Backend,
) -> LiftedPatches:
    """Do what is usually written with Open3D: voxels, statistical outliers, largest cluster."""
    settings = FuseSettings(
        voxel_m=config.voxel_m,
        min_depth_m=config.min_depth_m,
        max_depth_m=config.max_depth_m,
        tolerance_m=None,
    )
    low = np.array(lowest_corner(views, patches, camera, settings, backend))
    if np.isfinite(low).all():
        x, y, z = (float(value) for value in low - config.voxel_m * 0.5)
        settings = replace(settings, origin=(x, y, z))
    (cloud,) = fuse_objects(views, [patches], camera, settings, backend=backend)
    points = torch.from_numpy(cloud.points)
    keep = keep_statistical(points, config.outlier_neighbors, config.outlier_std_ratio)
    label = dbscan(points[keep], config.component_radius_m, config.cluster_min_points)
    if bool((label >= 0).any()):
        largest = label[label >= 0].bincount().argmax()
        keep[keep.nonzero()[:, 0][label != largest]] = False
    return _kept(cloud, keep, trim=0.0)


def _kept(cloud: Voxels, keep: Tensor, trim: float) -> LiftedPatches:
    """Box the voxels that stay."""
    chosen = keep.numpy()
    box = None
    if chosen.any():
        points, weights = torch.from_numpy(cloud.points)[keep], torch.from_numpy(cloud.counts)[keep]
        box = _as_box(fit_box(points, trim, weights=weights.double()).tolist())
    return LiftedPatches(
        points=cloud.points[chosen],
        colors=cloud.colors[chosen],
        box_world=box,
        views=tuple(cloud.seen_by(chosen)),
    )


def _as_box(values: list[float]) -> Box3D:
    xmin, ymin, zmin, xmax, ymax, zmax = values
    return (xmin, ymin, zmin, xmax, ymax, zmax)
