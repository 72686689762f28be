"""The built-in reward `lifted_iou`: is the box right in metres?

The box of a reply prompts the tracker in its frame; the masks it gives over the other frames are
lifted through depth and poses; the box around the points is compared with the true one.
"""

import functools
from collections.abc import Callable, Sequence
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
        # All boxes about one object are lifted together, and the same box only once.
        asked: dict[tuple[str, int, tuple[float, ...]], dict[tuple[float, ...], float]] = {}
        rows = list(zip(parsed, media, frame_index, box_world, strict=True))
        for reply, refs, frame, true in rows:
            if _applies(refs, frame, true) and frame is not None and "box_px" in reply:
                asked.setdefault(_key(refs, frame, true), {})[tuple(reply["box_px"])] = 0.0
        for (path, number, true_box), boxes in asked.items():
            ious = self._score(path, number, list(boxes), true_box)
            for box_px, iou in zip(boxes, ious, strict=True):
                boxes[box_px] = iou
        return [
            (asked[_key(refs, frame, true)][tuple(reply["box_px"])] if "box_px" in reply else 0.0)
            if _applies(refs, frame, true)
            else None
            for reply, refs, frame, true in rows
        ]

    def _score(
        self, path: str, frame: int, boxes_px: list[tuple[float, ...]], true: tuple[float, ...]
    ) -> list[float]:
        from scenerl.envs.chain import lifted_box_ious

        prompts = [{frame: (box[0], box[1], box[2], box[3])} for box in boxes_px]
        return lifted_box_ious(
            _open_scene(path), prompts, _box3d(true), self._make_tracker(), self._lift
        )


def _applies(refs: list[dict[str, Any]], frame: int | None, true: list[float] | None) -> bool:
    """Tell whether a prompt has a true box, a frame and depth."""
    return true is not None and frame is not None and Path(refs[0]["path"]).is_dir()


def _key(refs: list[dict[str, Any]], frame: Any, true: Any) -> tuple[str, int, tuple[float, ...]]:
    return refs[0]["path"], frame, tuple(true)


def _make_tracker(config: TrackerConfig) -> Any:
    from scenerl.envs.tracking import make_tracker

    return make_tracker(config)


@functools.lru_cache(maxsize=16)
def _open_scene(path: str) -> "Scene":
    from scenerl.preprocess.decoding import decoder
    from scenerl.preprocess.scene import Scene

    return Scene.open(path, read=decoder().image)


def _box3d(values: Sequence[float]) -> Box3D:
    return values[0], values[1], values[2], values[3], values[4], values[5]
