"""Answer grounding benchmarks with the chain: span, boxes, tracker, lifting.

Each step keeps its answers in a file of its own, so that only one policy is loaded at a time and a
kill loses at most one chunk of one step.
"""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

from scenerl.configs.schema import RunConfig
from scenerl.envs.media_refs import media_facts
from scenerl.envs.tracking import Tracker, make_tracker
from scenerl.launch.eval_items import Items
from scenerl.launch.eval_model import policy_fingerprint
from scenerl.launch.eval_run import Shards, common_identity, open_shards, settings
from scenerl.launch.exit_codes import StopSignal
from scenerl.launch.ground import open_policy, stage_config
from scenerl.launch.grounding import (
    BoxReplies,
    BoxReply,
    ChainSettings,
    GroundResult,
    Policy,
    SpanReply,
    ask_boxes,
    ask_spans,
    lift_answers,
)
from scenerl.launch.session import policy_folder
from scenerl.preprocess.records import Sample
from scenerl.rl.evaluate import Interrupted
from scenerl.rl.metrics import plain

logger = logging.getLogger(__name__)

CHUNK = {"spans": 32, "boxes": 16, "answers": 8}
"""Items between two writes of a step."""

Step = Callable[[list[Sample], Mapping[str, dict[str, Any]]], list[dict[str, Any]]]
"""Samples and the rows of the step before -> rows without their ids."""


def answer_chain_shards(
    name: str, config: RunConfig, items: Items, arguments: argparse.Namespace, out: Path
) -> int:
    """Answer the shards that the options name; return how many items could not be asked."""
    identity = common_identity(name, items) | chain_identity(config)
    about = {"model": f"chain {config.ground.stage1 or config.model.path}"}
    shards = open_shards(out, items, arguments, identity, about)
    failed = unusable(items)
    stop = StopSignal()
    use_ray = not arguments.no_ray
    root = items.data_root
    settings_ = ChainSettings(ground=config.ground, lift=config.lift, oracles=False)
    tracker = make_tracker(config.tracker, device=arguments.device)
    with ExitStack() as stack:
        ask = _stage(stack, lambda: open_policy(config, 1, use_ray=use_ray), stop)
        run_step(shards, failed, ("", "spans"), stop, lambda s, _: span_rows(s, root, ask()))
    with ExitStack() as stack:
        ask = _stage(stack, lambda: open_policy(config, 2, use_ray=use_ray), stop)
        run_step(shards, failed, ("spans", "boxes"), stop, lambda s, r: box_rows(s, root, r, ask()))

    def lift(samples: list[Sample], rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return answer_rows(samples, root, rows, tracker, settings_)

    run_step(shards, failed, ("boxes", "answers"), stop, lift)
    return sum(item in failed for shard in shards.chosen for item in shards.ids(shard))


def _stage(
    stack: ExitStack, start: Callable[[], AbstractContextManager[Policy]], stop: StopSignal
) -> Callable[[], Policy]:
    """Return what starts a policy when it is first needed."""
    running: list[Policy] = []

    def policy() -> Policy:
        if not running:
            running.append(stack.enter_context(start()))
            stop.install()
        return running[0]

    return policy


def unusable(items: Items) -> dict[str, str]:
    """Return item id -> why the chain cannot ask it."""
    failed = {}
    for item, sample in items.samples.items():
        try:
            media_facts(sample.media, items.data_root)
        except (OSError, ValueError) as error:
            failed[item] = f"{type(error).__name__}: {error}"
        if sample.media.scene is None:
            failed[item] = "a plain video; lifting needs a recording with depth and poses"
    return failed


def run_step(
    shards: Shards,
    failed: Mapping[str, str],
    names: tuple[str, str],
    stop: StopSignal,
    step: Step,
) -> None:
    """Make the rows of one step for all shards, after what is there.

    Args:
        shards: Which.
        failed: Items that are left out.
        names: The step before ("" for none), and this one.
        stop: Ends it between chunks.
        step: Makes the rows of a chunk.

    Raises:
        Interrupted: If a signal came.
    """
    before, name = names
    for shard in shards.chosen:
        earlier: Mapping[str, dict[str, Any]] = {}
        if before:
            with closing(shards.open_log(shard, before)) as log:
                earlier = log.rows
        with closing(shards.open_log(shard, name)) as log:
            mine = [item for item in shards.ids(shard) if item not in failed]
            todo = [item for item in mine if item not in log.rows]
            for start in range(0, len(todo), CHUNK[name]):
                if stop.reason is not None:
                    raise Interrupted(stop.reason)
                chunk = todo[start : start + CHUNK[name]]
                samples = [shards.items.samples[item] for item in chunk]
                rows = step(samples, {item: earlier.get(item, {}) for item in chunk})
                log.append([{"id": i, **row} for i, row in zip(chunk, rows, strict=True)])
                logger.info("%s: %d of %d %s", log.file.name[:12], len(log.rows), len(mine), name)
            if name == "answers":
                log.write_errors({i: failed[i] for i in shards.ids(shard) if i in failed})


def span_rows(samples: list[Sample], root: Path, policy: Policy) -> list[dict[str, Any]]:
    """Return what stage 1 says."""
    spans = ask_spans(samples, root, policy)
    return [{"span": plain(spans[sample.sample_id])} for sample in samples]


def box_rows(
    samples: list[Sample], root: Path, rows: Mapping[str, dict[str, Any]], policy: Policy
) -> list[dict[str, Any]]:
    """Return what stage 2 says in frames of the predicted spans, the spans with it."""
    spans = _spans(samples, rows)
    boxes = ask_boxes(samples, root, spans, policy, oracles=False)
    return [
        {
            "span": plain(spans[sample.sample_id]),
            "boxes": [plain(reply) for reply in boxes[sample.sample_id].predicted],
        }
        for sample in samples
    ]


def answer_rows(
    samples: list[Sample],
    root: Path,
    rows: Mapping[str, dict[str, Any]],
    tracker: Tracker,
    config: ChainSettings,
) -> list[dict[str, Any]]:
    """Return the traces: the steps, and the 3D box as the one reply."""
    spans = _spans(samples, rows)
    boxes = {
        sample.sample_id: BoxReplies(predicted=tuple(map(_box_reply, row["boxes"])))
        for sample, row in zip(samples, rows.values(), strict=True)
    }
    return [_trace(found) for found in lift_answers(samples, root, spans, boxes, tracker, config)]


def _spans(samples: Sequence[Sample], rows: Mapping[str, dict[str, Any]]) -> dict[str, SpanReply]:
    replies = {}
    for sample, row in zip(samples, rows.values(), strict=True):
        span = row["span"]["span_s"]
        replies[sample.sample_id] = SpanReply(
            span_s=None if span is None else (span[0], span[1]),
            text=row["span"]["text"],
            error=row["span"]["error"],
        )
    return replies


def _box_reply(row: Mapping[str, Any]) -> BoxReply:
    box = row["box_px"]
    return BoxReply(
        frame=row["frame"],
        box_px=None if box is None else (box[0], box[1], box[2], box[3]),
        text=row["text"],
        error=row["error"],
    )


def _trace(found: GroundResult) -> dict[str, Any]:
    sample, box = found.sample, found.box_world
    frames = () if found.lifted is None else found.lifted.object.frame_indices
    return {
        "sample_id": sample.sample_id,
        "question": sample.question,
        "kind": sample.kind,
        "messages": None,
        "media": [{"kind": "video", "path": sample.media.scene, "frame_indices": list(frames)}],
        "steps": {
            "span": plain(found.span),
            "boxes": [plain(reply) for reply in found.boxes],
            "errors": list(found.errors),
        },
        "samples": [
            {
                "output": found.span.text,
                "finish_reason": "stop",
                "num_tokens": None,
                "parsed": None if box is None else [list(box)],
                "parse_error": None if box is not None else _reason(found),
            }
        ],
    }


def _reason(found: GroundResult) -> str:
    """Return a short reason that can be counted: no frame numbers."""
    if found.span.error is not None:
        return f"span: {found.span.error}"
    if not any(reply.box_px is not None for reply in found.boxes):
        return "box: none in any frame of the span"
    return "tracking or lifting: nothing left"


def chain_identity(config: RunConfig) -> dict[str, Any]:
    """Return what the answers of the chain depend on."""
    identity: dict[str, Any] = {
        "engine": f"chain, {config.rollout.engine}",
        "dtype": config.model.dtype,
        "samples_per_question": 1,
        "temperature": 0.0,
        "seed": 0,
    }
    for number in (1, 2):
        mine = stage_config(config, number)
        folder = policy_folder(mine.model.path)
        identity[f"stage{number}.policy"] = policy_fingerprint(folder)
        identity[f"stage{number}.max_tokens"] = mine.rollout.max_completion_length
        identity |= settings(f"stage{number}.env", mine.env)
    identity |= settings("ground", config.ground, without=("stage1", "stage2"))
    return identity | settings("lift", config.lift) | settings("tracker", config.tracker)
