import json
from pathlib import Path
from typing import Any

import pytest

from scenerl.launch.cli import main
from scenerl.preprocess.annotation_formats import FORMATS
from scenerl.preprocess.records import Sample
from scenerl.preprocess.store import read_manifest, read_samples
from tests.annotation_files import FILES, SCENE, write_file

FILE_OF = {"beacon3d": "beacon3d-qa", "beacon3d_grounding": "beacon3d-grounding"}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    sizes = ["--train", "0", "--val", "2", "--test", "0", "--frames", "12"]
    assert main(["preprocess", "rooms", "--output", str(root), *sizes]) == 0
    return root


def preprocess(*words: object) -> int:
    return main(["preprocess", *map(str, words)])


def exported(rooms: Path, name: str, output: Path) -> Path:
    assert preprocess("rooms-export", "--input", rooms, "--format", name, "--output", output) == 0
    return output


def asked_samples(rooms: Path, *, referring: bool) -> dict[tuple[Any, str], Sample]:
    return {
        (sample.scene_id, sample.question): sample
        for sample in read_samples(rooms, "val")
        if (sample.target.object_id is not None) == referring
    }


def test_exported_descriptions_come_back_as_the_rooms_own_targets(
    rooms: Path, tmp_path: Path
) -> None:
    file = exported(rooms, "scanrefer", tmp_path) / "ScanRefer_filtered_val.json"
    out = tmp_path / "out"
    assert preprocess("scanrefer", "--input", file, "--scenes", rooms, "--output", out) == 0
    own = asked_samples(rooms, referring=True)
    found = read_samples(out, "val")
    assert len(found) == len(own) > 10
    for sample in found:
        truth = own[sample.scene_id, sample.question].target
        target = sample.target
        assert (target.spans_s, target.boxes_px) == (truth.spans_s, truth.boxes_px)
        assert (target.box_world, target.label) == (truth.box_world, truth.label)
        assert target.object_id == truth.object_id
        assert target.object_ids == (truth.object_id,)
        assert sample.provenance == (
            "box_world=synthetic_geometry; boxes_px=synthetic_geometry; object_id=human; "
            "question=human; spans_s=synthetic_geometry"
        )
    assert found[0].item_id == f"{found[0].scene_id}|{(found[0].target.object_id or 0) - 1}|0"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("scanqa", "ScanQA_v1.0_val.json"),
        ("sqa3d", "v1_balanced_questions_val_scannetv2.json"),
    ],
)
def test_exported_questions_come_back_with_their_answers(
    name: str, file: str, rooms: Path, tmp_path: Path
) -> None:
    path = exported(rooms, name, tmp_path) / file
    out = tmp_path / "out"
    assert preprocess(name, "--input", path, "--scenes", rooms, "--output", out) == 0
    own = asked_samples(rooms, referring=False)
    found = read_samples(out, "val")
    assert len(found) == len(own)
    for sample in found:
        assert sample.target.answers == own[sample.scene_id, sample.question].target.answers
        assert bool(sample.situation) == (name == "sqa3d")


def test_exported_times_come_back_as_spans(rooms: Path, tmp_path: Path) -> None:
    path = exported(rooms, "temporal", tmp_path) / "val.json"
    out = tmp_path / "out"
    assert preprocess("temporal", "--input", path, "--scenes", rooms, "--output", out) == 0
    own = asked_samples(rooms, referring=True)
    found = read_samples(out, "val")
    assert len(found) == len(own)
    for sample in found:
        assert sample.target.spans_s == own[sample.scene_id, sample.question].target.spans_s


def test_exported_sets_of_objects_come_back_with_all_their_boxes(
    rooms: Path, tmp_path: Path
) -> None:
    path = exported(rooms, "multi3drefer", tmp_path) / "multi3drefer_val.json"
    out = tmp_path / "out"
    assert preprocess("multi3drefer", "--input", path, "--scenes", rooms, "--output", out) == 0
    found = read_samples(out, "val")
    assert {sample.kind for sample in found} >= {"zt_w_d", "zt_wo_d", "mt"}
    for sample in found:
        scene = rooms / "scenes" / str(sample.scene_id)
        rows = json.loads((scene / "objects.json").read_text())
        boxes = {row["id"]: tuple(row["box_world"]) for row in rows}
        ids = sample.target.object_ids
        assert ids is not None
        assert sample.target.boxes_world == tuple(boxes[number] for number in ids)
        if sample.kind == "mt":
            labels = {row["label"] for row in rows if row["id"] in ids}
            assert len(ids) > 1
            assert len(labels) == 1
            assert {row["id"] for row in rows if row["label"] in labels} == set(ids)
        assert (not ids) == sample.kind.startswith("zt")


def test_exported_choices_and_numbers_come_back(rooms: Path, tmp_path: Path) -> None:
    path = exported(rooms, "vsibench", tmp_path) / "val.jsonl"
    out = tmp_path / "out"
    assert preprocess("vsibench", "--input", path, "--scenes", rooms, "--output", out) == 0
    own = asked_samples(rooms, referring=False)
    found = read_samples(out, "val")
    assert {"object_counting", "object_abs_distance"} <= {sample.kind for sample in found}
    for sample in found:
        answers = sample.target.answers or ()
        if sample.kind == "object_counting":
            assert answers[0] == (own[sample.scene_id, sample.question].target.answers or ())[0]
        if sample.options is not None:
            assert any(option.startswith(f"{answers[0]}. ") for option in sample.options)


def test_exported_images_come_back_as_one_sample_a_category(rooms: Path, tmp_path: Path) -> None:
    folder = exported(rooms, "sceneparser", tmp_path / "in")
    out = tmp_path / "out"
    words = ("--input", folder / "val.jsonl", "--media", folder, "--output", out)
    assert preprocess("sceneparser-samples", *words) == 0
    lines = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    found = {sample.item_id: sample for sample in read_samples(out, "val")}
    for line in lines:
        for category in {item["phrase"] for item in line["objects"]}:
            sample = found[f"{line['image_path']}|{category}"]
            reply = json.loads(sample.target.completion or "")
            names = [item["phrase"] for item in line["objects"] if item["phrase"] == category]
            assert [item["name"] for item in reply["objects"]] == names
            assert (out / str(sample.media.video)).is_file()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_gives_samples_that_datasets_can_load(
    name: str, rooms: Path, tmp_path: Path
) -> None:
    import datasets
    from PIL import Image

    file = write_file(tmp_path, FILE_OF.get(name, name))
    scene = sorted(path.name for path in (rooms / "scenes").iterdir())[0]
    for path in tmp_path.iterdir():
        path.write_text(path.read_text().replace(SCENE, scene))
    where: tuple[object, ...] = ("--scenes", rooms)
    if name == "sceneparser":
        (tmp_path / "images").mkdir()
        Image.new("RGB", (200, 150)).save(tmp_path / "images" / "a.jpg")
        where = ("--media", tmp_path)
    out = tmp_path / "out"
    command = FORMATS[name].command
    assert preprocess(command, "--input", file, *where, "--output", out, "--split", "val") == 0
    table = datasets.load_dataset(
        "parquet",
        data_files=str(out / "samples" / "val.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    samples = read_samples(out, "val")
    assert table["item_id"] == [sample.item_id for sample in samples]
    assert {sample.dataset for sample in samples} == {name}
    manifest = read_manifest(out)
    assert manifest["splits"]["val"]["samples"] == len(samples)
    assert not manifest["skipped"]


def test_rows_without_a_scene_or_an_object_are_left_out_and_said(
    rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(rooms, "scanrefer", tmp_path) / "ScanRefer_filtered_val.json"
    rows = json.loads(path.read_text())[:2]
    bad = [
        {**rows[0], "ann_id": "90", "scene_id": "../../etc"},
        {**rows[0], "ann_id": "91", "scene_id": "scene9999_00"},
        {**rows[0], "ann_id": "92", "object_id": "77"},
        {**rows[0], "ann_id": "93", "object_id": "http://x"},
        rows[1],
    ]
    path.write_text(json.dumps([*rows, *bad]))
    words = ("scanrefer", "--input", path, "--scenes", rooms, "--output", tmp_path / "out")
    assert preprocess(*words) == 65
    assert "2 samples of 7 rows" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out")
    assert manifest["skipped_reasons"] == {
        "duplicate id": 1,
        "hostile name": 1,
        "no such object": 2,
        "no such scene": 1,
    }
    assert all(row["broken"] and row["split"] == "val" for row in manifest["skipped"])
    assert preprocess(*words, "--allow-skipped") == 0


@pytest.mark.parametrize("name", ["https://host/v", "../secret", "/etc/passwd", "a\\b", "none"])
def test_media_that_a_row_names_are_only_taken_from_their_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "videos").mkdir()
    path = tmp_path / "train.json"
    video = {"duration": 3, "timestamps": [[0, 1]], "sentences": ["a"]}
    path.write_text(json.dumps({name: video}))
    out = tmp_path / "out"
    words = ("--input", path, "--media", tmp_path / "videos", "--output", out)
    assert preprocess("temporal", *words) == 65
    assert not out.exists()
    said = capsys.readouterr().err
    assert ("no such file" if name == "none" else "hostile name") in said


def test_a_video_is_taken_from_the_folder_of_media(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "AO8RW.mkv").write_bytes(b"not looked into here")
    path = tmp_path / "train.json"
    path.write_text(
        '{"AO8RW": {"duration": 33.75, "timestamps": [[0, 6.9]], "sentences": ["A man sits."]}}'
    )
    out = tmp_path / "out"
    assert preprocess("temporal", "--input", path, "--media", folder, "--output", out) == 0
    sample = read_samples(out, "train")[0]
    assert sample.media.video == "videos/AO8RW.mkv"
    assert (sample.question, sample.target.spans_s) == ("a man sits", ((0.0, 6.9),))
    assert sample.scene_id == "AO8RW"


def test_a_scene_stays_in_one_split(rooms: Path, tmp_path: Path) -> None:
    path = exported(rooms, "scanqa", tmp_path) / "ScanQA_v1.0_val.json"
    out = tmp_path / "out"
    words = ("scanqa", "--input", path, "--scenes", rooms, "--output", out)
    assert preprocess(*words) == 0
    before = (out / "manifest.json").read_bytes()
    assert preprocess(*words, "--split", "train") == 65
    assert (out / "manifest.json").read_bytes() == before
    assert preprocess(*words) == 0
    assert (out / "manifest.json").read_bytes() == before


def test_a_missing_file_says_where_it_comes_from(
    rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in FORMATS.values():
        words = ("--input", tmp_path / "no.json", "--output", tmp_path / "out")
        where = ("--media", tmp_path) if kind.name == "sceneparser" else ("--scenes", rooms)
        assert preprocess(kind.command, *words, *where) == 65
        said = capsys.readouterr().err
        assert kind.files in said
        assert kind.origin in said


def test_every_format_has_a_file_to_test_with() -> None:
    assert {FILE_OF.get(name, name) for name in FORMATS} == set(FILES)
