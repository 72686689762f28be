"""Answer queries with the whole chain: spans, then boxes, then masks and 3D boxes."""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from scenerl.configs.schema import GroundConfig, LiftConfig
from scenerl.configs.seeding import derive_seed
from scenerl.envs.chain import (
    PREDICTED,
    Lifted,
    blame,
    frames_near_span,
    lift_boxes,
    lift_true_masks,
    true_prompt_boxes,
    world_iou,
)
from scenerl.envs.metrics import best_temporal_iou
from scenerl.envs.records import BoxAnswer, ParseError, Prompt, SpanAnswer
from scenerl.envs.tasks import Env
from scenerl.envs.tracking import Tracker
from scenerl.kernels.iou import box_iou
from scenerl.preprocess.decoding import decoder
from scenerl.preprocess.records import Box2D, Box3D, Sample, Span
from scenerl.preprocess.scene import Scene
from scenerl.rl.answering import FleetAnswerer
from scenerl.rl.fleet import Fleet
from scenerl.rollout.replies import Unanswered

logger = logging.getLogger(__name__)

CHUNK = 64
"""Prompts generated at once."""
AHEAD = 16
"""Prompts of the next chunk whose encoding runs beside the generation of this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A policy that answers one kind of question greedily."""

    fleet: Fleet
    env: Env


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainSettings:
    """How boxes become 3D."""

    ground: GroundConfig = field(default_factory=GroundConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    oracles: bool = True
    """Also run the swaps, where the truth is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanReply:
    """What stage 1 said about one sample."""

    span_s: Span | None
    text: str
    error: str | None = None
    """Why there is no span."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxReply:
    """What stage 2 said about one frame."""

    frame: int
    box_px: Box2D | None
    text: str
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroundResult:
    """One query, answered."""

    sample: Sample
    scene_path: Path
    span: SpanReply
    boxes: tuple[BoxReply, ...]
    """In frames of the predicted span."""
    lifted: Lifted | None
    """None when there was no span or no box to go on with."""
    temporal_iou: float | None
    box_iou: float | None
    """Mean over the prompted frames with a true box; a missing reply counts 0."""
    iou3d: dict[str, float | None]
    """Swap -> 3D IoU; empty without a true box."""
    blame: str | None
    """"right" or the stage that loses the answer; None without a true box."""
    errors: tuple[str, ...]
    seconds: float
    """Tracking and lifting of the predicted boxes."""

    @property
    def box_world(self) -> Box3D | None:
        """The answer in metres."""
        return None if self.lifted is None else self.lifted.object.box_world


def ground_samples(
    samples: Sequence[Sample],
    data_root: str | Path,
    stage1: Policy,
    stage2: Policy,
    tracker: Tracker,
    config: ChainSettings,
) -> list[GroundResult]:
    """Answer queries with policies that are already running.

    Args:
        samples: The queries; targets may be empty.
        data_root: Folder that their media are relative to.
        stage1: Says when.
        stage2: Says where; its env asks about `frames_per_span` frames.
        tracker: Makes masks of boxes.
        config: Number of prompted frames, lifting, oracle swaps.

    Returns:
        One result per sample, in order.
    """
    spans = ask_spans(samples, data_root, stage1)
    boxes = ask_boxes(samples, data_root, spans, stage2, oracles=config.oracles)
    return lift_answers(samples, data_root, spans, boxes, tracker, config)


def ask_spans(
    samples: Sequence[Sample], data_root: str | Path, policy: Policy
) -> dict[str, SpanReply]:
    """Ask stage 1 when the thing asked about can be seen: sample id -> reply."""
    prompts = [policy.env.prompts(sample, data_root)[0] for sample in samples]
    replies = {}
    for sample, prompt, reply in zip(samples, prompts, _answers(policy, prompts), strict=True):
        if isinstance(reply, Unanswered):
            replies[sample.sample_id] = SpanReply(span_s=None, text="", error=reply.reason)
            continue
        answer = policy.env.parse(reply, prompt)
        replies[sample.sample_id] = SpanReply(
            span_s=answer.span_s if isinstance(answer, SpanAnswer) else None,
            text=reply,
            error=answer.reason if isinstance(answer, ParseError) else None,
        )
    return replies


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxReplies:
    """What stage 2 said about one sample."""

    predicted: tuple[BoxReply, ...] = ()
    """In frames of the predicted span."""
    true_span: tuple[BoxReply, ...] | None = None
    """In frames of the true span; None when it was not asked or is not known."""


def ask_boxes(
    samples: Sequence[Sample],
    data_root: str | Path,
    spans: Mapping[str, SpanReply],
    policy: Policy,
    *,
    oracles: bool,
) -> dict[str, BoxReplies]:
    """Ask stage 2 where it is, in frames of the predicted and, for the swap, of the true span.

    A sample without a predicted span is not asked about: the truth never stands in for an answer.
    """
    asked: dict[str, tuple[list[Prompt], list[Prompt] | None]] = {}
    for sample in samples:
        span_s = spans[sample.sample_id].span_s
        predicted = [] if span_s is None else _box_prompts(policy, sample, data_root, span_s)
        true = None
        if oracles and sample.target.spans_s and sample.target.box_world is not None:
            true = policy.env.prompts(sample, data_root)
        asked[sample.sample_id] = (predicted, true)
    every = {p.prompt_id: p for pair in asked.values() for part in pair for p in part or ()}
    known = dict(zip(every, _answers(policy, list(every.values())), strict=True))

    def replies(prompts: list[Prompt]) -> tuple[BoxReply, ...]:
        return tuple(_box_reply(policy.env, item, known[item.prompt_id]) for item in prompts)

    return {
        name: BoxReplies(
            predicted=replies(predicted), true_span=None if true is None else replies(true)
        )
        for name, (predicted, true) in asked.items()
    }


def _box_prompts(
    policy: Policy, sample: Sample, data_root: str | Path, span_s: Span
) -> list[Prompt]:
    return policy.env.prompts(sample, data_root, span_s=span_s)


def _box_reply(env: Env, prompt: Prompt, reply: str | Unanswered) -> BoxReply:
    frame = prompt.media[0].frame_indices[0]
    if isinstance(reply, Unanswered):
        return BoxReply(frame=frame, box_px=None, text="", error=reply.reason)
    answer = env.parse(reply, prompt)
    return BoxReply(
        frame=frame,
        box_px=answer.box_px if isinstance(answer, BoxAnswer) else None,
        text=reply,
        error=answer.reason if isinstance(answer, ParseError) else None,
    )


def _answers(policy: Policy, prompts: Sequence[Prompt]) -> list[str | Unanswered]:
    """Generate greedily, in chunks; a prompt that cannot be encoded keeps its reason."""
    texts: list[str | Unanswered] = []
    answerer = FleetAnswerer(policy.fleet)
    for start in range(0, len(prompts), CHUNK):
        policy.fleet.prefetch(prompts[start : start + CHUNK + AHEAD])
        chunk = prompts[start : start + CHUNK]
        seeds = [[derive_seed(0, "greedy", prompt.prompt_id)] for prompt in chunk]
        found = answerer.answer(chunk, seeds, temperature=0.0)
        texts += [item if isinstance(item, Unanswered) else item[0].text for item in found]
        logger.info("%d of %d replies", len(texts), len(prompts))
    return texts


def lift_answers(
    samples: Sequence[Sample],
    data_root: str | Path,
    spans: Mapping[str, SpanReply],
    boxes: Mapping[str, BoxReplies],
    tracker: Tracker,
    config: ChainSettings,
) -> list[GroundResult]:
    """Track and lift the boxes of all samples, and make the oracle swaps."""
    open_scene = functools.lru_cache(maxsize=8)(partial(Scene.open, read=decoder().image))
    results = []
    for sample in samples:
        if sample.media.scene is None:
            raise ValueError(
                f"sample {sample.sample_id} is a plain video; lifting needs depth and poses: give "
                "a recording folder"
            )
        scene = open_scene(Path(data_root) / sample.media.scene)
        name = sample.sample_id
        results.append(_lift_sample(sample, scene, spans[name], boxes[name], tracker, config))
        if len(results) % 10 == 0 or len(results) == len(samples):
            logger.info("%d of %d queries lifted", len(results), len(samples))
    return results


def _lift_sample(
    sample: Sample,
    scene: Scene,
    span: SpanReply,
    replies: BoxReplies,
    tracker: Tracker,
    config: ChainSettings,
) -> GroundResult:
    target = sample.target
    label = target.label or sample.question

    def lift(boxes: Mapping[int, Box2D], spans_s: Sequence[Span]) -> Lifted | None:
        if not boxes:
            return None
        margin_s = config.ground.track_margin_s
        frames = {n for one in spans_s for n in frames_near_span(scene, one, margin_s)}
        return lift_boxes(scene, boxes, sorted(frames), tracker, config.lift, label)

    start = time.monotonic()
    lifted = lift(_usable(replies.predicted), [] if span.span_s is None else [span.span_s])
    seconds = time.monotonic() - start
    iou3d: dict[str, float | None] = {}
    if target.box_world is not None:
        iou3d[PREDICTED] = _iou(lifted, target.box_world)
        if config.oracles:
            swaps = _swaps(sample, scene, replies, lift, config)
            iou3d |= {swap: make(target.box_world) for swap, make in swaps.items()}
    return GroundResult(
        sample=sample,
        scene_path=scene.path,
        span=span,
        boxes=replies.predicted,
        lifted=lifted,
        temporal_iou=_temporal_iou(span, target.spans_s),
        box_iou=_mean_box_iou(replies.predicted, target.boxes_px),
        iou3d=iou3d,
        blame=blame(iou3d) if config.oracles and iou3d else None,
        errors=_errors(span, replies.predicted, lifted),
        seconds=seconds,
    )


def _swaps(
    sample: Sample,
    scene: Scene,
    replies: BoxReplies,
    lift: Callable[[Mapping[int, Box2D], Sequence[Span]], Lifted | None],
    config: ChainSettings,
) -> dict[str, Callable[[Box3D], float | None]]:
    """Swap -> what computes its 3D IoU; None where the truth it needs is not known."""
    target, spans_s = sample.target, sample.target.spans_s or ()

    def true_span(true: Box3D) -> float | None:
        if replies.true_span is None:
            return None
        return _iou(lift(_usable(replies.true_span), spans_s), true)

    def true_span_box(true: Box3D) -> float | None:
        boxes = true_prompt_boxes(scene, target, config.ground.prompted_frames)
        return _iou(lift(boxes, spans_s), true) if boxes else None

    def true_masks(true: Box3D) -> float | None:
        if target.object_id is None:
            return None
        lifted = lift_true_masks(scene, target.object_id, config.lift)
        return None if lifted is None else _iou(lifted, true)

    return {"true_span": true_span, "true_span_box": true_span_box, "true_masks": true_masks}


def _usable(replies: Sequence[BoxReply]) -> dict[int, Box2D]:
    return {reply.frame: reply.box_px for reply in replies if reply.box_px is not None}


def _iou(lifted: Lifted | None, true: Box3D) -> float:
    return 0.0 if lifted is None else world_iou(lifted.object.box_world, true)


def _temporal_iou(span: SpanReply, spans_s: Sequence[Span] | None) -> float | None:
    if not spans_s:
        return None
    return 0.0 if span.span_s is None else best_temporal_iou(span.span_s, spans_s)


def _mean_box_iou(
    replies: Sequence[BoxReply], boxes_px: Mapping[int, Box2D] | None
) -> float | None:
    if not boxes_px:
        return None
    known = [reply for reply in replies if reply.frame in boxes_px]
    ious = [
        0.0 if reply.box_px is None else box_iou(reply.box_px, boxes_px[reply.frame])
        for reply in known
    ]
    return float(np.mean(ious)) if ious else 0.0


def _errors(span: SpanReply, replies: Sequence[BoxReply], lifted: Lifted | None) -> tuple[str, ...]:
    errors = [] if span.error is None else [f"span: {span.error}"]
    errors += [f"box in frame {r.frame}: {r.error}" for r in replies if r.error is not None]
    if lifted is not None and not lifted.masks:
        errors.append("tracking: no mask in any frame")
    elif lifted is not None and lifted.object.box_world is None:
        errors.append("lifting: no point survived")
    return tuple(errors)
