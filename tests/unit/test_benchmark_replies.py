"""Replies to benchmarks, read by hand."""

import pytest

from scenerl.envs.benchmark_replies import (
    answer_part,
    parse_boxes_3d,
    parse_reply,
    prediction_line,
)
from scenerl.envs.records import ParseError
from scenerl.envs.sceneparser_reply import parse_objects, to_pixels

BOX = [0.0, 1.0, 2.0, 1.5, 2.0, 2.75]


def reason(value: object) -> str:
    assert isinstance(value, ParseError)
    return value.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two", "two"),
        ("  two\n", "two"),
        ("<think>1 or 2</think><answer>two</answer>", "two"),
        ("<think>hm <answer>one</answer></think> <answer> two </answer>", "two"),
        ("<think>hm</think>\ntwo", "two"),
        ("<answer>two", "two"),
        ("<answer></answer>", ""),
    ],
)
def test_the_answer_is_what_the_last_tag_leaves(text: str, expected: str) -> None:
    assert answer_part(text) == expected


def test_an_empty_answer_is_an_error_and_predicts_nothing() -> None:
    assert reason(parse_reply(" ", "answer")) == "empty answer"
    assert prediction_line("q1", "answer", None) == {"id": "q1", "answer": ""}


@pytest.mark.parametrize(
    "text",
    [
        "<bbox>(0, 1, 2, 1.5, 2, 2.75)</bbox>",
        "<think></think><answer>office chair 1 <bbox>(0.0000, 1.0000, 2.0000, 1.5000, 2.0000, "
        "2.7500)</bbox></answer>",
        "it is at [0, 1, 2, 1.5, 2.0, 2.75].",
        "<bbox>[0,1,2,15e-1,2,2.75]</bbox>",
    ],
)
def test_a_box_is_read_with_or_without_name_and_count(text: str) -> None:
    assert parse_boxes_3d(text) == [BOX]


def test_boxes_keep_their_order_and_the_thoughts_do_not_count() -> None:
    text = (
        "<think>maybe <bbox>(9, 9, 9, 10, 10, 10)</bbox></think><answer>chair 2 "
        "<bbox>(0, 1, 2, 1.5, 2, 2.75)</bbox><bbox>(-1, -1, -1, 0, 0, 0)</bbox></answer>"
    )
    assert parse_boxes_3d(text) == [BOX, [-1, -1, -1, 0, 0, 0]]


def test_no_object_is_an_answer_only_where_it_may_be_one() -> None:
    assert parse_reply("<bbox></bbox>", "boxes") == []
    assert reason(parse_reply("<bbox></bbox>", "box")) == "bad 3D box"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the chair by the door", "no 3D box"),
        ("(1, 2, 3, 4)", "no 3D box"),
        ("<bbox>(1, 2, 3)</bbox>", "bad 3D box"),
        ("<bbox>(a, b, c, d, e, f)</bbox>", "bad 3D box"),
        ("(0, 0, 0, 1, 1, 1e9)", "coordinate out of range"),
        ("(0, 0, 0, 1, 1, 1e999)", "coordinate out of range"),
        ("(0, 0, 0, 1, 1, nan)", "no 3D box"),
    ],
)
def test_what_is_no_box_has_a_reason(text: str, expected: str) -> None:
    assert reason(parse_boxes_3d(text)) == expected


def test_predictions_have_the_payload_that_the_scorers_read() -> None:
    assert prediction_line("s|1|0", "box", [BOX]) == {"id": "s|1|0", "boxes": [BOX]}
    assert prediction_line("v|0", "span_s", [1.0, 2.5]) == {"id": "v|0", "span_s": [1.0, 2.5]}
    assert prediction_line("v|0", "span_s", None) == {"id": "v|0", "span_s": None}
    assert prediction_line("i|mug", "objects", None) == {"id": "i|mug", "objects": []}


def test_a_span_is_read_as_stage_1_reads_it() -> None:
    text = "<think>x</think><answer>5s to 10.5s</answer>"
    assert parse_reply(text, "span_s") == [5.0, 10.5]
    assert reason(parse_reply("5 to 10", "span_s")) == "no <answer> block"


def test_coordinates_are_bins_shares_or_pixels() -> None:
    size = (1998, 999)
    assert to_pixels("<0><999><999><333>", size, 4) == [0.0, 999.0, 1998.0, 333.0]
    assert to_pixels([0.5, 0.5, 1, 1.0], size, 4) == [999.0, 499.5, 1998.0, 999.0]
    assert to_pixels([0, 333, 999, 999], size, 4) == [0.0, 333.0, 1998.0, 999.0]
    assert to_pixels([0, 333, 1000, 999], size, 4) == [0, 333, 1000, 999]
    assert to_pixels([-1000, 5], size, 2) == [-1000, 5]
    assert to_pixels("<5><6>", size, 4) is None
    assert to_pixels([1, 2, "x", 4], size, 4) is None
    assert to_pixels([1, 2, float("nan"), 4], size, 4) is None
    assert to_pixels([10**400, 1], size, 2) is None
    assert to_pixels(None, size, 2) is None


def test_objects_come_out_of_the_fence_or_the_braces() -> None:
    body = (
        '{"objects": [{"name": "mug", "bbox": "<0><0><999><999>", "parts": [{"part_name": "handle",'
        ' "bbox": [0, 0, 0.5, 0.5], "affordances": [{"action": "hold", "point": "<0><999>"}, 3]}],'
        ' "affordances": [{"action": "ignored"}]}, "no object"]}'
    )
    expected = [
        {
            "name": "mug",
            "bbox": [0.0, 0.0, 100.0, 50.0],
            "parts": [
                {
                    "part_name": "handle",
                    "bbox": [0.0, 0.0, 50.0, 25.0],
                    "affordances": [{"action": "hold", "point": [0.0, 50.0]}],
                }
            ],
            "affordances": [],
        }
    ]
    assert parse_objects(f"Here: {body} done", (100, 50)) == expected
    assert parse_objects(f"```json\n{body}\n```<|im_end|>}}", (100, 50)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing", "no JSON object"),
        ("} {", "no JSON object"),
        ('{"objects": [', "no JSON object"),
        ('{"objects": [}', "bad JSON"),
        ("```json\n[1]\n```", "no list of objects"),
        ('{"objects": 3}', "no list of objects"),
        ('{"a": ' + "[" * 100_000 + "}", "bad JSON"),
    ],
)
def test_a_reply_that_names_no_objects_has_a_reason(text: str, expected: str) -> None:
    assert reason(parse_objects(text, (100, 50))) == expected


def test_naming_nothing_is_an_answer() -> None:
    assert parse_objects("{}", (100, 50)) == []
