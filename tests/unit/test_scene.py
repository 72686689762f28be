import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import SMALL, pose_file, small_room, write_instances, write_minimal

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import Scene, direction
from scenerl.preprocess.scene_writer import matrix_text

HOLOLENS = Path(__file__).parents[2].parent / "shared" / "data" / "hololens_room"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_minimal(tmp_path / "room")


def codes(scene: Scene) -> dict[int | None, str]:
    return {problem.frame_index: problem.code for problem in scene.problems}


def test_a_minimal_recording_opens_with_its_own_numbers(folder: Path) -> None:
    scene = Scene.open(folder)
    _, rendered = small_room()
    assert scene.scene_id == "room"
    assert scene.frame_indices == tuple(range(0, 48, 3))
    assert scene.problems == ()
    assert scene.color_size == scene.depth_size == (SMALL.width, SMALL.height)
    assert scene.times_s(6) == pytest.approx(0.2)
    np.testing.assert_allclose(scene.intrinsics_color, rendered.intrinsics, rtol=1e-8)
    np.testing.assert_allclose(scene.camera_to_world(3), rendered.camera_to_world[1], atol=1e-8)
    np.testing.assert_allclose(scene.depth_m(3), rendered.depth_mm[1] / 1000, atol=1e-6)
    assert scene.depth_m(3).dtype == np.float32
    difference = scene.color(3).astype(int) - rendered.color[1]
    assert np.abs(difference).mean() < 6  # JPEG of a small, noisy image
    assert scene.instances(3) is None
    assert scene.objects == ()


def test_instances_json_and_masks_become_objects(folder: Path) -> None:
    write_instances(folder)
    scene = Scene.open(folder, check="files")
    room, rendered = small_room()
    assert [(o.object_id, o.label) for o in scene.objects] == [
        (piece.object_id, piece.label) for piece in room.pieces
    ]
    instance = scene.instances(9)
    assert instance is not None
    np.testing.assert_array_equal(instance, rendered.instance[3])
    assert scene.up is not None
    assert scene.up.tolist() == [0, 0, 1]


def test_scannets_python_export_opens(folder: Path) -> None:
    for name in ("color", "depth", "pose"):
        for path in sorted((folder / name).iterdir()):
            path.rename(path.with_name(f"{int(path.stem)}{path.suffix}"))
    (folder / "intrinsic").mkdir()
    square = np.eye(4)
    square[:3, :3] = np.loadtxt(folder / "intrinsic.txt")
    for camera in ("color", "depth"):
        (folder / "intrinsic" / f"intrinsic_{camera}.txt").write_text(matrix_text(square))
    (folder / "intrinsic.txt").unlink()
    scene = Scene.open(folder)
    assert scene.frame_indices == tuple(range(0, 48, 3))
    np.testing.assert_allclose(scene.intrinsics_depth, square[:3, :3])


def test_scannets_flat_export_opens(folder: Path) -> None:
    for name in ("color", "depth", "pose"):
        for path in sorted((folder / name).iterdir()):
            path.rename(folder / f"frame-{int(path.stem):06d}.{name}{path.suffix}")
        (folder / name).rmdir()
    square = np.eye(4)
    square[:3, :3] = np.loadtxt(folder / "intrinsic.txt")
    (folder / "intrinsic.txt").unlink()
    numbers = " ".join(f"{value:.9g}" for value in square.reshape(-1))
    lines = [f"m_calibration{camera}Intrinsic = {numbers}" for camera in ("Color", "Depth")]
    (folder / "_info.txt").write_text("\n".join(lines))
    scene = Scene.open(folder)
    assert scene.frame_indices == tuple(range(0, 48, 3))
    np.testing.assert_allclose(scene.intrinsics_color, square[:3, :3])


def test_depth_of_another_resolution_gets_scaled_intrinsics(folder: Path) -> None:
    for path in (folder / "color").iterdir():
        Image.open(path).resize((192, 144)).save(path)
    K = np.diag([2.0, 2.0, 1.0]) @ np.loadtxt(folder / "intrinsic.txt")
    (folder / "intrinsic.txt").write_text(matrix_text(K))
    scene = Scene.open(folder)
    np.testing.assert_allclose(scene.intrinsics_depth[0], K[0] / 2)
    assert (scene.color_size, scene.depth_size) == ((192, 144), (96, 72))


def test_bad_frames_are_found_listed_and_left_out(folder: Path) -> None:
    pose_file(folder, 1).write_text(matrix_text(np.full((4, 4), -np.inf)))
    pose_file(folder, 2).write_text(matrix_text(np.diag([2.0, 2.0, 2.0, 1.0])))
    pose_file(folder, 3).write_text(matrix_text(np.diag([1.0, 1.0, -1.0, 1.0])))
    pose_file(folder, 4).write_text("1 0 0\nwhat")
    (folder / "depth" / "00015.png").unlink()
    Image.new("RGB", (50, 40)).save(folder / "color" / "00018.jpg")
    (folder / "color" / "00021.jpg").write_bytes(b"not an image")
    scene = Scene.open(folder, check="files")
    assert codes(scene) == {
        3: "pose_not_finite",
        6: "pose_not_rigid",
        9: "pose_not_rigid",
        12: "pose_unreadable",
        15: "depth_missing",
        18: "color_size",
        21: "image_unreadable",
    }
    assert scene.frame_indices == (0, *range(24, 48, 3))
    assert "inf or nan" in scene.problems[0].reason


def test_a_surplus_pose_is_listed_too(folder: Path) -> None:
    pose_file(folder, 40).write_text(matrix_text(np.eye(4)))
    assert codes(Scene.open(folder, check="files")) == {120: "color_missing"}


def test_two_files_of_one_frame_are_listed(folder: Path) -> None:
    Image.new("RGB", (96, 72)).save(folder / "color" / "3.png")
    assert "duplicate_frame" in codes(Scene.open(folder, check="files")).values()


def test_too_few_good_frames_are_an_error_with_the_reasons(folder: Path) -> None:
    for number in range(14):
        pose_file(folder, number).write_text(matrix_text(np.full((4, 4), np.nan)))
    with pytest.raises(DataError, match=r"2 of 16 frames .*inf or nan"):
        Scene.open(folder)


def test_a_folder_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Scene.open(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"expected color/, depth/, pose/"):
        Scene.open(tmp_path)


def test_missing_or_foreign_intrinsics_are_refused(folder: Path) -> None:
    path = folder / "intrinsic.txt"
    path.write_text(matrix_text(np.diag([8.0, 8.0, 1.0]) @ np.loadtxt(path)))
    with pytest.raises(DataError, match="principal point"):
        Scene.open(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"write intrinsic\.txt"):
        Scene.open(folder)


def test_times_come_from_the_file_where_there_is_one(folder: Path) -> None:
    (folder / "scene.json").write_text(json.dumps({"fps": 10}))
    assert Scene.open(folder, check="files").times_s(30) == pytest.approx(3.0)
    (folder / "times.txt").write_text("\n".join(str(100 + n) for n in range(16)))
    assert Scene.open(folder, check="files").times_s(6) == 2.0
    (folder / "times.txt").write_text("\n".join(f"{3 * n} {n / 4}" for n in range(16)))
    assert Scene.open(folder, check="files").times_s(6) == 0.5
    (folder / "times.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="expected one time"):
        Scene.open(folder, check="files")
    (folder / "times.txt").write_text("\n".join("5" for _ in range(16)))
    with pytest.raises(DataError, match="must increase"):
        Scene.open(folder, check="files")


def test_wrong_objects_are_refused(folder: Path) -> None:
    path = folder / "instances.json"
    path.write_text(json.dumps({"instances": [{"id": 1, "label": "a"}, {"id": 1, "label": "b"}]}))
    with pytest.raises(DataError, match="each used once"):
        Scene.open(folder, check="files")
    path.write_text(json.dumps([1]))
    with pytest.raises(DataError, match="expected"):
        Scene.open(folder, check="files")
    row = {"id": 1, "label": "a", "aabb": [[1, 1, 1], [0, 2, 2]]}
    path.write_text(json.dumps({"instances": [row]}))
    with pytest.raises(DataError, match="is not min x y z"):
        Scene.open(folder, check="files")


def test_up_is_an_axis_or_a_vector() -> None:
    assert direction("-y").tolist() == [0, -1, 0]
    assert direction([0, 0, 2]).tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="three numbers"):
        direction("up")


@pytest.mark.skipif(not HOLOLENS.is_dir(), reason="skipped: ../shared/data is not present")
def test_a_real_recording_opens_without_a_problem() -> None:
    scene = Scene.open(HOLOLENS, check="content")
    assert len(scene.frame_indices) == 125
    assert scene.problems == ()
    assert [item.label for item in scene.objects][:2] == ["sofa", "backpack"]
    assert scene.objects[0].box_world == (0.882, -1.491, -1.948, 2.391, -0.757, 0.143)
    instance = scene.instances(3)
    assert instance is not None
    assert set(np.unique(instance)) == {0, 8}
    assert scene.up is not None
    assert scene.up.tolist() == [0, 1, 0]
