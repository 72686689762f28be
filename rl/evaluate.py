"""Greedy answers of a policy to a split, measured, kept one by one, and resumable."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scenerl.configs.seeding import derive_seed
from scenerl.envs.metrics import mean_scores, score_answer
from scenerl.envs.records import ParseError, Prompt
from scenerl.rl.answering import FleetAnswerer
from scenerl.rl.durable import append_lines, read_lines, write_lines
from scenerl.rl.experience import Task
from scenerl.rl.fleet import Fleet
from scenerl.rl.metrics import plain
from scenerl.rollout.replies import Reply, Unanswered

logger = logging.getLogger(__name__)

CHUNK = 32
"""Prompts between two writes."""
AHEAD = 16
"""Prompts of the next chunk whose encoding runs beside the generation of this one."""

PRIMARY_METRIC = {
    "temporal_grounding": "temporal_iou",
    "image_grounding": "box_iou",
    "video_qa": "exact_match",
}


class Interrupted(RuntimeError):
    """An evaluation was asked to stop; the answers so far are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """Means over a split, and every answer."""

    metrics: dict[str, float]
    rows: tuple[dict[str, Any], ...]
    skipped: dict[str, int]
    """Reason -> samples that could not be asked."""

    def summary(self) -> dict[str, Any]:
        """Return what goes into eval/*.json."""
        return {**self.metrics, "prompts": len(self.rows), "skipped": self.skipped}


def evaluate(
    fleet: Fleet,
    task: Task,
    file: Path,
    *,
    policy: str,
    should_stop: Callable[[], str | None] = lambda: None,
) -> EvalResult:
    """Answer every sample of a task greedily, looking into the true spans.

    Args:
        fleet: Encodes and generates.
        task: Samples and env; its predicted spans are used when it has some.
        file: One JSON object an answer; answers of the same policy that are there are kept.
        policy: What names the weights (a hash or a step); answers of another are dropped.
        should_stop: Asked between chunks.

    Returns:
        Means of `envs.metrics.score_answer`, of truncation and of length.

    Raises:
        Interrupted: If `should_stop` gave a reason.
    """
    prompts, skipped = _prompts(task)
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {row["prompt_id"]: row for row in read_lines(file) if row["policy"] == policy}
    known = {prompt.prompt_id for prompt in prompts}
    write_lines(file, [row for name, row in kept.items() if name in known])
    todo = [prompt for prompt in prompts if prompt.prompt_id not in kept]
    for start in range(0, len(todo), CHUNK):
        reason = should_stop()
        if reason is not None:
            raise Interrupted(reason)
        fleet.prefetch(todo[start : start + CHUNK + AHEAD])
        rows, failures = _answer(fleet, task, todo[start : start + CHUNK], policy)
        append_lines(file, rows)
        kept |= {row["prompt_id"]: row for row in rows}
        skipped.update(failures)
        logger.info("%s: %d of %d answers", file.stem, len(kept), len(prompts))
    ordered = tuple(kept[p.prompt_id] for p in prompts if p.prompt_id in kept)
    return EvalResult(metrics=_means(ordered), rows=ordered, skipped=dict(skipped))


def _prompts(task: Task) -> tuple[list[Prompt], Counter[str]]:
    prompts: list[Prompt] = []
    skipped: Counter[str] = Counter()
    for sample in task.samples:
        reason = task.env.skip_reason(sample)
        if reason is None:
            span_s = None if task.spans_s is None else task.spans_s.get(sample.sample_id)
            try:
                prompts += task.env.prompts(sample, task.data_root, span_s=span_s)
            except (OSError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            skipped[reason] += 1
    return prompts, skipped


def _answer(
    fleet: Fleet, task: Task, prompts: Sequence[Prompt], policy: str
) -> tuple[list[dict[str, Any]], list[str]]:
    seeds = [[derive_seed(0, "greedy", prompt.prompt_id)] for prompt in prompts]
    rows, failures = [], []
    replies = FleetAnswerer(fleet).answer(prompts, seeds, temperature=0.0)
    for prompt, found in zip(prompts, replies, strict=True):
        if isinstance(found, Unanswered):
            failures.append(found.reason)
        else:
            rows.append({"policy": policy, **_row(task, prompt, found[0])})
    return rows, failures


def _row(task: Task, prompt: Prompt, reply: Reply) -> dict[str, Any]:
    answer = task.env.parse(reply.text, prompt)
    failed = isinstance(answer, ParseError)
    return {
        "prompt_id": prompt.prompt_id,
        "sample_id": prompt.sample.sample_id,
        "question": prompt.sample.question,
        "kind": prompt.sample.kind,
        "completion": reply.text,
        "answer": None if failed else plain(answer),
        "parse_error": answer.reason if isinstance(answer, ParseError) else None,
        "scores": score_answer(answer, prompt),
        "finish_reason": reply.finish_reason,
        "num_tokens": reply.num_tokens,
        "media": [plain(item) for item in prompt.media],
        "target": plain(prompt.sample.target),
    }


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    if not rows:
        return {}
    return {
        **mean_scores([row["scores"] for row in rows]),
        "truncated_fraction": sum(row["finish_reason"] == "length" for row in rows) / len(rows),
        "completion_tokens": sum(row["num_tokens"] for row in rows) / len(rows),
    }
