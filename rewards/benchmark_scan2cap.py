"""Scan2Cap as `launch score scan2cap` runs it: three definitions, each with its own files."""

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
from scenerl.rewards.box_files import BOXES_HELP, ObjectBoxes, box_of, box_of_corners, open_boxes
from scenerl.rewards.predictions import (
    collect,
    first_object,
    numbers,
    read_json,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole


def read_references(path: Path, options: Options) -> References:
    """Return ``scene|object|name`` -> DescribedObject, or scene -> SceneCaptions for "matched".

    Raises:
        DataError: If a row cannot be used.
    """
    from scenerl.rewards.score_scan2cap import DescribedObject, spaced

    definition = options["definition"]
    if definition == "matched":
        return References(by_id=_true_scenes(path, options))
    if path.suffix == ".jsonl":
        return References(
            by_id={
                str(row.get("sample_id")): DescribedObject(
                    captions=tuple(map(spaced, _texts(row.get("gt_response"), where)))
                )
                for where, row in read_json_lines(path)
            }
        )
    if isinstance(read_json(path), dict):
        corpus = read_json(path)
        return References(
            by_id={
                key: DescribedObject(captions=_texts(value, f"{path}: {key}"))
                for key, value in corpus.items()
            }
        )
    return References(by_id=_annotated(path, definition, open_boxes(options["boxes"])))


def _annotated(path: Path, definition: str, boxes: ObjectBoxes) -> dict[str, Any]:
    from scenerl.preprocess.rows_scanrefer import read_scan2cap
    from scenerl.rewards.score_scan2cap import DescribedObject, framed, spaced

    by_id = {}
    for where, row in whole(read_scan2cap(path), path):
        if definition == "given":
            captions = tuple(map(spaced, row.descriptions))
        elif any(token is None for token in row.tokens):
            raise DataError(f'{where}: no "token"; the official corpus is built of tokens')
        else:
            captions = tuple(framed(token or ()) for token in row.tokens)
        box = boxes.find(row.scene_id, row.object_id, where) if boxes.by_scene else None
        by_id[row.item_id] = DescribedObject(captions=captions, box=box)
    return by_id


def _true_scenes(path: Path, options: Options) -> dict[str, Any]:
    """Return the true objects by scene, from the official list with boxes or from annotations."""
    from scenerl.preprocess.rows_scanrefer import read_scan2cap
    from scenerl.rewards.score_scan2cap import SceneCaptions, framed

    raw = read_json(path)
    corners: dict[tuple[str, str], tuple[tuple[float, ...], ...]] = {}
    if isinstance(raw, list):
        for number, row in enumerate(raw):
            if isinstance(row, dict) and "bbox" in row:
                key = (str(row.get("scene_id")), str(row.get("object_id")))
                corners.setdefault(key, _corners(row["bbox"], f"{path}: row {number}"))
    boxes = open_boxes(options["boxes"])
    captions: dict[tuple[str, str], tuple[str, ...]] = {}
    for where, item in whole(read_scan2cap(path), path):
        key = (item.scene_id, item.object_id)
        if key not in corners:
            corners[key] = corners_of(boxes.find(*key, where))
        if any(token is None for token in item.tokens):
            raise DataError(f'{where}: no "token"; the official corpus is built of tokens')
        texts = tuple(framed(token or (), None) for token in item.tokens)
        captions[key] = captions.get(key, ()) + texts
    scenes: dict[str, list[tuple[str, str]]] = {}
    for key in captions:
        scenes.setdefault(key[0], []).append(key)
    return {
        scene: SceneCaptions(
            captions=tuple(captions[key] for key in keys),
            corners=tuple(corners[key] for key in keys),
            object_ids=tuple(key[1] for key in keys),
        )
        for scene, keys in scenes.items()
    }


def corners_of(box: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Return the 8 corners of a box in the official order: around the top, then the bottom."""
    x0, y0, z0, x1, y1, z1 = box
    ground = ((x1, y1), (x1, y0), (x0, y0), (x0, y1))
    return tuple((x, y, z) for z in (z1, z0) for x, y in ground)


def _corners(value: Any, where: str) -> tuple[tuple[float, ...], ...]:
    box_of_corners(value, where)
    return tuple(numbers(corner, 3, "corner", where) for corner in value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or any(not isinstance(v, str) for v in value):
        raise DataError(f"{where}: found {value!r:.80}; expected a list of texts")
    return tuple(value)


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> Caption, or scene -> SceneCaptions for "matched".

    Raises:
        DataError: If a prediction has no text, or a box is no box.
    """
    if options["definition"] == "matched":
        return collect(_scene_predictions(path))
    if path.suffix == ".json":
        return collect(_official(path))
    if "pred_response" in first_object(path):
        return collect(read_own_predictions(path, _caption, key="sample_id"))
    return collect(read_own_predictions(path, _caption))


def _caption(row: Mapping[str, Any], where: str) -> Any:
    from scenerl.rewards.score_scan2cap import Caption

    text = row.get("caption", row.get("response", row.get("pred_response")))
    if not isinstance(text, str):
        raise DataError(f'{where}: found no text under "caption" or "response", but {text!r:.80}')
    box, iou = row.get("box"), row.get("iou")
    return Caption(
        text=text,
        box=None if box is None else box_of(box, where),
        iou=None if iou is None else numbers([iou], 1, "iou", where)[0],
    )


def _official(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield pred_val.json of the official evaluation: key -> list of one caption."""
    from scenerl.rewards.score_scan2cap import Caption

    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: found {type(value).__name__}, expected captions by object")
    for key, captions in value.items():
        yield key, Caption(text=_texts(captions, f"{path}: {key}")[0])


def _scene_predictions(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the official file, scene -> list of {"caption", "box"}, or our lines of one box each."""
    from scenerl.rewards.score_scan2cap import SceneCaptions

    scenes: dict[str, list[tuple[str, tuple[tuple[float, ...], ...]]]] = {}
    if path.suffix == ".json":
        value = read_json(path)
        if not isinstance(value, dict):
            raise DataError(f"{path}: found {type(value).__name__}, expected lists by scene")
        for scene, rows in value.items():
            found = scenes.setdefault(scene, [])
            for number, row in enumerate(rows if isinstance(rows, list) else [None]):
                found.append(_boxed_caption(row, f"{path}: {scene}, box {number}"))
    else:
        for where, row in read_json_lines(path):
            scenes.setdefault(str(row.get("id")), []).append(_boxed_caption(row, where))
    for scene, found in scenes.items():
        yield (
            scene,
            SceneCaptions(
                captions=tuple((text,) for text, _ in found),
                corners=tuple(corners for _, corners in found),
            ),
        )


def _boxed_caption(row: Any, where: str) -> tuple[str, tuple[tuple[float, ...], ...]]:
    if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
        raise DataError(f'{where}: expected {{"caption": text, "box": 8 corners or 6 numbers}}')
    box = row.get("box")
    if isinstance(box, list) and len(box) == 6:
        return row["caption"], corners_of(box_of(box, where))
    return row["caption"], _corners(box, where)


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_scan2cap."""
    from scenerl.rewards.score_scan2cap import score_matched, score_scan2cap

    definition = options["definition"]
    if definition == "matched":
        return score_matched(references, predictions, bootstrap=bootstrap)
    return score_scan2cap(references, predictions, definition=definition, bootstrap=bootstrap)


BENCHMARK = Benchmark(
    name="scan2cap",
    title="captions of objects: BLEU, METEOR, ROUGE-L and CIDEr at an IoU of the box",
    source="daveredrum/Scan2Cap lib/eval_helper.py, benchmark/eval.py",
    references_help="ScanRefer_filtered_val.json, with --boxes or with bbox; a corpus_val.json; for "
    "--definition given also a result file with gt_response",
    predictions_help='lines {"id": "scene0011_00|5|brown_table", "caption": "...", "box": [6]} (or '
    '"iou"); the official pred_val.json; for --definition matched the official file of lists by '
    'scene, or lines {"id": "scene0011_00", "caption", "box"}; or a result file of GS-Reasoner or '
    "Video-3D-LLM",
    examples=(
        "launch score scan2cap --predictions mine.jsonl --references ScanRefer_filtered_val.json "
        "--boxes data/scannet",
        "launch score scan2cap --definition given --predictions results.jsonl "
        "--references results.jsonl",
        "launch score scan2cap --definition matched --predictions pred.json "
        "--references ScanRefer_filtered_val_gt_bbox.json",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--definition",
            help="iou: m@kIoU of most tables; matched: precision, recall and F1 of the online "
            "benchmark; given: true boxes, as GS-Reasoner and Video-3D-LLM; leo: as LEO",
            default="iou",
            choices=("iou", "matched", "given", "leo"),
        ),
        Option(flag="--boxes", help=BOXES_HELP),
    ),
)
