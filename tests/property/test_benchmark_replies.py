"""Reading a reply is total, and a prediction is always JSON that the scorers take."""

import json
import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.envs.benchmark_prompts import ASKING, box_text
from scenerl.envs.benchmark_replies import parse_boxes_3d, parse_reply, prediction_line
from scenerl.envs.records import ParseError
from scenerl.rl.answer_log import shard_ids
from scenerl.rl.sampled_scores import pass_at_k

PIECES = st.sampled_from(
    [
        *("<answer>", "</answer>", "<think>", "</think>", "<bbox>", "</bbox>", "(", ")", "[", "]"),
        *(", ", "1", "-2.5", "1e400", "nan", "{", "}", '"objects":', '"name": "mug",', "```json"),
        *('"bbox": "<1><2><3><4>"', '"parts": [', "5s to 10s", " ", "\n", "\u2028", "9" * 400),
    ]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=14).map("".join))
PAYLOADS = sorted({how.payload for how in ASKING.values()})
METRES = st.floats(-100, 100).map(lambda value: round(value, 4) + 0.0)


@settings(max_examples=300)
@given(TEXTS, st.sampled_from(PAYLOADS))
def test_any_reply_is_read_or_refused_and_written(text: str, payload) -> None:
    parsed = parse_reply(text, payload, (640, 480))
    if isinstance(parsed, ParseError):
        assert parsed.reason
        assert "\n" not in parsed.reason
        parsed = None
    line = json.dumps(prediction_line("item", payload, parsed), allow_nan=False)
    assert json.loads(line)["id"] == "item"


@given(st.lists(st.tuples(*[METRES] * 6), min_size=1, max_size=4))
def test_boxes_are_read_as_they_are_written(boxes: list[tuple[float, ...]]) -> None:
    text = f"<think></think><answer>chair {len(boxes)} {''.join(map(box_text, boxes))}</answer>"
    found = parse_boxes_3d(text)
    assert not isinstance(found, ParseError)
    assert [tuple(box) for box in found] == boxes


@given(st.lists(st.integers(), unique=True, max_size=40), st.integers(1, 9))
def test_every_id_is_in_one_shard(numbers: list[int], shards: int) -> None:
    ids = list(map(str, numbers))
    parts = [shard_ids(ids, shard, shards) for shard in range(shards)]
    assert sorted(item for part in parts for item in part) == sorted(ids)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 30), st.data())
def test_pass_at_k_grows_with_k_and_starts_at_the_mean(samples: int, data) -> None:
    right = data.draw(st.integers(0, samples))
    values = [pass_at_k(samples, right, k) for k in range(1, samples + 1)]
    assert math.isclose(values[0], right / samples)
    assert values == sorted(values)
    assert values[-1] == float(right > 0)


def test_an_own_prediction_of_every_payload_is_read_by_its_scorer(tmp_path: Path) -> None:
    from scenerl.rewards.benchmarks import BENCHMARKS, load_benchmark

    replies = {"span_s": "<answer>1s to 2s</answer>", "objects": '{"objects": [{"name": "mug"}]}'}
    for name, how in ASKING.items():
        assert name in BENCHMARKS
        benchmark = load_benchmark(name)
        text = replies.get(how.payload, "<bbox>(0, 0, 0, 1, 1, 1)</bbox>")
        parsed = parse_reply(text, how.payload)
        assert not isinstance(parsed, ParseError)
        for number, value in enumerate((parsed, None)):
            file = tmp_path / f"{name}{number}.jsonl"
            line = prediction_line("s|1|0", how.payload, value, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
            file.write_text(json.dumps(line) + "\n")
            found = benchmark.read_predictions(file, {}, benchmark.defaults())
            assert list(found.by_id) == ["s|1|0"], name
