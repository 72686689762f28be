"""`launch preprocess scannet` on ScanNet-style scans of a synthetic room, whole and damaged."""

import fcntl
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scans
from PIL import Image
from recording import SMALL, small_room

from scenerl.launch.cli import main
from scenerl.preprocess.annotations import find_appearances
from scenerl.preprocess.scannet import prepare_scans
from scenerl.preprocess.scannet_settings import ScannetConfig
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_writer import folder_hash
from scenerl.preprocess.sens import SensFile
from scenerl.preprocess.sens_writer import write_sens
from scenerl.preprocess.store import read_manifest, read_samples

NAME = "scene0000_00"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, one of them not annotated and with an untracked frame; labels and lists."""
    root = tmp_path_factory.mktemp("raw")
    scans.write_scan(root / "scans" / NAME)
    scans.write_scan(root / "scans" / "scene0001_00", untracked=(4, 5), annotated=False)
    scans.write_labels(root / "labels.tsv")
    (root / "scannetv2_train.txt").write_text(f"{NAME}\nscene0707_00\n")
    (root / "scannetv2_test.txt").write_text("scene0001_00\n")
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared")
    words = ["preprocess", "scannet", "--input", str(raw / "scans"), "--output", str(output)]
    words += ["--labels", str(raw / "labels.tsv"), "--every", "1", "--splits"]
    words += [str(raw / "scannetv2_train.txt"), str(raw / "scannetv2_test.txt")]
    assert main(words) == 0
    return output


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def skipped_of(output: Path, scan_id: str) -> list[tuple[str, str]]:
    rows = read_manifest(output)["skipped"]
    return [(row["item"], row["reason"]) for row in rows if row["scene_id"] == scan_id]


def test_frames_are_the_recorded_ones(raw: Path, prepared: Path) -> None:
    _, rendered = small_room()
    scene = Scene.open(prepared / "scenes" / NAME, check="content")
    assert scene.frame_indices == tuple(range(SMALL.num_frames))
    assert scene.problems == ()
    with SensFile(raw / "scans" / NAME / f"{NAME}.sens") as sens:
        for index in scene.frame_indices:
            assert scene.color_path(index).read_bytes() == sens.color_bytes(index)
    for index in scene.frame_indices:
        depth = np.asarray(Image.open(scene.depth_path(index)))
        np.testing.assert_array_equal(depth, rendered.depth_mm[index])
        # The scan is stored turned away from the room; its axisAlignment turns it back.
        np.testing.assert_allclose(
            scene.camera_to_world(index), rendered.camera_to_world[index], atol=1e-5
        )
        assert scene.times_s(index) == pytest.approx(index * 0.033333, abs=1e-6)
    np.testing.assert_allclose(scene.intrinsics_color, rendered.intrinsics, rtol=1e-6)


def test_objects_and_boxes_are_the_rooms(prepared: Path) -> None:
    room, _ = small_room()
    objects = Scene.open(prepared / "scenes" / NAME).objects
    assert [item.label for item in objects] == [piece.label for piece in room.pieces] + ["floor"]
    for item, piece in zip(objects, room.pieces, strict=False):
        assert item.box_world is not None
        np.testing.assert_allclose(
            item.box_world, piece.box_world, atol=1e-4
        )  # rounded to 4 digits
        assert item.attributes["scannet_object_id"] == str(item.object_id - 1)
        nyu40 = scans.CLASSES.get(piece.label, scans.OTHER_CLASS)
        assert item.attributes["nyu40_id"] == str(nyu40)
    boxes = read_json(prepared / "scenes" / NAME / "scannet_boxes.json")
    assert boxes["different"] == []
    # The floor has no official box.
    assert [row[7] for row in boxes["official"]] == list(range(len(room.pieces)))
    assert len(boxes["sound"]) == len(room.pieces) + 1


def test_instance_images_say_where_objects_are_seen(prepared: Path) -> None:
    room, rendered = small_room()
    folder = prepared / "scenes" / NAME
    scene = Scene.open(folder)
    floor = len(room.pieces) + 1
    ids = np.array([0, *(piece.object_id for piece in room.pieces)])
    number_of = {int(object_id): number for number, object_id in enumerate(ids)}
    agree = []
    for index in scene.frame_indices:
        found = scene.instances(index)
        assert found is not None
        truth = np.vectorize(number_of.get)(rendered.instance[index])
        agree.append((np.where(found == floor, 0, found) == truth).mean())
    assert min(agree) > 0.98
    stored = read_json(folder / "appearances.json")
    for object_id, seen in find_appearances(scene, scene.frame_indices).items():
        mine = stored[str(object_id)]
        assert {int(frame): tuple(box) for frame, box in mine["boxes_px"].items()} == seen.boxes_px
        assert tuple(tuple(span) for span in mine["spans_s"]) == seen.spans_s
    assert set(stored) == {str(n) for n in find_appearances(scene, scene.frame_indices)}


def test_scenes_and_samples_say_where_they_come_from(prepared: Path) -> None:
    facts = read_json(prepared / "scenes" / NAME / "scene.json")
    assert facts["world"] == "axis_aligned"
    np.testing.assert_allclose(facts["axis_alignment"], scans.ALIGNMENT)
    assert (facts["provenance"], facts["split"]) == ("projected_from_3d_mask", "train")
    other = read_json(prepared / "scenes" / "scene0001_00" / "scene.json")
    assert (other["world"], other["axis_alignment"]) == ("sensor", None)
    assert (other["provenance"], other["split"]) == ("recording", "test")
    labels = Counter(piece.label for piece in small_room()[0].pieces)
    samples = read_samples(prepared, "train")
    assert {sample.target.label for sample in samples} <= {n for n, k in labels.items() if k == 1}
    for sample in samples:
        assert sample.question == f"the {sample.target.label}"
        assert sample.provenance == "projected_from_3d_mask"
        assert sample.target.boxes_px
        assert sample.target.spans_s


def test_the_manifest_lists_scenes_with_their_hash_and_what_is_left_out(prepared: Path) -> None:
    for row in read_manifest(prepared)["scenes"]:
        assert row["sha256"] == folder_hash(prepared / "scenes" / row["scene_id"])
        assert row["frames"] == (16 if row["scene_id"] == NAME else 14)
    left_out = skipped_of(prepared, "scene0001_00")
    assert ("frame 4", "pose_not_finite") in left_out
    assert ("frame 5", "pose_not_finite") in left_out
    assert ("annotation", "not annotated") in left_out
    assert not (prepared / "scenes" / "scene0001_00" / "pose" / "4.txt").exists()


def config_of(raw: Path, **changes: Any) -> ScannetConfig:
    return replace(
        ScannetConfig(labels=str(raw / "labels.tsv"), every=2, stretch=3),
        **changes,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".parquet"
    }


def test_the_files_do_not_depend_on_the_number_of_processes(raw: Path, tmp_path: Path) -> None:
    prepare_scans([raw / "scans"], tmp_path / "one", config_of(raw))
    prepare_scans([raw / "scans"], tmp_path / "two", config_of(raw, workers=2))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


class StopError(Exception):
    """Ends a conversion as a killed process would."""


def test_an_interrupted_conversion_goes_on_where_it_stopped(raw: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def stop_at_the_second(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 2:
            raise StopError

    source, output = [raw / "scans" / NAME], tmp_path / "out"
    with pytest.raises(StopError):
        prepare_scans(source, output, config_of(raw), progress=stop_at_the_second)
    assert calls == [(3, 8), (6, 8)]
    assert not (output / "scenes" / NAME).exists()
    partial = output / "scenes" / f".partial-{NAME}"
    assert sorted(path.name for path in (partial / "chunks").iterdir()) == ["0.json", "6.json"]
    before = {path.name: path.stat().st_mtime_ns for path in (partial / "depth").iterdir()}
    assert len(before) == 6
    again: list[tuple[int, int]] = []
    prepare_scans(source, output, config_of(raw), progress=lambda *facts: again.append(facts))
    assert again == [(8, 8)]
    depth = output / "scenes" / NAME / "depth"
    for name, time_ns in before.items():
        assert (depth / name).stat().st_mtime_ns == time_ns
    prepare_scans(source, tmp_path / "whole", config_of(raw))
    assert files_of(output) == files_of(tmp_path / "whole")


def test_a_partial_conversion_with_other_settings_starts_anew(raw: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise StopError

    source = [raw / "scans" / NAME]
    with pytest.raises(StopError):
        prepare_scans(source, tmp_path / "out", config_of(raw, every=1), progress=stop)
    prepare_scans(source, tmp_path / "out", config_of(raw))
    prepare_scans(source, tmp_path / "whole", config_of(raw))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_finished_scan_is_kept(raw: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = prepare_scans([raw / "scans"], tmp_path, config_of(raw))
    before = files_of(tmp_path)
    file = tmp_path / "scenes" / NAME / "depth" / "0.png"
    time_ns = file.stat().st_mtime_ns
    again = prepare_scans(
        [raw / "scans"], tmp_path, config_of(raw), progress=lambda *facts: calls.append(facts)
    )
    assert again == first
    assert calls == []
    assert file.stat().st_mtime_ns == time_ns
    assert files_of(tmp_path) == before
    prepare_scans([raw / "scans"], tmp_path, config_of(raw, every=3))
    assert not (tmp_path / "scenes" / NAME / "depth" / "2.png").exists()


def test_colour_frames_are_resized_when_asked(raw: Path, tmp_path: Path) -> None:
    words = ["preprocess", "scannet", "--input", str(raw / "scans" / NAME), "--every", "5"]
    assert main([*words, "--output", str(tmp_path), "--resize", "48x36"]) == 0
    scene = Scene.open(tmp_path / "scenes" / NAME)
    assert (scene.color_size, scene.depth_size) == ((48, 36), (96, 72))
    _, rendered = small_room()
    focal = rendered.intrinsics[0, 0]
    assert scene.intrinsics_color[0, 0] == pytest.approx(focal / 2)
    small = np.asarray(Image.fromarray(rendered.color[5]).resize((48, 36)))
    assert np.abs(scene.color(5).astype(int) - small).mean() < 6  # two JPEGs apart
    instance = scene.instances(5)
    assert instance is not None
    assert instance.shape == (36, 48)


def test_the_sensors_world_is_kept_when_asked(raw: Path, tmp_path: Path) -> None:
    words = ["preprocess", "scannet", "--input", str(raw / "scans" / NAME), "--every", "5"]
    assert main([*words, "--output", str(tmp_path), "--no-axis-align"]) == 0
    scene = Scene.open(tmp_path / "scenes" / NAME)
    _, rendered = small_room()
    expected = np.linalg.inv(scans.ALIGNMENT) @ rendered.camera_to_world[5]
    np.testing.assert_allclose(scene.camera_to_world(5), expected, atol=1e-5)
    points, _, owners = scans.room_mesh()
    back = np.linalg.inv(scans.ALIGNMENT)
    moved = points[owners == 1] @ back[:3, :3].T + back[:3, 3]
    box = scene.objects[0].box_world
    np.testing.assert_allclose(box, [*moved.min(axis=0), *moved.max(axis=0)], atol=1e-5)


def damaged_copy(raw: Path, root: Path, name: str = "scene0009_00") -> Path:
    """Copy the annotated scan under another name."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    shutil.copytree(raw / "scans" / NAME, folder)
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace(NAME, name)))
    return folder


def test_a_cut_recording_gives_its_first_frames_and_the_exit_status_says_so(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = damaged_copy(raw, tmp_path / "scans")
    path = folder / "scene0009_00.sens"
    with SensFile(path) as sens:
        end = sens.offset(9) + 50
    path.write_bytes(path.read_bytes()[:end])
    scans.write_scan(tmp_path / "scans" / "scene0010_00", annotated=False)
    words = ["preprocess", "scannet", "--input", str(tmp_path / "scans"), "--every", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 65
    assert ("frames 9 to 15", "sens_truncated") in skipped_of(tmp_path / "out", "scene0009_00")
    assert len(Scene.open(tmp_path / "out" / "scenes" / "scene0009_00").frame_indices) == 9
    assert len(Scene.open(tmp_path / "out" / "scenes" / "scene0010_00").frame_indices) == 16
    printed = capsys.readouterr().out
    assert f"byte {end}" in printed
    assert "1 x sens_truncated, the first is frames 9 to 15" in printed


def test_planted_faults_are_listed_and_the_other_frames_prepared(raw: Path, tmp_path: Path) -> None:
    frames = scans.frames()
    nan_pose = frames[1].camera_to_world.copy()
    nan_pose[0, 0] = np.nan
    mirrored = frames[2].camera_to_world @ np.diag([-1.0, 1, 1, 1])
    blank = scans.zlib_depth(np.zeros((SMALL.height, SMALL.width), np.uint16))
    bomb = scans.zlib_depth(np.zeros((4000, 4000), np.uint16))
    frames[1] = replace(frames[1], camera_to_world=nan_pose)
    frames[2] = replace(frames[2], camera_to_world=mirrored)
    frames[3] = replace(frames[3], depth=b"")
    frames[4] = replace(frames[4], color=b"")
    frames[5] = replace(frames[5], depth=bomb)
    frames[6] = replace(frames[6], depth=blank)
    frames[7] = replace(frames[7], color=frames[7].color[:-100])
    frames[8] = replace(frames[8], color=scans.jpeg(np.zeros((8, 8, 3), np.uint8)))
    folder = tmp_path / "scans" / "scene0002_00"
    folder.mkdir(parents=True)
    write_sens(folder / "scene0002_00.sens", scans.header(), frames)
    words = ["preprocess", "scannet", "--input", str(folder), "--every", "1"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 65
    assert skipped_of(tmp_path / "out", "scene0002_00") == [
        ("annotation", "not annotated"),
        ("frame 1", "pose_not_finite"),
        ("frame 2", "pose_not_rigid"),
        ("frame 3", "depth_missing"),
        ("frame 4", "color_missing"),
        ("frame 5", "depth_size"),
        ("frame 6", "depth_empty"),
        ("frame 7", "color_unreadable"),
        ("frame 8", "color_size"),
    ]
    scene = Scene.open(tmp_path / "out" / "scenes" / "scene0002_00")
    assert scene.frame_indices == (0, *range(9, 16))


def test_a_scan_that_cannot_be_used_does_not_stop_the_others(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scans"
    wrong = damaged_copy(raw, root, "scene0003_00") / "scene0003_00.sens"
    wrong.write_bytes(b"\x09\0\0\0" + wrong.read_bytes()[4:])
    (root / "scene0004_00").mkdir()
    lost = root / "scene0005_00"
    lost.mkdir()
    write_sens(lost / "scene0005_00.sens", scans.header(), scans.frames(tuple(range(16))))
    torn = damaged_copy(raw, root, "scene0006_00")
    (torn / "scene0006_00.aggregation.json").write_text('{"segGroups": [')
    part = damaged_copy(raw, root, "scene0007_00")
    (part / "scene0007_00_vh_clean_2.ply").unlink()
    words = ["preprocess", "scannet", "--input", str(root), "--every", "4", "--workers", "2"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 65
    output = tmp_path / "out"
    assert skipped_of(output, "scene0003_00") == [("scan", "sens_version")]
    assert skipped_of(output, "scene0004_00") == [("scan", "sens_missing")]
    assert skipped_of(output, "scene0005_00") == [("scan", "scan_unusable")]
    assert ("annotation", "annotation_unreadable") in skipped_of(output, "scene0006_00")
    assert ("annotation", "annotation_missing") in skipped_of(output, "scene0007_00")
    assert sorted(path.name for path in (output / "scenes").iterdir()) == [
        "scene0006_00",
        "scene0007_00",
    ]
    printed = capsys.readouterr().out
    assert "byte 0: found version 9, expected 4" in printed
    assert "0 of 4 frames are good, expected at least 2; left out: 4 x pose_not_finite" in printed
    assert "Terms of Use" in printed
    assert "2 of 5 scans" in printed


def test_a_scan_that_no_list_names_is_left_out(raw: Path, tmp_path: Path) -> None:
    words = ["preprocess", "scannet", "--input", str(raw / "scans"), "--every", "8"]
    words += ["--output", str(tmp_path), "--splits", str(raw / "scannetv2_train.txt")]
    assert main(words) == 0
    assert skipped_of(tmp_path, "scene0001_00") == [("scan", "not in the splits")]


def test_two_processes_cannot_write_one_scan(raw: Path, tmp_path: Path) -> None:
    partial = tmp_path / "scenes" / f".partial-{NAME}"
    partial.mkdir(parents=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (made,) = prepare_scans([raw / "scans" / NAME], tmp_path, config_of(raw))
    assert made.scene is None
    assert "being written by another process" in made.skipped[0].detail


def test_wrong_settings_are_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preprocess", "scannet", "--input", str(raw / "scans"), "--output", str(tmp_path)]
    assert main([*words, "--every", "0"]) == 64
    assert main([*words, "--resize", "big"]) == 64
    assert main([*words, "--labels", str(tmp_path / "none.tsv")]) == 65
    assert main(["preprocess", "scannet", "--input", str(tmp_path), "--output", "x"]) == 65
    printed = capsys.readouterr().err
    assert "every=0" in printed
    assert "'big' is not a size such as 640x480" in printed
    assert "Terms of Use" in printed
