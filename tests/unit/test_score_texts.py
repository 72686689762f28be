import numpy as np
import pytest

from scenerl.rewards.benchmark import Bootstrap, Report
from scenerl.rewards.score_temporal import (
    parse_like_evaluation,
    parse_like_training,
    score_temporal,
)
from scenerl.rewards.score_vsibench import (
    VsiQuestion,
    final_answer,
    first_word,
    official_score,
    score_vsibench,
    sound_score,
)
from scenerl.rewards.text import MRA_THRESHOLDS, mean_relative_accuracy

NONE = Bootstrap(resamples=0)
NUMBER = VsiQuestion(question_type="object_counting", ground_truth="10")
LETTER = VsiQuestion(question_type="route_planning", ground_truth="A")


def values(report: Report) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in report.metrics}


def test_the_thresholds_are_numpys_to_the_bit() -> None:
    np.testing.assert_array_equal(MRA_THRESHOLDS, np.linspace(0.5, 0.95, 10))


def test_an_error_of_a_fifth_misses_its_threshold_officially() -> None:
    # 0.2 <= 1 - t for t = .50 .. .75 and, by the definition, .80; as floats 1 - .8 is less.
    assert official_score(NUMBER, "8") == 0.6
    assert sound_score(NUMBER, "8") == mean_relative_accuracy(8, 10) == 0.7
    assert official_score(NUMBER, "10") == 1.0
    assert official_score(NUMBER, "15") == 0.1
    assert official_score(NUMBER, "16") == 0.0


@pytest.mark.parametrize(
    ("text", "official", "sound"),
    [
        ("A", 1, 1),
        ("a.", 1, 1),
        ("A because", 1, 1),
        (" A", 0, 1),
        ("A\nbecause", 0, 1),
        ("(A)", 0, 1),
        ("A)", 0, 1),
        ("B", 0, 0),
        ("", 0, 0),
        ("Answer: A", 0, 0),
    ],
)
def test_letters(text: str, official: int, sound: int) -> None:
    assert official_score(LETTER, text) == official
    assert sound_score(LETTER, text) == sound


@pytest.mark.parametrize(
    ("text", "official", "sound"),
    [
        ("10 metres", 1, 1),
        ("10.", 1, 1),
        ("10m", 0, 0),
        ("ten", 0, 1),
        ("1e1", 1, 0),
        ("1_0", 1, 0),
        ("nan", 0, 0),
        ("inf", 0, 0),
    ],
)
def test_numbers(text: str, official: float, sound: float) -> None:
    assert official_score(NUMBER, text) == official
    assert sound_score(NUMBER, text) == sound


def test_a_truth_of_zero_or_below_does_not_stop_the_score() -> None:
    zero = VsiQuestion(question_type="object_counting", ground_truth="0")
    assert (official_score(zero, "0"), official_score(zero, "1")) == (1.0, 0.0)
    below = VsiQuestion(question_type="object_counting", ground_truth="-2")
    assert official_score(below, "99") == 1.0
    assert sound_score(below, "99") == 0.0


def test_the_answer_of_a_chain_of_thought() -> None:
    assert final_answer("<think>x</think><answer>B</answer>") == "B"
    assert final_answer("no tags") == "no tags"
    assert first_word(final_answer("<answer> B</answer>")) == ""


def test_overall_is_the_mean_over_tasks_with_directions_as_one() -> None:
    kinds = {
        "a": ("object_counting", "10", "8"),  # 0.6
        "b": ("object_rel_direction_easy", "A", "A"),
        "c": ("object_rel_direction_medium", "A", "B"),
        "d": ("object_rel_direction_hard", "A", "A"),
        "e": ("object_rel_direction_hard", "A", "B"),
        "f": ("route_planning", "C", "C"),
    }
    references = {
        i: VsiQuestion(question_type=kind, ground_truth=truth)
        for i, (kind, truth, _) in kinds.items()
    }
    answers = {i: answer for i, (_, _, answer) in kinds.items()}
    scores = values(score_vsibench(references, answers, bootstrap=NONE))
    assert scores["object_counting/mra"] == 60
    assert scores["object_rel_direction/accuracy"] == 50  # (1 + 0 + 0.5) / 3
    assert scores["overall"] == pytest.approx((60 + 50 + 100) / 3)
    assert scores["sound/overall"] == pytest.approx((70 + 50 + 100) / 3)


def test_hard_directions_alone_enter_overall_on_their_own() -> None:
    references = {
        "a": VsiQuestion(question_type="object_rel_direction_hard", ground_truth="A"),
        "b": VsiQuestion(question_type="route_planning", ground_truth="A"),
    }
    scores = values(score_vsibench(references, {"a": "A", "b": "B"}, bootstrap=NONE))
    assert scores["overall"] == 50
    assert "object_rel_direction/accuracy" not in scores


def test_easy_directions_without_the_others_are_said() -> None:
    references = {"a": VsiQuestion(question_type="object_rel_direction_easy", ground_truth="A")}
    report = score_vsibench(references, {"a": "A"}, bootstrap=NONE)
    assert "stops" in report.notes[0]
    assert values(report)["overall"] == 100


def test_recall_at_exactly_the_threshold_tells_the_two_rules_apart() -> None:
    references = {"a": (0.0, 10.0), "b": (0.0, 10.0), "c": (0.0, 10.0), "d": (0.0, 10.0)}
    spans = {"a": (0.0, 5.0), "b": (20.0, 30.0), "c": None, "d": (8.0, 2.0)}
    scores = values(score_temporal(references, spans, bootstrap=NONE))
    assert scores["mIoU"] == 0.125
    assert (scores["R1@0.3"], scores["R1@0.5"], scores["R1@0.7"]) == (0.25, 0.25, 0.0)
    assert (scores["time-r1/R1@0.3"], scores["time-r1/R1@0.5"]) == (25.0, 0.0)
    assert scores["time-r1/mIoU"] == 12.5
    assert scores["time-r1/avg"] == (12.5 + 25 + 0 + 0) / 4


def test_a_point_in_time_is_missed_and_said() -> None:
    report = score_temporal({"a": (3.0, 3.0)}, {"a": (3.0, 3.0)}, bootstrap=NONE)
    assert values(report)["mIoU"] == 0.0
    assert "no length" in report.notes[0]


@pytest.mark.parametrize(
    ("text", "evaluation", "training"),
    [
        ("<think>1 to 2</think><answer>5.0 to 10.5</answer>", (5.0, 10.5), (5.0, 10.5)),
        ("<think>1 to 2</think><answer>none</answer>", (1.0, 2.0), None),
        ("5 and 6", (5.0, 6.0), None),
        ("<answer>5 TO 6</answer>", None, (5.0, 6.0)),
        ("<answer>5s to 10s</answer>", None, None),
        ("<answer>5-10</answer>", None, None),
        ("<answer>00:05 to 00:10</answer>", (5.0, 0.0), (5.0, 0.0)),
        ("<answer>-5 to 8</answer>", (5.0, 8.0), (5.0, 8.0)),
        ("<answer>1 to 2</answer><answer>3 to 4 or 5 to 6</answer>", (5.0, 6.0), (5.0, 6.0)),
    ],
)
def test_the_two_upstream_parsers(text: str, evaluation: object, training: object) -> None:
    assert parse_like_evaluation(text) == evaluation
    assert parse_like_training(text) == training
