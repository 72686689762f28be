import copy
from typing import Any

import numpy as np
import pytest

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.benchmark_sceneparser import Masks, check_objects
from scenerl.rewards.parse_sceneparser import parse_reply, to_pixels
from scenerl.rewards.sceneparser_match import Rules, box_iou_px, match_boxes
from scenerl.rewards.score_sceneparser import score_sceneparser, without_pseudo

NONE = Bootstrap(resamples=0)
CHAIR: dict[str, Any] = {
    "name": "chair",
    "bbox": [0, 0, 10, 10],
    "parts": [
        {
            "part_name": "seat",
            "bbox": [0, 0, 10, 5],
            "affordances": [{"action": "sit", "affordance_bbox": [2, 2, 4, 4], "point": [3, 3]}],
        }
    ],
}
SECOND = {"name": "chair", "bbox": [50, 50, 60, 60], "parts": [{"part_name": "leg", "bbox": None}]}


def scores(true: list[Any], predicted: list[Any], **options: Any) -> dict[str, float | None]:
    report = score_sceneparser({"a": true}, {"a": predicted}, bootstrap=NONE, **options)
    return {metric.name: metric.value for metric in report.metrics}


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CHAIR), **fields}


def test_a_perfect_answer_is_perfect() -> None:
    found = scores([CHAIR], [CHAIR])
    names = ("L1", "L2", "L3", "ParseRate", "strict_parse_rate_0.5", "parse_rate_0.5")
    assert [found[name] for name in names] == [1.0] * 6
    assert found["hier_f1_e2e_0.5"] == pytest.approx(1.0)


def test_half_the_objects_give_two_thirds() -> None:
    found = scores([CHAIR, SECOND], [CHAIR])
    # Precision 1, recall 1/2 for objects and parts; the second chair has no affordance.
    assert found["L1"] == found["L2"] == pytest.approx(2 / 3)
    assert found["L3"] == 1.0
    assert found["ParseRate"] == 0.5


def test_the_parse_rate_is_had_by_presence_alone() -> None:
    junk = {"part_name": "x", "bbox": [90, 90, 91, 91], "affordances": [{"action": "fly"}]}
    found = scores([CHAIR], [changed(parts=[junk])])
    assert found["ParseRate"] == 1.0
    assert found["parse_rate_0.5"] == found["L2"] == found["L3"] == 0.0


def test_two_empty_sides_give_nothing() -> None:
    assert scores([], [])["L1"] == 0.0


def test_object_names_differ_by_case_only_in_the_object_script() -> None:
    shouted = changed(name=" CHAIR")
    assert scores([CHAIR], [shouted])["L1"] == 0.0
    assert scores([CHAIR], [shouted], rules=Rules(scene=True))["L1"] == 1.0


def test_part_names_and_actions_do_not_mind_case_and_take_aliases() -> None:
    part = {**CHAIR["parts"][0], "part_name": " Seat"}
    assert scores([CHAIR], [changed(parts=[part])])["L2"] == 1.0
    part["part_name"] = "cushion"
    assert scores([CHAIR], [changed(parts=[part])])["L2"] == 0.0
    rules = Rules(part_aliases={"cushion": "seat"})
    assert scores([CHAIR], [changed(parts=[part])], rules=rules)["L2"] == 1.0


def test_matching_is_greedy_in_the_order_of_the_truth() -> None:
    first, second = changed(bbox=[0, 0, 10, 10]), changed(bbox=[2, 0, 12, 10])
    best_for_both, other = changed(bbox=[1, 0, 11, 10]), changed(bbox=[-3, 0, 7, 10])
    # IoU of the first with `best` is 9/11, with `other` 7/13; the second has 9/11 and 5/15. The
    # first takes `best`, so the second goes without although a full matching exists.
    pairs = match_boxes([first, second], [best_for_both, other], lambda t: t["name"], 0.5)
    assert pairs == [(0, 0)]


def test_an_iou_of_exactly_the_threshold_counts_and_touching_boxes_do_not_overlap() -> None:
    assert box_iou_px([0, 0, 10, 10], [0, 0, 10, 5]) == 0.5
    assert box_iou_px([0, 0, 10, 10], [10, 0, 20, 10]) == 0.0
    assert box_iou_px(None, [0, 0, 1, 1]) == 0.0
    assert scores([changed(parts=[])], [changed(bbox=[0, 0, 10, 5], parts=[])])["L1"] == 1.0


@pytest.mark.parametrize(("point", "inside"), [([2, 4], 1), ([4.5, 3], 0), (None, 0), ([2], 0)])
def test_points_on_the_border_are_inside(point: Any, inside: int) -> None:
    part = {**CHAIR["parts"][0], "affordances": [{"action": "sit", "point": point}]}
    assert scores([CHAIR], [changed(parts=[part])])["L3"] == inside


def test_a_mask_decides_before_the_box_and_points_round_to_even() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[2, 2] = True
    true = copy.deepcopy(CHAIR)
    true["parts"][0]["affordances"][0]["mask_path"] = "m.png"

    def at(point: list[float], mask_: Any) -> float | None:
        part = {**CHAIR["parts"][0], "affordances": [{"action": "sit", "point": point}]}
        rules = Rules(mask_at=lambda _path: mask_)
        return scores([true], [changed(parts=[part])], rules=rules)["L3"]

    assert at([2.5, 2.5], mask) == 1.0  # round(2.5) is 2
    assert at([3, 3], mask) == 0.0
    assert at([99, 99], mask) == 0.0
    assert at([3, 3], None) == 1.0  # cannot be opened: the box


def test_pseudo_parts_and_none_actions_are_left_out_of_the_filtered_numbers() -> None:
    pseudo = {"part_name": "__placeholder_part__", "bbox": [0, 0, 10, 10], "affordances": []}
    marked = {"part_name": "seat", "bbox": [0, 0, 10, 10], "is_pseudo_part": True}
    idle = {**CHAIR["parts"][0], "affordances": [{"action": "__none__"}]}
    [kept] = without_pseudo([changed(parts=[pseudo, marked, idle])])
    assert [part["part_name"] for part in kept["parts"]] == ["seat"]
    assert kept["parts"][0]["affordances"] == []
    found = scores([changed(parts=[pseudo])], [changed(parts=[])])
    assert found["L2"] == 0.0
    assert found["unfiltered/L2"] == 0.0
    assert found["ParseRate"] == 0.0  # nothing eligible


def test_the_full_report_has_every_number_of_the_script() -> None:
    found = scores([CHAIR, SECOND], [CHAIR], full=True)
    assert found["object_0.5/precision"] == 1.0
    assert found["object_0.5/recall"] == 0.5
    assert found["avg_pred_parts_per_matched_object"] == 1.0
    assert found["json_parse_success_rate"] == 1.0
    scene = scores([CHAIR, SECOND], [CHAIR], full=True, rules=Rules(scene=True))
    assert scene["scene_average_recall_0.5/object"] == 0.5
    assert scene["scene_exact_success_rate_0.5"] == 0.0


def test_replies_are_read_as_the_official_inference_reads_them() -> None:
    reply = '```json\n{"objects": [{"name": "mug", "bbox": "<0><0><999><999>"}]}\n```'
    [mug] = parse_reply(reply, (200, 100))
    assert mug["bbox"] == [0, 0, 200, 100]
    assert parse_reply("no json", (1, 1)) == []
    assert parse_reply('{"objects": 3}', (1, 1)) == []
    assert parse_reply('x {"objects": [1, {"name": "a"}]} y', (1, 1))[0]["name"] == "a"


def test_numbers_are_fractions_thousandths_or_pixels_by_their_size() -> None:
    assert to_pixels([0, 0, 1, 0.5], (200, 100), 4) == [0, 0, 200, 50]
    assert to_pixels([0, 0, 999, 999], (200, 100), 4) == [0, 0, 200, 100]
    assert to_pixels([0, 0, 1000, 10], (2000, 100), 4) == [0, 0, 1000, 10]
    assert to_pixels("<1><2>", (999, 999), 2) == [1, 2]
    assert to_pixels("<1>", (1, 1), 2) is None
    assert to_pixels(["a", 1], (1, 1), 2) is None


def test_masks_are_not_opened_outside_their_folder(tmp_path: Any) -> None:
    from PIL import Image

    inside = tmp_path / "root"
    inside.mkdir()
    for path in (inside / "m.png", tmp_path / "out.png"):
        Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(path)
    (inside / "broken.png").write_bytes(b"\x89PNG")
    masks = Masks(str(inside))
    opened = masks.at("m.png")
    assert opened is not None
    assert opened.all()
    assert masks.at("../out.png") is None
    assert masks.at("broken.png") is None
    assert masks.at("absent.png") is None


@pytest.mark.parametrize(
    "objects",
    [
        "text",
        [1],
        [{"bbox": [1, 2, 3]}],
        [{"bbox": [1, 2, 3, True]}],
        [{"parts": {}}],
        [{"parts": [{"affordances": [{"point": ["a", 1]}]}]}],
    ],
)
def test_what_the_official_script_would_stop_at_is_said(objects: Any) -> None:
    with pytest.raises(DataError, match="line 3"):
        check_objects(objects, "line 3")
