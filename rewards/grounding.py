"""Built-in rewards of spans and boxes.

They have the signature of a plug-in: lists by column name, one entry per completion, in and out.
A reply that cannot be parsed scores the lowest value; a sample without the truth gives None.
"""

from typing import Any

from scenerl.envs.metrics import best_temporal_iou
from scenerl.kernels.iou import box_giou, box_iou

Rewards = list[float | None]


def temporal_iou_reward(
    parsed: list[dict[str, Any]], spans_s: list[list[list[float]] | None]
) -> Rewards:
    """Score the span by its IoU with the nearest true span, in [0, 1]."""
    return [
        None
        if spans is None
        else best_temporal_iou(_span(reply), [_pair(span_s) for span_s in spans])
        for reply, spans in zip(parsed, spans_s, strict=True)
    ]


def temporal_iou_v2_reward(
    parsed: list[dict[str, Any]],
    spans_s: list[list[list[float]] | None],
    duration_s: list[float | None],
) -> Rewards:
    """Score the span by Time-R1's timestamp-aware IoU, in [0, 1].

    IoU * (1 - |start - true start| / T) * (1 - |end - true end| / T), where T is the length of the
    video and a factor is not below 0 (arXiv:2503.13377, code of xiaomi-research/time-r1). Of
    several true spans, the one that gives most counts.
    """
    rewards: Rewards = []
    for reply, spans, duration in zip(parsed, spans_s, duration_s, strict=True):
        if spans is None or not duration:
            rewards.append(None)
            continue
        span_s = _span(reply)
        rewards.append(max((_aware_iou(span_s, _pair(s), duration) for s in spans), default=None))
    return rewards


def _aware_iou(
    span_s: tuple[float, float], true_s: tuple[float, float], duration_s: float
) -> float:
    iou = best_temporal_iou(span_s, [true_s])
    for edge, true_edge in zip(span_s, true_s, strict=True):
        iou *= max(0.0, 1.0 - abs(edge - true_edge) / duration_s)
    return iou


def box_iou_reward(parsed: list[dict[str, Any]], box_px: list[list[float] | None]) -> Rewards:
    """Score the box by its IoU with the true box of the frame, in [0, 1]."""
    return [
        None if true is None else (box_iou(reply["box_px"], _box(true)) if _has_box(reply) else 0.0)
        for reply, true in zip(parsed, box_px, strict=True)
    ]


def box_giou_reward(parsed: list[dict[str, Any]], box_px: list[list[float] | None]) -> Rewards:
    """Score the box by its generalised IoU, in [-1, 1]; a reply without a box scores -1.

    Boxes that miss still get a signal of how far they are (arXiv:1902.09630).
    """
    return [
        None
        if true is None
        else (box_giou(reply["box_px"], _box(true)) if _has_box(reply) else -1.0)
        for reply, true in zip(parsed, box_px, strict=True)
    ]


def _span(reply: dict[str, Any]) -> tuple[float, float]:
    """The span of a reply; one outside every video when it could not be parsed."""
    return _pair(reply["span_s"]) if "span_s" in reply else (-1.0, -1.0)


def _pair(values: list[float]) -> tuple[float, float]:
    return values[0], values[1]


def _has_box(reply: dict[str, Any]) -> bool:
    return "box_px" in reply


def _box(values: list[float]) -> tuple[float, float, float, float]:
    return values[0], values[1], values[2], values[3]
