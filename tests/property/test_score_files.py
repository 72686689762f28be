"""Whatever a file holds, reading it gives records or a DataError that says where."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.benchmarks import load_benchmark

MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KEYS = st.sampled_from(
    [
        *("id", "box", "boxes", "object_id", "answer", "response", "span_s", "objects", "size"),
        *("sample_id", "pred_response", "gt_response", "all_pred_bbox", "question_type"),
        *("scene_id", "ann_id", "bbox", "aabb", "unique_multiple", "doc", "filtered_resps"),
        *("qid", "pred", "target", "output_text", "video_path", "query", "timestamp"),
        *("image_path", "category", "gt", "extracted_predictions", "parts", "affordances"),
        *("name", "part_name", "action", "point", "affordance_bbox", "eval_type"),
    ]
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.floats(allow_nan=True),
        st.sampled_from(["a", "mt", "zt_w_d", "<1><2>", "5 to 10", '{"objects": [1]}']),
        st.lists(st.integers(0, 9), min_size=4, max_size=6),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=12,
)
rows = st.lists(st.dictionaries(KEYS, values, max_size=8), min_size=1, max_size=3)
NAMES = ("scanrefer", "nr3d", "multi3drefer", "vsibench", "temporal", "sceneparser")


def read_or_refuse(read: Callable[[Path], Any], file: Path) -> Any:
    """Return what a reader makes of a file, None when it says what is wrong with it."""
    try:
        return read(file)
    except DataError as error:
        message = str(error)
    assert str(file) in message
    return None


@pytest.mark.parametrize("name", NAMES)
@MANY
@given(content=rows, seen=rows)
def test_lines_of_any_json_are_read_or_refused(
    tmp_path: Path, name: str, content: list[Any], seen: list[Any]
) -> None:
    benchmark = load_benchmark(name)
    file, truth = tmp_path / "p.jsonl", tmp_path / "t.jsonl"
    for path, lines in ((file, content), (truth, seen)):
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    options = benchmark.defaults()
    found = read_or_refuse(lambda path: benchmark.read_references(path, options), truth)
    references = {} if found is None else found.by_id
    predictions = read_or_refuse(
        lambda path: benchmark.read_predictions(path, references, options), file
    )
    if references and predictions is not None:
        with contextlib.suppress(DataError):
            benchmark.score(references, predictions.by_id, options, Bootstrap(resamples=0))


@pytest.mark.parametrize("name", NAMES)
@MANY
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    benchmark = load_benchmark(name)
    options = benchmark.defaults()
    for suffix in (".json", ".jsonl", ".csv"):
        file = tmp_path / f"x{suffix}"
        file.write_bytes(content)
        read_or_refuse(lambda path: benchmark.read_references(path, options), file)
        read_or_refuse(lambda path: benchmark.read_predictions(path, {}, options), file)
