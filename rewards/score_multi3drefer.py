"""Multi3DRefer: the boxes of all objects that a description means, none to many.

Source: 3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/multi3drefer_evaluator.py (arXiv:2309.05251).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from scenerl.preprocess.records import Box3D
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import estimate, mean
from scenerl.rewards.score_boxes import M3DREF_EPS, SCANREFER_EPS, box_iou

EVAL_TYPES: Final = ("zt_w_d", "zt_wo_d", "st_w_d", "st_wo_d", "mt")
"""Zero, single or multiple targets, with or without distractors of the same class."""
THRESHOLDS: Final = (0.25, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueBoxes:
    """The objects that a description means."""

    boxes: tuple[Box3D, ...]
    eval_type: str


def match_f1(
    boxes: Sequence[Box3D],
    true_boxes: Sequence[Box3D],
    rule: Literal["m3dref", "gs-reasoner", "sound"] = "m3dref",
) -> tuple[float, ...]:
    """Return 2 TP / (P + G) at IoU 0.25 and 0.5, after one matching that maximises total IoU.

    One Hungarian matching serves both thresholds, so it may give up a pair over the threshold for
    a higher sum. With no true box the value is 1 for no prediction, else 0.

    Args:
        boxes: Predicted boxes.
        true_boxes: True boxes.
        rule: "m3dref" computes in float32 with 1.19e-7 in the denominator; "gs-reasoner" in float64
            with 1e-8, then rounds to float32; "sound" in float64 without an epsilon.
    """
    if not boxes or not true_boxes:
        return (float(len(boxes) == len(true_boxes)),) * len(THRESHOLDS)
    from scipy.optimize import linear_sum_assignment

    precise = np.float32 if rule == "m3dref" else np.float64
    predicted = np.array(boxes, dtype=precise)[:, None]
    eps = {"m3dref": M3DREF_EPS, "gs-reasoner": SCANREFER_EPS, "sound": 0.0}[rule]
    table = box_iou(predicted, np.array(true_boxes, dtype=precise)[None], eps)
    size = max(table.shape)
    ious = np.zeros((size, size), dtype=np.float64 if rule == "sound" else np.float32)
    ious[: table.shape[0], : table.shape[1]] = table
    rows, columns = linear_sum_assignment(-ious)
    matched = ious[rows, columns]
    total = len(boxes) + len(true_boxes)
    return tuple(2 * int((matched >= threshold).sum()) / total for threshold in THRESHOLDS)


def score_multi3drefer(
    references: Mapping[str, TrueBoxes],
    predictions: Mapping[str, Sequence[Box3D]],
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return F1@0.25 and F1@0.5 over all queries and by type, as fractions.

    The overall value is the mean over queries, not over types. ``F1@k`` is M3DRef-CLIP's evaluator:
    float32, and a description with no true object scores 1 for no box, else 0 (so a system that
    never answers gets all of those). ``gs-reasoner/`` and ``sound/`` differ only in rounding. A
    query without a prediction scores 0 even when it has no true object.

    Args:
        references: Item id -> true boxes and type.
        predictions: Item id -> predicted boxes; empty says that there is no such object.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    rules: tuple[Literal["m3dref", "gs-reasoner", "sound"], ...] = (
        "m3dref",
        "gs-reasoner",
        "sound",
    )
    scores = {
        rule: np.array(
            [
                match_f1(predictions[i], references[i].boxes, rule) if i in predictions else (0, 0)
                for i in ids
            ],
            dtype=np.float64,
        ).reshape(-1, len(THRESHOLDS))
        for rule in rules
    }
    kinds = np.array([references[i].eval_type for i in ids], dtype=object)
    statistics = []
    for rule, values in scores.items():
        prefix = "" if rule == "m3dref" else f"{rule}/"
        for column, threshold in enumerate(THRESHOLDS):
            f1 = values[:, column]
            for kind in ("", *EVAL_TYPES):
                where = None if not kind else kinds == kind
                kept = f1 if where is None else f1[where]
                single = float(np.mean(kept.astype(np.float32))) if len(kept) else None
                statistics.append(
                    mean(
                        f"{prefix}{kind and kind + '/'}F1@{threshold}",
                        f1,
                        where,
                        rule="sound" if rule == "sound" else "official",
                        value=single if rule == "m3dref" else None,
                    )
                )
    official = scores["m3dref"]
    return Report(
        benchmark="multi3drefer",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(
                item_id=item_id,
                values={"F1@0.25": float(row[0]), "F1@0.5": float(row[1])},
                groups=(str(kind),),
            )
            for item_id, row, kind in zip(ids, official, kinds, strict=True)
        ),
    )
