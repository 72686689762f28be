import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recording import pose_file, small_room, write_minimal

from scenerl.preprocess.records import DataError
from scenerl.preprocess.rooms import RoomsConfig, draw_room
from scenerl.preprocess.rooms_render import RenderedRoom
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_writer import matrix_text
from scenerl.preprocess.validate import agreement, check_content

OFFICE = Path(__file__).parents[3] / "shared" / "data" / "hololens_room"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_minimal(tmp_path / "room")


def change_poses(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (folder / "pose").iterdir():
        path.write_text(matrix_text(change(np.loadtxt(path))))


def change_depth(folder: Path, factor: float) -> None:
    for path in (folder / "depth").iterdir():
        scaled = np.asarray(Image.open(path)).astype(float) * factor
        Image.fromarray(np.clip(scaled, 0, 65535).astype(np.uint16)).save(path)


def test_a_wall_seen_twice_agrees_and_a_moved_one_does_not() -> None:
    wall = np.full((60, 80), 2.0)
    K = np.array([[80.0, 0, 40], [0, 80.0, 30], [0, 0, 1]])
    closer = np.eye(4)
    closer[2, 3] = -0.5
    assert agreement(wall, wall, K, np.eye(4)) == 1.0
    assert agreement(wall, wall - 0.5, K, closer) == 1.0
    assert agreement(wall, wall, K, closer) == 0.0


def test_frames_that_do_not_overlap_say_nothing() -> None:
    wall = np.full((60, 80), 2.0)
    K = np.array([[80.0, 0, 40], [0, 80.0, 30], [0, 0, 1]])
    around = np.diag([-1.0, 1.0, -1.0, 1.0])
    assert agreement(wall, wall, K, around) is None


def test_one_misplaced_frame_is_found(folder: Path) -> None:
    pose = np.loadtxt(pose_file(folder, 5))
    pose[:3, 3] += [0.8, -0.8, 0.5]
    pose_file(folder, 5).write_text(matrix_text(pose))
    scene = Scene.open(folder)
    assert [(p.frame_index, p.code) for p in scene.problems] == [(15, "frames_disagree")]
    assert 15 not in scene.frame_indices


def test_a_truncated_image_and_an_empty_depth_frame_are_found(folder: Path) -> None:
    path = folder / "color" / "00009.jpg"
    path.write_bytes(path.read_bytes()[:600])
    Image.fromarray(np.zeros((72, 96), np.uint16)).save(folder / "depth" / "00012.png")
    Image.fromarray(np.full((72, 96), 200, np.uint8)).save(folder / "depth" / "00018.png")
    scene = Scene.open(folder)
    found = {p.frame_index: p.code for p in scene.problems}
    assert found == {9: "image_unreadable", 12: "depth_empty", 18: "image_unreadable"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.linalg.inv, "world-to-camera; invert them"),
        (lambda pose: pose @ np.diag([1.0, -1, -1, 1]), "OpenGL axes"),
        (lambda pose: np.eye(4), "do they belong together"),
    ],
)
def test_poses_of_another_convention_are_recognised(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    change_poses(folder, change)
    with pytest.raises(DataError, match=message):
        Scene.open(folder)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.001, "median depth is 0.00"),
        (0.01, "100 times too small"),
        (0.1, "10 times too small"),
        (0.2, "5 times too small"),
        (5.0, "5 times too large"),
        (10.0, "10 times too large"),
    ],
)
def test_a_wrong_depth_scale_is_recognised(folder: Path, factor: float, message: str) -> None:
    change_depth(folder, factor)
    with pytest.raises(DataError, match=message):
        Scene.open(folder)


@pytest.mark.parametrize("factor", [0.5, 0.75, 640 / 540, 1.5, 1.9])
def test_intrinsics_of_another_resolution_are_recognised(folder: Path, factor: float) -> None:
    K = np.loadtxt(folder / "intrinsic.txt")
    (folder / "intrinsic.txt").write_text(matrix_text(np.diag([factor, factor, 1.0]) @ K))
    with pytest.raises(DataError, match=r"of about \d+x\d+ pixels.*are 96x72") as refused:
        Scene.open(folder)
    named = re.search(r"of about (\d+)x(\d+) pixels", str(refused.value))
    assert named is not None
    assert [int(side) for side in named.groups()] == pytest.approx(
        [96 * factor, 72 * factor], abs=2
    )


def test_inverted_opengl_poses_are_recognised(folder: Path) -> None:
    flip = np.diag([1.0, -1, -1, 1])
    change_poses(folder, lambda pose: np.linalg.inv(pose @ flip))
    with pytest.raises(DataError, match="world-to-camera with OpenGL axes"):
        Scene.open(folder)


@pytest.mark.parametrize("off_px", [4.0, -7.0])
def test_an_off_centre_camera_is_not_taken_for_a_fault(folder: Path, off_px: float) -> None:
    """Crop the frames on one side: the principal point moves, and everything is right."""
    K = np.loadtxt(folder / "intrinsic.txt")
    cut = slice(None, 96 - 2 * int(off_px)) if off_px > 0 else slice(int(-2 * off_px), None)
    for name in ("color", "depth"):
        for path in (folder / name).iterdir():
            Image.fromarray(np.asarray(Image.open(path))[:, cut]).save(path)
    if off_px < 0:
        K[0, 2] += 2 * off_px
        (folder / "intrinsic.txt").write_text(matrix_text(K))
    assert Scene.open(folder).problems == ()


@pytest.mark.parametrize("seed", [11, 12])
def test_good_rooms_raise_no_alarm(tmp_path: Path, seed: int) -> None:
    config = RoomsConfig(rooms=(("train", 1),), num_frames=16, width=96, height=72, seed=seed)
    _, rendered, _ = draw_room(config, "train", 0)
    assert check_content(FaultyScene(rendered)) == []


class FaultyScene:
    """A rendered room seen through wrong conventions."""

    def __init__(self, rendered: RenderedRoom, depth: float = 1.0) -> None:
        self._rendered, self._depth = rendered, depth
        self.frame_indices = tuple(range(len(rendered.depth_mm)))
        self.intrinsics_depth = rendered.intrinsics

    def color(self, index: int) -> np.ndarray:
        return self._rendered.color[index]

    def depth_m(self, index: int) -> np.ndarray:
        return np.float32(self._depth / 1000) * self._rendered.depth_mm[index].astype(np.float32)

    def camera_to_world(self, index: int) -> np.ndarray:
        return self._rendered.camera_to_world[index]


@pytest.mark.parametrize(
    ("factor", "said"), [(1000.0, "1000 times too large"), (0.001, "1000 times too small")]
)
def test_millimetres_taken_for_metres_are_recognised(factor: float, said: str) -> None:
    problems = check_content(FaultyScene(small_room()[1], factor))
    assert {p.frame_index for p in problems} == set(range(16))
    assert all(said in p.reason for p in problems)


@pytest.mark.slow
@pytest.mark.skipif(not OFFICE.is_dir(), reason="../shared/data/hololens_room is not present")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"pose": np.linalg.inv}, "world-to-camera; invert"),
        ({"pose": lambda pose: pose @ np.diag([1.0, -1, -1, 1])}, "OpenGL axes"),
        ({"depth": 10.0}, "10 times too large"),
        ({"depth": 0.1}, "10 times too small"),
        ({"depth": 1000.0}, "1000 times too large"),
        ({"depth": 0.001}, "1000 times too small"),
        ({"intrinsics": 2.0}, "of about 1079x678 pixels"),
        ({"intrinsics": 0.5}, "of about 271x170 pixels"),
        ({"intrinsics": 640 / 540}, "of about 640x402 pixels"),
    ],
    ids=str,
)
def test_planted_faults_in_the_real_room_are_named(
    change: dict[str, Any], said: str | None
) -> None:
    scene = Scene.open(OFFICE, check="files")
    pose, K = change.get("pose", lambda pose: pose), scene.intrinsics_depth
    scale = change.get("intrinsics", 1.0)
    faulty = SimpleNamespace(
        frame_indices=scene.frame_indices,
        intrinsics_depth=np.diag([scale, scale, 1.0]) @ K,
        color=scene.color,
        depth_m=lambda index: scene.depth_m(index) * np.float32(change.get("depth", 1.0)),
        camera_to_world=lambda index: pose(scene.camera_to_world(index)),
    )
    problems = check_content(faulty)
    if said is None:
        assert problems == []
    else:
        assert len(problems) == len(scene.frame_indices)
        assert all(re.search(said, problem.reason) for problem in problems)


def test_the_right_depth_scale_in_scene_json_repairs_it(folder: Path) -> None:
    change_depth(folder, 5.0)
    (folder / "scene.json").write_text('{"depth_scale": 5000}')
    scene = Scene.open(folder)
    assert scene.problems == ()
    np.testing.assert_allclose(scene.depth_m(0), small_room()[1].depth_mm[0] / 1000, atol=1e-3)
