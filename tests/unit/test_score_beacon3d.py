"""Beacon3D's chains, by numbers worked by hand."""

import pytest

from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.judge import Verdict
from scenerl.rewards.score_beacon3d import (
    ChainText,
    asked_ids,
    effective_ids,
    is_binary,
    judge_records,
    score_grounding,
    score_qa,
)

NO_BOOTSTRAP = Bootstrap(resamples=0)


def level(obj: str, chain: int, number: int, text: str, tag: str = "class") -> ChainText:
    return ChainText(
        scene_id="s", object_key=f"s|box|{obj}", text=text, tag=tag, chain=str(chain), level=number
    )


REFERENCES = {
    "a10": level("a", 1, 0, "White box on the desk", "class-appearance"),
    "a11": level("a", 1, 1, "Box"),
    "a20": level("a", 2, 0, "The largest box", "class-geometry"),
    "a21": level("a", 2, 1, "box"),
    "a30": level("a", 3, 0, "The box by the window", "class-spatial"),
    "b10": level("b", 1, 0, "The small box"),
    "b11": level("b", 1, 1, "Box"),
    "b20": level("b", 2, 0, "The black box"),
    "b30": level("b", 3, 0, "The round box"),
}


def test_equal_texts_are_asked_once_and_case_is_merged_into_the_last() -> None:
    assert asked_ids(REFERENCES) == [i for i in REFERENCES if i != "b11"]
    source = effective_ids(REFERENCES)
    assert source["s", "box"] == "a21"
    assert len(source) == 7


def test_case_chain_object_and_shares() -> None:
    correct = dict.fromkeys(REFERENCES, True) | {"a21": False, "b20": False}
    report = score_grounding(REFERENCES, correct, bootstrap=NO_BOOTSTRAP)
    assert report["case"].value == pytest.approx(100 * 5 / 7)  # "box" and "the black box" miss
    assert report["case/appearance"].value == 100.0
    # chains: a1 and a2 miss their coarse level, a3 right, b1 misses its coarse one, b2 wrong, b3
    assert report["chain"].value == pytest.approx(100 * 2 / 6)
    assert report["coarse1-fine1"].value == pytest.approx(100 * 2 / 6)
    assert report["coarse0-fine1"].value == pytest.approx(100 * 3 / 6)
    assert report["coarse1-fine0"].value == pytest.approx(100 * 1 / 6)
    assert report["object"].value == pytest.approx(100 * 1 / 2)
    assert report.counts == {"chains": 6, "objects": 2, "repeated_texts": 2}


def ask(obj: str, number: int, answer: str, extra: bool = False) -> ChainText:
    return ChainText(
        scene_id="s",
        object_key=f"s|box|{obj}",
        text=f"{obj}{number}?",
        tag="appearance",
        answer=answer,
        extra_knowledge=extra,
    )


QUESTIONS = {
    "a0": ask("a", 0, "White"),
    "a1": ask("a", 1, "No"),
    "a2": ask("a", 2, "Larger", extra=True),
    "b0": ask("b", 0, "Black"),
    "b1": ask("b", 1, "Two"),
    "b2": ask("b", 2, "Wood"),
}
ANSWERS = {
    "a0": "the white",  # equal once cleaned
    "a1": "no, it is not",  # loose, and a yes/no question
    "a2": "big",
    "b0": "black paint",  # loose, but no yes/no question
    "b1": "2",
    "b2": "steel",
}


def test_nothing_is_binary_when_it_says_neither() -> None:
    assert is_binary(["Nothing"])
    assert not is_binary(["white"])


def test_only_undecided_answers_are_judged_with_cleaned_texts() -> None:
    asked = judge_records(QUESTIONS, ANSWERS)
    assert [record.item_id for record in asked] == ["a2", "b0", "b2"]
    assert asked[1].user_message == "Question: b0?\nAnswer: black paint\nGround Truth: ['black']"


def verdicts(**scores: int) -> dict[str, Verdict]:
    return {
        i: Verdict(item_id=i, score=s, raw=str(s), model="m", prompt_id="p")
        for i, s in scores.items()
    }


def test_case_object_and_coherence() -> None:
    report = score_qa(
        QUESTIONS,
        ANSWERS,
        verdicts=verdicts(a2=4, b0=5, b2=1),
        grounded=[False, True],
        bootstrap=NO_BOOTSTRAP,
    )
    assert report["em"].value == pytest.approx(100 * 2 / 6)
    assert report["em-r"].value == pytest.approx(100 * 4 / 6)
    assert report["case"].value == pytest.approx((25 / 6 - 1) / 4 * 100)  # 5 5 4 5 5 1
    assert report["object"].value == 50.0
    assert report["g0q1"].value == pytest.approx(100 * 3 / 6)
    assert report["g1q1"].value == pytest.approx(100 * 2 / 6)
    assert report["g1q0"].value == pytest.approx(100 * 1 / 6)
    assert report["no-extra/g0q1"].value == pytest.approx(100 * 2 / 5)
    assert report["R1"].value == 100.0  # 1 / (1 + 0)
    assert report["R2"].value == pytest.approx(100 * 3 / 5)


def test_without_a_judge_only_matches_are_reported() -> None:
    report = score_qa(QUESTIONS, ANSWERS, bootstrap=NO_BOOTSTRAP)
    assert [metric.name for metric in report.metrics] == ["em", "em-r"]
    assert any("--judge" in note for note in report.notes)


def test_objects_without_three_questions_are_said() -> None:
    questions = {i: q for i, q in QUESTIONS.items() if i != "a2"}
    report = score_qa(questions, ANSWERS, bootstrap=NO_BOOTSTRAP)
    assert any("1 objects do not have 3 questions" in note for note in report.notes)
