"""Temporal grounding: how well a span of a video fits the described event.

Sources: OpenGVLab/VideoChat-R1 src_eval/evaluate_grounding.py (fractions, IoU >= threshold) and
xiaomi-research/time-r1 src/vllm_inference/eval_all.py (x 100, IoU > threshold, and their mean).
"""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from scenerl.preprocess.records import Span
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean

THRESHOLDS: Final = (0.3, 0.5, 0.7)
_RANGE: Final = r"(\d+\.?\d*) (to|and) (\d+\.?\d*)"


def span_ious(
    spans_s: npt.NDArray[np.float64], true_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return max(0, min(ends) - max(starts)) / (max(ends) - min(starts)), row by row.

    The official scripts divide by the hull, which is the union wherever spans overlap. A span that
    ends before it starts has IoU 0, and so has one whose hull is empty, where VideoChat-R1 raises
    and leaves the item out and Time-R1 gets NaN. NaN for no span counts as IoU 0.
    """
    inter = np.minimum(spans_s[:, 1], true_s[:, 1]) - np.maximum(spans_s[:, 0], true_s[:, 0])
    hull = np.maximum(spans_s[:, 1], true_s[:, 1]) - np.minimum(spans_s[:, 0], true_s[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(hull > 0, np.maximum(inter, 0.0) / hull, 0.0)


def parse_like_evaluation(text: str) -> Span | None:
    """Return the last "5.0 to 10.0" (or "and") of the whole text, as the evaluation scripts do.

    They look at the think block too, so a range that is only mulled over counts when the answer has
    none. "5s to 10s" and "5-10" give None, "00:05 to 00:10" gives (5, 0)'s digits as they stand.
    """
    return _last_range(text)


def parse_like_training(text: str) -> Span | None:
    """Return the last range of the last <answer> block, case ignored, as TimeZero's reward does."""
    blocks = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return _last_range(blocks[-1], re.IGNORECASE) if blocks else None


def _last_range(text: str, flags: int = 0) -> Span | None:
    found = re.findall(_RANGE, text, flags)
    return (float(found[-1][0]), float(found[-1][2])) if found else None


def score_temporal(
    references: Mapping[str, Span],
    predictions: Mapping[str, Span | None],
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return mIoU and R1@0.3, 0.5, 0.7 by both official rules.

    ``mIoU`` and ``R1@t`` are fractions and count IoU >= t (VideoChat-R1); ``time-r1/mIoU`` and
    ``time-r1/R1@t`` are x 100 and count IoU > t, ``time-r1/avg`` is the mean of those four. The
    two differ for an IoU of exactly t. None, or no prediction, is IoU 0.

    Args:
        references: Item id -> true span in seconds.
        predictions: Item id -> predicted span; None where no span could be read.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    truth = np.array([references[i] for i in ids], dtype=np.float64).reshape(-1, 2)
    nowhere = (np.nan, np.nan)
    spans = [predictions.get(i) or nowhere for i in ids]
    ious = span_ious(np.array(spans, dtype=np.float64).reshape(-1, 2), truth)
    at_least = [(ious >= t).astype(np.float64) for t in THRESHOLDS]
    above = [(ious > t).astype(np.float64) for t in THRESHOLDS]
    everything = np.ones(len(ids))
    names = [f"R1@{t}" for t in THRESHOLDS]
    statistics = [
        mean("mIoU", ious),
        *(mean(name, hits) for name, hits in zip(names, at_least, strict=True)),
        mean("time-r1/mIoU", ious, scale=100.0),
        *(
            mean(f"time-r1/{name}", hits, scale=100.0)
            for name, hits in zip(names, above, strict=True)
        ),
        Statistic(
            name="time-r1/avg",
            columns=((ious + sum(above)) / 4, everything),
            count=len(ids),
            scale=100.0,
        ),
    ]
    unread = sum(predictions[i] is None for i in ids if i in predictions)
    points = [i for i, (start, end) in references.items() if start == end]
    note = (
        f"{len(points)} true spans have no length ({', '.join(points[:5])}): they count as missed, "
        "where the official scripts divide by zero when the answer is the same point"
    )
    return Report(
        benchmark="temporal",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(item_id=item_id, values={"iou": float(iou)})
            for item_id, iou in zip(ids, ious, strict=True)
        ),
        counts={"no span read": unread},
        notes=(note,) if points else (),
    )
