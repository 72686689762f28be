"""Trackers: boxes in a few frames become masks in many.

One small protocol, two implementations: SAM2 (`envs/tracker_sam2.py`) looks at colour, the
re-projecting tracker (`envs/tracker_reproject.py`) at depth and poses and needs no weights.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from scenerl.configs.schema import TrackerConfig
from scenerl.preprocess.records import Box2D
from scenerl.preprocess.scene import Scene


class Tracker(Protocol):
    """Turns prompts in some frames into masks of the same object in all asked frames."""

    def track(
        self,
        scene: Scene,
        boxes: Mapping[int, Box2D],
        frame_indices: Sequence[int],
        masks: Mapping[int, np.ndarray] | None = None,
    ) -> dict[int, np.ndarray]:
        """Return the object's mask in every asked frame where it can be seen.

        Args:
            scene: The recording.
            boxes: Prompted frame -> box in pixels of the native colour frame.
            frame_indices: Frames to return masks for; prompted frames outside are still used.
            masks: Prompted frame -> bool [height, width] in colour size; such a mask is taken as
                it is and its frame needs no box.

        Returns:
            Frame -> bool [height, width] in colour size. A frame where nothing is found is absent.

        Raises:
            ValueError: If nothing is prompted, a frame is not one of the scene's, or a mask has
                another size than the colour frames.
        """
        ...


def make_tracker(config: TrackerConfig, device: str = "cpu") -> Tracker:
    """Build the tracker that the configuration names.

    Args:
        config: Section `tracker`.
        device: Torch device of the tracker's model or arithmetic.

    Returns:
        A tracker, ready to use.
    """
    if config.name == "reproject":
        from scenerl.envs.tracker_reproject import ReprojectTracker

        return ReprojectTracker(config, device=device)
    from scenerl.envs.tracker_sam2 import Sam2Tracker

    return Sam2Tracker(config, device=device)


def check_prompts(
    scene: Scene,
    boxes: Mapping[int, Box2D],
    frame_indices: Sequence[int],
    masks: Mapping[int, np.ndarray] | None,
) -> None:
    """Refuse prompts that no tracker can use.

    Raises:
        ValueError: As documented at `Tracker.track`.
    """
    masks = masks or {}
    if not boxes and not masks:
        raise ValueError("no box and no mask was given; prompt at least one frame")
    known = set(scene.frame_indices)
    unknown = sorted({*boxes, *masks, *frame_indices} - known)
    if unknown:
        raise ValueError(
            f"frames {unknown[:5]} are not usable frames of scene {scene.scene_id} "
            f"({len(known)} frames, {min(known)}..{max(known)}); see scene.problems"
        )
    width, height = scene.color_size
    for index, mask in masks.items():
        if mask.shape != (height, width):
            raise ValueError(
                f"mask of frame {index} is {mask.shape[1]}x{mask.shape[0]}, but colour frames are "
                f"{width}x{height}; resize it with nearest neighbour"
            )
