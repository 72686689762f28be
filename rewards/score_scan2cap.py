"""Scan2Cap: a caption of an object, and whether it stands where the object is.

Sources: daveredrum/Scan2Cap lib/eval_helper.py ("iou"), benchmark/eval.py and benchmark/box_util.py
("matched"; arXiv:2012.02206); Video-3D-LLM and GS-Reasoner llava/eval/eval_scan2cap.py ("given");
embodied-generalist evaluator/cap_eval.py ("leo").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from scenerl.preprocess.records import Box3D
from scenerl.rewards.benchmark import DEFAULT_BOOTSTRAP, Bootstrap, ItemScore, Report, Rule
from scenerl.rewards.bootstrap import Statistic, estimate
from scenerl.rewards.captions import NO_JAVA, CaptionScores, has_java, score_captions

MAX_TOKENS: Final = 30
"""CONF.TRAIN.MAX_DES_LEN: what the "iou" corpus keeps of a description."""
NOTHING: Final = "sos eos"
"""Stands for an object that was not found."""
IOU_THRESHOLDS: Final = (0.25, 0.5)
MATCHED_THRESHOLDS: Final = (0.0, 0.25, 0.5)
Corners = npt.NDArray[np.float64]
"""[boxes, 8, 3]: x+y+z+, x+y-z+, x-y-z+, x-y+z+, then the same at z-."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedObject:
    """One object with its descriptions, and its box where the definition needs one."""

    captions: tuple[str, ...]
    """As the definition compares them; see `framed` and `spaced`."""
    box: Box3D | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One caption, and where it is said to be."""

    text: str
    box: Box3D | None = None
    iou: float | None = None
    """With the object's box, where the prediction file has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneCaptions:
    """All captions of a scene, predicted or true."""

    captions: tuple[tuple[str, ...], ...]
    """A predicted box has one, a true one has all its descriptions."""
    corners: tuple[tuple[tuple[float, ...], ...], ...]
    """8 corners of each."""
    object_ids: tuple[str, ...] = ()


def framed(tokens: Sequence[str], limit: int | None = MAX_TOKENS) -> str:
    """Return tokens between sos and eos, cut after the limit."""
    return f"sos {' '.join(tokens[:limit])} eos"


def with_ends(text: str) -> str:
    """Return a caption between sos and eos, those that are there kept."""
    words = text.split(" ")
    head = "" if words[0] == "sos" else "sos "
    tail = "" if words[-1] == "eos" else " eos"
    return head + text + tail


def spaced(text: str) -> str:
    """Return a text as Video-3D-LLM and GS-Reasoner compare it: . and , apart, lower case."""
    return f"sos {text.replace('.', ' . ').replace(',', ' , ').lower()} eos"


def spaced_leo(text: str) -> str:
    """Return a prediction as LEO compares it: ". " apart, case kept."""
    return f"sos {text} eos".replace(". ", " . ")


def float32_iou(boxes: Any, true_boxes: Any) -> npt.NDArray[np.float32]:
    """Return the IoU of pairs of boxes [n, 6] in float32 with 1e-8 below, as Scan2Cap takes it."""
    one, two = np.asarray(boxes, dtype=np.float32), np.asarray(true_boxes, dtype=np.float32)
    side = np.maximum(
        np.minimum(one[..., 3:], two[..., 3:]) - np.maximum(one[..., :3], two[..., :3]),
        np.float32(0),
    )
    inter = side[..., 0] * side[..., 1] * side[..., 2]
    volumes = [
        (b[..., 3] - b[..., 0]) * (b[..., 4] - b[..., 1]) * (b[..., 5] - b[..., 2])
        for b in (one, two)
    ]
    return np.asarray(inter / (volumes[0] + volumes[1] - inter + np.float32(1e-8)))


def score_scan2cap(
    references: Mapping[str, DescribedObject],
    predictions: Mapping[str, Caption],
    *,
    definition: Literal["iou", "given", "leo"] = "iou",
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return BLEU, METEOR, ROUGE-L and CIDEr of one caption per object.

    "iou": m@kIoU; a caption counts only if its box has an IoU strictly above k with the object's,
    else "sos eos" stands for it; a fraction. Captions without box and IoU are scored as they are,
    without "@k". "given": the boxes were given; `spaced` texts, x 100. "leo": `spaced_leo`
    predictions against the corpus, a fraction. Predictions that are not there are "sos eos".

    Args:
        references: ``scene|object|name`` -> object.
        predictions: The same -> caption.
        definition: What is compared.
        bootstrap: How the intervals are drawn.
    """
    ids = list(references)
    truths = [references[i].captions for i in ids]
    write = {"iou": with_ends, "given": spaced, "leo": spaced_leo}[definition]
    texts = [write(predictions[i].text) if i in predictions else NOTHING for i in ids]
    scale = 100.0 if definition == "given" else 1.0
    ious = None if definition == "given" else _ious(references, predictions, ids)
    scored: dict[str, CaptionScores] = {}
    if ious is None:
        scored[""] = score_captions(truths, texts)
    else:
        for k in IOU_THRESHOLDS:
            kept = [t if iou > k else NOTHING for t, iou in zip(texts, ious, strict=True)]
            scored[f"@{k:g}"] = score_captions(truths, kept)
    statistics: list[Statistic] = []
    for suffix, scores in scored.items():
        statistics += scores.statistics(suffix=suffix, scale=scale)
    return Report(
        benchmark="scan2cap",
        metrics=estimate(statistics, ids, bootstrap),
        items=tuple(
            ItemScore(item_id=item_id, values=_item(scored, n)) for n, item_id in enumerate(ids)
        ),
        notes=() if has_java() else (NO_JAVA,),
    )


def _item(scored: Mapping[str, CaptionScores], n: int) -> dict[str, float | None]:
    return {
        f"{name}{suffix}": None if np.isnan(values[n]) else float(values[n])
        for suffix, scores in scored.items()
        for name, values in scores.items.items()
    }


def _ious(
    references: Mapping[str, DescribedObject], predictions: Mapping[str, Caption], ids: list[str]
) -> list[float] | None:
    """Return the IoU of every object's caption, None when no prediction says where it is."""
    if not any(p.box is not None or p.iou is not None for p in predictions.values()):
        return None
    ious = []
    for item_id in ids:
        guess, true_box = predictions.get(item_id), references[item_id].box
        if guess is None:
            ious.append(-1.0)
        elif guess.iou is not None:
            ious.append(guess.iou)
        elif guess.box is None or true_box is None:
            ious.append(-1.0)
        else:
            ious.append(float(float32_iou(guess.box, true_box)))
    return ious


def official_giou(predicted: Corners, true: Corners) -> npt.NDArray[np.float64]:
    """Return what benchmark/box_util.py maximises for its matching, [predicted, true].

    It takes x and z of the four upper corners for the ground plane, so boxes in the official order
    of corners never intersect: (V1 + V2) / V_hull - 1. Volumes are products of three edges of at
    least a millimetre; malformed pairs are 0.
    """
    low1, high1 = predicted.min(axis=1), predicted.max(axis=1)
    low2, high2 = true.min(axis=1), true.max(axis=1)
    hull = np.maximum(high1[:, None], high2[None]) - np.minimum(low1[:, None], low2[None])
    enclosing = np.abs(hull[..., 0]) * np.abs(hull[..., 1]) * np.abs(hull[..., 2])
    one, two = predicted[:, None], true[None]
    height = np.minimum(one[..., 0, 2], two[..., 0, 2]) - np.maximum(one[..., 4, 2], two[..., 4, 2])
    width = [
        np.minimum(one[..., 0, axis], two[..., 0, axis])
        - np.maximum(one[..., 2, axis], two[..., 2, axis])
        for axis in (0, 2)
    ]
    inter = np.maximum(width[0], 0) * np.maximum(width[1], 0) * np.maximum(height, 0)
    volumes = [np.maximum(_edge_volume(corners), 1e-8) for corners in (predicted, true)]
    total = volumes[0][:, None] + volumes[1][None]
    union = np.maximum(total - inter, 1e-8)
    with np.errstate(divide="ignore", invalid="ignore"):
        giou = inter / union - (1 - union / enclosing)
        return np.asarray(giou * ((enclosing > 2e-8) & (total > 4e-8)))


def _edge_volume(corners: Corners) -> npt.NDArray[np.float64]:
    edges = [
        np.sqrt(np.maximum(((corners[:, a] - corners[:, b]) ** 2).sum(axis=1), 1e-6))
        for a, b in ((0, 1), (1, 2), (0, 4))
    ]
    return np.asarray(edges[0] * edges[1] * edges[2])


def sound_giou(predicted: Corners, true: Corners) -> npt.NDArray[np.float64]:
    """Return the generalised IoU of the boxes around the corners (arXiv:1902.09630)."""
    low1, high1 = predicted.min(axis=1)[:, None], predicted.max(axis=1)[:, None]
    low2, high2 = true.min(axis=1)[None], true.max(axis=1)[None]
    inter = np.maximum(np.minimum(high1, high2) - np.maximum(low1, low2), 0).prod(axis=-1)
    union = (high1 - low1).prod(axis=-1) + (high2 - low2).prod(axis=-1) - inter
    hull = (np.maximum(high1, high2) - np.minimum(low1, low2)).prod(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(union > 0, inter / union, 0.0)
        return np.asarray(iou - np.where(hull > 0, (hull - union) / hull, 0.0))


def match_scene(
    predicted: SceneCaptions, true: SceneCaptions, rule: Rule
) -> list[tuple[str | None, float]]:
    """Return (caption, IoU) of every true box after one Hungarian matching.

    More true boxes than predicted ones leave some unmatched: the official script gives them the
    first prediction, "sound" gives them none.
    """
    from scipy.optimize import linear_sum_assignment

    if not predicted.captions:
        return [(None, -1.0)] * len(true.captions)
    one, two = np.array(predicted.corners), np.array(true.corners)
    giou = official_giou(one, two) if rule == "official" else sound_giou(one, two)
    rows, columns = linear_sum_assignment(-giou)
    chosen = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    boxes = [np.concatenate((c.min(axis=1), c.max(axis=1)), axis=1) for c in (one, two)]
    matches: list[tuple[str | None, float]] = []
    for n in range(len(two)):
        at = chosen.get(n, 0 if rule == "official" else None)
        if at is None:
            matches.append((None, -1.0))
        else:
            iou = float(float32_iou(boxes[0][at], boxes[1][n]))
            matches.append((predicted.captions[at][0], iou))
    return matches


def score_matched(
    references: Mapping[str, SceneCaptions],
    predictions: Mapping[str, SceneCaptions],
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Report:
    """Return precision, recall and F1 of captions over matched boxes, as fractions.

    Every true object's item score counts if the IoU with its match is at least k; the sum over the
    true boxes is recall, over the predicted ones precision. Scenes without a prediction stop the
    official script; here their objects count as not found. ``sound/`` matches by true GIoU and
    leaves the surplus objects unmatched.

    Args:
        references: Scene -> its true objects.
        predictions: Scene -> all its predicted boxes with captions.
        bootstrap: How the intervals are drawn, over scenes.
    """
    scenes = list(references)
    owner = np.repeat(np.arange(len(scenes)), [len(references[s].captions) for s in scenes])
    num_true = np.array([float(len(references[s].captions)) for s in scenes])
    empty = SceneCaptions(captions=(), corners=())
    found = [predictions.get(s, empty) for s in scenes]
    num_predicted = np.array([float(len(f.captions)) for f in found])
    truths = [captions for s in scenes for captions in references[s].captions]
    statistics: list[Statistic] = []
    rules: tuple[Rule, ...] = ("official", "sound")
    for rule in rules:
        matches = [
            match
            for scene, f in zip(scenes, found, strict=True)
            for match in match_scene(f, references[scene], rule)
        ]
        scores = score_captions(truths, [NOTHING if t is None else t for t, _ in matches])
        ious = np.array([iou for _, iou in matches])
        for k in MATCHED_THRESHOLDS:
            for name, values in scores.items.items():
                kept = np.where(ious >= k, values, 0.0)
                sums = np.bincount(owner, kept, len(scenes)).astype(np.float64)
                statistics += _f1_rows(f"{name}@{k:g}", sums, num_predicted, num_true, rule)
    return Report(
        benchmark="scan2cap",
        metrics=estimate(statistics, scenes, bootstrap),
        items=tuple(
            ItemScore(item_id=s, values={"objects": t, "predicted": p})
            for s, t, p in zip(scenes, num_true, num_predicted, strict=True)
        ),
        counts={"objects": int(num_true.sum()), "predicted_boxes": int(num_predicted.sum())},
        notes=() if has_java() else (NO_JAVA,),
    )


def _f1_rows(
    name: str,
    sums: npt.NDArray[np.float64],
    num_predicted: npt.NDArray[np.float64],
    num_true: npt.NDArray[np.float64],
    rule: Rule,
) -> list[Statistic]:
    def f1(top: Any, predicted: Any, true: Any) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = top / predicted, top / true
            return np.asarray(2 * precision * recall / (precision + recall))

    count = int(num_true.sum())
    name = f"sound/{name}" if rule == "sound" else name
    return [
        Statistic(name=f"{name}/precision", columns=(sums, num_predicted), count=count, rule=rule),
        Statistic(name=f"{name}/recall", columns=(sums, num_true), count=count, rule=rule),
        Statistic(
            name=f"{name}/f1",
            columns=(sums, num_predicted, num_true),
            compute=f1,
            count=count,
            rule=rule,
        ),
    ]
