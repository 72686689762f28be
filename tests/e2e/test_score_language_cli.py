"""`launch score` of the question-answering and captioning benchmarks, in the official layouts."""

import json
from pathlib import Path
from typing import Any

import pytest

from scenerl.launch.cli import main

GROUNDING = {
    "s": {
        "box": {
            "1": {
                f"chain_{k}": [
                    {"text": f"fine {k}", "obj_id": ["1"], "tag": "class-spatial"},
                    {"text": "Box" if k < 3 else "box", "obj_id": ["1", "2"], "tag": "class"},
                ]
                for k in (1, 2, 3)
            }
        }
    }
}
QA = {
    "s": {
        "box": {
            "1": {
                "grounding_text": ["a", "b", "c"],
                "qa": [
                    {"question": f"q{k}?", "answer": a, "tag": "spatial", "extra_knowledge": 0}
                    for k, a in enumerate(("Yes", "White", "Left"))
                ],
            }
        }
    }
}


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def write(path: Path, value: Any) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        path.write_text(json.dumps(value))
    return path


def score(name: str, predictions: Path, references: Path, *options: Any) -> dict[str, Any]:
    out = predictions.with_name("scores.json")
    files = ["--predictions", str(predictions), "--references", str(references)]
    code = main(["score", name, *files, "--json", str(out), *map(str, options)])
    assert code == 0
    result: dict[str, Any] = json.loads(out.read_text())
    result["values"] = {k: v["value"] for k, v in result["metrics"].items()}
    return result


def scanqa_files(tmp_path: Path) -> Path:
    rows = [
        {"scene_id": "s", "question_id": f"val-s-{n}", "question": "Where?", "answers": ["left"]}
        for n in range(4)
    ]
    return write(tmp_path / "ScanQA_v1.0_val.json", rows)


def test_scanqa_reads_three_layouts(tmp_path: Path) -> None:
    references = scanqa_files(tmp_path)
    answers = ["left", "Left", "right", "left."]
    own = [{"id": f"val-s-{n}", "answer": text} for n, text in enumerate(answers)]
    official = [
        {"question_id": f"val-s-{n}", "scene_id": "s", "answer_top10": [text, "left"]}
        for n, text in enumerate(answers)
    ]
    results = [
        {"sample_id": f"scanqa_val-s-{n}_0", "pred_response": text}
        for n, text in enumerate(answers)
    ]
    for path, value in (("own.jsonl", own), ("pred.json", official), ("res.jsonl", results)):
        found = score("scanqa", write(tmp_path / path, value), references)
        assert found["values"]["em@1"] == 25.0
        assert found["values"]["leo/em"] == 0.75
        assert found["values"].get("em@10") == (100.0 if path == "pred.json" else None)
        assert found["metrics"]["em@1"]["low"] is not None


def test_a_missing_or_surplus_answer_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    references = scanqa_files(tmp_path)
    some = write(tmp_path / "own.jsonl", [{"id": "val-s-0", "answer": "left"}])
    files = ["--predictions", str(some), "--references", str(references)]
    assert main(["score", "scanqa", *files]) == 65
    assert main(["score", "scanqa", *files, "--allow-missing"]) == 0
    write(some, [{"id": "val-s-9", "answer": "left"}])
    assert main(["score", "scanqa", *files, "--allow-missing"]) == 65
    write(some, [{"id": "val-s-0", "answer": 3}])
    assert main(["score", "scanqa", *files, "--allow-missing"]) == 65


def test_sqa3d_joins_its_two_files(tmp_path: Path) -> None:
    asked = [
        {"question_id": n, "scene_id": "s", "situation": "I sit.", "question": "Is it red?"}
        for n in range(2)
    ]
    true = [
        {
            "question_id": n,
            "scene_id": "s",
            "answer_type": "other",
            "question_type": "N/A",
            "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}],
            "position": {"x": 0, "y": 0, "z": 0},
            "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1},
        }
        for n in range(2)
    ]
    references = write(tmp_path / "v1_balanced_questions_x.json", {"questions": asked})
    write(tmp_path / "v1_balanced_sqa_annotations_x.json", {"annotations": true})
    own = [
        {"id": 0, "answer": "Yes.", "positions_m": [[0.1, 0, 0]]},
        {"id": 1, "answer": "no", "positions_m": [[3, 0, 0], [0, 0.9, 0]]},
    ]
    values = score("sqa3d", write(tmp_path / "own.jsonl", own), references)["values"]
    assert values["is/em"] == 50.0
    assert values["acc@0.5m"] == 0.5
    assert values["acc@1.0m"] == 1.0


def test_scan2cap_by_iou_and_with_given_boxes(tmp_path: Path) -> None:
    rows = [
        {
            **{"scene_id": "s", "object_id": str(n), "object_name": "red_chair", "ann_id": "0"},
            **{"description": f"a {c} chair.", "token": ["a", c, "chair"]},
        }
        for n, c in enumerate(("red", "blue"))
    ]
    references = write(tmp_path / "val.json", rows)
    boxes = [{"scene_id": "s", "object_id": n, "box": [n, 0, 0, n + 1, 1, 1]} for n in range(2)]
    own = [
        {"id": "s|0|red_chair", "caption": "a red chair", "box": [0, 0, 0, 1, 1, 1]},
        {"id": "s|1|red_chair", "caption": "a blue chair", "box": [9, 0, 0, 10, 1, 1]},
    ]
    predictions = write(tmp_path / "own.jsonl", own)
    found = score(
        "scan2cap", predictions, references, "--boxes", write(tmp_path / "boxes.jsonl", boxes)
    )
    assert 0.5 < found["values"]["rouge-l@0.5"] < 1
    assert found["values"]["meteor@0.5"] is None
    assert any("Java" in note for note in found["notes"])
    results = [{"sample_id": 1, "pred_response": "A red.", "gt_response": ["a red."]}]
    path = write(tmp_path / "results.jsonl", results)
    values = score("scan2cap", path, path, "--definition", "given")["values"]
    assert values["rouge-l"] == pytest.approx(100.0)


def test_beacon3d_grounding_and_answers_with_recorded_verdicts(tmp_path: Path) -> None:
    metadata = write(tmp_path / "g.json", GROUNDING)
    # the data list: fine 1, Box, fine 2, fine 3, box
    infer = write(tmp_path / "infer.json", [{"correct": c} for c in (1, 0, 1, 1, 1)])
    found = score("beacon3d-grounding", infer, metadata)
    assert found["values"]["object"] == 100.0
    assert found["values"]["chain"] == 100.0  # "box" is the later one and right
    assert found["values"]["case"] == 100.0
    own = [
        {"id": f"s|box|1|chain_{k}|{level}", "object_id": "1" if level == 0 else "7"}
        for k in (1, 2, 3)
        for level in (0, 1)
    ]
    found = score("beacon3d-grounding", write(tmp_path / "own.jsonl", own), metadata)
    assert found["values"]["case"] == 75.0
    assert any("repeated texts" in note for note in found["notes"])
    questions = write(tmp_path / "q.json", QA)
    answers = write(tmp_path / "a.json", [{"text": t} for t in ("yes it is", "white", "west")])
    assert "case" not in score("beacon3d-qa", answers, questions)["values"]
    verdicts = write(tmp_path / "v.jsonl", [{"id": "s|box|1|2", "raw": "Score: 2"}])
    more = ["--grounding", infer, "--grounding-references", metadata, "--judge", verdicts]
    found = score("beacon3d-qa", answers, questions, *more)
    assert found["values"]["case"] == pytest.approx((12 / 3 - 1) / 4 * 100)
    assert found["values"]["R1"] == 100.0
    assert found["values"]["R2"] == 0.0


def test_msqa_reads_results_that_hold_their_truth_and_names_the_judge(tmp_path: Path) -> None:
    rows = [
        {"index": n, "question": "Is it?", "response_gt": ["yes"], "response_pred": text, "type": t}
        for n, (text, t) in enumerate((("Yes", "existence"), ("no", "refer")))
    ]
    path = write(tmp_path / "results.json", rows)
    verdicts = write(tmp_path / "v.jsonl", [{"id": n, "score": s} for n, s in ((0, 5), (1, 2))])
    found = score("msqa", path, path, "--judge", verdicts)
    assert found["values"]["em-r"] == 0.5
    assert found["values"]["gpt-score"] == 62.5
    assert any("judged by not recorded" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--judge", "no/such/file.jsonl"], 65),
        (["--judge", "http://localhost:1/v1"], 64),
        (["--judge", "http://localhost:1/v1", "--judge-model", "m"], 64),
        (["--judge", "/"], 65),  # a folder without config.json
        (["--judge", "ftp://x", "--judge-model", "m", "--judge-verdicts", "v.jsonl"], 64),
    ],
)
def test_a_judge_that_cannot_work_is_refused_first(
    options: list[str], code: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "results.json", [{"response_gt": ["a"], "response_pred": "a"}])
    files = ["--predictions", str(path), "--references", str(path)]
    assert main(["score", "msqa", *files, *options]) == code


def test_a_judge_that_does_not_answer_ends_the_command_and_keeps_nothing_silent(
    tmp_path: Path,
) -> None:
    rows = [{"question": "q?", "response_gt": ["a"], "response_pred": "b", "type": "refer"}]
    path = write(tmp_path / "results.json", rows)
    files = ["--predictions", str(path), "--references", str(path)]
    judge = ["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-retries", "0"]
    judge += ["--judge-verdicts", str(tmp_path / "v.jsonl"), "--json", str(tmp_path / "out.json")]
    assert main(["score", "msqa", *files, *judge]) == 69
    assert not (tmp_path / "out.json").exists()
