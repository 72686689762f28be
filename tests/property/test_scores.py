"""Scores stay in their bounds and do not mind the order or the names of the items."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.kernels.iou import box3d_iou
from scenerl.rewards.benchmark import Bootstrap, Report
from scenerl.rewards.grounding_records import BoxAnswer, MultiTarget, TrueBox
from scenerl.rewards.parse_sceneparser import parse_reply
from scenerl.rewards.score_boxes import box_iou
from scenerl.rewards.score_multi3drefer import match_f1, score_multi3drefer
from scenerl.rewards.score_scanrefer import score_scanrefer
from scenerl.rewards.score_sceneparser import score_sceneparser
from scenerl.rewards.score_temporal import (
    parse_like_evaluation,
    parse_like_training,
    score_temporal,
)
from scenerl.rewards.score_vsibench import (
    QUESTION_TYPES,
    VsiQuestion,
    official_score,
    score_vsibench,
    sound_score,
)

NONE = Bootstrap(resamples=0)
FEW = settings(max_examples=30, deadline=None)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, ...]:
    low = [draw(st.integers(0, 6)) / 2 for _ in range(3)]
    size = [draw(st.integers(0, 6)) / 2 for _ in range(3)]
    return (*low, *(a + b for a, b in zip(low, size, strict=True)))


spans = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda s: (s[0] / 2, s[1] / 2))
true_spans = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1]))
answers = st.one_of(
    st.sampled_from(["A", "b", "C.", " D", "3", "4.5", "nan", "", "ten"]), st.text(max_size=6)
)
questions = st.builds(
    lambda kind, letter, number: VsiQuestion(
        question_type=kind,
        ground_truth=str(number) if "estimation" in kind or kind in NUMBERS else letter,
    ),
    st.sampled_from(QUESTION_TYPES),
    st.sampled_from("ABCD"),
    st.integers(1, 9),
)
NUMBERS = ("object_counting", "object_abs_distance")
things = st.builds(
    lambda name, box, parts: {"name": name, "bbox": box, "parts": parts},
    st.sampled_from(["mug", "Mug", None]),
    st.one_of(st.none(), st.sampled_from([[0, 0, 9, 9], [0, 0, 9, 5], [20, 20, 30, 30]])),
    st.lists(
        st.builds(
            lambda name, box, action, point: {
                "part_name": name,
                "bbox": box,
                "affordances": [{"action": action, "affordance_bbox": box, "point": point}],
            },
            st.sampled_from(["rim", "handle", "__placeholder_part__"]),
            st.one_of(st.none(), st.just([0, 0, 5, 5])),
            st.sampled_from(["grasp", "__none__", ""]),
            st.one_of(st.none(), st.just([1, 1]), st.just([50, 50])),
        ),
        max_size=3,
    ),
)


def values(report: Report) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in report.metrics}


def check(score: Any, pairs: Sequence[tuple[Any, Any]], top: float) -> None:
    """Check bounds, and that neither order nor names of the items move a number."""
    ids = [f"i{n}" for n in range(len(pairs))]

    def scored(names: Sequence[str], order: Sequence[int]) -> dict[str, float | None]:
        references = {names[n]: pairs[n][0] for n in order}
        predictions = {names[n]: pairs[n][1] for n in reversed(order)}
        return values(score(references, predictions, bootstrap=NONE))

    forward = scored(ids, range(len(pairs)))
    for name, value in forward.items():
        bound = 100.0 if name.startswith("time-r1") else top
        assert value is None or -1e-9 <= value <= bound * (1 + 1e-9), (name, value)
    backward = scored(ids, list(reversed(range(len(pairs)))))
    renamed = scored([f"other|{name}" for name in ids], range(len(pairs)))
    for again in (backward, renamed):
        assert again == pytest.approx(forward, abs=1e-6, nan_ok=True)


@FEW
@given(st.lists(st.tuples(boxes(), boxes()), min_size=1, max_size=6))
def test_scanrefer_is_bounded_and_symmetric(pairs: list[Any]) -> None:
    check(
        score_scanrefer,
        [(TrueBox(box=true), BoxAnswer(boxes=(box,))) for true, box in pairs],
        1.0,
    )
    first = np.array([true for true, _ in pairs])
    second = np.array([box for _, box in pairs])
    np.testing.assert_array_equal(box_iou(first, second), box_iou(second, first))
    np.testing.assert_array_equal(box_iou(first, second, 1e-8), box_iou(second, first, 1e-8))


@FEW
@given(st.lists(st.tuples(boxes(), boxes()), min_size=1, max_size=6))
def test_the_sound_iou_is_the_one_that_rewards_use(pairs: list[Any]) -> None:
    first, second = (np.array([pair[side] for pair in pairs], dtype=float) for side in (0, 1))
    ours = [box3d_iou(one, other) for one, other in pairs]
    np.testing.assert_allclose(box_iou(first, second), ours, atol=1e-12)


@FEW
@given(st.lists(st.tuples(st.lists(boxes(), max_size=3), st.lists(boxes(), max_size=3))))
def test_multi3drefer_is_bounded_and_symmetric(pairs: list[Any]) -> None:
    kinds = {0: "zt_w_d", 1: "st_wo_d"}
    check(
        score_multi3drefer,
        [
            (MultiTarget(boxes=tuple(true), eval_type=kinds.get(len(true), "mt")), found)
            for true, found in pairs
        ],
        1.0,
    )
    swapped = [(true, found) for found, true in pairs]
    # The total IoU is symmetric; ties between matchings may count differently over a threshold.
    for (found, true), here, there in zip(
        pairs, match_f1(pairs, "sound"), match_f1(swapped, "sound"), strict=True
    ):
        if min(len(found), len(true)) < 2:
            np.testing.assert_array_equal(here, there)


@FEW
@given(st.lists(boxes(), min_size=1, max_size=3), st.lists(boxes(), min_size=1, max_size=3))
def test_the_matching_is_one_of_the_best_of_all(found: list[Any], true: list[Any]) -> None:
    table = box_iou(np.array(found)[:, None], np.array(true)[None])
    size = max(table.shape)
    square = np.zeros((size, size))
    square[: table.shape[0], : table.shape[1]] = table
    matchings = [square[range(size), list(order)] for order in itertools.permutations(range(size))]
    best = max(ious.sum() for ious in matchings)
    allowed = {
        tuple(2 * int((ious >= t).sum()) / (len(found) + len(true)) for t in (0.25, 0.5))
        for ious in matchings
        if ious.sum() >= best - 1e-9
    }
    assert tuple(match_f1([(found, true)], "sound")[0]) in allowed


@FEW
@given(st.lists(st.tuples(questions, answers), min_size=1, max_size=12))
def test_vsibench_is_bounded(pairs: list[Any]) -> None:
    check(score_vsibench, pairs, 100.0)


@FEW
@given(questions, st.text(max_size=20))
def test_any_text_gets_a_score_and_the_sound_rule_is_no_stricter_on_letters(
    question: VsiQuestion, text: str
) -> None:
    official, sound = official_score(question, text), sound_score(question, text)
    assert 0 <= official <= 1
    assert 0 <= sound <= 1
    if question.ground_truth.isalpha():
        assert sound >= official


@FEW
@given(st.lists(st.tuples(true_spans, st.one_of(st.none(), spans)), min_size=1, max_size=8))
def test_temporal_is_bounded(pairs: list[Any]) -> None:
    check(score_temporal, pairs, 1.0)


@FEW
@given(st.text())
def test_the_parsers_take_any_text(text: str) -> None:
    for parse in (parse_like_evaluation, parse_like_training):
        span = parse(text)
        assert span is None or len(span) == 2
    assert isinstance(parse_reply(text, (640, 480)), list)


@FEW
@given(st.lists(st.tuples(st.lists(things, max_size=3), st.lists(things, max_size=3)), min_size=1))
def test_sceneparser_is_bounded(pairs: list[Any]) -> None:
    check(score_sceneparser, pairs, 1.0)


@FEW
@given(st.lists(things, min_size=1, max_size=3))
def test_more_wrong_objects_never_raise_a_level(objects: list[Any]) -> None:
    wrong = {"name": "nothing like it", "bbox": [700, 700, 710, 710], "parts": []}
    before = values(score_sceneparser({"a": objects}, {"a": objects}, bootstrap=NONE))
    after = values(score_sceneparser({"a": objects}, {"a": [*objects, wrong]}, bootstrap=NONE))
    for level in ("L1", "L2", "L3"):
        assert (after[level] or 0) <= (before[level] or 0) + 1e-12
