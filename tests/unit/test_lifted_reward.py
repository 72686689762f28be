"""`lifted_iou` on a real recording, and when it does not apply."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenerl.configs.schema import LiftConfig, TrackerConfig
from scenerl.rewards.lifted import LiftedIou

ROOM = Path(__file__).parents[3] / "shared" / "data" / "hololens_room"
needs_room = pytest.mark.skipif(not ROOM.is_dir(), reason="../shared/data is not present")


def reward() -> LiftedIou:
    return LiftedIou(TrackerConfig(name="reproject"), LiftConfig())


@pytest.mark.slow
@needs_room
def test_the_right_box_lifts_to_more_than_a_wrong_one() -> None:
    item = json.loads((ROOM / "instances.json").read_text())["instances"][0]
    best = max(ROOM.glob("masks/*.png"), key=lambda file: mask_of(file, item["id"]).sum())
    rows, columns = np.nonzero(mask_of(best, item["id"]))
    right = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    replies = [{"box_px": right}, {"box_px": [0.0, 0.0, 30.0, 30.0]}, {"error": "empty answer"}]
    found = reward()(
        parsed=[*replies, replies[0]],
        media=[[{"path": str(ROOM)}]] * 4,
        frame_index=[int(best.stem)] * 4,
        box_world=[[*item["aabb_world"][0], *item["aabb_world"][1]]] * 4,
    )
    assert found[0] is not None
    assert found[0] > 0.25
    assert found[1:] == [pytest.approx(0.0, abs=0.1), 0.0, found[0]]


def mask_of(file: Path, instance: int) -> np.ndarray:
    return np.asarray(Image.open(file)) == instance


def test_it_does_not_apply_without_truth_depth_or_frame(tmp_path: Path) -> None:
    box = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    found = reward()(
        parsed=[{"box_px": [0.0, 0.0, 9.0, 9.0]}] * 3,
        media=[[{"path": str(tmp_path)}], [{"path": "a_video.mp4"}], [{"path": str(tmp_path)}]],
        frame_index=[1, 1, None],
        box_world=[None, box, box],
    )
    assert found == [None, None, None]


def test_a_reply_without_a_box_scores_zero_without_opening_anything(tmp_path: Path) -> None:
    found = reward()(
        parsed=[{"error": "no <answer> block"}],
        media=[[{"path": str(tmp_path)}]],
        frame_index=[1],
        box_world=[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]],
    )
    assert found == [0.0]
