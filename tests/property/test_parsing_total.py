"""Parsers are total: whatever the policy writes, they give an answer or a reason."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.parsing import is_strict_layout, parse_box, parse_span
from scenerl.envs.records import (
    BoxAnswer,
    MediaRef,
    ParseError,
    Prompt,
    SpanAnswer,
    TextAnswer,
)
from scenerl.envs.tasks import make_env
from scenerl.preprocess.records import Media, Sample, Target

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "```json", "```", "\n", " ", "to", "and"),
    *("-", "5", "10", "5s", "10.5", "1:05", "NaN", "Infinity", "1e400", "9" * 400, "[", "]", ","),
    *("{", "}", '"bbox_2d":', "'label': 'x'", "[1, 2, 3, 4]", "[4,3,2,1]", "\u0665", "\u2013"),
    *("\ud800", "\x00", "\u200b", "seconds", "-5", "[[[[", "\\"),
]
junk = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join)
answers = junk | junk.map(lambda text: f"<think>a</think><answer>{text}</answer>")

FAMILY = ModelFamily(name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=False)
SAMPLE = Sample(
    sample_id="s",
    dataset="d",
    split="train",
    question="the red chair",
    media=Media(kind="video", scene="s"),
    target=Target(),
)
PROMPT = Prompt(
    prompt_id="s",
    sample=SAMPLE,
    messages=(),
    media=(
        MediaRef(
            kind="image",
            path="s",
            frame_indices=(0,),
            times_s=(0.0,),
            native_size=(224, 168),
            size=(112, 84),
        ),
    ),
)


@settings(max_examples=400, deadline=None)
@given(answers)
def test_any_text_is_a_span_or_a_reason(text: str) -> None:
    found = make_env(EnvConfig(name="temporal_grounding"), FAMILY).parse(text, PROMPT)
    if isinstance(found, ParseError):
        assert 0 < len(found.reason) < 40
        assert found.text == text
    else:
        assert isinstance(found, SpanAnswer)
        start, end = found.span_s
        assert 0 <= start <= end < math.inf


@settings(max_examples=400, deadline=None)
@given(answers)
def test_any_text_is_a_box_inside_the_frame_or_a_reason(text: str) -> None:
    found = make_env(EnvConfig(name="image_grounding"), FAMILY).parse(text, PROMPT)
    if isinstance(found, ParseError):
        assert 0 < len(found.reason) < 40
    else:
        assert isinstance(found, BoxAnswer)
        x0, y0, x1, y1 = found.box_px
        assert 0 <= x0 < x1 <= 224
        assert 0 <= y0 < y1 <= 168


@settings(max_examples=200, deadline=None)
@given(answers)
def test_any_text_is_an_answer_or_a_reason(text: str) -> None:
    found = make_env(EnvConfig(name="video_qa"), FAMILY).parse(text, PROMPT)
    assert isinstance(found, ParseError) or (isinstance(found, TextAnswer) and found.text.strip())


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_written_span_is_read_back(first: float, second: float) -> None:
    start, end = sorted((round(first, 2), round(second, 2)))
    assert parse_span(f"<think>a</think><answer>{start:.2f}s to {end:.2f}s</answer>") == (
        start,
        end,
    )


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 20_000,
        "<think>" * 20_000,
        "<answer>5" + " " * 100_000 + "x</answer>",
        "<answer>" + "[1," * 30_000 + "</answer>",
        "<answer>" + "[ " * 30_000 + "</answer>",
        "<answer>" + "1" * 100_000 + "</answer>",
        "<answer>" + "5 to " * 20_000 + "</answer>",
        "<answer>" + "1:" * 50_000 + "</answer>",
        "<answer>" + "'label':" * 20_000 + "</answer>",
    ],
    ids=range(9),
)
def test_parsing_takes_time_in_proportion_to_the_text(text: str) -> None:
    started = time.perf_counter()
    parse_span(text)
    parse_box(text)
    is_strict_layout(text)
    assert time.perf_counter() - started < 2.0  # quadratic matching of these takes minutes
