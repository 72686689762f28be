import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenerl.preprocess.records import DataError
from scenerl.preprocess.rows import Rows
from scenerl.preprocess.rows_beacon3d import read_beacon3d_grounding, read_beacon3d_qa
from scenerl.preprocess.rows_gsreasoner import read_gsreasoner
from scenerl.preprocess.rows_msqa import read_gqa3d, read_msqa, read_scenecot
from scenerl.preprocess.rows_multi3drefer import read_multi3drefer
from scenerl.preprocess.rows_referit3d import read_nr3d, read_sr3d
from scenerl.preprocess.rows_scanqa import read_scanqa
from scenerl.preprocess.rows_scanrefer import read_scan2cap, read_scanrefer
from scenerl.preprocess.rows_sceneparser import read_sceneparser
from scenerl.preprocess.rows_sqa3d import read_sqa3d
from scenerl.preprocess.rows_temporal import read_temporal
from scenerl.preprocess.rows_vsibench import read_vsibench
from tests.annotation_files import SCANREFER, SCENE, write_file

READERS: dict[str, Callable[[Path], Rows[Any]]] = {
    "scanrefer": read_scanrefer,
    "scan2cap": read_scan2cap,
    "nr3d": read_nr3d,
    "sr3d": read_sr3d,
    "multi3drefer": read_multi3drefer,
    "scanqa": read_scanqa,
    "sqa3d": read_sqa3d,
    "vsibench": read_vsibench,
    "msqa": read_msqa,
    "gqa3d": read_gqa3d,
    "scenecot": read_scenecot,
    "beacon3d-grounding": read_beacon3d_grounding,
    "beacon3d-qa": read_beacon3d_qa,
    "temporal": read_temporal,
    "gsreasoner": read_gsreasoner,
    "sceneparser": read_sceneparser,
}
IDS = {
    "scanrefer": [f"{SCENE}|0|0", f"{SCENE}|0|1"],
    "scan2cap": [f"{SCENE}|0|brown_table"],
    "nr3d": ["10"],
    "sr3d": ["0"],
    "multi3drefer": [f"{SCENE}|0", f"{SCENE}|1", f"{SCENE}|2"],
    "scanqa": ["val-scene0011-0"],
    "sqa3d": ["220602000000"],
    "vsibench": ["0", "1"],
    "msqa": ["17"],
    "gqa3d": [f"{SCENE}|0"],
    "scenecot": [f"{SCENE}|0"],
    "beacon3d-grounding": [f"{SCENE}|chair|1|chain_1|0", f"{SCENE}|chair|1|chain_1|1"],
    "beacon3d-qa": [f"{SCENE}|chair|1|0"],
    "temporal": [f"{SCENE}|0", f"{SCENE}|1"],
    "gsreasoner": ["scanrefer_12", "gcot_0"],
    "sceneparser": ["images/a.jpg|mug", "images/a.jpg|plate"],
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_as_its_owners_write_it_gives_every_row_under_its_id(
    name: str, tmp_path: Path
) -> None:
    rows = READERS[name](write_file(tmp_path, name))
    assert not rows.skipped
    assert [row.item_id for row in rows.rows] == IDS[name]


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "questions_nowhere.json"
    with pytest.raises(DataError, match=r"questions_nowhere\.json does not exist"):
        READERS[name](path)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "ScanRefer_filtered_val.json"
    path.write_bytes(content)
    return path


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{**SCANREFER[0], "ann_id": str(n)} for n in range(count)]


def test_a_list_that_is_cut_off_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    content = json.dumps(rows_of(3)).encode()
    rows = read_scanrefer(write(tmp_path, content[:-20]))
    assert [row.ann_id for row in rows.rows] == ["0", "1"]
    assert rows.reasons() == {"cut off": 1}
    assert rows.skipped[0].location.startswith("row 2, byte ")


def test_a_cut_between_rows_is_seen(tmp_path: Path) -> None:
    content = json.dumps(rows_of(2)).encode()
    rows = read_scanrefer(write(tmp_path, content[:-1]))
    assert rows.reasons() == {"cut off": 1}


def test_bytes_that_are_not_utf8_cost_only_their_row(tmp_path: Path) -> None:
    content = json.dumps(rows_of(3)).encode().replace(b"brown table.", b"brown tabl\xe9.", 1)
    rows = read_scanrefer(write(tmp_path, content))
    assert [row.ann_id for row in rows.rows] == ["1", "2"]
    assert [(item.location, item.reason) for item in rows.skipped] == [("row 0", "not UTF-8")]


def test_a_value_that_is_no_json_is_passed_over(tmp_path: Path) -> None:
    content = json.dumps(rows_of(3)).encode().replace(b'"ann_id": "1"', b'"ann_id": oops')
    rows = read_scanrefer(write(tmp_path, content))
    assert [row.ann_id for row in rows.rows] == ["0", "2"]
    assert rows.reasons() == {"not JSON": 1}


def test_wrong_rows_say_where_and_why(tmp_path: Path) -> None:
    good, *_ = rows_of(1)
    bad = [
        17,
        {**good, "ann_id": True},
        {key: value for key, value in good.items() if key != "description"},
        {**good, "token": "words"},
        {**good, "description": " "},
        good,
    ]
    rows = read_scanrefer(write(tmp_path, json.dumps([good, *bad]).encode()))
    assert [row.ann_id for row in rows.rows] == ["0"]
    assert rows.reasons() == {
        "duplicate id": 1,
        "empty text": 1,
        "missing key": 1,
        "wrong type": 3,
    }
    assert [item.location for item in rows.skipped] == [f"row {n}" for n in range(1, 7)]
    assert "expected an object" in rows.skipped[0].detail


def test_what_stands_after_the_list_is_reported(tmp_path: Path) -> None:
    rows = read_scanrefer(write(tmp_path, json.dumps(rows_of(1)).encode() + b" junk"))
    assert len(rows.rows) == 1
    assert rows.reasons() == {"not JSON": 1}


@pytest.mark.parametrize("content", [b"", b"17", b"\x00\x01", b"null"])
def test_a_file_without_a_list_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a JSON list"):
        read_scanrefer(write(tmp_path, content))


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    path = write_file(tmp_path, "vsibench")
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{second[:30]}\n{second}\n")
    rows = read_vsibench(path)
    assert [row.item_id for row in rows.rows] == ["0", "1"]
    assert [(item.location, item.reason) for item in rows.skipped] == [("line 3", "cut off")]


def test_vsibench_reads_the_same_from_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = read_vsibench(write_file(tmp_path, "vsibench"))
    raw = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(raw), tmp_path / "test.parquet")
    assert read_vsibench(tmp_path / "test.parquet") == lines


def test_a_csv_row_of_another_length_is_skipped(tmp_path: Path) -> None:
    path = write_file(tmp_path, "nr3d")
    path.write_text(path.read_text() + "11,only,three\n")
    rows = read_nr3d(path)
    assert len(rows.rows) == 1
    assert [(item.location, item.reason) for item in rows.skipped] == [("line 3", "wrong length")]


def test_a_stimulus_says_how_many_objects_compete(tmp_path: Path) -> None:
    row = read_nr3d(write_file(tmp_path, "nr3d")).rows[0]
    assert (row.stimulus.num_objects, row.stimulus.distractor_ids) == (2, (2,))
    assert row.tokens == ("the", "chair", "at", "the", "far", "right")


def test_a_stimulus_that_contradicts_its_row_is_skipped(tmp_path: Path) -> None:
    path = write_file(tmp_path, "nr3d")
    path.write_text(path.read_text().replace("-chair-2-1-2", "-chair-3-1-2"))
    assert read_nr3d(path).reasons() == {"contradiction": 1}


def test_questions_and_answers_of_sqa3d_are_joined_by_id(tmp_path: Path) -> None:
    path = write_file(tmp_path, "sqa3d")
    row = read_sqa3d(path).rows[0]
    assert (row.answers, row.position_m, row.rotation) == (("door",), (0.5, -1, 0), (0, 0, 1, 0))
    second = tmp_path / "v1_balanced_sqa_annotations_val_scannetv2.json"
    second.write_text(second.read_text().replace("220602000000", "7"))
    assert read_sqa3d(path).reasons() == {"no annotation": 1, "no question": 1}


def test_msqa_names_its_objects_in_the_raw_thought(tmp_path: Path) -> None:
    assert read_msqa(write_file(tmp_path, "msqa")).rows[0].object_ids == (0, 1)


def test_a_scenecot_row_has_its_thoughts_and_its_facing_vector(tmp_path: Path) -> None:
    row = read_scenecot(write_file(tmp_path, "scenecot")).rows[0]
    assert row.orientation == (1.0, 0.0, 0.0)
    assert row.situation == "You sit on a chair."
    assert row.answer_with_cot is not None
    assert "<answer>two</answer>" in row.answer_with_cot


def test_boxes_take_the_place_of_ground_in_a_reply(tmp_path: Path) -> None:
    row = read_gsreasoner(write_file(tmp_path, "gsreasoner")).rows[0]
    assert row.objects[0].boxes == ((0.0, 1.5, 0.0, 2.0, 2.5, 1.0),)
    assert row.completion == (
        "<think></think><answer>brown table 1 <bbox>(0.0000, 1.5000, 0.0000, 2.0000, 2.5000, "
        "1.0000)</bbox></answer>"
    )


def test_a_video_with_fewer_spans_than_sentences_keeps_the_pairs(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"v": {"duration": 5, "timestamps": [[0, 1]], "sentences": ["a", "b"]}}')
    rows = read_temporal(path)
    assert [(row.query, row.span_s) for row in rows.rows] == [("a", (0.0, 1.0))]
    assert rows.reasons() == {"contradiction": 1}
