"""VSI-Bench as `launch score vsibench` runs it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
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
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole


def read_references(path: Path, options: Options) -> References:
    """Return item id -> VsiQuestion.

    Raises:
        DataError: If a row cannot be used.
    """
    from scenerl.preprocess.rows_vsibench import read_vsibench
    from scenerl.rewards.score_vsibench import VsiQuestion

    return References(
        by_id={
            row.item_id: VsiQuestion(question_type=row.question_type, ground_truth=row.ground_truth)
            for _, row in whole(read_vsibench(path), path)
        }
    )


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> text of our own lines or of lmms-eval's samples file.

    Raises:
        DataError: If a line has no id or no text.
    """
    if "doc" in first_object(path):
        return collect(_samples(path))
    return collect(read_own_predictions(path, _own_text))


def _own_text(row: dict[str, Any], where: str) -> str:
    text = row.get("answer", row.get("response"))
    if not isinstance(text, str):
        raise DataError(f'{where}: found no text under "answer" or "response", but {text!r:.80}')
    return text


def _samples(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of samples_vsibench_*.jsonl: the text that the metric saw."""
    for where, row in read_json_lines(path):
        doc = row.get("doc")
        if not isinstance(doc, dict) or "id" not in doc:
            raise DataError(f'{where}: "doc" has no "id"; expected a samples file of lmms-eval')
        texts = row.get("filtered_resps")
        text = texts[0] if isinstance(texts, list) and texts else None
        if isinstance(text, list) and text:
            text = text[0]
        if not isinstance(text, str):
            raise DataError(f'{where}: "filtered_resps" is {texts!r:.80}; expected a list of texts')
        yield str(doc["id"]), text


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_vsibench."""
    from scenerl.rewards.score_vsibench import score_vsibench

    return score_vsibench(references, predictions, answer=options["answer"], bootstrap=bootstrap)


BENCHMARK = Benchmark(
    name="vsibench",
    title="eight spatial questions about a video: accuracy and mean relative accuracy, x 100",
    source="vision-x-nyu/thinking-in-space lmms_eval/tasks/vsibench/utils.py",
    references_help="VSI-Bench's test.jsonl, a JSON list or parquet file of the same columns",
    predictions_help='lines {"id": "12", "answer": "3.5"}; or samples_vsibench_*.jsonl of '
    "lmms-eval",
    examples=(
        "launch score vsibench --predictions mine.jsonl --references test.jsonl",
        "launch score vsibench --predictions samples_vsibench_1.jsonl --references test.jsonl",
        "launch score vsibench --predictions cot.jsonl --references test.jsonl --answer cot",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--answer",
            help="plain: the text; cot: what stands after the last <answer>, as GS-Reasoner's "
            "vsibench_cot task has it",
            default="plain",
            choices=("plain", "cot"),
        ),
    ),
)
