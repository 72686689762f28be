"""A run and a chain's output for tests of the report, written by the project's own functions."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from rollouts import FAMILY, completion, group, reply

from scenerl.configs.load import load_config
from scenerl.configs.schema import EnvConfig, GroundConfig, TrackerConfig
from scenerl.envs.metrics import score_answer
from scenerl.envs.records import Prompt
from scenerl.envs.tasks import make_env
from scenerl.envs.tracking import make_tracker
from scenerl.launch.ground_output import write_results
from scenerl.launch.grounding import (
    BoxReplies,
    BoxReply,
    ChainSettings,
    SpanReply,
    lift_answers,
)
from scenerl.preprocess.records import Sample
from scenerl.preprocess.rooms import RoomsConfig, make_rooms
from scenerl.preprocess.store import read_samples
from scenerl.rewards.records import Score
from scenerl.rl.advantages import group_advantages
from scenerl.rl.durable import write_json
from scenerl.rl.metrics import MetricLogger, rollout_metrics, rollout_rows
from scenerl.rl.run_dir import RunDir
from scenerl.rollout.records import Group

ROOMS = RoomsConfig(rooms=(("train", 1), ("test", 1)), num_frames=12, width=96, height=72, seed=5)
NASTY = '</script><!-- <script><img src="https://example.com/x.png" onerror="document.title=1">'


def make_data(root: Path, config: RoomsConfig = ROOMS) -> Path:
    """Write a prepared data folder of small rooms."""
    make_rooms(root, config)
    return root


def grounding_samples(data: Path, split: str, count: int) -> list[Sample]:
    """Read samples with spans, boxes and a 3D box."""
    samples = [s for s in read_samples(data, split) if s.target.box_world and s.target.spans_s]
    return samples[:count]


def prompt_of(sample: Sample, data: Path, task: str) -> Prompt:
    """Return the first prompt that an env makes of a sample."""
    config = dataclasses.replace(EnvConfig(), name=task)
    return make_env(config, FAMILY).prompts(sample, data)[0]


def make_group(prompt: Prompt, group_id: str, extra: Sequence[str] = ()) -> Group:
    """Return replies of falling quality to a prompt, one without an answer, and `extra` ones."""
    env = make_env(dataclasses.replace(EnvConfig(), name=prompt.task), FAMILY)
    good = [env.reference_completion(prompt, looseness=share, seed=3) for share in (0.0, 0.2, 0.6)]
    return group([*good, "I can not see it.", *extra], prompt, group_id)


def score(item: Group) -> list[Score]:
    """Score a group by the IoU of its answers and by whether they could be parsed."""
    scores = []
    for rollout in item.rollouts:
        values = score_answer(rollout.answer, item.prompt)
        iou = values.get("temporal_iou", values.get("box_iou", 0.0))
        parts = {"iou": iou, "format": values["parsed"]}
        scores.append(Score(value=iou + 0.2 * values["parsed"], parts=dict(parts)))
    return scores


def write_run(root: Path, name: str, data: Path, steps: int = 4) -> Path:
    """Write a run of a few steps: metrics, rollouts, ledger, evaluations, exit code."""
    task = "image_grounding" if name == "stage2" else "temporal_grounding"
    config = load_config(f"{name}_tiny", [f"output_dir={root}", f"name={name}"])
    samples = grounding_samples(data, "train", 2)
    with contextlib.closing(RunDir(config, name)) as run:
        run.write_environment({"versions": {}})
        logger = MetricLogger(run)
        for step in range(1, steps + 1):
            prompts = [prompt_of(sample, data, task) for sample in samples]
            groups = [make_group(p, f"{p.prompt_id}#{step}", [NASTY]) for p in prompts]
            scores = [score(item) for item in groups]
            rewards = torch.tensor([[s.value for s in row] for row in scores])
            advantages = dict(
                zip([g.group_id for g in groups], group_advantages(rewards).tolist(), strict=True)
            )
            advantages.pop(groups[-1].group_id)
            logger.log(step, {**rollout_metrics(groups, scores), "policy/kl": 0.01 * step})
            run.write_rollouts(step, rollout_rows(step, groups, scores, advantages))
            outcomes = ("trained", "zero_spread")
            run.append_ledger(
                {"step": step, "sample_id": s.sample_id, "outcome": o, "reason": None}
                for s, o in zip(samples, outcomes, strict=True)
            )
        key = "box_iou" if name == "stage2" else "temporal_iou"
        (run.path / "eval").mkdir()
        for when, value in (("before", 0.25), ("step_000002", 0.5), ("after", 0.75)):
            values = {key: value, "parsed": 1.0, "prompts": 2, "skipped": {}}
            write_json(run.path / "eval" / f"{when}.json", values)
        run.write_exit(0, "done")
        return run.path


def write_ground(folder: Path, data: Path, count: int = 2) -> Path:
    """Ground queries: the first with the true span and boxes, the last without a readable span."""
    samples = grounding_samples(data, "test", count)
    spans, boxes = {}, {}
    for number, sample in enumerate(samples):
        true = sample.target
        assert true.spans_s
        assert true.boxes_px
        frame, box = max(true.boxes_px.items(), key=lambda item: _area(item[1]))
        found = (BoxReply(frame=frame, box_px=box, text=reply("a box")),)
        readable = number < len(samples) - 1
        spans[sample.sample_id] = SpanReply(
            span_s=true.spans_s[0] if readable else None,
            text=completion(reply("a span") if readable else NASTY).text,
            error=None if readable else "no <answer> block",
        )
        boxes[sample.sample_id] = BoxReplies(predicted=found if readable else (), true_span=found)
    tracker = make_tracker(TrackerConfig(name="reproject"))
    settings = ChainSettings(ground=GroundConfig())
    results = lift_answers(samples, data, spans, boxes, tracker, settings)
    write_results(folder, results, {"no depth": 3}, pictures=24)
    return folder


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
