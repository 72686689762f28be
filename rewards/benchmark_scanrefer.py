"""ScanRefer as `launch score scanrefer` runs it: the files and the options."""

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
    box_of,
    is_result_file,
    open_boxes,
    read_box_predictions,
    result_boxes,
    result_lines,
)
from scenerl.rewards.grounding_records import TrueBox
from scenerl.rewards.predictions import read_own_predictions
from scenerl.rewards.reference_rows import whole

CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub"),
    "others",
)
"""ScanRefer's 18 classes in order, by their names in the nyu40class column."""


def read_references(path: Path, options: Options) -> References:
    """Return item id -> TrueBox of ScanRefer's list, our own lines or a GS-Reasoner result file.

    Raises:
        DataError: If a row cannot be used or its object has no box.
    """
    if is_result_file(path):
        return References(by_id=dict(_truths_of_results(path)))
    if path.suffix == ".jsonl":
        return References(by_id=dict(read_own_predictions(path, _own_truth)))
    from scenerl.preprocess.rows_scanrefer import read_scanrefer
    from scenerl.rewards.score_scanrefer import unique_flags

    rows = list(whole(read_scanrefer(path), path))
    boxes = open_boxes(options["boxes"])
    flags: list[tuple[bool | None, bool | None]] = [(None, None)] * len(rows)
    if options["labels"] is not None:
        classes = read_classes(Path(options["labels"]))
        flags = list(
            unique_flags(
                [(row.scene_id, row.object_id) for _, row in rows],
                [classes.get(row.object_name.replace("_", " "), 17) for _, row in rows],
            )
        )
    by_id = {
        row.item_id: TrueBox(
            box=boxes.find(row.scene_id, row.object_id, where), unique=unique, others=others
        )
        for (where, row), (unique, others) in zip(rows, flags, strict=True)
    }
    return References(by_id=by_id)


def read_classes(path: Path) -> dict[str, int]:
    """Return raw label -> class 0..17 of scannetv2-labels.combined.tsv.

    Raises:
        DataError: If the file is of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8") from error
    table = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.rstrip().split("\t")
        if len(fields) < 8:
            raise DataError(
                f"{path}:{number}: {len(fields)} columns; expected ScanNet's "
                "scannetv2-labels.combined.tsv with raw_category second and nyu40class eighth"
            )
        table[fields[1]] = CLASSES.index(fields[7]) if fields[7] in CLASSES else 17
    return table


def _own_truth(row: dict[str, Any], where: str) -> TrueBox:
    return TrueBox(
        box=box_of(row.get("box"), where), unique=row.get("unique"), others=row.get("others")
    )


def _truths_of_results(path: Path) -> Iterator[tuple[str, TrueBox]]:
    for where, sample_id, row in result_lines(path):
        boxes = result_boxes(row["gt_response"], where)
        if len(boxes) != 1:
            raise DataError(f"{where}: {len(boxes)} true boxes; expected one")
        kind = row.get("question_type")
        known = kind in ("unique", "multiple")
        yield sample_id, TrueBox(box=boxes[0], unique=kind == "unique" if known else None)


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> BoxAnswer; see read_box_predictions."""
    return read_box_predictions(path, lambda scene, obj, ann: f"{scene}|{obj}|{ann}")


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_scanrefer."""
    from scenerl.rewards.score_scanrefer import score_scanrefer

    return score_scanrefer(references, predictions, oracle=options["oracle"], bootstrap=bootstrap)


BENCHMARK = Benchmark(
    name="scanrefer",
    title="one object by its description: Acc@0.25 and Acc@0.5 of 3D boxes",
    source="daveredrum/ScanRefer benchmark/eval.py, lib/dataset.py",
    references_help="ScanRefer_filtered_val.json with --boxes (and --labels for unique and "
    'multiple); lines {"id", "box"}; or a GS-Reasoner result file, which holds the truth too',
    predictions_help=PREDICTIONS_HELP + "; ScanRefer's pred.json; id is scene0011_00|5|0 "
    "(scene, object, annotation)",
    examples=(
        "launch score scanrefer --predictions mine.jsonl --references "
        "ScanRefer_filtered_val.json --boxes data/scannet --labels scannetv2-labels.combined.tsv",
        "launch score scanrefer --predictions pred.json --references ScanRefer_filtered_val.json "
        "--boxes scannet_data",
        "launch score scanrefer --predictions val.jsonl --references val.jsonl --oracle",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(flag="--boxes", help=BOXES_HELP),
        Option(
            flag="--labels",
            help="scannetv2-labels.combined.tsv: splits by unique and multiple, which else come "
            "from pred.json",
        ),
        Option(
            flag="--oracle",
            help="also report the best of several boxes, chosen by looking at the truth",
            is_switch=True,
        ),
    ),
)
