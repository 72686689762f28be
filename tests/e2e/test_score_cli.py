"""`launch score` over the files of every upstream format, and over broken ones."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenerl.launch.cli import main
from scenerl.rewards.benchmarks import BENCHMARKS

CUBE = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
AWAY = [5.0, 5.0, 5.0, 6.0, 6.0, 6.0]


def corners(box: list[float]) -> list[list[float]]:
    return [[box[x], box[y], box[z]] for x in (0, 3) for y in (1, 4) for z in (2, 5)]


def size(box: list[float]) -> list[float]:
    low, high = np.array(box[:3]), np.array(box[3:])
    return [*((low + high) / 2).tolist(), *(high - low).tolist()]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def score(tmp_path: Path, name: str, predictions: Path, references: Path, *more: str) -> Any:
    """Run the command; returns the metrics by name, and fails on any exit status but 0."""
    out = tmp_path / "out.json"
    files = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["score", name, *files, "--json", str(out), "--bootstrap", "20", *more]) == 0
    result = json.loads(out.read_text())
    assert result["benchmark"] == name
    return {key: metric["value"] for key, metric in result["metrics"].items()} | {
        "counts": result["counts"],
        "notes": result["notes"],
    }


@pytest.fixture
def scanrefer(tmp_path: Path) -> Path:
    """Annotations of two chairs of one scene; the boxes and labels stand beside them."""
    rows = [
        {
            "scene_id": "scene0011_00",
            "object_id": str(number),
            "object_name": "office_chair",
            "ann_id": "0",
            "description": "the chair",
            "token": ["the", "chair"],
        }
        for number in (4, 7)
    ]
    lines(
        tmp_path / "boxes.jsonl",
        {"scene_id": "scene0011_00", "object_id": 4, "box": CUBE},
        {"scene_id": "scene0011_00", "object_id": "7", "box": AWAY},
    )
    (tmp_path / "labels.tsv").write_text("h\n1\toffice chair\tchair\t1\t5\t4\tChair\tchair\n")
    return as_json(tmp_path / "val.json", rows)


OURS = (
    {"id": "scene0011_00|4|0", "box": CUBE},
    {"id": "scene0011_00|7|0", "boxes": [CUBE, AWAY]},
)


def test_scanrefer_from_our_lines(tmp_path: Path, scanrefer: Path) -> None:
    more = ["--boxes", str(tmp_path / "boxes.jsonl"), "--labels", str(tmp_path / "labels.tsv")]
    items = tmp_path / "items.jsonl"
    predictions = lines(tmp_path / "p.jsonl", *OURS)
    found = score(
        tmp_path, "scanrefer", predictions, scanrefer, *more, "--oracle", "--items", str(items)
    )
    assert found["acc@0.5"] == found["multiple/acc@0.5"] == 0.5
    assert found["oracle/acc@0.5"] == 1.0
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in OURS]
    assert rows[1]["sound_iou"] == 0.0
    assert rows[0]["groups"] == ["multiple", "not_in_others"]


def test_scanrefer_from_the_official_file_and_prepared_boxes(
    tmp_path: Path, scanrefer: Path
) -> None:
    keys = {"scene_id": "scene0011_00", "ann_id": "0"}
    predictions = as_json(
        tmp_path / "pred.json",
        [
            {**keys, "object_id": "4", "bbox": corners(CUBE), "unique_multiple": 0, "others": 0},
            {**keys, "object_id": "7", "bbox": corners(CUBE), "unique_multiple": 1, "others": 1},
        ],
    )
    boxes = np.array([[*size(CUBE), 5, 4], [*size(AWAY), 5, 7]])
    np.save(tmp_path / "scene0011_00_aligned_bbox.npy", boxes)
    found = score(tmp_path, "scanrefer", predictions, scanrefer, "--boxes", str(tmp_path))
    assert (found["unique/acc@0.5"], found["multiple/in_others/acc@0.5"]) == (1.0, 0.0)


def test_boxes_of_a_prepared_folder_count_objects_as_scannet_does(
    tmp_path: Path, scanrefer: Path
) -> None:
    scene = tmp_path / "data" / "scenes" / "scene0011_00"
    scene.mkdir(parents=True)
    objects = [
        {"id": k + 1, "box_world": box, "attributes": {"scannet_object_id": str(k)}}
        for k, box in ((4, CUBE), (7, AWAY))
    ]
    as_json(scene / "objects.json", objects)
    predictions = lines(tmp_path / "p.jsonl", *OURS)
    found = score(tmp_path, "scanrefer", predictions, scanrefer, "--boxes", str(tmp_path / "data"))
    assert found["sound/acc@0.5"] == 0.5


def test_scanrefer_from_m3dref_clips_folder(tmp_path: Path, scanrefer: Path) -> None:
    folder = tmp_path / "pred"
    folder.mkdir()
    rows = [{"object_id": k, "ann_id": 0, "aabb": [corners(AWAY)]} for k in (4, 7)]
    as_json(folder / "scene0011_00.json", rows)
    found = score(
        tmp_path, "scanrefer", folder, scanrefer, "--boxes", str(tmp_path / "boxes.jsonl")
    )
    assert found["m3dref/acc@0.5"] == 0.5


def test_gs_reasoners_result_file_holds_both_sides(tmp_path: Path) -> None:
    row = {"dataset": "scanrefer", "gt_response": size(CUBE), "question_type": "unique"}
    chosen = {**row, "sample_id": 0, "pred_response": size(CUBE), "all_pred_bbox": [size(CUBE)]}
    missed = {
        **row,
        "sample_id": 1,
        "question_type": "multiple",
        "pred_response": size(AWAY),
        "all_pred_bbox": [AWAY, CUBE],
    }
    file = lines(tmp_path / "val.jsonl", chosen, missed)
    found = score(tmp_path, "scanrefer", file, file, "--oracle")
    assert (found["unique/acc@0.5"], found["multiple/acc@0.5"]) == (1.0, 0.0)
    assert found["oracle/acc@0.5"] == 1.0


NR3D = """\
assignmentid,stimulus_id,utterance,correct_guess,scan_id,instance_type,target_id,tokens,\
dataset,mentions_target_class
10,scene0011_00-chair-2-4-7,the left chair,True,scene0011_00,chair,4,\
"['the', 'left', 'chair']",nr3d,True
11,scene0011_00-chair-3-7-4-9,that one,True,scene0011_00,chair,7,\
"['that', 'one']",nr3d,False
12,scene0011_00-chair-3-7-4-9,a chair,False,scene0011_00,chair,7,\
"['a', 'chair']",nr3d,True
"""


def test_nr3d_by_choice_and_with_filters(tmp_path: Path) -> None:
    references = tmp_path / "nr3d.csv"
    references.write_text(NR3D)
    rows = [
        {"id": "10", "object_id": 4},
        {"id": 11, "object_id": "7"},
        {"id": "12", "object_id": 4},
    ]
    found = score(tmp_path, "nr3d", lines(tmp_path / "p.jsonl", *rows), references)
    assert found["acc"] == pytest.approx(2 / 3)
    assert (found["easy/acc"], found["hard/acc"], found["view_dep/acc"]) == (1.0, 0.5, 1.0)
    found = score(
        tmp_path,
        "nr3d",
        lines(tmp_path / "p.jsonl", rows[0]),
        references,
        *("--filter", "both"),
    )
    assert found["acc"] == 1.0
    assert found["counts"]["left out, not understood by a person"] == 1
    assert found["counts"]["left out, does not mention the target's class"] == 1


def test_nr3d_from_m3dref_clips_folder_counts_the_rows_of_a_target(tmp_path: Path) -> None:
    references = tmp_path / "nr3d.csv"
    references.write_text(NR3D)
    folder = tmp_path / "pred"
    folder.mkdir()
    boxes = lines(
        tmp_path / "boxes.jsonl",
        {"scene_id": "scene0011_00", "object_id": 4, "box": CUBE},
        {"scene_id": "scene0011_00", "object_id": 7, "box": AWAY},
    )
    rows = [
        {"object_id": 4, "ann_id": 0, "aabb": [corners(CUBE)]},
        {"object_id": 7, "ann_id": 0, "aabb": [corners(CUBE)]},
        {"object_id": 7, "ann_id": 1, "aabb": [corners(AWAY)]},
    ]
    as_json(folder / "scene0011_00.json", rows)
    items = tmp_path / "items.jsonl"
    found = score(
        tmp_path, "nr3d", folder, references, "--boxes", str(boxes), "--items", str(items)
    )
    assert found["acc"] == pytest.approx(2 / 3)
    scores = {row["id"]: row["acc"] for row in map(json.loads, items.read_text().splitlines())}
    assert scores == {"10": 1.0, "11": 0.0, "12": 1.0}


def test_multi3drefer_from_every_file(tmp_path: Path) -> None:
    base = {"scene_id": "scene0011_00", "object_name": "chair", "description": "chairs"}
    references = as_json(
        tmp_path / "multi.json",
        [
            {**base, "object_ids": [4, 7], "ann_id": 0, "eval_type": "mt"},
            {**base, "object_ids": [], "ann_id": 1, "eval_type": "zt_wo_d"},
        ],
    )
    boxes = lines(
        tmp_path / "boxes.jsonl",
        {"scene_id": "scene0011_00", "object_id": 4, "box": CUBE},
        {"scene_id": "scene0011_00", "object_id": 7, "box": AWAY},
    )
    folder = tmp_path / "pred"
    folder.mkdir()
    rows = [{"ann_id": 0, "aabb": [corners(CUBE)]}, {"ann_id": 1, "aabb": []}]
    as_json(folder / "scene0011_00.json", rows)
    ours = lines(
        tmp_path / "p.jsonl",
        {"id": "scene0011_00|0", "boxes": [CUBE]},
        {"id": "scene0011_00|1", "boxes": []},
    )
    for predictions in (folder, ours):
        found = score(tmp_path, "multi3drefer", predictions, references, "--boxes", str(boxes))
        assert found["mt/F1@0.5"] == pytest.approx(2 / 3)
        assert found["zt_wo_d/F1@0.5"] == 1.0
    result = {"sample_id": 3, "pred_response": [], "gt_response": [], "question_type": "zt_w_d"}
    file = lines(tmp_path / "gs.jsonl", result)
    assert score(tmp_path, "multi3drefer", file, file)["gs-reasoner/F1@0.25"] == 1.0


def test_vsibench_from_our_lines_and_lmms_evals_samples(tmp_path: Path) -> None:
    base = {"dataset": "scannet", "scene_name": "scene0011_00", "question": "?"}
    numbers = {**base, "question_type": "object_counting", "options": None}
    references = lines(
        tmp_path / "test.jsonl",
        {**numbers, "id": 0, "ground_truth": "10"},
        {**base, "id": 1, "question_type": "route_planning", "ground_truth": "B",
         "options": ["A. left", "B. right"]},
    )  # fmt: skip
    ours = lines(tmp_path / "p.jsonl", {"id": 0, "answer": "8"}, {"id": "1", "answer": "B."})
    assert score(tmp_path, "vsibench", ours, references)["overall"] == 80
    samples = lines(
        tmp_path / "samples.jsonl",
        *(
            {"doc_id": i, "doc": {"id": i}, "filtered_resps": [text], "target": "x"}
            for i, text in ((0, "<answer>8"), (1, "<think>A</think><answer>b</answer>"))
        ),
    )
    assert score(tmp_path, "vsibench", samples, references, "--answer", "cot")["overall"] == 80
    assert score(tmp_path, "vsibench", samples, references)["overall"] == 0


def test_temporal_from_every_file(tmp_path: Path) -> None:
    references = as_json(
        tmp_path / "charades.json",
        {
            "AB": {"duration": 30, "timestamps": [[0, 10], [5, 15]], "sentences": ["sits", "sits"]},
            "CD": {"duration": 30, "timestamps": [[0, 8]], "sentences": ["stands"]},
        },
    )
    ours = lines(
        tmp_path / "ours.jsonl",
        {"id": "AB|0", "span_s": [0, 5]},
        {"id": "AB|1", "response": "<think>5 to 15</think><answer>none</answer>"},
        {"id": "CD|0", "span_s": None},
    )
    found = score(tmp_path, "temporal", ours, references)
    assert found["mIoU"] == 0.5
    assert (found["R1@0.5"], found["time-r1/R1@0.5"]) == (
        pytest.approx(2 / 3),
        pytest.approx(100 / 3),
    )
    assert found["counts"]["no span read"] == 1
    strict = score(tmp_path, "temporal", ours, references, "--parser", "training")
    assert strict["mIoU"] == pytest.approx(0.5 / 3)
    time_r1 = lines(
        tmp_path / "tg.jsonl",
        {"qid": "charades_0", "pred": [0, 5], "target": [0, 10], "output_text": ""},
        {"qid": "charades_1", "pred": [5, 15], "target": [5, 15], "output_text": ""},
        {"qid": "charades_2", "pred": [None, None], "target": [0, 8], "output_text": ""},
    )
    videochat = lines(
        tmp_path / "vc.jsonl",
        {"video_path": "v/AB.mp4", "query": "sits", "answer": "", "timestamp": [0, 5]},
        {"video_path": "v/AB.mp4", "query": "sits", "answer": "", "timestamp": [5, 15]},
        {"video_path": "v/CD.mp4", "query": "stands", "answer": "", "timestamp": [None, None]},
    )
    for file in (time_r1, videochat):
        assert score(tmp_path, "temporal", file, references)["mIoU"] == 0.5
    assert score(tmp_path, "temporal", time_r1, time_r1)["mIoU"] == 0.5


def test_sceneparser_from_the_official_files(tmp_path: Path) -> None:
    touch = {"action": "sit", "affordance_bbox": [2, 2, 4, 4], "sampled_points": [[3, 3]]}
    part = {"part_name": "seat", "part_bbox": [0, 0, 10, 5], "affordances": [touch]}
    chair = {"phrase": "chair", "object_bbox": [0, 0, 10, 10], "parts": [part]}
    references = lines(tmp_path / "val.jsonl", {"image_path": "a.jpg", "objects": [chair]})
    found_part = {
        "part_name": "Seat",
        "bbox": [0, 0, 10, 5],
        "affordances": [{"action": "sit", "point": [3, 3]}],
    }
    chair_found = {"name": "chair", "bbox": [0, 0, 10, 10], "parts": [found_part]}
    answer = lines(
        tmp_path / "answer.jsonl",
        {
            "image_path": "a.jpg",
            "category": "chair",
            "gt": {"objects": [chair_found]},
            "extracted_predictions": {"objects": [chair_found]},
        },
    )
    ours = lines(tmp_path / "ours.jsonl", {"id": "a.jpg|chair", "objects": [chair_found]})
    for predictions in (answer, ours):
        found = score(tmp_path, "sceneparser", predictions, references, "--full")
        assert (found["L1"], found["L2"], found["L3"], found["ParseRate"]) == (1, 1, 1, 1)
    reply = '{"objects": [{"name": "chair", "bbox": "<0><0><999><999>"}]}'
    replies = lines(
        tmp_path / "replies.jsonl", {"id": "a.jpg|chair", "response": reply, "size": [10, 10]}
    )
    found = score(tmp_path, "sceneparser", replies, references, "--script", "scene")
    assert (found["L1"], found["L2"], found["ParseRate"]) == (1.0, 0.0, 0.0)


def fails(capfd: Any, tmp_path: Path, predictions: Path, *more: str) -> str:
    """Run scanrefer's score, which must end with status 65; returns what it said."""
    references = tmp_path / "truth.jsonl"
    if not references.exists():
        lines(references, *({"id": name, "box": CUBE} for name in "abcdefgh"))
    files = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["score", "scanrefer", *files, *more]) == 65
    return str(capfd.readouterr().err)


def test_missing_extra_and_repeated_items_are_named_and_counted(tmp_path: Path, capfd: Any) -> None:
    predictions = tmp_path / "p.jsonl"
    lines(predictions, {"id": "a", "box": CUBE}, {"id": "a", "box": CUBE}, {"id": "x", "box": CUBE})
    said = fails(capfd, tmp_path, predictions)
    assert "7 without a prediction: b, c, d, e, f, ..." in said
    assert "1 predicted more than once: a" in said
    assert "1 not among the references: x" in said
    said = fails(capfd, tmp_path, predictions, "--allow-missing")
    assert "without a prediction" not in said
    assert "not among the references" in said


def test_allowed_missing_items_count_as_wrong_and_are_counted(tmp_path: Path) -> None:
    references = lines(tmp_path / "t.jsonl", *({"id": name, "box": CUBE} for name in "abcd"))
    predictions = lines(tmp_path / "p.jsonl", {"id": "a", "box": CUBE})
    found = score(tmp_path, "scanrefer", predictions, references, "--allow-missing")
    assert found["acc@0.5"] == 0.25
    assert found["counts"] == {"items": 4, "missing": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": "a", "box": [0,0,0,1,1,1]}\n{"id": "b", "bo', "p.jsonl:2: not JSON"),
        (b'{"id": "\xff", "box": null}\n', "p.jsonl:1: byte 8 is not UTF-8"),
        (b'{"id": "a", "box": [0,0,0,1,1,NaN]}\n', "p.jsonl:1: found NaN"),
        (b'{"id": "a", "box": [0,0,0,1,1,1e999]}\n', "expected 6 finite numbers"),
        (b'{"id": "a", "box": [0,0,0,1,1]}\n', "expected 6 finite numbers"),
        (b'{"box": [0,0,0,1,1,1]}\n', '"id" is None'),
        (b"[1, 2]\n", "expected one object a line"),
        (b"", "8 without a prediction"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_prediction_file_is_located(
    tmp_path: Path, capfd: Any, content: bytes, said: str
) -> None:
    predictions = tmp_path / "p.jsonl"
    predictions.write_bytes(content)
    assert said in fails(capfd, tmp_path, predictions)


def test_a_pickle_is_never_opened(tmp_path: Path, capfd: Any) -> None:
    predictions = tmp_path / "predictions.p"
    predictions.write_bytes(pickle.dumps({}))
    assert "never read" in fails(capfd, tmp_path, predictions)


def test_an_annotation_without_a_box_says_where_boxes_come_from(
    tmp_path: Path, scanrefer: Path, capfd: Any
) -> None:
    predictions = lines(tmp_path / "p.jsonl", *OURS)
    files = ["--predictions", str(predictions), "--references", str(scanrefer)]
    assert main(["score", "scanrefer", *files]) == 65
    assert "--boxes says where they are" in capfd.readouterr().err


def test_rows_that_cannot_be_read_stop_the_score(tmp_path: Path, capfd: Any) -> None:
    references = as_json(tmp_path / "val.json", [{"scene_id": "s"}])
    predictions = lines(tmp_path / "p.jsonl", *OURS)
    files = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["score", "scanrefer", *files]) == 65
    assert "1 rows cannot be read" in capfd.readouterr().err


def test_a_result_file_of_other_annotations_is_refused(tmp_path: Path, capfd: Any) -> None:
    references = as_json(
        tmp_path / "c.json", {"AB": {"duration": 9, "timestamps": [[0, 5]], "sentences": ["x"]}}
    )
    row = {"qid": "charades_0", "pred": [0, 5], "target": [0, 6]}
    predictions = lines(tmp_path / "tg.jsonl", row)
    files = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["score", "temporal", *files]) == 65
    assert "are these the annotations" in capfd.readouterr().err


def test_settings_that_cannot_work_end_with_64(tmp_path: Path, capfd: Any) -> None:
    assert main(["score", "scanref"]) == 64
    assert "did you mean scanrefer" in capfd.readouterr().err
    assert main(["score"]) == 64
    assert main(["score", "scanrefer", "--predictions", "x"]) == 64
    files = ["--predictions", "x", "--references", "y", "--bootstrap", "-1"]
    assert main(["score", "scanrefer", *files]) == 64
    assert main(["score", "scanrefer", *files[:-2]]) == 65  # there is no such file


def test_the_list_and_the_help_name_every_benchmark(capfd: Any) -> None:
    assert main(["score", "--list"]) == 0
    listed = capfd.readouterr().out
    assert main(["score", "--help"]) == 0
    helped = capfd.readouterr().out
    for name in BENCHMARKS:
        assert f"  {name} " in listed
        assert f"  {name} " in helped


def test_the_help_of_a_benchmark_shows_its_files_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom scenerl.launch.cli import main\n"
        f"for name in {list(BENCHMARKS)!r}:\n"
        "    assert main(['score', name, '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in BENCHMARKS:
        assert f"launch score {name} --predictions" in done.stdout
