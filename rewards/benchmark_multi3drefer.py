"""Multi3DRefer as `launch score multi3drefer` runs it."""

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
from scenerl.rewards.box_files import (
    BOXES_HELP,
    PREDICTIONS_HELP,
    is_result_file,
    open_boxes,
    parse_boxes,
    read_box_predictions,
    result_boxes,
    result_lines,
)
from scenerl.rewards.grounding_records import MultiTarget
from scenerl.rewards.predictions import read_own_predictions
from scenerl.rewards.reference_rows import whole

EVAL_TYPES = ("zt_w_d", "zt_wo_d", "st_w_d", "st_wo_d", "mt")
"""Zero, single or multiple targets, with or without distractors of the same class."""


def read_references(path: Path, options: Options) -> References:
    """Return item id -> MultiTarget of the official list, our own lines or a result file.

    Raises:
        DataError: If a row cannot be used or an object has no box.
    """
    if is_result_file(path):
        return References(by_id=dict(_truths_of_results(path)))
    if path.suffix == ".jsonl":
        return References(by_id=dict(read_own_predictions(path, _own_truth)))
    from scenerl.preprocess.rows_multi3drefer import read_multi3drefer

    boxes = open_boxes(options["boxes"])
    return References(
        by_id={
            row.item_id: MultiTarget(
                boxes=tuple(boxes.find(row.scene_id, str(i), where) for i in row.object_ids),
                eval_type=row.eval_type,
            )
            for where, row in whole(read_multi3drefer(path), path)
        }
    )


def _target(boxes: Any, kind: Any, where: str) -> MultiTarget:
    if kind not in EVAL_TYPES:
        raise DataError(f"{where}: eval_type is {kind!r}; expected one of {', '.join(EVAL_TYPES)}")
    if kind.startswith("zt") != (not boxes):
        raise DataError(f"{where}: {len(boxes)} true boxes with eval_type {kind}")
    return MultiTarget(boxes=boxes, eval_type=kind)


def _own_truth(row: dict[str, Any], where: str) -> MultiTarget:
    return _target(parse_boxes(row, where).boxes, row.get("eval_type"), where)


def _truths_of_results(path: Path) -> Iterator[tuple[str, MultiTarget]]:
    for where, sample_id, row in result_lines(path):
        boxes = result_boxes(row["gt_response"], where)
        yield sample_id, _target(boxes, row.get("question_type"), where)


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> BoxAnswer; all boxes of it count."""
    if is_result_file(path):
        from scenerl.rewards.grounding_records import BoxAnswer
        from scenerl.rewards.predictions import collect

        return collect(
            (sample_id, BoxAnswer(boxes=result_boxes(row["pred_response"], where)))
            for where, sample_id, row in result_lines(path)
        )
    return read_box_predictions(path, lambda scene, _object, ann: f"{scene}|{ann}")


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_multi3drefer."""
    from scenerl.rewards.score_multi3drefer import score_multi3drefer

    boxes = {item_id: answer.boxes for item_id, answer in predictions.items()}
    return score_multi3drefer(references, boxes, bootstrap=bootstrap)


BENCHMARK = Benchmark(
    name="multi3drefer",
    title="none, one or several objects by a description: F1@0.25 and F1@0.5 of 3D boxes",
    source="3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/multi3drefer_evaluator.py",
    references_help='multi3drefer_val.json with --boxes; lines {"id", "boxes", "eval_type"}; or a '
    "GS-Reasoner result file",
    predictions_help=PREDICTIONS_HELP + "; id is scene0011_00|12 (scene, annotation)",
    examples=(
        "launch score multi3drefer --predictions mine.jsonl --references multi3drefer_val.json "
        "--boxes data/scannet",
        "launch score multi3drefer --predictions output/pred --references multi3drefer_val.json "
        "--boxes boxes.jsonl",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(Option(flag="--boxes", help=BOXES_HELP),),
)
