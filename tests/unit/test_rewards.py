"""Built-in rewards by numbers worked by hand, what functions may return and ask for."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rollouts import group, reply

from scenerl.rewards.builtin import BUILTINS
from scenerl.rewards.canary import canary_prompt
from scenerl.rewards.columns import group_columns
from scenerl.rewards.loading import function_needs, load_function, signature_problem
from scenerl.rewards.returned import BadReturn, read_returned

ERROR = {"error": "no <answer> block"}


def spans(*values: tuple[float, float]) -> list[dict[str, list[float]]]:
    return [{"span_s": list(value)} for value in values]


def texts(*values: str) -> list[dict[str, str]]:
    return [{"text": value} for value in values]


def test_temporal_iou() -> None:
    # [5, 10] against [5, 7.5] is 2.5 / 5; the nearest of two true spans counts
    parsed = [*spans((5, 7.5), (21, 22), (50, 60)), ERROR]
    true = [[[5.0, 10.0], [20.0, 22.0]]] * 4
    assert BUILTINS["temporal_iou"](parsed=parsed, spans_s=true) == [0.5, 0.5, 0.0, 0.0]
    assert BUILTINS["temporal_iou"](parsed=spans((1, 2)), spans_s=[None]) == [None]


def test_temporal_iou_v2_is_timestamp_aware() -> None:
    # IoU 2/4, start off by 2 of 20 s, end right: 0.5 x 0.9 x 1
    found = BUILTINS["temporal_iou_v2"](
        parsed=[*spans((6, 8), (4, 8), (100, 200)), ERROR],
        spans_s=[[[4.0, 8.0]]] * 4,
        duration_s=[20.0] * 4,
    )
    assert found == pytest.approx([0.45, 1.0, 0.0, 0.0])
    none = BUILTINS["temporal_iou_v2"](parsed=spans((1, 2)), spans_s=[[[1, 2]]], duration_s=[None])
    assert none == [None]


def test_box_rewards() -> None:
    parsed = [{"box_px": [0.0, 0.0, 4.0, 4.0]}, {"box_px": [2.0, 2.0, 6.0, 6.0]}, ERROR]
    true = [[2.0, 2.0, 6.0, 6.0]] * 3
    iou = BUILTINS["box_iou"](parsed=parsed, box_px=true)
    assert iou == pytest.approx([4 / 28, 1.0, 0.0])
    giou = BUILTINS["box_giou"](parsed=parsed, box_px=true)
    assert giou == pytest.approx([4 / 28 - 8 / 36, 1.0, -1.0])  # hull 36, union 28
    assert BUILTINS["box_iou"](parsed=parsed[:1], box_px=[None]) == [None]


def test_format_wants_the_layout_and_an_answer() -> None:
    columns = group_columns(
        group([reply("1s to 2s"), reply("soon"), "<answer>1s to 2s</answer>", "1s to 2s"])
    )
    arguments = {"completions": columns["completions"], "parsed": columns["parsed"]}
    assert BUILTINS["format"](**arguments) == [1.0, 0.0, 0.0, 0.0]
    assert BUILTINS["format"](**arguments, require_answer=False) == [1.0, 1.0, 0.0, 0.0]


def test_answer_rewards() -> None:
    parsed = [*texts("Two.", "two or three", "two chairs"), ERROR]
    answers = [["2"]] * 4
    assert BUILTINS["answer_exact"](parsed=parsed, answers=answers) == [1.0, 0.0, 0.0, 0.0]
    assert BUILTINS["answer_refined"](parsed=parsed, answers=answers) == [1.0, 0.0, 1.0, 0.0]
    assert BUILTINS["answer_exact"](parsed=parsed[:1], answers=[None]) == [None]


@pytest.mark.parametrize(
    ("text", "true", "value"),
    [
        ("10", "10", 1.0),
        ("9", "10", 0.9),  # off by 10 %: all but the threshold 0.95
        ("11", "10", 0.9),
        ("5", "10", 0.1),  # off by half: only the threshold 0.5
        ("4", "10", 0.0),
        ("nothing", "10", 0.0),
        ("0", "0", 1.0),
        ("1", "0", 0.0),
        ("3", "red", None),
    ],
)
def test_mean_relative_accuracy(text: str, true: str, value: float | None) -> None:
    assert BUILTINS["answer_mra"](parsed=texts(text), answers=[[true]]) == [pytest.approx(value)]


def test_length_slopes_before_the_limit_and_below_the_minimum() -> None:
    ids = [[0] * count for count in (0, 5, 10, 80, 90, 100, 200)]
    found = BUILTINS["length"](completion_ids=ids, max_tokens=100, buffer_tokens=20, min_tokens=10)
    assert found == pytest.approx([-1.0, -0.5, 0.0, 0.0, -0.5, -1.0, -1.0])
    with pytest.raises(ValueError, match="expected 0 <= min_tokens"):
        BUILTINS["length"](completion_ids=ids, max_tokens=10, buffer_tokens=20)


def test_columns_have_trls_form_for_conversations_and_plain_values() -> None:
    columns = group_columns(group([reply("1s to 2s"), "what?"]))
    assert columns["completions"][1] == [{"role": "assistant", "content": "what?"}]
    assert columns["prompts"][0][0]["role"] == "user"
    assert columns["completion_ids"][1] == [10]
    assert columns["span_s"] == [[1.0, 3.0]] * 2
    assert columns["parsed"] == [{"span_s": [1.0, 2.0]}, {"error": "no <answer> block"}]
    assert columns["duration_s"] == [4.0, 4.0]
    assert columns["box_px"] == [None, None]  # a video prompt has no frame
    assert {len(values) for values in columns.values()} == {2}


def test_an_image_prompt_has_the_box_of_its_frame() -> None:
    columns = group_columns(group([reply("[1,2,3,4]")], canary_prompt("image_grounding")))
    assert columns["box_px"] == [[40.0, 30.0, 120.0, 110.0]]
    assert columns["frame_index"] == [4]


def test_what_a_function_may_return() -> None:
    assert read_returned([1, None, True], 3) == [{"": 1.0}, {"": None}, {"": 1.0}]
    assert read_returned(np.array([0.5, 1.0]), 2) == [{"": 0.5}, {"": 1.0}]
    assert read_returned(torch.tensor([0.5]), 1) == [{"": 0.5}]
    assert read_returned((np.float32(2),), 1) == [{"": 2.0}]


def test_named_parts_are_summed_unless_one_is_the_reward() -> None:
    rows = [{"near": 0.5, "far": None}, {"near": None}, {"reward": 3, "near": 1}]
    assert read_returned(rows, 3) == [
        {"": 0.5, "near": 0.5, "far": None},
        {"": None, "near": None},
        {"": 3.0, "near": 1.0},
    ]
    lists = {"near": [0.5, 1.0], "far": [1.0, None]}
    assert read_returned(lists, 2) == [
        {"": 1.5, "near": 0.5, "far": 1.0},
        {"": 1.0, "near": 1.0, "far": None},
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned NoneType"),
        (1.0, r"returned float 1\.0, expected a list of 2"),
        ([1.0], "returned 1 values for 2 completions"),
        ([1.0, math.nan], "returned nan for completion 1"),
        ([math.inf, 0.0], "returned inf for completion 0"),
        ([10**400, 0.0], "completion 0, which is no number"),
        (["1", 0.0], "returned str '1' for completion 0"),
        ([[1.0], 0.0], "returned list"),
        ({}, "empty dict"),
        ({"a": [1.0]}, "returned 1 values for 2"),
        ([{"": 1.0}, {"a": 1.0}], "named a part ''"),
        ([{"a": math.nan}, None], "returned nan for completion 0 part 'a'"),
        ("ab", "returned str"),
    ],
)
def test_what_a_function_may_not_return(value: object, message: str) -> None:
    with pytest.raises(BadReturn, match=message):
        read_returned(value, 2)


def test_functions_are_found_in_files_and_modules(tmp_path: Path) -> None:
    file = tmp_path / "mine_for_loading.py"
    file.write_text("import mine_beside\nclass Box:\n    @staticmethod\n    def f(x): return [x]\n")
    (tmp_path / "mine_beside.py").write_text("")
    assert load_function(f"{file}:Box.f")(3) == [3]
    assert load_function("math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no_colon.py", ValueError, r"FILE\.py:FUNCTION"),
        ("/no/such/file.py:f", FileNotFoundError, "no reward file"),
        ("math:nothing", AttributeError, "math has no 'nothing'; it has: .*sqrt"),
        ("math:pi", ValueError, "float, expected a function"),
    ],
)
def test_a_path_that_names_no_function_is_explained(
    path: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_function(path)


def test_only_what_a_function_asks_for_is_wanted() -> None:
    async def some(completions, label, *, bonus=1.0):  # type: ignore[no-untyped-def]
        return [bonus]

    def everything(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [0.0]

    columns = frozenset({"completions", "label", "question"})
    assert function_needs(some).wanted(columns) == {"completions", "label"}
    assert function_needs(some).is_async
    assert function_needs(everything).wanted(columns) == columns
    assert not function_needs(everything).is_async


def test_a_signature_that_cannot_be_called_is_explained() -> None:
    def asks(completions, colour, bonus=1.0):  # type: ignore[no-untyped-def]
        return [bonus]

    needs, columns = function_needs(asks), frozenset({"completions", "label"})
    assert signature_problem(needs, columns, frozenset({"colour"})) is None
    problem = signature_problem(needs, columns, frozenset())
    assert problem is not None
    assert "asks for ['colour']" in problem
    assert "kwargs has ['hue']" in str(signature_problem(needs, columns, frozenset({"hue"})))
    clash = signature_problem(needs, columns | {"colour"}, frozenset({"colour"}))
    assert "would replace" in str(clash)

    def positional(completions, /):  # type: ignore[no-untyped-def]
        return []

    with pytest.raises(ValueError, match="positional-only"):
        function_needs(positional)
