"""What an answer scores, by numbers worked by hand."""

import pytest

from scenerl.envs.metrics import (
    best_temporal_iou,
    mean_scores,
    score_answer,
)
from scenerl.envs.records import BoxAnswer, ParseError, SpanAnswer, TextAnswer
from scenerl.envs.text_match import (
    answer_words,
    is_exact_match,
    is_refined_match,
    leading_number,
)
from scenerl.kernels.iou import box_giou, box_iou
from scenerl.rewards.canary import canary_prompt

NOTHING = ParseError(reason="no <answer> block", text="")


@pytest.mark.parametrize(
    ("span_s", "iou"),
    [
        ((5.0, 10.0), 1.0),
        ((5.0, 7.5), 0.5),
        ((0.0, 10.0), 0.5),
        ((7.5, 12.5), 2.5 / 7.5),
        ((20.0, 30.0), 0.0),
        ((7.0, 7.0), 0.0),
    ],
)
def test_temporal_iou(span_s: tuple[float, float], iou: float) -> None:
    assert best_temporal_iou(span_s, [(5.0, 10.0)]) == pytest.approx(iou)


def test_naming_any_of_several_spans_is_right() -> None:
    assert best_temporal_iou((1.0, 2.0), [(8.0, 9.0), (1.0, 3.0)]) == 0.5
    assert best_temporal_iou((7.0, 7.0), [(7.0, 7.0)]) == 0.0


def test_box_iou_and_giou() -> None:
    # 4x4 and 4x4 shifted by (2, 2): overlap 4, union 28, hull 36
    assert box_iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert box_giou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28 - 8 / 36)
    # apart by 4: nothing overlaps, union 32, hull 4 x 12
    assert box_giou((0, 0, 4, 4), (8, 0, 12, 4)) == pytest.approx(-16 / 48)


def test_a_temporal_answer_scores_iou_and_recalls() -> None:
    prompt = canary_prompt("temporal_grounding")  # true span 1..3
    assert score_answer(SpanAnswer(span_s=(1.0, 2.0)), prompt) == {
        "temporal_iou": 0.5,
        "recall_0.3": 1.0,
        "recall_0.5": 1.0,
        "recall_0.7": 0.0,
        "parsed": 1.0,
    }
    assert set(score_answer(NOTHING, prompt).values()) == {0.0}


def test_a_box_answer_scores_iou_and_accuracy() -> None:
    prompt = canary_prompt("image_grounding")  # true box 40, 30, 120, 110
    half = score_answer(BoxAnswer(box_px=(40.0, 30.0, 80.0, 110.0)), prompt)
    assert half == {"box_iou": 0.5, "acc_0.5": 1.0, "parsed": 1.0}
    assert score_answer(NOTHING, prompt) == {"box_iou": 0.0, "acc_0.5": 0.0, "parsed": 0.0}


def test_a_text_answer_scores_exact_match() -> None:
    prompt = canary_prompt("video_qa")  # "two"
    assert score_answer(TextAnswer(text="The 2."), prompt)["exact_match"] == 1.0
    assert score_answer(TextAnswer(text="three"), prompt)["exact_match"] == 0.0
    assert score_answer(NOTHING, prompt) == {"exact_match": 0.0, "parsed": 0.0}


def test_scores_are_averaged_by_name() -> None:
    assert mean_scores([{"a": 1.0, "b": 0.0}, {"a": 0.0}, {}]) == {"a": 0.5, "b": 0.0}
    assert mean_scores([]) == {}


def test_words_that_count() -> None:
    assert answer_words("  The RED chair, and 2 tables! ") == (
        "red",
        "chair",
        "and",
        "two",
        "tables",
    )
    assert answer_words("21") == ("21",)
    assert answer_words("t-shirt 3.5") == ("t-shirt", "3.5")


@pytest.mark.parametrize("text", ["", " ", ".", "the", "\u200b"])
def test_nothing_matches_nothing(text: str) -> None:
    assert not is_exact_match(text, ["", "the", "red"])
    assert not is_refined_match(text, ["", "the", "red"])


@pytest.mark.parametrize(
    ("text", "answer", "matches"),
    [
        ("red", "red", True),
        ("it is red", "red", True),
        ("red", "dark red", True),
        ("north", "no", False),
        ("nothing", "no", False),
        ("no it is", "no", False),
        ("No.", "no", True),
        ("left or right", "left", False),
        ("red blue green yellow", "red", False),
        ("table", "on the left of the table", False),
        ("blue", "red", False),
    ],
)
def test_a_refined_match_is_neither_empty_nor_swallowing(
    text: str, answer: str, matches: bool
) -> None:
    assert is_refined_match(text, [answer]) is matches


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3.0),
        ("3.5 metres", 3.5),
        ("-2.", -2.0),
        ("Two chairs", 2.0),
        ("four.", 4.0),
        (".5", 0.5),
        ("nan", None),
        ("inf", None),
        ("9" * 400, None),
        ("about 3", None),
        ("", None),
    ],
)
def test_leading_numbers(text: str, number: float | None) -> None:
    assert leading_number(text) == number
