"""What an answer scores in an evaluation. A reply that cannot be parsed scores 0."""

from collections.abc import Sequence
from typing import Final

from scenerl.envs.records import Answer, BoxAnswer, ParseError, Prompt, SpanAnswer, TextAnswer
from scenerl.envs.text_match import is_exact_match
from scenerl.kernels.iou import box_iou, span_iou
from scenerl.preprocess.records import Box2D, Span

TIME_RECALLS: Final = (0.3, 0.5, 0.7)


def best_temporal_iou(span_s: Span, true_spans_s: Sequence[Span]) -> float:
    """Return the IoU with the nearest of several true spans: naming any one of them is right."""
    return max((span_iou(span_s, true_s) for true_s in true_spans_s), default=0.0)


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
        Empty when the target does not say what is true. A frame of a sample with boxes that has
        none itself was looked at in vain (the span was wrong): it scores 0.
    """
    target = prompt.sample.target
    scores: dict[str, float] = {}
    if prompt.task == "image_grounding":
        true_box = true_box_px(prompt)
        if target.boxes_px:
            iou = 0.0
            if isinstance(answer, BoxAnswer) and true_box is not None:
                iou = box_iou(answer.box_px, true_box)
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
