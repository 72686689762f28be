"""SAM2 as tracker: boxes in a few frames become masks in many."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scenerl.configs.schema import ConfigError, TrackerConfig
from scenerl.envs.sam2_model import TINY, build_sam2, frame_tensor
from scenerl.envs.tracking import check_prompts
from scenerl.preprocess.records import Box2D

if TYPE_CHECKING:
    from scenerl.preprocess.scene import Scene

OBJECT = 1
"""SAM2's object id of the only object of a track."""

FEATURE_BYTES = 256 * 2**20
"""Image features of the latest scene are kept for its next track while they fit in this."""


class SceneFrames:
    """Frames of a scene as SAM2 wants to index them, read when they are needed."""

    def __init__(self, scene: "Scene", frames: Sequence[int], image_size: int) -> None:
        """Remember which frames; reads nothing."""
        self.scene = scene
        self.frames = tuple(frames)
        self.image_size = image_size

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def __getitem__(self, place: int) -> Tensor:
        """Return float32 [3, size, size], normalised."""
        return frame_tensor(self.scene.color(self.frames[place]), self.image_size)


class Sam2Tracker:
    """Tracker on a SAM2 video predictor; see `envs/tracking.py` for what it promises."""

    def __init__(self, config: TrackerConfig, device: str = "cpu") -> None:
        """Build the model and load its weights.

        Args:
            config: Section `tracker`.
            device: Torch device; bfloat16 is used on CUDA.

        Raises:
            ConfigError: If config and checkpoint are missing or do not match.
        """
        if config.config is None and config.checkpoint != TINY:
            raise ConfigError(
                f"tracker.checkpoint is {config.checkpoint!r}, but tracker.config is not set; name "
                "the YAML of these weights, for example configs/sam2.1/sam2.1_hiera_l.yaml"
            )
        self.config = config
        self.model = build_sam2(config.config, config.checkpoint, device=device)
        self._scene_path: str | None = None
        self._features: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def track(
        self,
        scene: "Scene",
        boxes: Mapping[int, Box2D],
        frame_indices: Sequence[int],
        masks: Mapping[int, np.ndarray] | None = None,
    ) -> dict[int, np.ndarray]:
        """Return the object's masks; see `Tracker.track`.

        At most `max_frames` frames are tracked, those nearest to a prompt.
        """
        check_prompts(scene, boxes, frame_indices, masks)
        masks = masks or {}
        prompted = sorted({*boxes, *masks})
        frames = self._frames(prompted, frame_indices)
        with torch.inference_mode(), self._autocast():
            state = self._start(scene, frames)
            self._prompt(state, frames, boxes, masks)
            found = self._propagate(state, frames)
        found.update({index: masks[index] for index in masks})
        asked = set(frame_indices)
        return {n: found[n] for n in sorted(found) if n in asked and found[n].any()}

    def segment(self, scene: "Scene", frame: int, box: Box2D) -> np.ndarray:
        """Return the mask of what a box shows in one frame.

        Args:
            scene: The recording.
            frame: Index of the frame.
            box: In pixels of the native colour frame.

        Returns:
            bool [height, width] in colour size; all False when nothing is found.
        """
        width, height = scene.color_size
        found = self.track(scene, {frame: box}, [frame])
        return found.get(frame, np.zeros((height, width), bool))

    def _frames(self, prompted: list[int], frame_indices: Sequence[int]) -> list[int]:
        def distance(index: int) -> int:
            return min(abs(index - prompt) for prompt in prompted)

        nearest = sorted(frame_indices, key=lambda index: (distance(index), index))
        return sorted({*prompted, *nearest[: self.config.max_frames]})

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.model.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _start(self, scene: "Scene", frames: list[int]) -> dict[str, Any]:
        """Return the state of a video of frames in memory, as `init_state` makes of a folder."""
        images = SceneFrames(scene, frames, self.model.image_size)
        width, height = scene.color_size
        device = self.model.device
        per_object = (
            "point_inputs_per_obj",
            "mask_inputs_per_obj",
            "constants",
            "obj_id_to_idx",
            "obj_idx_to_id",
            "output_dict_per_obj",
            "temp_output_dict_per_obj",
            "frames_tracked_per_obj",
        )
        return {
            "images": images,
            "cached_features": self._encode(images),
            "num_frames": len(frames),
            "offload_video_to_cpu": True,
            "offload_state_to_cpu": False,
            "video_height": height,
            "video_width": width,
            "device": device,
            "storage_device": device,
            "obj_ids": [],
            **{key: {} for key in per_object},
        }

    def _encode(self, images: SceneFrames) -> dict[int, tuple[Tensor, dict[str, Any]]]:
        """Return the features of small models by place; none for large ones.

        SAM2 computes what is missing frame by frame and keeps only the last frame's.
        """
        if str(images.scene.path) != self._scene_path:
            self._scene_path, self._features = str(images.scene.path), {}
        for place, index in enumerate(images.frames):
            if index in self._features:
                continue
            image = images[place].to(self.model.device)[None]
            encoded = self.model.forward_image(image)
            first = next(iter(self._features.values()), None)
            if first is not None:
                encoded["vision_pos_enc"] = first[1]["vision_pos_enc"]
            elif _num_bytes(encoded["backbone_fpn"]) * len(images) > FEATURE_BYTES:
                return {}
            self._features[index] = (image, encoded)
        return {place: self._features[index] for place, index in enumerate(images.frames)}

    def _prompt(
        self,
        state: dict[str, Any],
        frames: list[int],
        boxes: Mapping[int, Box2D],
        masks: Mapping[int, np.ndarray],
    ) -> None:
        for index, mask in masks.items():
            self.model.add_new_mask(state, frames.index(index), OBJECT, torch.from_numpy(mask))
        for index, box in boxes.items():
            if index not in masks:
                corners = np.asarray(box, np.float32)
                self.model.add_new_points_or_box(state, frames.index(index), OBJECT, box=corners)

    def _propagate(self, state: dict[str, Any], frames: list[int]) -> dict[int, np.ndarray]:
        """Track from the first prompted frame to the last frame and back to the first."""
        found = {}
        for reverse in (False, True):
            for place, _, logits in self.model.propagate_in_video(state, reverse=reverse):
                found[frames[place]] = (logits[0, 0] > 0).cpu().numpy()
        return found


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
