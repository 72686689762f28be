"""What an answer scores in an evaluation. A reply that cannot be parsed scores 0."""

from collections.abc import Iterable, Sequence
from typing import Final

from scenerl.envs.records import Answer, BoxAnswer, ParseError, Prompt, SpanAnswer, TextAnswer
from scenerl.envs.text_match import is_exact_match
from scenerl.preprocess.records import Box2D, Span

TIME_RECALLS: Final = (0.3, 0.5, 0.7)


def temporal_iou(span_s: Span, true_s: Span) -> float:
    """Return the intersection over union of two spans; 0 when both have no length.

    Two spans that do not meet score 0, and one that meets the other is divided by the hull, which
    is then the union (TimeZero, arXiv:2503.13377).
    """
    overlap = max(0.0, min(span_s[1], true_s[1]) - max(span_s[0], true_s[0]))
    union = max(span_s[1], true_s[1]) - min(span_s[0], true_s[0])
    return overlap / union if union > 0 else 0.0


def best_temporal_iou(span_s: Span, true_spans_s: Iterable[Span]) -> float:
    """Return the IoU with the nearest of several true spans: naming any one of them is right."""
    return max((temporal_iou(span_s, true_s) for true_s in true_spans_s), default=0.0)


def box_iou(box: Box2D, true_box: Box2D) -> float:
    """Return the intersection over union of two boxes on one pixel grid; 0 without area."""
    overlap = _overlap_area(box, true_box)
    union = box_area(box) + box_area(true_box) - overlap
    return overlap / union if union > 0 else 0.0


def box_giou(box: Box2D, true_box: Box2D) -> float:
    """Return the generalised IoU in [-1, 1] (arXiv:1902.09630): IoU - (hull - union) / hull."""
    overlap = _overlap_area(box, true_box)
    union = box_area(box) + box_area(true_box) - overlap
    hull = (max(box[2], true_box[2]) - min(box[0], true_box[0])) * (
        max(box[3], true_box[3]) - min(box[1], true_box[1])
    )
    if union <= 0 or hull <= 0:
        return -1.0
    return overlap / union - (hull - union) / hull


def box_area(box: Box2D) -> float:
    """Return the area of a box, 0 for an inverted one."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap_area(box: Box2D, other: Box2D) -> float:
    return box_area(
        (
            max(box[0], other[0]),
            max(box[1], other[1]),
            min(box[2], other[2]),
            min(box[3], other[3]),
        )
    )


def true_box_px(prompt: Prompt) -> Box2D | None:
    """Return the true box, in native pixels, of the frame that an image prompt shows."""
    if prompt.task != "image_grounding":
        return None
    return (prompt.sample.target.boxes_px or {}).get(prompt.media[0].frame_indices[0])


def score_answer(answer: Answer | ParseError, prompt: Prompt) -> dict[str, float]:
    """Score one answer against its prompt's target.

    Returns:
        ``{"temporal_iou", "recall_0.3", "recall_0.5", "recall_0.7"}`` for temporal grounding
        (recall counts IoU >= threshold, as VideoChat-R1 does), ``{"box_iou", "acc_0.5"}`` for
        image grounding, ``{"exact_match"}`` for question answering, and always ``"parsed"``.
        Empty when the target does not say what is true.
    """
    target = prompt.sample.target
    scores: dict[str, float] = {}
    if prompt.task == "image_grounding":
        true_box = true_box_px(prompt)
        if true_box is not None:
            iou = box_iou(answer.box_px, true_box) if isinstance(answer, BoxAnswer) else 0.0
            scores = {"box_iou": iou, "acc_0.5": float(iou >= 0.5)}
    elif prompt.task == "temporal_grounding":
        if target.spans_s:
            spans = target.spans_s
            iou = best_temporal_iou(answer.span_s, spans) if isinstance(answer, SpanAnswer) else 0.0
            scores = {"temporal_iou": iou}
            scores |= {f"recall_{level}": float(iou >= level) for level in TIME_RECALLS}
    elif target.answers:
        text = answer.text if isinstance(answer, TextAnswer) else ""
        scores = {"exact_match": float(is_exact_match(text, target.answers))}
    if scores:
        scores["parsed"] = float(not isinstance(answer, ParseError))
    return scores


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average what `score_answer` returned, each name over the answers that have it."""
    names = dict.fromkeys(name for row in scores for name in row)
    columns = {name: [row[name] for row in scores if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}
