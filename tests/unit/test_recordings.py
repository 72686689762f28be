import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import pose_file, small_room, write_instances, write_minimal

from scenerl.preprocess.annotations import find_appearances, fuse_box, parse_query, read_annotations
from scenerl.preprocess.recordings import RecordingsConfig, prepare_recordings
from scenerl.preprocess.records import DataError, SceneObject
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_writer import matrix_text
from scenerl.preprocess.store import read_manifest, read_samples

HOLOLENS = Path(__file__).parents[2].parent / "shared" / "data" / "hololens_room"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_minimal(tmp_path / "my room")


def test_masks_become_queries_with_spans_boxes_and_3d_boxes(folder: Path, tmp_path: Path) -> None:
    write_instances(folder)
    prepare_recordings([folder], tmp_path / "data", RecordingsConfig())
    samples = read_samples(tmp_path / "data", "train")
    scene = Scene.open(tmp_path / "data" / "scenes" / "my_room")
    assert scene.problems == ()
    room, _ = small_room()
    pieces = {piece.object_id: piece for piece in room.pieces}
    assert samples
    for sample in samples:
        assert sample.provenance == "projected_from_3d_mask"
        assert sample.target.object_id is not None
        piece = pieces[sample.target.object_id]
        assert sample.question == f"the {piece.color} {piece.label}"
        assert sample.target.spans_s
        assert sample.target.boxes_px
        assert sample.target.box_world is not None
        found, true = np.array(sample.target.box_world), np.array(piece.box_world)
        # What is seen of a piece lies within it, up to depth noise.
        assert (found[:3] > true[:3] - 0.1).all()
        assert (found[3:] < true[3:] + 0.1).all()


def test_the_copy_is_the_recording(folder: Path, tmp_path: Path) -> None:
    write_instances(folder)
    prepare_recordings([folder], tmp_path / "data", RecordingsConfig(every=2))
    old, new = Scene.open(folder), Scene.open(tmp_path / "data" / "scenes" / "my_room")
    assert new.frame_indices == old.frame_indices[::2]
    np.testing.assert_array_equal(new.color(6), old.color(6))
    np.testing.assert_array_equal(new.depth_m(6), old.depth_m(6))
    np.testing.assert_allclose(new.camera_to_world(6), old.camera_to_world(6), atol=1e-8)
    np.testing.assert_allclose(new.intrinsics_depth, old.intrinsics_depth)
    old_instance, new_instance = old.instances(6), new.instances(6)
    assert old_instance is not None
    assert new_instance is not None
    np.testing.assert_array_equal(new_instance, old_instance)
    assert new.times_s(12) == pytest.approx(old.times_s(12))
    assert new.up is not None


def test_depth_of_another_scale_becomes_millimetres(folder: Path, tmp_path: Path) -> None:
    before = Scene.open(folder).depth_m(0)
    for path in (folder / "depth").iterdir():
        raw = np.asarray(Image.open(path)).astype(np.uint32) * 5
        Image.fromarray(raw.astype(np.uint16)).save(path)
    (folder / "scene.json").write_text('{"depth_scale": 5000}')
    prepare_recordings([folder], tmp_path / "data", RecordingsConfig())
    after = Scene.open(tmp_path / "data" / "scenes" / "my_room").depth_m(0)
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_bad_frames_are_listed_and_times_start_at_the_first_good_one(
    folder: Path, tmp_path: Path
) -> None:
    write_instances(folder)
    pose_file(folder, 0).write_text(matrix_text(np.full((4, 4), np.inf)))
    prepare_recordings([folder], tmp_path / "data", RecordingsConfig())
    manifest = read_manifest(tmp_path / "data")
    assert manifest["skipped_reasons"]["pose_not_finite"] == 1
    assert manifest["scenes"][0]["frames"] == 15
    scene = Scene.open(tmp_path / "data" / "scenes" / "my_room")
    assert scene.times_s(3) == 0.0
    for sample in read_samples(tmp_path / "data", "train"):
        assert sample.target.spans_s is not None
        assert sample.target.boxes_px is not None
        for index in sample.target.boxes_px:
            time_s = scene.times_s(index)
            assert any(start - 1e-3 <= time_s < end for start, end in sample.target.spans_s)


def test_a_recording_without_annotations_is_accepted(folder: Path, tmp_path: Path) -> None:
    made = prepare_recordings([folder], tmp_path / "data", RecordingsConfig())
    assert made[0].samples == ()
    assert read_manifest(tmp_path / "data")["scenes"][0]["scene_id"] == "my_room"
    assert Scene.open(tmp_path / "data" / "scenes" / "my_room").frame_indices


def test_own_queries_may_name_objects_or_state_the_truth(folder: Path, tmp_path: Path) -> None:
    write_instances(folder)
    object_id = small_room()[0].pieces[0].object_id
    queries = [
        {"text": "that thing", "object_id": object_id},
        {
            "text": "the mug",
            "label": "mug",
            "spans_s": [[0.1, 0.5]],
            "boxes_px": {"6": [1, 2, 30, 40]},
        },
        {"text": "How many chairs are there?", "answers": ["2", "two"], "kind": "count"},
    ]
    path = tmp_path / "queries.json"
    path.write_text(json.dumps({"queries": queries}))
    config = RecordingsConfig(annotations=str(path), split="test", dataset="mine")
    prepare_recordings([folder], tmp_path / "data", config)
    thing, mug, count = read_samples(tmp_path / "data", "test")[:3]
    assert (thing.target.object_id, thing.provenance) == (object_id, "projected_from_3d_mask")
    assert thing.target.spans_s
    assert (mug.target.spans_s, mug.target.boxes_px) == (((0.1, 0.5),), {6: (1, 2, 30, 40)})
    assert (mug.kind, mug.provenance) == ("human", "human")
    assert (count.kind, count.target.answers) == ("count", ("2", "two"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"text": ""}, 'with a "text"'),
        ({"text": "a", "box": [1]}, "unknown key 'box'"),
        ({"text": "a"}, "nothing about the truth"),
        ({"text": "a", "object_id": 9}, r"object_id 9 is not one of \[1\]"),
        ({"text": "a", "box_world": [1, 2, 3]}, "found 3 numbers"),
        ({"text": "a", "spans_s": [1, 2]}, "query 0"),
        ({"text": "a", "answers": []}, "a list of texts"),
    ],
)
def test_wrong_queries_are_refused(query: dict[str, object], message: str) -> None:
    objects = {1: SceneObject(object_id=1, label="chair", box_world=None)}
    with pytest.raises(DataError, match=message):
        parse_query(query, "room, query 0", objects, {})


def test_wrong_annotation_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_annotations(path, ["a"])
    path.write_text('{"queries": []}')
    with pytest.raises(DataError, match="for several"):
        read_annotations(path, ["a", "b"])
    path.write_text('{"scenes": {"c": {"queries": []}}}')
    with pytest.raises(DataError, match="names scene 'c'"):
        read_annotations(path, ["a", "b"])


def test_a_second_recording_joins_the_first_in_another_split(tmp_path: Path) -> None:
    first, second = write_minimal(tmp_path / "one"), write_minimal(tmp_path / "two")
    write_instances(first)
    write_instances(second)
    data = tmp_path / "data"
    prepare_recordings([first], data, RecordingsConfig())
    prepare_recordings([second], data, RecordingsConfig(split="test"))
    assert {s.scene_id for s in read_samples(data, "train")} == {"one"}
    assert {s.scene_id for s in read_samples(data, "test")} == {"two"}
    with pytest.raises(DataError, match="two inputs are named"):
        prepare_recordings([first, first], data, RecordingsConfig())


def test_scannets_instance_images_and_aggregation_are_read(folder: Path, tmp_path: Path) -> None:
    write_instances(folder)
    (folder / "masks").rename(folder / "instance-filt")
    rows = json.loads((folder / "instances.json").read_text())["instances"]
    (folder / "instances.json").unlink()
    groups = [{"objectId": row["id"] - 1, "label": row["label"], "segments": []} for row in rows]
    (folder / "my room.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    prepare_recordings([folder], tmp_path / "data", RecordingsConfig(dataset="scannet"))
    labels = [row["label"] for row in rows]
    samples = read_samples(tmp_path / "data", "train")
    assert samples
    for sample in samples:
        assert labels.count(str(sample.target.label)) == 1
        assert sample.question == f"the {sample.target.label}"
        assert sample.kind == "label"


@pytest.mark.skipif(not HOLOLENS.is_dir(), reason="skipped: ../shared/data is not present")
def test_boxes_fused_from_real_masks_match_the_annotated_ones() -> None:
    scene = Scene.open(HOLOLENS, check="files")
    appearances = find_appearances(scene, scene.frame_indices[::2])
    sofa = scene.objects[0]
    box = fuse_box(scene, sofa.object_id, sorted(appearances[sofa.object_id].boxes_px))
    assert box is not None
    assert sofa.box_world is not None
    a, b = np.array(box), np.array(sofa.box_world)
    overlap = np.prod(np.clip(np.minimum(a[3:], b[3:]) - np.maximum(a[:3], b[:3]), 0, None))
    union = np.prod(a[3:] - a[:3]) + np.prod(b[3:] - b[:3]) - overlap
    assert overlap / union > 0.85  # the annotation itself is accurate to a few centimetres
