"""Replies and what they mean; every accepted form and every reason stands here."""

import pytest

from scenerl.envs.parsing import (
    extract_answer,
    from_native_pixels,
    is_strict_layout,
    parse_box,
    parse_span,
    to_native_pixels,
)
from scenerl.envs.records import ParseError


def reply(answer: str) -> str:
    return f"<think>t</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answer", "span_s"),
    [
        ("5s to 10s", (5.0, 10.0)),
        ("5 to 10", (5.0, 10.0)),
        ("5.0-10.0", (5.0, 10.0)),
        ("5 - 10", (5.0, 10.0)),
        ("5\u201310 s", (5.0, 10.0)),
        ("5s\u201410s", (5.0, 10.0)),
        ("5 and 10", (5.0, 10.0)),
        ("between 5 and 10 seconds", (5.0, 10.0)),
        ("From 5.25 sec to 10.5 secs.", (5.25, 10.5)),
        ("5 second TO 10 Seconds", (5.0, 10.0)),
        ("12.54 to 17.83", (12.54, 17.83)),
        ("0:05 to 0:10", (5.0, 10.0)),
        ("01:02-01:03.5", (62.0, 63.5)),
        ("00:00:05 to 01:00:10", (5.0, 3610.0)),
        ("5s  to\n10s", (5.0, 10.0)),
        ("It can be seen from 5s to 10s, on the left", (5.0, 10.0)),
        ("5s to 10s (5s to 10s)", (5.0, 10.0)),
        ("7s to 7s", (7.0, 7.0)),
        ("5s to 900s", (5.0, 900.0)),
    ],
)
def test_each_documented_form_of_a_span_is_read(answer: str, span_s: tuple[float, float]) -> None:
    assert parse_span(reply(answer)) == span_s


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (reply("10s to 5s"), "start after end"),
        (reply("-5s to 3s"), "negative time"),
        (reply("2 to -3"), "negative time"),
        (reply("5--3"), "negative time"),
        (reply("1s to 2s or 4s to 5s"), "several spans"),
        (reply("0:75 to 2:00"), "bad clock time"),
        (reply("1:60:00 to 2:00:00"), "bad clock time"),
        (reply("5 to " + "9" * 5000), "time out of range"),
        (reply("soon"), "no time span"),
        (reply("5s"), "no time span"),
        (reply("1e3 to 2e3"), "no time span"),
        (reply("NaN to Infinity"), "no time span"),
        (reply("5,0 to 10,0"), "no time span"),
        (reply("\u0665 to \u0661\u0660"), "no time span"),
        (reply("frame5 to frame10"), "no time span"),
        ("5s to 10s", "no <answer> block"),
        ("", "no <answer> block"),
        ("<think>t</think><answer>5s to 10s", "unclosed <answer>"),
        ("<think><answer>5s to 10s</answer></think>", "answer inside <think>"),
        (reply(" \n"), "empty answer"),
    ],
)
def test_each_reason_why_a_span_cannot_be_read(text: str, reason: str) -> None:
    found = parse_span(text)
    assert isinstance(found, ParseError)
    assert (found.reason, found.text) == (reason, text)


def test_the_last_answer_block_counts_and_nested_blocks_give_the_inner_one() -> None:
    assert extract_answer("<answer>1</answer><answer>2</answer>") == "2"
    assert extract_answer("<answer><answer>3</answer></answer>") == "3"
    assert extract_answer("<answer>4 <answer>5</answer>") == "5"


@pytest.mark.parametrize(
    ("answer", "box", "label"),
    [
        ('{"bbox_2d": [10, 20, 30, 40], "label": "chair"}', (10, 20, 30, 40), "chair"),
        ('[{"bbox_2d": [10, 20, 30, 40], "label": "chair"}]', (10, 20, 30, 40), "chair"),
        ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```', (10, 20, 30, 40), None),
        ("{'bbox_2d': [10, 20, 30, 40], 'label': 'red chair'}", (10, 20, 30, 40), "red chair"),
        ('{"label": "", "bbox_2d": [10.5, 20.25, 30., 4e1]}', (10.5, 20.25, 30, 40), ""),
        ("[ 10 ,20,\n30, 40 ]", (10, 20, 30, 40), None),
        ("[-3, 0, 30, 40]", (-3, 0, 30, 40), None),
        ("[1, 2, 3, 4] [1, 2, 3, 4]", (1, 2, 3, 4), None),
    ],
)
def test_each_documented_form_of_a_box_is_read(
    answer: str, box: tuple[float, float, float, float], label: str | None
) -> None:
    assert parse_box(reply(answer)) == (box, label)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("[30, 20, 10, 40]", "degenerate box"),
        ("[10, 20, 10, 40]", "degenerate box"),
        ("[1, 2, 3, 4], [5, 6, 7, 8]", "several boxes"),
        ("[1, 2, 3]", "no box of four numbers"),
        ("[1, 2, 3, 4, 5]", "no box of four numbers"),
        ("[NaN, 0, Infinity, 4]", "no box of four numbers"),
        ("[0, 0, 1e999, 4]", "coordinate out of range"),
        ("[0, 0, " + "9" * 5000 + ", 4]", "coordinate out of range"),
        ("the chair", "no box of four numbers"),
    ],
)
def test_each_reason_why_a_box_cannot_be_read(answer: str, reason: str) -> None:
    found = parse_box(reply(answer))
    assert isinstance(found, ParseError)
    assert found.reason == reason


def test_boxes_scale_between_grids_and_are_cut_at_the_frame() -> None:
    # half the size each way: 56x84 seen, 112x168 stored
    assert to_native_pixels((10, 20, 28, 42), (56, 84), (112, 168)) == (20, 40, 56, 84)
    assert to_native_pixels((250, 500, 1000, 1000), (1000, 1000), (640, 480)) == (
        160,
        240,
        640,
        480,
    )
    assert to_native_pixels((-5, -5, 99, 20), (56, 84), (112, 168)) == (0, 0, 112, 40)
    assert to_native_pixels((60, 0, 70, 9), (56, 84), (112, 168)) is None
    assert from_native_pixels((20, 40, 56, 84), (56, 84), (112, 168)) == (10, 20, 28, 42)


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("<think>a</think>\n<answer>b</answer>", True),
        (" <think>a\nb</think><answer>c</answer>\n", True),
        ("<think></think><answer>b</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("<think>a<think>b</think><answer>c</answer>", False),
        ("<think>a</think><answer>b</answer> done", False),
        ("<answer>b</answer>", False),
    ],
)
def test_the_layout_is_one_think_block_and_one_answer_block(text: str, strict: bool) -> None:
    assert is_strict_layout(text) is strict
