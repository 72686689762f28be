"""A tracker without weights: depth and poses say which pixels of all frames show one surface.

1. The scene is fused into voxels; floor, ceiling and walls are planes with nearly everything on one
   side and are left out.
2. A voxel may belong to the object when it falls into most of the prompted boxes whose frame could
   contain it.
3. Of the voxels that the prompted frames see in their boxes, the strongest connected piece is the
   object; pixels count more the nearer they are to the middle of a box.
4. Connected voxels that no prompted frame sees (the back of the object) are added.
5. The mask in any frame is the pixels whose own surface point lies in the object's voxels, so
   occlusion needs no extra test and masks have no holes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenerl.configs.schema import TrackerConfig
from scenerl.envs.scene_voxels import SceneVoxels, fuse_scene
from scenerl.envs.tracking import check_prompts
from scenerl.kernels.clean import components, keep_strong_components
from scenerl.kernels.unproject import grid_pixels, nearest_pixels, project
from scenerl.preprocess.records import Box2D
from scenerl.preprocess.scene import Scene

BOX_MARGIN = 0.05
"""A box is widened by this share of its sides before it judges voxels."""
MIN_BOX_SHARE = 0.6
"""Share of the boxes that could contain a voxel which must contain it: 2 of 3, 2 of 2."""
STEP_M = 0.08
"""Longest gap inside an object."""
SECOND_PIECE = 0.5
"""Evidence, relative to the strongest piece, with which another piece belongs to the object."""
REACH = 1.0
"""Unseen voxels may be this far outside the seen part's bounds, in units of its diagonal."""
MIN_PIXELS = 12
"""Smaller masks are not returned, in pixels of the depth image."""
MAX_SCENES = 8
"""Fused scenes kept in memory."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Prompt:
    """One prompted frame on the depth grid."""

    frame: int
    region: Tensor  # bool [height, width]: the widened box, or the mask
    weight: Tensor  # float32 [height, width]: evidence of each pixel, 0 outside the box or mask


class ReprojectTracker:
    """Tracker on depth and poses; see `envs/tracking.py` for what it promises."""

    def __init__(self, config: TrackerConfig, device: str = "cpu") -> None:
        """Remember the settings; scenes are fused when first asked about."""
        self.config = config
        self.device = device
        self._fused: dict[str, SceneVoxels] = {}

    def track(
        self,
        scene: Scene,
        boxes: Mapping[int, Box2D],
        frame_indices: Sequence[int],
        masks: Mapping[int, np.ndarray] | None = None,
    ) -> dict[int, np.ndarray]:
        """Return the object's masks; see `Tracker.track`."""
        check_prompts(scene, boxes, frame_indices, masks)
        given = {} if masks is None else dict(masks)
        voxels = self._voxels(scene)
        prompts = [_mask_prompt(scene, n, given[n], self.device) for n in sorted(given)]
        prompts += [
            _box_prompt(scene, n, boxes[n], self.device) for n in sorted(boxes) if n not in given
        ]
        is_object = _object_voxels(voxels, prompts)
        lookup = torch.cat([is_object, is_object.new_zeros(1)])  # -1 finds False
        row, column, inside = _depth_of_color(scene, self.device)
        found = {}
        for frame in sorted(set(frame_indices)):
            if frame in given:
                if given[frame].any():
                    found[frame] = given[frame]
                continue
            mask = lookup[voxels.voxel_of_pixels(frame)]  # [height, width] of depth
            if int(mask.sum()) >= MIN_PIXELS:
                found[frame] = (mask[row, column] & inside).cpu().numpy()
        return found

    def _voxels(self, scene: Scene) -> SceneVoxels:
        key = str(scene.path)
        if key not in self._fused:
            if len(self._fused) >= MAX_SCENES:
                self._fused.pop(next(iter(self._fused)))
            self._fused[key] = fuse_scene(scene, self.config.max_frames, self.device)
        return self._fused[key]


def _object_voxels(voxels: SceneVoxels, prompts: list[_Prompt]) -> Tensor:
    """Decide which voxels are the object, bool [voxels]."""
    is_object = torch.zeros(len(voxels.points), dtype=torch.bool, device=voxels.points.device)
    inside_share = _inside_share(voxels, prompts)
    evidence, seen = _evidence(voxels, prompts)
    allowed = (inside_share >= MIN_BOX_SHARE) & ~voxels.is_room
    if not bool((allowed & (evidence > 0)).any()):
        allowed = (inside_share > 0) & ~voxels.is_room
    core = (allowed & (evidence > 0)).nonzero()[:, 0]
    if len(core) == 0:
        return is_object
    strong = keep_strong_components(voxels.points[core], STEP_M, evidence[core], SECOND_PIECE)
    core = core[strong]
    hidden = (allowed & ~seen).nonzero()[:, 0]
    is_object[_grow(voxels.points, core, hidden)] = True
    return is_object


def _inside_share(voxels: SceneVoxels, prompts: list[_Prompt]) -> Tensor:
    """Share of the prompted frames with a voxel in view whose region contains it."""
    scene = voxels.scene
    intrinsics = torch.tensor(scene.intrinsics_depth, dtype=torch.float32).to(voxels.points)
    in_view = torch.zeros_like(voxels.points[:, 0])
    in_region = torch.zeros_like(in_view)
    for prompt in prompts:
        pose = torch.tensor(scene.camera_to_world(prompt.frame)).to(voxels.points)
        uv, z = project(voxels.points, intrinsics, pose)
        row, column, inside = nearest_pixels(uv, *prompt.region.shape)
        inside &= z > 0
        in_view += inside
        in_region += inside & prompt.region[row, column]
    return in_region / in_view.clamp(min=1)


def _evidence(voxels: SceneVoxels, prompts: list[_Prompt]) -> tuple[Tensor, Tensor]:
    """Sum the pixel weights per voxel over the prompts, and mark what any of them sees."""
    evidence = torch.zeros_like(voxels.points[:, 0])
    seen = torch.zeros_like(evidence, dtype=torch.bool)
    for prompt in prompts:
        image = voxels.voxel_of_pixels(prompt.frame)
        visible = image >= 0
        evidence.index_add_(0, image[visible], prompt.weight[visible])
        seen[image[visible]] = True
    return evidence, seen


def _grow(points: Tensor, core: Tensor, hidden: Tensor) -> Tensor:
    """Add hidden voxels that are connected to the core and not far from it."""
    lower, upper = points[core].amin(dim=0), points[core].amax(dim=0)
    reach = REACH * (upper - lower).norm()
    near = ((points[hidden] >= lower - reach) & (points[hidden] <= upper + reach)).all(dim=1)
    both = torch.cat([core, hidden[near]])
    label = components(points[both], STEP_M)
    return both[torch.isin(label, label[: len(core)])]


def _box_prompt(scene: Scene, frame: int, box: Box2D, device: str) -> _Prompt:
    """Bring a box onto the depth grid; weights fall off from its middle like a Gaussian."""
    row, column, inside = _color_of_depth(scene, device)
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    across = (column + 0.5 - (x0 + x1) / 2).abs() / width  # 0 in the middle, 0.5 at the edge
    down = (row + 0.5 - (y0 + y1) / 2).abs() / height
    offset = torch.maximum(across, down)
    weight = torch.exp(-(across**2 + down**2) / (2 * 0.25**2)).float()
    return _Prompt(
        frame=frame,
        region=inside & (offset <= 0.5 + BOX_MARGIN),
        weight=torch.where(inside & (offset <= 0.5), weight, 0.0),
    )


def _mask_prompt(scene: Scene, frame: int, mask: np.ndarray, device: str) -> _Prompt:
    row, column, inside = _color_of_depth(scene, device)
    region = torch.tensor(mask, device=device)[row, column] & inside
    return _Prompt(frame=frame, region=region, weight=region.float())


def _color_of_depth(scene: Scene, device: str) -> tuple[Tensor, Tensor, Tensor]:
    depth, color = _cameras(scene, device)
    return grid_pixels(scene.depth_size, scene.color_size, depth, color)


def _depth_of_color(scene: Scene, device: str) -> tuple[Tensor, Tensor, Tensor]:
    depth, color = _cameras(scene, device)
    return grid_pixels(scene.color_size, scene.depth_size, color, depth)


def _cameras(scene: Scene, device: str) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(scene.intrinsics_depth, dtype=torch.float64, device=device),
        torch.tensor(scene.intrinsics_color, dtype=torch.float64, device=device),
    )
