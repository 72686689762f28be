"""MSQA, GQA3D and SceneCOT, by numbers worked by hand."""

import json
from pathlib import Path

import pytest

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.judge import Verdict
from scenerl.rewards.result_files import question_of, result_rows, truths_of, type_of
from scenerl.rewards.score_msqa import (
    NO_CONTENT,
    ProbedAnswer,
    TypedQuestion,
    cot_answer,
    judge_records,
    score_gqa3d,
    score_msqa,
    type_hits,
)

NO_BOOTSTRAP = Bootstrap(resamples=0)


def question(kind: str, *answers: str) -> TypedQuestion:
    return TypedQuestion(question="What is it?", answers=answers, type=kind)


REFERENCES = {
    "0": question("Counting", "two"),
    "1": question("Attribute and description", "red", "dark red"),
    "2": question("spatial relationship", "left", "right"),
    "3": question("mystery", "bed"),
}
PREDICTIONS = {
    "0": ProbedAnswer(text="2"),
    "1": ProbedAnswer(text=""),
    "2": ProbedAnswer(text="right"),
    "3": ProbedAnswer(text="bed"),
}


def test_types_are_found_by_substring_and_may_count_twice() -> None:
    assert type_hits("Attribute and Description")["attribute_description"] == 2
    assert type_hits("Spatial Relationship (refer)")["spatial_refer"] == 2
    assert not any(type_hits("mystery").values())


def test_groups_are_means_over_hits_and_the_overall_is_weighted() -> None:
    report = score_msqa(REFERENCES, PREDICTIONS, bootstrap=NO_BOOTSTRAP)
    values = {metric.name: metric.value for metric in report.metrics}
    assert values["counting/em-r"] == 1.0
    assert values["attribute_description/em-r"] == 1.0  # empty
    assert values["spatial_refer/em-r"] == 0.0  # only the first answer counts
    assert values["em-r"] == pytest.approx(3 / 4)  # hits 1 + 2 + 1
    assert values["em-strict"] == pytest.approx(1 / 4)
    assert values["sound/em-r"] == pytest.approx(2 / 4)  # "right" is a true answer, "" is none
    assert values["scenecot/em"] == pytest.approx(3 / 4)
    assert values["scenecot/em-refined"] == 1.0
    assert "gpt-score" not in values
    assert report.counts["untyped"] == 1
    assert any("no judge was asked" in note for note in report.notes)


def verdict(item_id: str, score: int | None) -> Verdict:
    return Verdict(item_id=item_id, score=score, raw=str(score), model="m", prompt_id="p")


def test_a_judges_score_is_spread_over_a_hundred_and_grouped() -> None:
    verdicts = {i: verdict(i, s) for i, s in zip("0123", (5, 3, None, 1), strict=True)}
    report = score_msqa(REFERENCES, PREDICTIONS, verdicts=verdicts, bootstrap=NO_BOOTSTRAP)
    assert report["counting/gpt-score"].value == 100.0
    assert report["gpt-score"].value == pytest.approx((100 + 50 + 50 + 0) / 4)
    assert any("1 replies" in note for note in report.notes)


def test_strict_cleans_twice() -> None:
    report = score_msqa(
        {"0": question("counting", "chair")},
        {"0": ProbedAnswer(text="a a chair")},
        bootstrap=NO_BOOTSTRAP,
    )
    assert report["em-strict"].value == 1.0
    assert report["scenecot/em"].value == 0.0


def test_replies_with_thoughts_are_read_in_both_dialects() -> None:
    assert cot_answer("<answer> a </answer><answer>b</answer>") == "a"
    assert cot_answer("\u03a5 two \ub3d9") == "two"
    assert cot_answer("two") == NO_CONTENT
    thoughts = "<think_type>This is a counting question</think_type><answer>two</answer>"
    references = {"0": question("counting", thoughts), "1": question("counting", thoughts)}
    predictions = {
        "0": ProbedAnswer(text="so <answer>2</answer>"),
        "1": ProbedAnswer(text="2"),  # no answer block
    }
    report = score_msqa(references, predictions, bootstrap=NO_BOOTSTRAP)
    assert report["scenecot/em"].value == 0.5
    asked = judge_records(references, predictions)
    assert [(r.prediction, r.ground_truth) for r in asked] == [("2", "two"), ("2", "two")]


def test_objects_are_grounded_above_one_half() -> None:
    references = {"0": question("class (grounded qa)", "yes")}
    answer = ProbedAnswer(
        text="yes",
        object_probs=(0.9, 0.6, 0.5, 0.1, 0.9),
        true_objects=(True, False, True, False, True),
        valid_objects=(True, True, True, True, False),
    )
    report = score_gqa3d(references, {"0": answer}, bootstrap=NO_BOOTSTRAP)
    # TP 1, FP 1, FN 1 (0.5 is not above), TN 1 among the valid ones
    for name in ("precision", "recall", "f1", "fpr"):
        assert report[f"grounding/{name}"].value == pytest.approx(0.5, abs=1e-6)
    assert report["grounding/top1"].value == 2.0  # upstream counts right objects per item
    assert report["class (grounded qa)/em"].value == 1.0


def test_result_files_are_read_in_every_layout(tmp_path: Path) -> None:
    import torch

    row = {"scene_id": "s", "response_gt": [["two"]], "response_pred": "2", "type": "counting"}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([row, {**row, "index": 7}]))
    assert [item_id for item_id, _, _ in result_rows(path)] == ["s|0", "7"]
    path.write_text(json.dumps({"scannet": [row], "RScan": [{**row, "index": 0}]}))
    assert [item_id for item_id, _, _ in result_rows(path)] == ["scannet|s|0", "RScan|0"]
    saved = tmp_path / "results.pt"
    torch.save([{**row, "index": torch.tensor(3)}], saved)
    assert [item_id for item_id, _, _ in result_rows(saved)] == ["3"]
    assert truths_of(row, "x") == ("two",)
    instruction = "USER: You are here. How many? There. ASSISTANT:"
    assert question_of({"instruction": instruction}, "x") == "How many? There."
    assert type_of({"text": "This is an existence question"}, "x") == "existence"


def test_a_result_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    import torch

    saved = tmp_path / "results.pt"
    torch.save([Path("x")], saved, pickle_module=pickle)
    with pytest.raises(DataError, match="plain data"):
        list(result_rows(saved))
