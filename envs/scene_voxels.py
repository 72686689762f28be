"""A whole recording as voxels, with the voxel of every pixel: the same surface in all frames."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scenerl.kernels.planes import bounding_planes, on_planes
from scenerl.kernels.unproject import flying_pixels, unproject
from scenerl.kernels.voxel import pack_cells, voxel_index, voxel_mean
from scenerl.preprocess.scene import Scene

VOXEL_M = 0.03
MAX_DEPTH_M = 10.0
EDGE_JUMP_M = 0.15
PLANE_TOLERANCE_M = 0.03
CHUNK = 16
"""Frames unprojected at once."""


@dataclass(kw_only=True, slots=True, eq=False)
class SceneVoxels:
    """Occupied cells of a scene and a look-up from pixels to cells."""

    scene: Scene
    points: Tensor
    """float32 [voxels, 3], metres."""
    is_room: Tensor
    """bool [voxels]: on a plane that bounds the room."""
    keys: Tensor
    """int64 [voxels], ascending."""
    lower: Tensor
    """int64 [3]: cell of key 0."""
    extent: Tensor
    """int64 [3]: cells along each axis."""
    pixels: dict[int, Tensor] = field(default_factory=dict)
    """Frame -> int64 [height, width] of the depth image: voxel, or -1."""

    def voxel_of_pixels(self, frame: int) -> Tensor:
        """Return the voxel of every depth pixel of a frame, -1 where there is none."""
        if frame not in self.pixels:
            self.pixels[frame] = self._look_up(frame)
        return self.pixels[frame]

    def _look_up(self, frame: int) -> Tensor:
        points, places = _points(self.scene, [frame], self.points.device)
        width, height = self.scene.depth_size
        image = torch.full((height, width), -1, dtype=torch.int64, device=self.points.device)
        cells = torch.floor(points / VOXEL_M).long() - self.lower
        known = ((cells >= 0) & (cells < self.extent)).all(dim=1)
        key = pack_cells(cells.clamp(min=0), self.extent)
        slot = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        found = known & (self.keys[slot] == key)
        image[places[:, 1], places[:, 2]] = torch.where(found, slot, -1)
        return image


def fuse_scene(scene: Scene, max_frames: int, device: str = "cpu") -> SceneVoxels:
    """Fuse evenly chosen frames of a scene.

    Args:
        scene: The recording.
        max_frames: Most frames to fuse.
        device: Torch device.

    Returns:
        Voxels; of the frames that were not fused, only pixels on fused surfaces have one.
    """
    count = min(max_frames, len(scene.frame_indices))
    every = len(scene.frame_indices) / max(count, 1)
    chosen = [scene.frame_indices[int((place + 0.5) * every)] for place in range(count)]
    cells, sums, counts = [], [], []
    for start in range(0, len(chosen), CHUNK):
        points, _ = _points(scene, chosen[start : start + CHUNK], torch.device(device))
        found, inverse, number = voxel_index(points, VOXEL_M, origin=points.new_zeros(3))
        cells.append(found)
        sums.append(voxel_mean(points, inverse, number) * number[:, None])
        counts.append(number)
    every_cell = torch.cat(cells)
    if len(every_cell) == 0:
        raise ValueError(f"scene {scene.scene_id} has no depth within {MAX_DEPTH_M} m")
    lower = every_cell.amin(dim=0)
    extent = every_cell.amax(dim=0) - lower + 1
    keys, inverse = torch.unique(pack_cells(every_cell - lower, extent), return_inverse=True)
    total = torch.cat(sums).new_zeros(len(keys), 3).index_add_(0, inverse, torch.cat(sums))
    weight = total.new_zeros(len(keys)).index_add_(0, inverse, torch.cat(counts).to(total.dtype))
    points = total / weight[:, None]
    planes = bounding_planes(points, PLANE_TOLERANCE_M)
    return SceneVoxels(
        scene=scene,
        points=points,
        is_room=on_planes(points, planes, PLANE_TOLERANCE_M),
        keys=keys,
        lower=lower,
        extent=extent,
    )


def _points(scene: Scene, frames: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    depth_m = torch.stack([torch.tensor(scene.depth_m(n)) for n in frames]).to(device)
    depth_m = torch.where(depth_m <= MAX_DEPTH_M, depth_m, 0.0)
    poses = torch.stack([torch.tensor(scene.camera_to_world(n)) for n in frames])
    return unproject(
        depth_m,
        ~flying_pixels(depth_m, EDGE_JUMP_M),
        torch.tensor(scene.intrinsics_depth, dtype=torch.float32, device=device),
        poses.float().to(device),
    )
