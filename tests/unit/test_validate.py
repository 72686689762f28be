from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import pose_file, small_room, write_minimal

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_writer import matrix_text
from scenerl.preprocess.validate import agreement


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
    [(0.01, "median depth is"), (0.2, "5 times too small"), (5.0, "5 times too large|median")],
)
def test_a_wrong_depth_scale_is_recognised(folder: Path, factor: float, message: str) -> None:
    change_depth(folder, factor)
    with pytest.raises(DataError, match=message):
        Scene.open(folder)


def test_the_right_depth_scale_in_scene_json_repairs_it(folder: Path) -> None:
    change_depth(folder, 5.0)
    (folder / "scene.json").write_text('{"depth_scale": 5000}')
    scene = Scene.open(folder)
    assert scene.problems == ()
    np.testing.assert_allclose(scene.depth_m(0), small_room()[1].depth_mm[0] / 1000, atol=1e-3)
