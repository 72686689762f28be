"""Nr3D and Sr3D: which of a scene's objects an utterance means.

Sources: referit3d/referit3d referit3d/analysis/deepnet_predictions.py (choice among the true boxes)
and 3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/referit3d_evaluator.py (box with IoU >= 0.9).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report
from scenerl.rewards.bootstrap import Statistic, estimate, mean
from scenerl.rewards.grounding_records import BoxAnswer, ReferTarget
from scenerl.rewards.score_boxes import M3DREF_EPS, SCANREFER_EPS, box_iou

SAME_OBJECT_IOU: Final = 0.9
THRESHOLDS: Final = (0.25, 0.5)
VIEW_WORDS: Final = frozenset(
    (
        *("front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost"),
        *("looking", "across"),
    )
)


def is_view_dependent(tokens: Sequence[str]) -> bool:
    """Say whether an utterance has a word that depends on where one stands.

    Exact tokens: "Left" and "left-most" do not count.
    """
    return not VIEW_WORDS.isdisjoint(tokens)


def score_referit3d(
    references: Mapping[str, ReferTarget],
    predictions: Mapping[str, BoxAnswer],
    *,
    benchmark: str = "nr3d",
    oracle: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return the accuracy over all utterances and by easy, hard and view, as fractions.

    An answer that names an object is right when it is the object. A box is right when its IoU with
    the true box is >= 0.9 in float32, M3DRef-CLIP's test of identity for methods that choose among
    true boxes; for a system that makes its own boxes that is far too strict, so ``acc@0.25`` and
    ``acc@0.5`` by ScanRefer's rule stand beside it.

    Args:
        references: Item id -> the object; its box is needed where boxes are predicted.
        predictions: Item id -> object or boxes; not there is wrong.
        benchmark: Name in the report.
        oracle: Also report ``oracle/acc@k`` with, of several boxes, the one that overlaps the truth
            most. GS-Reasoner's script does that for Nr3D and Sr3D; it looks at the truth and is no
            result of a system.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    answers = [predictions.get(i, BoxAnswer()) for i in ids]
    targets = [references[i] for i in ids]
    has_boxes = any(answer.boxes for answer in answers)
    exact, ious = _overlaps(targets, answers)
    chosen = [answer.object_id for answer in answers]
    right = np.array(
        [
            iou >= SAME_OBJECT_IOU if choice is None else choice == target.object_id
            for iou, choice, target in zip(exact, chosen, targets, strict=True)
        ],
        dtype=np.float64,
    )
    masks = _masks(targets)
    statistics: list[Statistic] = []
    for group, mask in masks.items():
        statistics.append(mean(f"{group and group + '/'}acc", right, mask))
    if has_boxes:
        measured = {"": ious}
        if oracle:
            measured["oracle/"] = np.array(
                [_best(t, a) for t, a in zip(targets, answers, strict=True)]
            )
        statistics += [
            mean(
                f"{prefix}{group and group + '/'}acc@{threshold}",
                (values >= threshold).astype(np.float64),
                mask,
            )
            for prefix, values in measured.items()
            for group, mask in masks.items()
            for threshold in THRESHOLDS
        ]
    return Report(
        benchmark=benchmark,
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(
                item_id=item_id,
                values={"acc": float(right[row]), "iou": float(ious[row]) if has_boxes else None},
                groups=(
                    "easy" if targets[row].easy else "hard",
                    "view_dep" if targets[row].view_dependent else "view_indep",
                ),
            )
            for row, item_id in enumerate(ids)
        ),
    )


def _masks(targets: Sequence[ReferTarget]) -> dict[str, npt.NDArray[np.bool_]]:
    easy = np.array([target.easy for target in targets], dtype=bool)
    view = np.array([target.view_dependent for target in targets], dtype=bool)
    everything = np.ones(len(targets), dtype=bool)
    return {"": everything, "easy": easy, "hard": ~easy, "view_dep": view, "view_indep": ~view}


def _overlaps(
    targets: Sequence[ReferTarget], answers: Sequence[BoxAnswer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the first box's IoU by M3DRef-CLIP's and by ScanRefer's rule, 0 without a box."""
    nowhere = (np.nan,) * 6
    boxes = np.array([a.boxes[0] if a.boxes else nowhere for a in answers]).reshape(-1, 6)
    truth = np.array([target.box or nowhere for target in targets]).reshape(-1, 6)
    single = box_iou(boxes.astype(np.float32), truth.astype(np.float32), M3DREF_EPS)
    return (
        np.nan_to_num(single).astype(np.float64),
        np.nan_to_num(box_iou(boxes, truth, SCANREFER_EPS)),
    )


def _best(target: ReferTarget, answer: BoxAnswer) -> float:
    if target.box is None or not answer.boxes:
        return 0.0
    return float(box_iou(np.array(answer.boxes), np.array(target.box), SCANREFER_EPS).max())
