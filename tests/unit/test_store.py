import dataclasses
import json
from pathlib import Path

import pytest

from scenerl.preprocess.records import DataError, Media, Sample, Target
from scenerl.preprocess.store import (
    SceneEntry,
    Skipped,
    read_manifest,
    read_samples,
    write_samples,
)


def sample(name: str, *, split: str = "train", scene: str = "a", dataset: str = "d") -> Sample:
    return Sample(
        sample_id=name,
        dataset=dataset,
        split=split,
        question="the red chair",
        media=Media(kind="video", scene=f"scenes/{scene}"),
        target=Target(spans_s=((0.0, 1.5),), boxes_px={3: (1.0, 2.0, 3.0, 4.0)}),
        scene_id=scene,
        kind="attribute",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
    return tmp_path


def test_samples_come_back_by_split_and_kind(root: Path) -> None:
    count = dataclasses.replace(sample("2"), kind="count", target=Target(answers=("2", "two")))
    write_samples(root, [sample("1"), count, sample("3", split="test", scene="b")])
    assert read_samples(root, "train") == [sample("1"), count]
    assert read_samples(root, "train", kinds=["count"]) == [count]
    assert read_samples(root, "test") == [sample("3", split="test", scene="b")]


def test_the_manifest_counts_and_names_what_was_left_out(root: Path) -> None:
    skipped = Skipped(dataset="d", scene_id="a", item="frame 7", reason="pose_not_finite")
    entry = SceneEntry(scene_id="a", dataset="d", sha256="0" * 64, frames=9)
    write_samples(root, [sample("1")], [skipped], [entry])
    manifest = read_manifest(root)
    assert manifest["splits"]["train"]["samples"] == 1
    assert manifest["splits"]["train"]["kinds"] == {"attribute": 1}
    assert manifest["skipped_reasons"] == {"pose_not_finite": 1}
    assert manifest["scenes"] == [dataclasses.asdict(entry)]


def test_a_folder_holds_several_data_sets(root: Path) -> None:
    write_samples(root, [sample("1")])
    write_samples(root, [sample("2", scene="b", dataset="e")])
    assert [s.sample_id for s in read_samples(root, "train")] == ["1", "2"]
    write_samples(root, [sample("3")])
    assert [s.sample_id for s in read_samples(root, "train")] == ["2", "3"]


def test_replacing_scenes_leaves_the_other_scenes_of_the_data_set(root: Path) -> None:
    write_samples(root, [sample("1"), sample("2", scene="b")])
    write_samples(root, [sample("3", scene="b")], replace="scenes")
    assert [s.sample_id for s in read_samples(root, "train")] == ["1", "3"]


def test_a_scene_in_two_splits_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="leak into training"):
        write_samples(root, [sample("1"), sample("2", split="test")])
    write_samples(root, [sample("1")])
    with pytest.raises(DataError, match="leak into training"):
        write_samples(root, [sample("2", split="test", dataset="e")])


def test_repeated_ids_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="unique"):
        write_samples(root, [sample("1"), sample("1")])


@pytest.mark.parametrize("path", ["/etc", "../x", "scenes/../../x", "scenes\\..\\x"])
def test_media_cannot_leave_the_data_folder(root: Path, path: str) -> None:
    bad = dataclasses.replace(sample("1"), media=Media(kind="video", scene=path))
    with pytest.raises(DataError, match="leaves the data folder"):
        write_samples(root, [bad])


def test_a_link_out_of_the_folder_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (root / "scenes" / "a").rmdir()
    (root / "scenes" / "a").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(DataError, match="link out of the data folder"):
        write_samples(root, [sample("1")])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(spans_s=((2.0, 1.0),)), "start < end"),
        (Target(boxes_px={0: (5.0, 5.0, 5.0, 9.0)}), "is empty"),
        (Target(answers=()), "answers is an empty list"),
    ],
)
def test_broken_targets_are_refused(root: Path, target: Target, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_samples(root, [dataclasses.replace(sample("1"), target=target)])


def test_errors_say_what_to_do(root: Path) -> None:
    with pytest.raises(DataError, match="launch preprocess"):
        read_samples(root, "train")
    write_samples(root, [sample("1")])
    with pytest.raises(DataError, match=r"no split 'val'; it has \['train'\]"):
        read_samples(root, "val")
    with pytest.raises(DataError, match=r"no samples of kind \['relation'\]"):
        read_samples(root, "train", kinds=["relation"])
    (root / "scenes" / "a").rmdir()
    with pytest.raises(DataError, match="is missing"):
        read_samples(root, "train")


def test_a_damaged_file_or_manifest_is_reported(root: Path) -> None:
    write_samples(root, [sample("1")])
    (root / "samples" / "train.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read as samples"):
        read_samples(root, "train")
    (root / "manifest.json").write_text(json.dumps({"format": "other", "version": 9}))
    with pytest.raises(DataError, match="format 'other' version 9"):
        read_samples(root, "train")


def test_a_folder_of_version_1_is_read_with_the_new_fields_empty(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "scenes" / "a").mkdir(parents=True)
    write_samples(tmp_path, [sample("x")])
    path = tmp_path / "samples" / "train.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        for name in ("item_id", "situation", "options"):
            del row[name]
        for name in ("object_ids", "boxes_world", "completion"):
            del row["target"][name]
    pq.write_table(pa.Table.from_pylist(rows), path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "version": 1}))
    assert read_samples(tmp_path, "train") == [sample("x")]


def test_writing_one_split_again_keeps_the_others(tmp_path: Path) -> None:
    for scene in ("a", "b"):
        (tmp_path / "scenes" / scene).mkdir(parents=True)
    write_samples(tmp_path, [sample("x"), sample("y", split="val", scene="b")])
    gone = Skipped(dataset="d", scene_id="b", item="row 1", reason="r", split="val")
    write_samples(tmp_path, [sample("z", split="val", scene="b")], [gone], replace="splits")
    assert [s.sample_id for s in read_samples(tmp_path, "train")] == ["x"]
    assert [s.sample_id for s in read_samples(tmp_path, "val")] == ["z"]
    write_samples(tmp_path, [sample("w")], replace="splits")
    assert read_manifest(tmp_path)["skipped_reasons"] == {"r": 1}
