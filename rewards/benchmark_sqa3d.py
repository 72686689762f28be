"""SQA3D as `launch score sqa3d` runs it."""

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
    numbers,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole

MAX_GUESSES = 3
"""How many places a prediction may name, as in the official script."""


def read_references(path: Path, options: Options) -> References:
    """Return item id -> SituatedQuestion.

    Raises:
        DataError: If a row cannot be used.
    """
    from scenerl.preprocess.rows_sqa3d import read_sqa3d
    from scenerl.rewards.score_sqa3d import SituatedQuestion

    return References(
        by_id={
            row.item_id: SituatedQuestion(
                question=row.question,
                answers=row.answers,
                position_m=row.position_m,
                rotation=row.rotation,
            )
            for _, row in whole(read_sqa3d(path, options["annotations"]), path)
        }
    )


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> SituatedAnswer of our own lines or of a result file.

    Raises:
        DataError: If a prediction has no text.
    """
    if "pred_response" in first_object(path):
        return collect(_results(path, references))
    return collect(read_own_predictions(path, _own))


def _own(row: dict[str, Any], where: str) -> Any:
    from scenerl.rewards.score_sqa3d import SituatedAnswer

    text = row.get("answer", row.get("response"))
    if not isinstance(text, str):
        raise DataError(f'{where}: found no text under "answer" or "response", but {text!r:.80}')
    return SituatedAnswer(
        answer=text,
        positions_m=_guesses(row, "positions_m", 3, where),
        rotations=_guesses(row, "rotations", 4, where),
    )


def _guesses(
    row: Mapping[str, Any], key: str, size: int, where: str
) -> tuple[tuple[float, ...], ...]:
    value = row.get(key, [])
    if not isinstance(value, list) or len(value) > MAX_GUESSES:
        raise DataError(f'{where}: "{key}" is {value!r:.80}; expected a list of at most 3')
    guesses = tuple(numbers(guess, size, key, where) for guess in value)
    if size == 4 and any(not any(guess) for guess in guesses):
        raise DataError(f'{where}: "{key}" has a quaternion of length 0')
    return guesses


def _results(path: Path, references: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a result file of Video-3D-LLM or GS-Reasoner."""
    from scenerl.rewards.score_sqa3d import SituatedAnswer

    for where, row in read_json_lines(path):
        name, text = str(row.get("sample_id")), row.get("pred_response")
        if not isinstance(text, str):
            raise DataError(f'{where}: "pred_response" is {text!r:.80}; expected a text')
        short = name.rpartition("_")[2]
        yield name if name in references else short, SituatedAnswer(answer=text)


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_sqa3d."""
    from scenerl.rewards.score_sqa3d import score_sqa3d

    return score_sqa3d(
        references, predictions, captions=bool(options["captions"]), bootstrap=bootstrap
    )


BENCHMARK = Benchmark(
    name="sqa3d",
    title="answers to questions asked from a place: EM and refined EM by type of question",
    source="SilongYong/SQA3D LLM/eval_sqa3d_llm.py; embodied-generalist evaluator/sqa3d_eval.py",
    references_help="v1_balanced_questions_test_scannetv2.json, with its annotations beside it",
    predictions_help='lines {"id": "220602000000", "answer": "left"}, with "positions_m" and '
    '"rotations" (lists of up to 3) where the place is predicted; or a result file of GS-Reasoner '
    "or Video-3D-LLM",
    examples=(
        "launch score sqa3d --predictions mine.jsonl "
        "--references v1_balanced_questions_test_scannetv2.json",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--annotations",
            help="the file of answers; default: named like the questions, beside them",
        ),
        Option(
            flag="--captions",
            help="also BLEU .. CIDEr of the cleaned answers, as LEO reports",
            is_switch=True,
        ),
    ),
)
