"""Beacon3D as `launch score beacon3d-grounding` and `launch score beacon3d-qa` run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError
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
from scenerl.rewards.judge_options import JUDGE_OPTIONS, check_judge, judge_by_options
from scenerl.rewards.predictions import collect, read_json, read_own_predictions
from scenerl.rewards.reference_rows import whole

_ANSWER_KEYS = ("response_pred", "answer_pred", "text", "answer_top10", "pred_response", "pred")


def read_grounding_references(path: Path, options: Options) -> References:
    """Return item id -> ChainText, in the order of the metadata.

    Raises:
        DataError: If a row cannot be used.
    """
    from scenerl.preprocess.rows_beacon3d import read_beacon3d_grounding
    from scenerl.rewards.score_beacon3d import ChainText

    return References(
        by_id={
            row.item_id: ChainText(
                scene_id=row.scene_id,
                object_key=f"{row.scene_id}|{row.object_class}|{row.object_id}",
                text=row.text,
                tag=row.tag,
                chain=row.chain,
                level=row.level,
                target_ids=row.target_ids,
            )
            for _, row in whole(read_beacon3d_grounding(path), path)
        }
    )


def read_qa_references(path: Path, options: Options) -> References:
    """Return item id -> ChainText, in the order of the metadata.

    Raises:
        DataError: If a row cannot be used.
    """
    from scenerl.preprocess.rows_beacon3d import read_beacon3d_qa
    from scenerl.rewards.score_beacon3d import ChainText

    check_judge(options)
    if bool(options["grounding_references"]) and not options["grounding"]:
        raise ConfigError("--grounding-references needs --grounding, the predictions for it")
    return References(
        by_id={
            row.item_id: ChainText(
                scene_id=row.scene_id,
                object_key=f"{row.scene_id}|{row.object_class}|{row.object_id}",
                text=row.question,
                tag=row.tag,
                answer=row.answer,
                extra_knowledge=bool(row.extra_knowledge),
            )
            for _, row in whole(read_beacon3d_qa(path), path)
        }
    )


def read_grounding_predictions(
    path: Path, references: Mapping[str, Any], options: Options
) -> Predictions:
    """Return item id -> whether it was found, of every text that is asked.

    Raises:
        DataError: If a prediction says neither "correct" nor which object.
    """
    if path.suffix == ".json":
        pairs = [
            (item_id, _is_found(row, references[item_id], where))
            for item_id, where, row in _in_order(path, references)
        ]
        return _once(collect(pairs), references)
    found = collect(read_own_predictions(path, lambda row, where: (row, where)))
    by_id = {
        i: _is_found(pair[0], references[i], pair[1]) if i in references else False
        for i, pair in found.by_id.items()
    }
    return _once(Predictions(by_id=by_id, duplicates=found.duplicates), references)


def _is_found(row: Mapping[str, Any], text: Any, where: str) -> bool:
    if row.get("correct") in (0, 1):
        return bool(row["correct"])
    said = row.get("object_ids", [row["object_id"]] if "object_id" in row else None)
    if not isinstance(said, list):
        raise DataError(f'{where}: expected "correct" (true or false), "object_id" or "object_ids"')
    return bool(said) and {str(object_id) for object_id in said} <= set(text.target_ids)


def read_qa_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> answer, of every question that is asked.

    Raises:
        DataError: If a prediction has no text.
    """
    if path.suffix == ".json":
        pairs = [
            (item_id, _answer(row, where)) for item_id, where, row in _in_order(path, references)
        ]
        return _once(collect(pairs), references)
    return _once(collect(read_own_predictions(path, _own_answer)), references)


def _own_answer(row: Mapping[str, Any], where: str) -> str:
    text = row.get("answer", row.get("response"))
    if not isinstance(text, str):
        raise DataError(f'{where}: found no text under "answer" or "response", but {text!r:.80}')
    return text


def _answer(row: Mapping[str, Any], where: str) -> str:
    value = next((row[key] for key in _ANSWER_KEYS if key in row), None)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise DataError(f"{where}: no text under any of {', '.join(_ANSWER_KEYS)}")
    return value


def _in_order(
    path: Path, references: Mapping[str, Any]
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (item id, where, row) of a file in the order of the official data list.

    That list has each text of a scene once. A file that starts with another scene is taken as
    sorted by scene, as upstream.
    """
    from scenerl.rewards.score_beacon3d import asked_ids

    rows = read_json(path)
    ids = asked_ids(references)
    if not isinstance(rows, list) or len(rows) != len(ids):
        found = len(rows) if isinstance(rows, list) else type(rows).__name__
        raise DataError(
            f"{path}: found {found}, expected a list of {len(ids)} results in the order of the "
            "official data file (each text of a scene once)"
        )
    wrong = next((n for n, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise DataError(f"{path}: row {wrong} is no object")
    if rows and rows[0].get("scene_id", references[ids[0]].scene_id) != references[ids[0]].scene_id:
        ids = sorted(ids, key=lambda item_id: str(references[item_id].scene_id))
    return [
        (item_id, f"{path}: row {number}", row)
        for number, (item_id, row) in enumerate(zip(ids, rows, strict=True))
    ]


def _once(predictions: Predictions, references: Mapping[str, Any]) -> Predictions:
    """Return predictions of the asked texts; one for an equal text is dropped with a note.

    Texts that are asked once stand for their repetitions, so those are not missing.
    """
    from scenerl.rewards.score_beacon3d import asked_ids

    asked = set(asked_ids(references))
    repeated = [i for i in references if i not in asked]
    stands = {(references[i].scene_id, references[i].text): i for i in asked}
    by_id = dict(predictions.by_id)
    ignored = sum(by_id.pop(i, None) is not None for i in repeated)
    for i in repeated:
        source = stands[(references[i].scene_id, references[i].text)]
        if source in by_id:
            by_id[i] = by_id[source]
    notes = predictions.notes
    if ignored:
        notes += (f"{ignored} predictions for repeated texts are not used; the first one stands",)
    return Predictions(by_id=by_id, duplicates=predictions.duplicates, notes=notes)


def score_grounding(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_beacon3d."""
    from scenerl.rewards import score_beacon3d as scorer

    return scorer.score_grounding(references, predictions, bootstrap=bootstrap)


def score_qa(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Ask the judge where one is given, and return the report; see score_beacon3d."""
    from scenerl.rewards import score_beacon3d as scorer

    grounded = read_grounded(options, len(references))
    verdicts = judge_by_options(scorer.judge_records(references, predictions), options)
    return scorer.score_qa(
        references, predictions, verdicts=verdicts, grounded=grounded, bootstrap=bootstrap
    )


def read_grounded(options: Options, questions: int) -> Sequence[bool] | None:
    """Return whether each object is grounded, by --grounding; None without it.

    Raises:
        DataError: If the file does not hold three chains for every three questions.
    """
    if not options["grounding"]:
        return None
    from scenerl.rewards.score_beacon3d import PER_OBJECT, grounded_objects, object_flags

    path = Path(options["grounding"])
    if options["grounding_references"]:
        references = read_grounding_references(Path(options["grounding_references"]), {}).by_id
        predictions = read_grounding_predictions(path, references, {})
        chains = grounded_objects(references, predictions.by_id)
    else:
        rows = read_json(path)
        chains = [
            [bool(flag) for flag in row["correct"]]
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and isinstance(row.get("correct"), list) and row["correct"]
        ]
        if not isinstance(rows, list) or len(chains) != len(rows):
            raise DataError(
                f"{path}: expected the processed results of the official evaluate_grounding.py (a "
                'list of {"obj_id", "text", "tag", "correct"}); for predictions also give '
                "--grounding-references"
            )
    flags = object_flags(chains)
    if len(chains) % PER_OBJECT or len(flags) * PER_OBJECT != questions:
        raise DataError(
            f"{path}: {len(chains)} chains, but {questions} questions; expected one chain for "
            "every question, in the same order of objects"
        )
    return flags


BENCHMARKS = {
    "beacon3d-grounding": Benchmark(
        name="beacon3d-grounding",
        title="an object by chains of expressions: case, chain and object accuracy",
        source="beacon-3d/beacon-3d evaluate_grounding.py",
        references_help="metadata_scannet_grounding.json",
        predictions_help='lines {"id": "scene|class|object|chain_1|0", "object_id": "27"} (or '
        '"correct": true); or the official list of {"correct"} in the order of its data file',
        examples=(
            "launch score beacon3d-grounding --predictions mine.jsonl "
            "--references metadata_scannet_grounding.json",
        ),
        read_references=read_grounding_references,
        read_predictions=read_grounding_predictions,
        score=score_grounding,
    ),
    "beacon3d-qa": Benchmark(
        name="beacon3d-qa",
        title="three questions about an object: EM, a judge's score, coherence with grounding",
        source="beacon-3d/beacon-3d evaluate_qa.py",
        references_help="metadata_scannet_qa.json",
        predictions_help='lines {"id": "scene|class|object|0", "answer": "white"}; or the official '
        "list of results in the order of its data file",
        examples=(
            "launch score beacon3d-qa --predictions mine.jsonl "
            "--references metadata_scannet_qa.json",
            "launch score beacon3d-qa --predictions mine.jsonl "
            "--references metadata_scannet_qa.json --grounding grounding_processed.json "
            "--judge https://HOST/v1 --judge-model NAME "
            "--judge-key MY_API_KEY --judge-prompt system_prompt.json "
            "--judge-verdicts verdicts.jsonl",
        ),
        read_references=read_qa_references,
        read_predictions=read_qa_predictions,
        score=score_qa,
        options=(
            *JUDGE_OPTIONS,
            Option(
                flag="--grounding",
                help="the official processed grounding results, for R1, R2 and coherence; or "
                "grounding predictions with --grounding-references",
            ),
            Option(flag="--grounding-references", help="metadata_scannet_grounding.json"),
        ),
    ),
}
