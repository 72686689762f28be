"""MSQA and GQA3D as `launch score msqa` and `launch score gqa3d` run them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import (
    Benchmark,
    Bootstrap,
    Options,
    Predictions,
    References,
    Report,
)
from scenerl.rewards.judge_options import JUDGE_OPTIONS, check_judge, judge_by_options
from scenerl.rewards.predictions import collect, numbers, read_own_predictions
from scenerl.rewards.reference_rows import whole
from scenerl.rewards.result_files import (
    is_result_file,
    question_of,
    reply_of,
    result_rows,
    truths_of,
    type_of,
)


def read_msqa_references(path: Path, options: Options) -> References:
    """Return item id -> TypedQuestion of annotations or of a result file with truths.

    Raises:
        DataError: If a row cannot be used.
    """
    return _references(path, options, "read_msqa")


def read_gqa3d_references(path: Path, options: Options) -> References:
    """Return item id -> TypedQuestion of annotations or of a result file with truths.

    Raises:
        DataError: If a row cannot be used.
    """
    return _references(path, options, "read_gqa3d")


def _references(path: Path, options: Options, reader: str) -> References:
    from scenerl.preprocess import rows_msqa
    from scenerl.rewards.score_msqa import TypedQuestion

    check_judge(options)
    by_id: dict[str, Any] = {}
    if is_result_file(path):
        for item_id, where, row in result_rows(path):
            if item_id in by_id:
                raise DataError(f"{where}: {item_id} is there twice")
            by_id[item_id] = TypedQuestion(
                question=question_of(row, where),
                answers=truths_of(row, where),
                type=type_of(row, where),
            )
        return References(by_id=by_id)
    for _, item in whole(getattr(rows_msqa, reader)(path), path):
        by_id[item.item_id] = TypedQuestion(
            question=item.question, answers=item.answers, type=item.type
        )
    return References(by_id=by_id)


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> ProbedAnswer of our own lines or of a result file.

    Raises:
        DataError: If a prediction has no text.
    """
    from scenerl.rewards.score_msqa import ProbedAnswer

    if path.suffix in (".json", ".pt"):
        return collect(
            (item_id, ProbedAnswer(text=reply_of(row, where)))
            for item_id, where, row in result_rows(path)
        )
    return collect(read_own_predictions(path, _own))


def _own(row: dict[str, Any], where: str) -> Any:
    from scenerl.rewards.score_msqa import ProbedAnswer

    text = row.get("response", row.get("answer"))
    if not isinstance(text, str):
        raise DataError(f'{where}: found no text under "answer" or "response", but {text!r:.80}')
    probs = row.get("object_probs", [])
    if not isinstance(probs, list):
        raise DataError(f'{where}: "object_probs" is {probs!r:.80}; expected a list')
    true = _flags(row.get("true_objects", []), len(probs), "true_objects", where)
    valid = _flags(row.get("valid_objects", [1] * len(probs)), len(probs), "valid_objects", where)
    return ProbedAnswer(
        text=text,
        object_probs=numbers(probs, len(probs), "object_probs", where),
        true_objects=true,
        valid_objects=valid,
    )


def _flags(value: Any, count: int, what: str, where: str) -> tuple[bool, ...]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or any(flag not in (0, 1) for flag in value)
    ):
        raise DataError(
            f'{where}: "{what}" is {value!r:.80}; expected {count} times 0 or 1, one for each of '
            "object_probs"
        )
    return tuple(bool(flag) for flag in value)


def score_msqa(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Ask the judge where one is given, and return the report; see score_msqa."""
    from scenerl.rewards import score_msqa as scorer

    verdicts = judge_by_options(scorer.judge_records(references, predictions), options)
    return scorer.score_msqa(references, predictions, verdicts=verdicts, bootstrap=bootstrap)


def score_gqa3d(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Ask the judge where one is given, and return the report; see score_msqa."""
    from scenerl.rewards import score_msqa as scorer

    verdicts = judge_by_options(scorer.judge_records(references, predictions), options)
    return scorer.score_gqa3d(references, predictions, verdicts=verdicts, bootstrap=bootstrap)


_PREDICTIONS_HELP = (
    'lines {"id": "17", "answer": "a table"} ("response" for a reply with thoughts; "object_probs" '
    'and "true_objects" for its grounding); or results.json or results.pt of MSR3D or SceneCOT'
)

BENCHMARKS = {
    "msqa": Benchmark(
        name="msqa",
        title="situated questions of nine types: EM-R by group, SceneCOT's scores, a judge's",
        source="MSR3D/MSR3D evaluator/evaluate_msqa.py; SceneCOT/scenecot evaluator/",
        references_help="msqa_*_test.json, SceneCOT's situated_qa_*.json, or the result file, "
        "which holds the truths",
        predictions_help=_PREDICTIONS_HELP,
        examples=(
            "launch score msqa --predictions mine.jsonl --references msqa_scannet_test.json",
            "launch score msqa --predictions results.json --references results.json "
            "--judge http://localhost:8000/v1 --judge-model judge --judge-verdicts verdicts.jsonl",
            "launch score msqa --predictions results.json --references results.json "
            "--judge checkpoints/judge --judge-verdicts verdicts.jsonl",
            "launch score msqa --predictions results.json --references results.json "
            "--judge verdicts.jsonl",
        ),
        read_references=read_msqa_references,
        read_predictions=read_predictions,
        score=score_msqa,
        options=JUDGE_OPTIONS,
    ),
    "gqa3d": Benchmark(
        name="gqa3d",
        title="grounded questions by type: EM and refined EM, objects at 0.5",
        source="SceneCOT/scenecot evaluator/gqa3d_eval_cot_grounding.py",
        references_help="gqa3d_*.json, or the result file itself, which holds the truths",
        predictions_help=_PREDICTIONS_HELP,
        examples=(
            "launch score gqa3d --predictions mine.jsonl --references gqa3d_test.json",
            "launch score gqa3d --predictions results.json --references results.json",
        ),
        read_references=read_gqa3d_references,
        read_predictions=read_predictions,
        score=score_gqa3d,
        options=JUDGE_OPTIONS,
    ),
}
