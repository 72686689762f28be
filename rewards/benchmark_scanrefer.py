"""ScanRefer as `launch score scanrefer` runs it: the files and the options."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenerl.preprocess.records import Box3D, DataError
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
    numbers,
    read_json,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.true_boxes import BOXES_HELP, box_of_corners, box_of_size, open_boxes

if TYPE_CHECKING:
    from scenerl.rewards.score_scanrefer import BoxAnswer

CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub"),
    "others",
)
"""ScanRefer's 18 classes in order; the names are those of the nyu40class column."""


def item_id(scene_id: Any, object_id: Any, ann_id: Any) -> str:
    """Return the id of an annotation, "scene0011_00|5|0"."""
    return f"{scene_id}|{object_id}|{ann_id}"


def read_references(path: Path, options: Options) -> References:
    """Return item id -> TrueBox of ScanRefer's annotation list or of a result file with truths.

    Raises:
        DataError: If a row cannot be used or its object has no box.
    """
    from scenerl.rewards.score_scanrefer import TrueBox, unique_flags

    if path.suffix == ".jsonl":
        return References(by_id=dict(_truths_of_results(path)))
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: found {type(rows).__name__}, expected a list of annotations")
    boxes = open_boxes(options["boxes"])
    flags: list[tuple[bool | None, bool | None]] = [(None, None)] * len(rows)
    if options["labels"] is not None:
        classes = read_classes(Path(options["labels"]))
        flags = list(
            unique_flags(
                [(row["scene_id"], str(row["object_id"])) for row in rows],
                [classes.get(row["object_name"].replace("_", " "), 17) for row in rows],
            )
        )
    by_id = {}
    for number, (row, (unique, others)) in enumerate(zip(rows, flags, strict=True)):
        where = f"{path}: row {number}"
        key = item_id(row["scene_id"], row["object_id"], row["ann_id"])
        if key in by_id:
            raise DataError(f"{where}: {key} is there twice")
        if "bbox" in row:
            box = box_of_corners(row["bbox"], where)
        else:
            box = boxes.find(row["scene_id"], str(row["object_id"]), where)
        by_id[key] = TrueBox(box=box, unique=unique, others=others)
    return References(by_id=by_id)


def read_classes(path: Path) -> dict[str, int]:
    """Return raw label -> class 0..17 of scannetv2-labels.combined.tsv."""
    table = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.rstrip().split("\t")
        table[fields[1]] = CLASSES.index(fields[7]) if fields[7] in CLASSES else 17
    return table


def _truths_of_results(path: Path) -> Iterator[tuple[str, Any]]:
    from scenerl.rewards.score_scanrefer import TrueBox

    for where, row in read_json_lines(path):
        if "gt_response" in row:
            key, box = str(row["sample_id"]), box_of_size(row["gt_response"], where)
        else:
            key, box = str(row["id"]), _own_box(row["box"], where)
        kind = row.get("question_type")
        unique = row.get("unique", kind == "unique" if kind else None)
        yield key, TrueBox(box=box, unique=unique, others=row.get("others"))


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> BoxAnswer of any of the known prediction files."""
    from scenerl.rewards.score_scanrefer import BoxAnswer

    if path.suffix == ".jsonl":
        first = next(read_json_lines(path), ("", {}))[1]
        if "pred_response" in first:
            return collect(_results(path))
        return collect(read_own_predictions(path, parse_boxes))
    rows = read_json(path)
    return collect(
        (
            item_id(row["scene_id"], row["object_id"], row["ann_id"]),
            BoxAnswer(boxes=(box_of_corners(row["bbox"], f"{path}: row {number}"),)),
        )
        for number, row in enumerate(rows)
    )


def parse_boxes(row: dict[str, Any], where: str) -> "BoxAnswer":
    """Return the boxes of one of our own lines: "box" or "boxes"."""
    from scenerl.rewards.score_scanrefer import BoxAnswer

    boxes = row.get("boxes") if "boxes" in row else [row.get("box")]
    if not isinstance(boxes, list):
        raise DataError(f'{where}: "boxes" is {boxes!r}; expected a list of boxes')
    return BoxAnswer(boxes=tuple(_own_box(box, where) for box in boxes if box is not None))


def _own_box(value: Any, where: str) -> Box3D:
    x0, y0, z0, x1, y1, z1 = numbers(value, 6, "box", where)
    return (min(x0, x1), min(y0, y1), min(z0, z1), max(x0, x1), max(y0, y1), max(z0, z1))


def _results(path: Path) -> Iterator[tuple[str, "BoxAnswer"]]:
    from scenerl.rewards.score_scanrefer import BoxAnswer

    for where, row in read_json_lines(path):
        yield str(row["sample_id"]), BoxAnswer(boxes=(box_of_size(row["pred_response"], where),))


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
    references_help="ScanRefer_filtered_val.json with --boxes; or the list with boxes of the "
    'benchmark ("bbox", 8 corners); or lines {"id", "box"}; or a GS-Reasoner result file',
    predictions_help='lines {"id": "scene0011_00|5|0", "box": [x0, y0, z0, x1, y1, z1]} in metres '
    "of the axis-aligned scan; or the official pred.json; or a GS-Reasoner result file",
    examples=(
        "launch score scanrefer --predictions mine.jsonl --references ScanRefer_filtered_val.json "
        "--boxes data/scannet --labels scannetv2-labels.combined.tsv",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(flag="--boxes", help=BOXES_HELP),
        Option(flag="--labels", help="scannetv2-labels.combined.tsv, for unique and multiple"),
        Option(
            flag="--oracle",
            help="also report the best of several boxes, chosen by looking at the truth",
            is_switch=True,
        ),
    ),
)
