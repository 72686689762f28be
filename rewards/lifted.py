"""The built-in reward `lifted_iou`: is the box right in metres?

The box of a reply prompts the tracker in its frame; the masks it gives over the other frames are
lifted through depth and poses; the box around the points is compared with the true one.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenerl.configs.schema import LiftConfig, TrackerConfig
from scenerl.preprocess.records import Box3D

if TYPE_CHECKING:
    from scenerl.preprocess.scene import Scene

Rewards = list[float | None]


class LiftedIou:
    """The reward function, with a tracker that is made at the first box."""

    def __init__(self, tracker: TrackerConfig, lift: LiftConfig) -> None:
        """Remember how boxes are tracked and lifted."""
        self._lift = lift
        self._make_tracker: Callable[[], Any] = functools.cache(
            functools.partial(_make_tracker, tracker)
        )

    def __call__(
        self,
        parsed: list[dict[str, Any]],
        media: list[list[dict[str, Any]]],
        frame_index: list[int | None],
        box_world: list[list[float] | None],
    ) -> Rewards:
        """Score each box by the 3D IoU of what it lifts to, in [0, 1].

        None without a true 3D box, without a scene folder (no depth), and for prompts that ask
        for no box. A reply that cannot be parsed, and a box that lifts to nothing, score 0.
        """
        known: dict[str, float] = {}  # the same box in the same frame lifts to the same object
        rewards: Rewards = []
        for reply, refs, frame, true in zip(parsed, media, frame_index, box_world, strict=True):
            if true is None or frame is None or not Path(refs[0]["path"]).is_dir():
                rewards.append(None)
            elif "box_px" not in reply:
                rewards.append(0.0)
            else:
                key = repr((refs[0]["path"], frame, reply["box_px"], true))
                if key not in known:
                    known[key] = self._score(refs[0]["path"], frame, reply["box_px"], _box3d(true))
                rewards.append(known[key])
        return rewards

    def _score(self, path: str, frame: int, box_px: list[float], true_box: Box3D) -> float:
        from scenerl.envs.chain import lifted_box_iou

        boxes = {frame: (box_px[0], box_px[1], box_px[2], box_px[3])}
        return float(
            lifted_box_iou(_open_scene(path), boxes, true_box, self._make_tracker(), self._lift)
        )


def _make_tracker(config: TrackerConfig) -> Any:
    from scenerl.envs.tracking import make_tracker

    return make_tracker(config)


@functools.lru_cache(maxsize=16)
def _open_scene(path: str) -> "Scene":
    from scenerl.preprocess.scene import Scene

    return Scene.open(path)


def _box3d(values: list[float]) -> Box3D:
    return values[0], values[1], values[2], values[3], values[4], values[5]
