"""ScanQA as `launch score scanqa` runs it."""

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
    read_json,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole


def read_references(path: Path, options: Options) -> References:
    """Return item id -> ScanQAQuestion.

    Raises:
        DataError: If a row cannot be used or has no answers, as in the test files.
    """
    from scenerl.preprocess.rows_scanqa import read_scanqa
    from scenerl.rewards.score_scanqa import ScanQAQuestion

    by_id = {}
    for where, row in whole(read_scanqa(path), path):
        if not row.answers:
            raise DataError(f"{where}: no answers; the test files of ScanQA cannot be scored here")
        by_id[row.item_id] = ScanQAQuestion(question=row.question, answers=row.answers)
    return References(by_id=by_id)


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> ranked answers of any of the known prediction files.

    Raises:
        DataError: If a prediction has no answer.
    """
    if path.suffix in (".p", ".pkl", ".pickle"):
        raise DataError(
            f"{path} is a pickle, which may run any program when it is opened, so it is never "
            "opened; write pred.json, or lines of {question_id -> id, pred_answers_at10 -> answers}"
        )
    if path.suffix == ".json":
        return collect(_official(path))
    if "pred_response" in first_object(path):
        return collect(_results(path, references))
    return collect(read_own_predictions(path, ranked_answers))


def ranked_answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return "answers" (best first), or the one "answer" or "response".

    Raises:
        DataError: If there is no text.
    """
    value = row.get("answers", row.get("answer_top10"))
    if value is None:
        value = [row.get("answer", row.get("response"))]
    if not isinstance(value, list) or not value or any(not isinstance(v, str) for v in value):
        raise DataError(
            f'{where}: found {value!r:.80}; expected a text under "answer" or "response", or a '
            'list of texts under "answers" or "answer_top10"'
        )
    return tuple(value)


def _official(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: found {type(rows).__name__}, expected the list of pred.json")
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("question_id"), str):
            raise DataError(f'{where}: no "question_id"; expected the rows of pred.json')
        yield row["question_id"], ranked_answers(row, where)


def _results(path: Path, references: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a result file of Video-3D-LLM or GS-Reasoner: ids are scanqa_<question>_<answer>."""
    for where, row in read_json_lines(path):
        name, text = str(row.get("sample_id")), row.get("pred_response")
        if not isinstance(text, str):
            raise DataError(f'{where}: "pred_response" is {text!r:.80}; expected a text')
        short = name.removeprefix("scanqa_").rpartition("_")[0]
        yield name if name in references or not short else short, (text,)


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_scanqa."""
    from scenerl.rewards.score_scanqa import score_scanqa

    return score_scanqa(
        references,
        predictions,
        captions_by_class=bool(options["captions_by_class"]),
        bootstrap=bootstrap,
    )


BENCHMARK = Benchmark(
    name="scanqa",
    title="short answers about a scene: EM@1, EM@10, BLEU, METEOR, ROUGE-L, CIDEr",
    source="ATR-DBI/ScanQA scripts/score.py",
    references_help="ScanQA_v1.0_val.json",
    predictions_help='lines {"id": "val-scene0011-0", "answer": "brown"} ("answers": best first); '
    "the official pred.json with answer_top10; or a result file of GS-Reasoner or Video-3D-LLM",
    examples=(
        "launch score scanqa --predictions mine.jsonl --references ScanQA_v1.0_val.json",
        "launch score scanqa --predictions pred.json --references ScanQA_v1.0_val.json "
        "--captions-by-class",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--captions-by-class",
            help="also BLEU .. CIDEr of every class of question",
            is_switch=True,
        ),
    ),
)
