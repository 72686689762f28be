import numpy as np
import pytest

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Bootstrap, Report
from scenerl.rewards.box_files import box_of_corners, box_of_size, parse_boxes
from scenerl.rewards.grounding_records import BoxAnswer, MultiTarget, ReferTarget, TrueBox
from scenerl.rewards.score_boxes import M3DREF_EPS, SCANREFER_EPS, box_iou
from scenerl.rewards.score_multi3drefer import match_f1, score_multi3drefer
from scenerl.rewards.score_referit3d import is_view_dependent, score_referit3d
from scenerl.rewards.score_scanrefer import score_scanrefer, unique_flags

CUBE = (0.0, 0.0, 0.0, 2.0, 2.0, 2.0)
HALF = (0.0, 0.0, 0.0, 2.0, 2.0, 1.0)
NONE = Bootstrap(resamples=0)


def values(report: Report) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in report.metrics}


def test_the_official_iou_of_equal_boxes_is_not_quite_one() -> None:
    # 8 / (8 + 8 - 8 + 1e-8)
    assert box_iou(np.array(CUBE), np.array(CUBE), SCANREFER_EPS) == pytest.approx(0.99999999875)
    assert box_iou(np.array(CUBE), np.array(CUBE)) == 1.0


def test_an_overlap_of_exactly_a_half_counts_for_all_rules_but_scanrefers() -> None:
    # 4 / 8: the 1e-8 pushes it below 1/2 in float64; float32 cannot hold 8 + 1.19e-7.
    scores = values(
        score_scanrefer({"a": TrueBox(box=CUBE)}, {"a": BoxAnswer(boxes=(HALF,))}, bootstrap=NONE)
    )
    assert (scores["acc@0.25"], scores["acc@0.5"]) == (1.0, 0.0)
    assert scores["m3dref/acc@0.5"] == scores["sound/acc@0.5"] == 1.0
    assert scores["mean_iou"] == 0.5


def test_a_tiny_box_is_missed_even_when_it_is_the_true_one() -> None:
    tiny = np.array((0, 0, 0, 1e-4, 1e-4, 1e-4))
    # 1e-12 / (1e-12 + 1e-8) = 0.00009999
    assert box_iou(tiny, tiny, SCANREFER_EPS) == pytest.approx(9.999e-5, rel=1e-6)
    assert box_iou(tiny, tiny) == 1.0


def test_boxes_without_volume_overlap_nothing() -> None:
    flat = np.array((0.0, 0.0, 0.0, 1.0, 1.0, 0.0))
    assert box_iou(flat, flat) == 0.0


def test_scanrefer_by_group() -> None:
    references = {
        "a": TrueBox(box=CUBE, unique=True, others=False),
        "b": TrueBox(box=CUBE, unique=False, others=False),
        "c": TrueBox(box=CUBE, unique=False, others=True),
    }
    right, away = BoxAnswer(boxes=(CUBE,)), BoxAnswer(boxes=((5.0, 5.0, 5.0, 6.0, 6.0, 6.0),))
    scores = values(
        score_scanrefer(references, {"a": right, "b": away, "c": right}, bootstrap=NONE)
    )
    assert scores["acc@0.5"] == pytest.approx(2 / 3)
    assert scores["unique/acc@0.5"] == 1.0
    assert scores["multiple/acc@0.5"] == 0.5
    assert scores["in_others/acc@0.5"] == 1.0
    assert scores["multiple/not_in_others/acc@0.5"] == 0.0
    # Nothing to average: 0 in ScanRefer's script, nothing in M3DRef-CLIP's.
    assert scores["unique/in_others/acc@0.5"] == 0.0


def test_the_prediction_files_groups_count_when_the_truth_has_none() -> None:
    answer = BoxAnswer(boxes=(CUBE,), unique=True, others=True)
    report = score_scanrefer({"a": TrueBox(box=CUBE)}, {"a": answer}, bootstrap=NONE)
    assert values(report)["unique/in_others/acc@0.5"] == 1.0
    assert "prediction file" in report.notes[0]


def test_only_described_objects_make_a_class_multiple() -> None:
    objects = [("s", "1"), ("s", "1"), ("s", "2"), ("t", "1"), ("s", "3")]
    flags = unique_flags(objects, [2, 2, 4, 2, 17])
    # The two rows of object 1 are one object; the chair of scene t does not matter.
    assert flags == [(True, False), (True, False), (True, False), (True, False), (True, True)]
    assert unique_flags([("s", "1"), ("s", "2")], [2, 2]) == [(False, False), (False, False)]


def test_the_oracle_takes_the_best_box_under_its_own_name() -> None:
    answer = BoxAnswer(boxes=((5.0, 5.0, 5.0, 6.0, 6.0, 6.0), CUBE))
    scores = values(
        score_scanrefer({"a": TrueBox(box=CUBE)}, {"a": answer}, oracle=True, bootstrap=NONE)
    )
    assert scores["acc@0.5"] == 0.0
    assert scores["oracle/acc@0.5"] == 1.0


def x_boxes(*edges: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
    return tuple((low, 0.0, 0.0, high, 1.0, 1.0) for low, high in edges)


def test_one_matching_serves_both_thresholds() -> None:
    # IoU: p1-t1 2/4, p1-t2 1.8/4, p2-t1 0.9/2, p2-t2 0. The matching p1-t2, p2-t1 sums to 0.9,
    # more than 0.5, so at 0.5 nothing is matched although p1 and t1 overlap by a half.
    boxes, true = x_boxes((0, 4), (1.1, 2)), x_boxes((0, 2), (2.2, 4))
    np.testing.assert_array_equal(match_f1([(boxes, true)], "sound"), [[1.0, 0.0]])


def test_f1_counts_both_sides_boxes() -> None:
    true = x_boxes((0, 1), (2, 3))
    queries = [
        (x_boxes((0, 1)), true),  # 2 x 1 / (1 + 2)
        (x_boxes((0, 1), (0, 1), (2, 3)), true),  # 2 x 2 / (3 + 2)
        ((), true),
        ((), ()),
        (true, ()),
    ]
    np.testing.assert_allclose(match_f1(queries)[:, 0], [2 / 3, 4 / 5, 0, 1, 0])


def test_multi3drefer_averages_queries_not_types() -> None:
    box = x_boxes((0, 1))
    references = {
        "a": MultiTarget(boxes=(), eval_type="zt_w_d"),
        "b": MultiTarget(boxes=box, eval_type="st_w_d"),
        "c": MultiTarget(boxes=box, eval_type="st_w_d"),
        "d": MultiTarget(boxes=(), eval_type="zt_w_d"),
    }
    scores = values(score_multi3drefer(references, {"a": (), "b": box, "c": ()}, bootstrap=NONE))
    assert scores["F1@0.25"] == 0.5
    assert scores["zt_w_d/F1@0.25"] == 0.5  # d has no prediction: wrong, not "no such object"
    assert scores["st_w_d/F1@0.5"] == 0.5
    assert scores["mt/F1@0.5"] is None


def test_view_words_are_exact_tokens() -> None:
    assert is_view_dependent(["the", "left", "chair"])
    assert not is_view_dependent(["the", "left-most", "Left", "chair"])


def refer(object_id: str, *, easy: bool, view: bool) -> ReferTarget:
    return ReferTarget(scene_id="s", object_id=object_id, easy=easy, view_dependent=view, box=CUBE)


def test_choices_are_scored_by_object_and_boxes_by_identity() -> None:
    references = {
        "a": refer("1", easy=True, view=False),
        "b": refer("2", easy=False, view=False),
        "c": refer("3", easy=False, view=True),
        "d": refer("4", easy=False, view=True),
    }
    slightly_off = (0.0, 0.0, 0.0, 2.0, 2.0, 1.9)  # IoU 0.95
    off = (0.0, 0.0, 0.0, 2.0, 2.0, 1.7)  # IoU 0.85
    answers = {
        "a": BoxAnswer(object_id="1"),
        "b": BoxAnswer(object_id="1"),
        "c": BoxAnswer(boxes=(slightly_off,)),
        "d": BoxAnswer(boxes=(off,)),
    }
    scores = values(score_referit3d(references, answers, bootstrap=NONE))
    assert scores["acc"] == 0.5
    assert (scores["easy/acc"], scores["hard/acc"]) == (1.0, pytest.approx(1 / 3))
    assert (scores["view_dep/acc"], scores["view_indep/acc"]) == (0.5, 0.5)
    assert scores["view_dep/acc@0.5"] == 1.0


def test_boxes_come_as_corners_sizes_or_our_own_pairs() -> None:
    corners = [[x, y, z] for x in (0, 2) for y in (0, 2) for z in (0, 1)]
    assert box_of_corners(corners, "") == HALF
    assert box_of_size([1, 1, 0.5, 2, 2, 1], "") == HALF
    assert parse_boxes({"box": [2, 2, 1, 0, 0, 0]}, "").boxes == (HALF,)
    assert parse_boxes({"box": None}, "").boxes == ()
    with pytest.raises(DataError, match="expected 6 finite numbers"):
        parse_boxes({"box": [1, 2, 3]}, "line")
    with pytest.raises(DataError, match='neither "box" nor "boxes"'):
        parse_boxes({"id": "a"}, "line")


def test_the_float32_rule_is_the_evaluators() -> None:
    a, b = np.float32(CUBE), np.float32(HALF)
    assert box_iou(a, b, M3DREF_EPS).dtype == np.float32
    assert box_iou(a, b, M3DREF_EPS) == np.float32(0.5)
