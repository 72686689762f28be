"""ScanRefer: how often the box of a description overlaps the true one.

Source: daveredrum/ScanRefer benchmark/eval.py and lib/dataset.py (arXiv:1912.08830).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from scenerl.preprocess.records import Box3D
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.grounding_records import BoxAnswer, TrueBox
from scenerl.rewards.score_boxes import M3DREF_EPS, SCANREFER_EPS, box_iou

THRESHOLDS: Final = (0.25, 0.5)
OTHERS: Final = 17
_NOWHERE: Final = (np.nan,) * 6
Mask: TypeAlias = npt.NDArray[np.bool_]


def unique_flags(
    objects: Sequence[tuple[str, str]], classes: Sequence[int]
) -> list[tuple[bool, bool]]:
    """Return (unique, others) of every annotation.

    Unique means: of the objects *described in this list*, not of all objects in the scene, exactly
    one has the class. So the flags of a row change with the file it stands in
    (lib/dataset.py, _get_unique_multiple_lookup).

    Args:
        objects: (scene id, object id) of every annotation.
        classes: Its class 0..17, 17 for others; the first one of an object counts for the object.
    """
    first: dict[tuple[str, str], int] = {}
    for key, number in zip(objects, classes, strict=True):
        first.setdefault(key, number)
    per_scene: dict[tuple[str, int], int] = {}
    for (scene, _), number in first.items():
        per_scene[scene, number] = per_scene.get((scene, number), 0) + 1
    return [
        (per_scene.get((key[0], number), 0) == 1, number == OTHERS)
        for key, number in zip(objects, classes, strict=True)
    ]


def score_scanrefer(
    references: Mapping[str, TrueBox],
    predictions: Mapping[str, BoxAnswer],
    *,
    oracle: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return Acc@0.25 and Acc@0.5, over all and by group, as fractions.

    Acc@k is the share of descriptions whose box has IoU >= k. Three rules, all reported: official
    (1e-8 in the denominator, float64), ``m3dref/`` (M3DRef-CLIP's float32 evaluator) and
    ``sound/`` (no epsilon). ``mean_iou`` is the mean sound IoU. A missing box has IoU 0.

    Args:
        references: Item id -> the truth.
        predictions: Item id -> boxes; an item that is not there counts as wrong.
        oracle: Also report ``oracle/``: the predicted box that overlaps the truth most, which looks
            at the truth and is no result of a system.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    truth = np.array([references[i].box for i in ids], dtype=np.float64).reshape(-1, 6)
    answers = [predictions[i].boxes if i in predictions else () for i in ids]
    chosen = np.array([boxes[0] if boxes else _NOWHERE for boxes in answers]).reshape(-1, 6)
    ious = {
        "": _iou(chosen, truth, SCANREFER_EPS),
        "m3dref/": _iou(chosen.astype(np.float32), truth.astype(np.float32), M3DREF_EPS),
        "sound/": _iou(chosen, truth, 0.0),
    }
    if oracle:
        ious["oracle/"] = np.array([_best(b, t) for b, t in zip(answers, truth, strict=True)])
    masks, labels, notes = _groups(*_flags(references, predictions))
    statistics: list[Statistic] = []
    for prefix, iou in ious.items():
        for group, mask in {"": np.ones(len(ids), dtype=bool), **masks}.items():
            if "/" in group and prefix:
                continue
            statistics += [
                mean(
                    f"{prefix}{group and group + '/'}acc@{threshold}",
                    (iou >= threshold).astype(np.float64),
                    mask,
                    rule="sound" if prefix == "sound/" else "official",
                    empty=0.0 if not prefix else None,
                )
                for threshold in THRESHOLDS
            ]
    statistics.append(mean("mean_iou", ious["sound/"], rule="sound"))
    return Report(
        benchmark="scanrefer",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(
                item_id=item_id,
                values={"iou": float(ious[""][row]), "sound_iou": float(ious["sound/"][row])},
                groups=labels[row] if labels else (),
            )
            for row, item_id in enumerate(ids)
        ),
        notes=notes,
    )


def _iou(boxes: npt.NDArray[Any], truth: npt.NDArray[Any], eps: float) -> npt.NDArray[Any]:
    return np.asarray(np.nan_to_num(box_iou(boxes, truth, eps)))


def _best(boxes: Sequence[Box3D], truth: npt.NDArray[np.float64]) -> float:
    return max((float(box_iou(np.array(b), truth, SCANREFER_EPS)) for b in boxes), default=0.0)


def _flags(
    references: Mapping[str, TrueBox], predictions: Mapping[str, BoxAnswer]
) -> tuple[list[bool | None], list[bool | None], tuple[str, ...]]:
    """Return unique and others of every item: the truth's, else what the prediction file says."""
    unique = [reference.unique for reference in references.values()]
    others = [reference.others for reference in references.values()]
    if all(flag is not None for flag in unique):
        return unique, others, ()
    said = [predictions.get(item_id, BoxAnswer()) for item_id in references]
    if said and all(answer.unique is not None for answer in said):
        note = "unique, multiple and others are those that the prediction file states"
        return [a.unique for a in said], [a.others for a in said], (note,)
    note = "unique and multiple are not known; --labels gives the classes that tell them apart"
    return [], [], (note,)


def _groups(
    unique: Sequence[bool | None], others: Sequence[bool | None], notes: tuple[str, ...]
) -> tuple[dict[str, Mask], list[tuple[str, ...]], tuple[str, ...]]:
    """Return mask by group name, the groups of every item, and the notes."""
    if not unique:
        return {}, [], notes
    is_unique = np.array(unique, dtype=bool)
    multiplicity = {"unique": is_unique, "multiple": ~is_unique}
    masks = dict(multiplicity)
    labels: list[tuple[str, ...]] = [("unique",) if flag else ("multiple",) for flag in unique]
    if any(flag is None for flag in others):
        return masks, labels, notes
    is_other = np.array(others, dtype=bool)
    kinds = {"not_in_others": ~is_other, "in_others": is_other}
    masks |= kinds
    masks |= {f"{m}/{k}": multiplicity[m] & kinds[k] for m in multiplicity for k in kinds}
    labels = [
        (*label, "in_others" if flag else "not_in_others")
        for label, flag in zip(labels, others, strict=True)
    ]
    return masks, labels, notes
