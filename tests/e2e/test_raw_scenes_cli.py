import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raw_folders import (
    COLOR_SIZE,
    FRAMES,
    SCENE,
    TURN,
    VIDEO,
    block,
    depth_bin,
    depths_mm,
    pose_rows,
    poses,
    scaled,
    write_arkit,
    write_processed,
    write_scannetpp,
)
from recording import small_room

from scenerl.launch.cli import main
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.store import read_samples


def run(what: str, source: Path, data: Path, *more: str) -> int:
    line = ["preprocess", what, "--input", str(source), "--output", str(data), "--every", "1"]
    return main([*line, *more])


def reasons(data: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((data / "manifest.json").read_text())["skipped_reasons"]
    return found


def rows(data: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((data / "manifest.json").read_text())["skipped"]
    return found


def world_points(scene: Scene, index: int) -> np.ndarray:
    """Return the depth pixels of a frame in the world: integer pixels, as all owners count them."""
    depth = scene.depth_m(index)
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(scene.intrinsics_depth).T
    pose = scene.camera_to_world(index)
    return np.asarray((rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3])


@pytest.mark.parametrize("encoding", ["stream", "blocks"])
def test_a_scannetpp_scene_has_the_rooms_depth_poses_and_objects(
    tmp_path: Path, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scannetpp(tmp_path / "raw", encoding=encoding)
    data = tmp_path / "data"
    assert run("scannetpp", tmp_path / "raw", data, "--splits", "nvs_sem_val") == 0
    assert f"{SCENE}: {FRAMES} frames" in capsys.readouterr().out
    scene = Scene.open(data / "scenes" / SCENE)
    assert scene.frame_indices == tuple(range(FRAMES))
    assert scene.color_size == COLOR_SIZE
    assert scene.depth_size == (256, 192)
    np.testing.assert_allclose(scene.intrinsics_color, scaled(COLOR_SIZE), rtol=1e-8)
    np.testing.assert_allclose(scene.intrinsics_depth, scaled((256, 192)), rtol=1e-8)
    for index in scene.frame_indices:
        stored = np.asarray(Image.open(scene.depth_path(index)))
        np.testing.assert_array_equal(stored, depths_mm()[index])
        np.testing.assert_allclose(scene.camera_to_world(index), poses()[index], atol=1e-8)
        assert scene.times_s(index) == pytest.approx(index / 60, abs=1e-6)
    shown = small_room()[1].color[5].astype(int)
    seen = np.asarray(Image.fromarray(scene.color(5)).resize((96, 72))).astype(int)
    assert np.abs(shown - seen).mean() < 8  # a lossy video and a resize there and back
    room, rendered = small_room()
    assert {item.object_id: item.label for item in scene.objects} == {
        number: piece.label for number, piece in enumerate(room.pieces, start=1)
    }
    instance = np.asarray(Image.fromarray(scene.instances(3)).resize((96, 72), 0))
    truth = rendered.instance[3]
    ids = {number: piece.object_id for number, piece in enumerate(room.pieces, start=1)}
    mapped = np.vectorize(lambda value: ids.get(value, 0))(instance)
    assert (mapped == truth).mean() > 0.93  # edges of the coarse depth are given up
    samples = read_samples(data, "val")
    assert samples
    assert {sample.provenance for sample in samples} == {"projected_from_3d_mask"}


@pytest.mark.parametrize("source", ["nerfstudio", "colmap"])
def test_all_pose_files_of_scannetpp_give_the_same_cameras(tmp_path: Path, source: str) -> None:
    write_scannetpp(tmp_path / "raw")
    data = tmp_path / "data"
    assert run("scannetpp", tmp_path / "raw", data, "--poses", source, "--no-objects") == 0
    scene = Scene.open(data / "scenes" / SCENE)
    for index in range(FRAMES):
        np.testing.assert_allclose(scene.camera_to_world(index), poses()[index], atol=1e-7)
    np.testing.assert_allclose(scene.intrinsics_color, scaled(COLOR_SIZE), rtol=1e-7)
    facts = json.loads((data / "scenes" / SCENE / "scene.json").read_text())
    assert facts["distortion_ignored"] == {"k1": 0.04}


def test_an_equal_call_keeps_a_finished_scene_and_other_settings_make_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scannetpp(tmp_path / "raw")
    data = tmp_path / "data"
    assert run("scannetpp", tmp_path / "raw", data) == 0
    first = (data / "manifest.json").read_bytes()
    assert run("scannetpp", tmp_path / "raw", data) == 0
    assert "there already" in capsys.readouterr().out
    assert (data / "manifest.json").read_bytes() == first
    assert run("scannetpp", tmp_path / "raw", data, "--resize", "96x72") == 0
    assert "there already" not in capsys.readouterr().out
    assert Scene.open(data / "scenes" / SCENE).color_size == (96, 72)


def cut_depth(folder: Path) -> None:
    path = folder / "iphone" / "depth.bin"
    path.write_bytes(path.read_bytes()[:-100])


def cut_stream(folder: Path) -> None:
    path = folder / "iphone" / "depth.bin"
    content = depth_bin("stream")
    path.write_bytes(content[: len(content) // 2])


def bomb_depth(folder: Path) -> None:
    from raw_folders import deflate

    path = folder / "iphone" / "depth.bin"
    path.write_bytes(path.read_bytes() + block(deflate(bytes(50_000_000))))
    add_pose(folder, FRAMES)


def add_pose(folder: Path, index: int) -> None:
    change_poses(folder, lambda found: found | {f"frame_{index:06d}": found["frame_000000"]})


def change_poses(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "iphone" / "pose_intrinsic_imu.json"
    path.write_text(json.dumps(change(pose_rows())))


def nan_pose(folder: Path) -> None:
    def change(found: dict[str, Any]) -> dict[str, Any]:
        found["frame_000002"]["aligned_pose"][0][3] = float("nan")
        return found

    change_poses(folder, change)


def mirror_pose(folder: Path) -> None:
    def change(found: dict[str, Any]) -> dict[str, Any]:
        found["frame_000002"]["aligned_pose"] = np.diag([1, 1, -1.0, 1]).tolist()
        return found

    change_poses(folder, change)


def odd_entries(folder: Path) -> None:
    change_poses(folder, lambda found: found | {"../../x": 3, "frame_000003": {"intrinsic": "x"}})


def frames_folder_with_faults(folder: Path) -> None:
    """Extracted frames: one of 0 bytes, one of 100,000 pixels, one a link out of the scene."""
    rgb = folder / "iphone" / "rgb"
    rgb.mkdir()
    for number in range(FRAMES):
        Image.new("RGB", COLOR_SIZE, (number, 90, 90)).save(rgb / f"frame_{number:06d}.jpg")
    (rgb / "frame_000001.jpg").write_bytes(b"")
    Image.new("1", (100_000, 1)).save(rgb / "frame_000002.jpg", format="PNG")
    outside = folder.parent.parent / "outside.jpg"
    shutil.move(rgb / "frame_000003.jpg", outside)
    (rgb / "frame_000003.jpg").symlink_to(outside)
    (rgb / "frame_000004.jpg").unlink()


def cut_annotation(folder: Path) -> None:
    path = folder / "scans" / "segments_anno.json"
    path.write_text(path.read_text()[:-30])


def latin_annotation(folder: Path) -> None:
    path = folder / "scans" / "segments_anno.json"
    path.write_bytes(path.read_text().replace("segGroups", "\xe9").encode("latin-1"))


FAULTS = [
    (cut_depth, {"depth_truncated": 1, "counts_differ": 1, "depth_missing": 1}, FRAMES - 1, 65),
    (cut_stream, {"depth_truncated": 1, "depth_missing": 4}, 4, 65),
    (bomb_depth, {"depth_size": 1}, FRAMES, 65),
    (lambda folder: add_pose(folder, 99), {"counts_differ": 1, "depth_missing": 1}, FRAMES, 65),
    (nan_pose, {"pose_not_finite": 1}, FRAMES - 1, 0),
    (mirror_pose, {"pose_not_rigid": 1}, FRAMES - 1, 65),
    (odd_entries, {"pose_entry": 2}, FRAMES - 1, 65),
    (
        frames_folder_with_faults,
        {"image_unreadable": 1, "image_size": 1, "link_outside": 1, "file_missing": 1},
        FRAMES - 4,
        65,
    ),
    (cut_annotation, {"annotation_unreadable": 1}, FRAMES, 65),
    (latin_annotation, {"annotation_unreadable": 1}, FRAMES, 65),
]


@pytest.mark.parametrize(("plant", "expected", "frames", "status"), FAULTS)
def test_what_is_broken_in_a_scannetpp_scene_is_named_and_the_rest_prepared(
    tmp_path: Path,
    plant: Callable[[Path], None],
    expected: dict[str, int],
    frames: int,
    status: int,
) -> None:
    folder = write_scannetpp(tmp_path / "raw")
    plant(folder)
    data = tmp_path / "data"
    assert run("scannetpp", tmp_path / "raw", data) == status
    found = reasons(data)
    if plant is cut_stream:  # where half of the bytes leads to depends on zlib
        assert set(found) == set(expected)
    else:
        assert found == expected
        assert len(Scene.open(data / "scenes" / SCENE).frame_indices) == frames
    assert all(row["detail"] for row in rows(data))
    assert run("scannetpp", tmp_path / "raw", data, "--allow-skipped") == 0
    assert reasons(data) == found


def test_scenes_that_lead_elsewhere_or_are_not_there_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scannetpp(tmp_path / "raw")
    broken = write_scannetpp(tmp_path / "raw", scene="0000000000")
    (broken / "iphone" / "pose_intrinsic_imu.json").write_text('{"frame_000000": {')
    (tmp_path / "raw" / "splits" / "nvs_sem_train.txt").write_text("../../../etc\nffffffffff\n")
    data = tmp_path / "data"
    lists = ["--splits", "nvs_sem_val", "nvs_sem_train", "--workers", "2"]
    assert run("scannetpp", tmp_path / "raw", data, *lists) == 65
    assert reasons(data) == {"bad_name": 1, "json": 1, "scene_missing": 1}
    found = {row["reason"]: row for row in rows(data)}
    assert "line 1, column 19" in found["json"]["detail"]
    assert "cut off" in found["json"]["detail"]
    assert found["json"]["broken"] is True
    assert [path.name for path in (data / "scenes").iterdir()] == [SCENE]
    assert "1 of 4 scenes" in capsys.readouterr().out


def test_a_data_set_that_is_not_there_says_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, word in (("scannetpp", "Terms of Use"), ("arkitscenes", "download_data.py")):
        assert run(what, tmp_path / "none", tmp_path / "data") == 65
        assert word in capsys.readouterr().err


def test_an_arkit_recording_has_the_rooms_points_and_the_box_over_its_corners(
    tmp_path: Path,
) -> None:
    write_arkit(tmp_path / "raw")
    data = tmp_path / "data"
    more = ["--folds", "Validation", "--preview", "1"]
    assert run("arkitscenes", tmp_path / "raw", data, *more) == 0
    assert Image.open(data / "preview.png").size == (6 * 320, 240 + 6)
    scene = Scene.open(data / "scenes" / VIDEO)
    assert scene.frame_indices == tuple(range(FRAMES))
    assert scene.color_size == scene.depth_size == (256, 192)
    for index in range(FRAMES):
        np.testing.assert_allclose(scene.camera_to_world(index), poses()[index], atol=1e-6)
        assert scene.times_s(index) == pytest.approx(index / 10, abs=1e-6)
    names = json.loads((data / "scenes" / VIDEO / "frame_names.json").read_text())
    assert names["3"] == "6846.006"
    (sofa,) = scene.objects
    # half sizes 1 and 0.5 turned by 30 degrees reach cos 30 + 0.5 sin 30 and sin 30 + 0.5 cos 30
    x, y = np.sqrt(3) / 2 + 0.25, 0.5 + np.sqrt(3) / 4
    np.testing.assert_allclose(sofa.box_world, (1 - x, 2 - y, 0, 1 + x, 2 + y, 1), atol=1e-9)
    assert sofa.attributes["obb_sizes"] == "2.0 1.0 1.0"
    assert sofa.attributes["uid"] == "a1"
    facts = json.loads((data / "scenes" / VIDEO / "scene.json").read_text())
    assert (facts["split"], facts["provenance"], facts["up"]) == ("val", "human_3d_box", [0, 0, 1])


def test_faults_of_an_arkit_recording_are_named(tmp_path: Path) -> None:
    folder = write_arkit(tmp_path / "raw")
    frames = folder / f"{VIDEO}_frames"
    lines = (frames / "lowres_wide.traj").read_text().splitlines()
    lines[1] = "6845.8 nan 0 0 0 0 0"
    lines[2] = "cut off"
    (frames / "lowres_wide.traj").write_text("\n".join(lines))
    (frames / "lowres_depth" / f"{VIDEO}_6846.006.png").write_bytes(b"\x89PNG")
    (frames / "lowres_wide_intrinsics" / f"{VIDEO}_6846.105.pincam").write_text("256 192 nan 1 1 1")
    (frames / "lowres_wide_intrinsics" / f"{VIDEO}_6846.205.pincam").unlink()
    Image.new("RGB", (4, 4)).save(frames / "lowres_depth" / "notes.png")
    annotation = folder / f"{VIDEO}_3dod_annotation.json"
    content = json.loads(annotation.read_text())
    content["data"] += [{"label": "sofa"}, {"label": "spaceship"}, 3]
    annotation.write_text(json.dumps(content))
    data = tmp_path / "data"
    assert run("arkitscenes", tmp_path / "raw", data) == 65
    assert reasons(data) == {
        "box": 1,
        "image_unreadable": 1,
        "intrinsics": 1,
        "intrinsics_missing": 1,
        "label_unknown": 1,
        "object_entry": 1,
        "pose_entry": 1,
        "pose_missing": 2,
        "unnumbered_file": 1,
    }
    broken = {row["reason"]: row["broken"] for row in rows(data)}
    assert [name for name, value in broken.items() if not value] == [
        "pose_missing",
        "label_unknown",
    ]
    assert len(Scene.open(data / "scenes" / VIDEO).frame_indices) == FRAMES - 5


@pytest.mark.parametrize(
    ("dataset", "scale", "align"),
    [
        ("scannetpp", None, f"{SCENE}_further_aligned_transform.txt"),
        ("arkitscenes", 0.5, f"{SCENE}_further_aligned_transform.txt"),
        ("scannet", 2.5, "already in the poses"),
    ],
)
def test_alignment_and_scale_of_a_processed_tree_bring_the_rooms_points_back(
    tmp_path: Path, dataset: str, scale: float | None, align: str
) -> None:
    write_processed(tmp_path / "raw", dataset, scale=scale)
    write_arkit(tmp_path / "arkit")  # the same depth and poses, without a detour
    data, direct = tmp_path / "data", tmp_path / "direct"
    assert run("gs-reasoner", tmp_path / "raw", data, "--splits", "val") == 0
    assert run("arkitscenes", tmp_path / "arkit", direct) == 0
    scene = Scene.open(data / "scenes" / SCENE)
    truth = Scene.open(direct / "scenes" / VIDEO)
    unit = scale or 1.0
    for index in (0, 5):
        away = np.abs(world_points(scene, index) - world_points(truth, index))
        assert away.max() < 0.001 * unit + 1e-5  # half a unit of the tree's depth images
    facts = json.loads((data / "scenes" / SCENE / "scene.json").read_text())
    assert facts["global_scale"] == unit
    assert facts["axis_align"] == align
    expected = np.eye(4) if dataset == "scannet" else TURN
    np.testing.assert_allclose(facts["axis_align_matrix"], expected)
    step_s = {"scannet": 1 / 30, "scannetpp": 1 / 60, "arkitscenes": 0.1}[dataset]
    assert scene.times_s(3) == pytest.approx(3 * step_s, abs=1e-5)
    assert scene.color_size == (128, 96)
    np.testing.assert_allclose(scene.intrinsics_color, scaled((128, 96)), rtol=1e-7)


def test_a_missing_alignment_is_said_and_colour_may_come_from_another_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_processed(tmp_path / "raw")
    other = tmp_path / "other" / "scannetpp"
    other.mkdir(parents=True)
    shutil.move(tree / "color", other / "color")
    data = tmp_path / "data"
    assert run("gs-reasoner", tmp_path / "raw", data) == 65
    assert reasons(data) == {"color_missing": 1}
    shutil.rmtree(tree / "axis_align_matrix")
    colors = ["--color", str(other.parent)]
    assert run("gs-reasoner", tmp_path / "raw", data, *colors) == 65
    assert reasons(data) == {"axis_align_missing": 1}
    assert "axis_align_pcd.py" in capsys.readouterr().out
    facts = json.loads((data / "scenes" / SCENE / "scene.json").read_text())
    assert facts["axis_align"] == "missing, identity used"
    assert run("gs-reasoner", tmp_path / "raw", data, *colors, "--allow-skipped") == 0


def test_faults_of_a_processed_tree_are_named(tmp_path: Path) -> None:
    tree = write_processed(tmp_path / "raw", scale=2.0)
    pose = tree / "pose" / "val" / SCENE
    (pose / "frame_000001.txt").write_text("inf " * 3)
    (pose / "frame_000002.txt").write_text("\n".join(["-inf -inf -inf -inf"] * 4))
    (pose / "frame_000003.txt").unlink()
    (tree / "color" / "val" / SCENE / "extra.jpg").write_bytes(b"")
    secret = tmp_path / "secret.png"
    (tree / "depth" / "val" / SCENE / "frame_000004.png").rename(secret)
    (tree / "depth" / "val" / SCENE / "frame_000004.png").symlink_to(secret)
    data = tmp_path / "data"
    assert run("gs-reasoner", tmp_path / "raw", data) == 65
    assert reasons(data) == {
        "file_missing": 1,
        "link_outside": 1,
        "matrix": 1,
        "pose_not_finite": 1,
        "unnumbered_file": 1,
    }
    (tree / "global_scale" / "val" / f"{SCENE}.txt").write_text("nan")
    assert run("gs-reasoner", tmp_path / "raw", data) == 65
    assert reasons(data) == {"global_scale": 1}
