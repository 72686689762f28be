"""Multi3DRefer: the boxes of all objects that a description means, none to many.

Source: 3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/multi3drefer_evaluator.py (arXiv:2309.05251).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from scenerl.preprocess.records import Box3D
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import estimate, mean
from scenerl.rewards.grounding_records import MultiTarget
from scenerl.rewards.score_boxes import M3DREF_EPS, SCANREFER_EPS, box_iou

EVAL_TYPES: Final = ("zt_w_d", "zt_wo_d", "st_w_d", "st_wo_d", "mt")
"""Zero, single or multiple targets, with or without distractors of the same class."""
THRESHOLDS: Final = (0.25, 0.5)
MatchRule: TypeAlias = Literal["m3dref", "gs-reasoner", "sound"]
RULES: Final[tuple[MatchRule, ...]] = get_args(MatchRule)


def match_f1(
    queries: Sequence[tuple[Sequence[Box3D], Sequence[Box3D]]], rule: MatchRule = "m3dref"
) -> npt.NDArray[np.float64]:
    """Return 2 TP / (P + G) at IoU 0.25 and 0.5 of every query, [queries, 2].

    One Hungarian matching that maximises the total IoU serves both thresholds, so it may give up a
    pair over a threshold for a higher sum. Where a side is empty the value is 1 if both are.

    Args:
        queries: (predicted boxes, true boxes) of every query.
        rule: "m3dref" computes in float32 with 1.19e-7 in the denominator; "gs-reasoner" in float64
            with 1e-8, then rounds to float32; "sound" in float64 without an epsilon.
    """
    precise = np.float32 if rule == "m3dref" else np.float64
    eps = {"m3dref": M3DREF_EPS, "gs-reasoner": SCANREFER_EPS, "sound": 0.0}[rule]
    pairs = [pair for boxes, true in queries for pair in itertools.product(boxes, true)]
    table = np.array(pairs, dtype=precise).reshape(-1, 2, 6)  # all queries at once
    ious = box_iou(table[:, 0], table[:, 1], eps)
    ious = ious if rule == "sound" else ious.astype(np.float32)
    sizes = np.array([(len(boxes), len(true)) for boxes, true in queries]).reshape(-1, 2)
    starts = np.cumsum(sizes.prod(axis=1)) - sizes.prod(axis=1)
    hits = np.zeros((len(queries), len(THRESHOLDS)))
    single = np.flatnonzero(sizes.min(axis=1) == 1)
    if len(single):  # the best pair is the matching
        filled = np.flatnonzero(sizes.min(axis=1) > 0)
        best = np.zeros(len(queries), dtype=ious.dtype)
        best[filled] = np.maximum.reduceat(ious, starts[filled])
        hits[single] = best[single, None] >= np.array(THRESHOLDS)
    for row in np.flatnonzero(sizes.min(axis=1) > 1):
        count = sizes[row].prod()
        matched = _matched(ious[starts[row] : starts[row] + count].reshape(sizes[row]))
        hits[row] = [(matched >= threshold).sum() for threshold in THRESHOLDS]
    total = sizes.sum(axis=1)
    f1: npt.NDArray[np.float64] = 2 * hits / np.where(total == 0, 1, total)[:, None]
    f1[total == 0] = 1.0
    return f1


def _matched(ious: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the IoUs of the best matching of predicted (rows) with true boxes (columns)."""
    from scipy.optimize import linear_sum_assignment

    # Square and padded with zeros, as the official script has it: ties fall the same way.
    square = np.zeros((max(ious.shape),) * 2, dtype=ious.dtype)
    square[: ious.shape[0], : ious.shape[1]] = ious
    rows, columns = linear_sum_assignment(-square)
    matched: npt.NDArray[np.floating] = square[rows, columns]
    return matched


def score_multi3drefer(
    references: Mapping[str, MultiTarget],
    predictions: Mapping[str, Sequence[Box3D]],
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return F1@0.25 and F1@0.5 over all queries and by type, as fractions.

    The overall value is the mean over queries, not over types. ``F1@k`` is M3DRef-CLIP's evaluator
    (float32, its means too); ``gs-reasoner/`` and ``sound/`` differ only in rounding. A description
    without a true object scores 1 for no box, else 0: a system that never answers gets all of
    those. A query without a prediction scores 0, of whatever type.

    Args:
        references: Item id -> true boxes and type.
        predictions: Item id -> predicted boxes; empty says that there is no such object.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    answered = np.array([i in predictions for i in ids], dtype=bool)
    queries = [(tuple(predictions.get(i, ())), references[i].boxes) for i in ids]
    scores = {rule: match_f1(queries, rule) * answered[:, None] for rule in RULES}
    kinds = np.array([references[i].eval_type for i in ids], dtype=object)
    masks = {"": np.ones(len(ids), dtype=bool), **{kind: kinds == kind for kind in EVAL_TYPES}}
    statistics = []
    for rule, values in scores.items():
        prefix = "" if rule == "m3dref" else f"{rule}/"
        for threshold, f1 in zip(THRESHOLDS, np.ascontiguousarray(values.T), strict=True):
            for kind, mask in masks.items():
                name = f"{prefix}{kind and kind + '/'}F1@{threshold}"
                statistic = mean(name, f1, mask, rule="sound" if rule == "sound" else "official")
                if rule == "m3dref" and mask.any():
                    single = float(np.mean(f1[mask].astype(np.float32)))
                    statistic = replace(statistic, value=single)
                statistics.append(statistic)
    return Report(
        benchmark="multi3drefer",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(
                item_id=item_id,
                values={"F1@0.25": float(row[0]), "F1@0.5": float(row[1])},
                groups=(str(kind),),
            )
            for item_id, row, kind in zip(ids, scores["m3dref"], kinds, strict=True)
        ),
    )
