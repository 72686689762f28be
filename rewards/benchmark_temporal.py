"""Temporal grounding as `launch score temporal` runs it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from scenerl.preprocess.records import DataError, Span
from scenerl.rewards.benchmark import (
    Benchmark,
    Bootstrap,
    Option,
    Options,
    Predictions,
    References,
    Report,
)
from scenerl.rewards.predictions import (
    collect,
    first_object,
    numbers,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole

PARSERS = ("evaluation", "training", "scenerl")
Parser: TypeAlias = Callable[[str], Span | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What happens, and when."""

    span_s: Span
    sentence: str = ""
    """VideoChat-R1's result lines are found by it."""


def read_references(path: Path, options: Options) -> References:
    """Return item id -> Event, of TimeZero's layout, our own lines or a Time-R1 result file.

    Raises:
        DataError: If a row cannot be used.
    """
    if path.suffix == ".jsonl":
        key = "qid" if "qid" in first_object(path) else "id"
        lines = read_own_predictions(path, _own_event, key=key)
        return References(by_id=dict(lines))
    from scenerl.preprocess.rows_temporal import read_temporal

    return References(
        by_id={
            row.item_id: Event(span_s=row.span_s, sentence=row.sentence)
            for _, row in whole(read_temporal(path), path)
        }
    )


def _own_event(row: dict[str, Any], where: str) -> Event:
    return Event(span_s=_pair(row.get("target", row.get("span_s")), where))


def _pair(value: Any, where: str) -> Span:
    start, end = numbers(value, 2, "span", where)
    return start, end


def _span_or_none(value: Any, where: str) -> Span | None:
    return None if value in (None, [None, None]) else _pair(value, where)


def open_parser(name: str) -> Parser:
    """Return the parser of raw replies of a name."""
    from scenerl.envs.parsing import parse_span
    from scenerl.rewards.score_temporal import parse_like_evaluation, parse_like_training

    def ours(text: str) -> Span | None:
        answer = parse_span(text)
        return answer if isinstance(answer, tuple) else None

    return {
        "evaluation": parse_like_evaluation,
        "training": parse_like_training,
        "scenerl": ours,
    }[name]


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> span, None where the reply gave none.

    A result file's own span counts as it stands unless --parser asks to read its text again.

    Raises:
        DataError: If a line cannot be used or does not fit the references.
    """
    first = first_object(path)
    parser = open_parser(options["parser"]) if options["parser"] else None
    if "qid" in first:
        return collect(_time_r1(path, references, parser))
    if "video_path" in first:
        return collect(_videochat(path, references, parser))
    read = parser or open_parser("evaluation")

    def parse(row: dict[str, Any], where: str) -> Span | None:
        if "span_s" in row:
            return _span_or_none(row["span_s"], where)
        return read(_text(row, "response", where))

    return collect(read_own_predictions(path, parse))


def _text(row: dict[str, Any], key: str, where: str) -> str:
    text = row.get(key)
    if not isinstance(text, str):
        raise DataError(f"{where}: {key!r} is {text!r:.80}; expected the text of a reply")
    return text


def _time_r1(
    path: Path, references: Mapping[str, Any], parser: Parser | None
) -> Iterator[tuple[str, Span | None]]:
    """Yield the lines {"qid", "pred", "target", "output_text"} of Time-R1's evaluate.py.

    "charades_12" is the 13th sentence of the annotation file; its target must be the one there.
    """
    ids = list(references)
    for where, row in read_json_lines(path):
        name = str(row.get("qid"))
        number = re.search(r"_(\d+)$", name)
        if name not in references and number and int(number[1]) < len(ids):
            name = ids[int(number[1])]
        if name in references and row.get("target") is not None:
            target, true = _pair(row["target"], where), references[name].span_s
            if target != true:
                raise DataError(
                    f"{where}: {row['qid']!r} has target {target}, but {name} in the references "
                    f"is {true}; are these the annotations that the file was made with?"
                )
        if parser is None:
            yield name, _span_or_none(row.get("pred"), where)
        else:
            yield name, parser(_text(row, "output_text", where))


def _videochat(
    path: Path, references: Mapping[str, Any], parser: Parser | None
) -> Iterator[tuple[str, Span | None]]:
    """Yield the lines {"video_path", "query", "answer", "timestamp"} of VideoChat-R1.

    They hold no id: the video's name and the sentence tell which one it is, equal sentences of one
    video in their order.
    """
    waiting: dict[tuple[str, str], list[str]] = {}
    for item_id, event in references.items():
        video = item_id.rsplit("|", 1)[0]
        waiting.setdefault((video, event.sentence), []).append(item_id)
    used: dict[tuple[str, str], int] = {}
    for where, row in read_json_lines(path):
        key = (Path(str(row.get("video_path"))).stem, str(row.get("query")))
        items = waiting.get(key)
        if items is None:
            raise DataError(
                f"{where}: video {key[0]!r} has no sentence {key[1]!r} in the references"
            )
        turn = used.get(key, 0)
        used[key] = turn + 1
        item_id = items[min(turn, len(items) - 1)]
        if parser is None:
            yield item_id, _span_or_none(row.get("timestamp"), where)
        else:
            yield item_id, parser(_text(row, "answer", where))


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_temporal."""
    from scenerl.rewards.score_temporal import score_temporal

    spans = {item_id: event.span_s for item_id, event in references.items()}
    return score_temporal(spans, predictions, bootstrap=bootstrap)


BENCHMARK = Benchmark(
    name="temporal",
    title="when something happens in a video: mIoU and R1@0.3, 0.5, 0.7 (Charades-STA, ...)",
    source="OpenGVLab/VideoChat-R1 src_eval/evaluate_grounding.py; xiaomi-research/time-r1 "
    "src/vllm_inference/eval_all.py",
    references_help='{video: {"duration", "timestamps", "sentences"}} as TimeZero has it; or lines '
    '{"id", "span_s"}; or a Time-R1 result file',
    predictions_help='lines {"id": "AO8RW|0", "span_s": [0.0, 6.9]} (null for none) or {"id", '
    '"response": the reply}; id is video|sentence, from 0; or a result file of Time-R1 or '
    "VideoChat-R1",
    examples=(
        "launch score temporal --predictions mine.jsonl --references charades_test.json",
        "launch score temporal --predictions tg_0_1.jsonl --references charades_test.json",
        "launch score temporal --predictions replies.jsonl --references charades_test.json "
        "--parser training",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--parser",
            help="how replies are read: evaluation looks for the last '5.0 to 10.0' in the whole "
            "text, think block included; training in the last <answer>; scenerl also reads "
            "'5s to 10s' and '0:05-0:10'. Without it a result file's own spans count, and "
            "replies are read by evaluation",
            choices=PARSERS,
        ),
    ),
)
