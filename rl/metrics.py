"""The numbers of a step, and the rows that keep every rollout readable."""

import dataclasses
import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenerl.envs.records import ParseError
from scenerl.rewards.records import Score
from scenerl.rewards.scorer import score_metrics
from scenerl.rl.run_dir import RunDir
from scenerl.rl.trackers import Tracker
from scenerl.rollout.records import Group, Rollout

WALL_CLOCK = ("time/", "throughput/", "memory/")
"""Prefixes of the numbers that differ between two otherwise identical runs."""


class MetricLogger:
    """Sends the numbers of a step to metrics.jsonl and to the trackers."""

    def __init__(self, run_dir: RunDir, trackers: Sequence[Tracker] = ()) -> None:
        """Write into a run directory and to trackers."""
        self._run_dir = run_dir
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record one step; a number that does not exist (a mean over nothing) is left out."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._run_dir.append_metrics({"step": step, **values})
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()


def memory_gib() -> float:
    """Return the memory of this process that is in RAM now, in GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def rollout_metrics(groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> dict[str, float]:
    """Summarise all rollouts of a step, those of dropped groups included.

    Args:
        groups: Every group that was made.
        scores: The scores of each group's rollouts.

    Returns:
        What `rewards.scorer.score_metrics` returns, and the share of each parse error.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    values = [score.value for row in scores for score in row if score.value is not None]
    lengths = [float(len(rollout.completion.completion_ids)) for rollout in rollouts]
    errors = Counter(r.answer.reason for r in rollouts if isinstance(r.answer, ParseError))
    return {
        **score_metrics(scores),
        "reward/std": statistics.pstdev(values) if values else math.nan,
        "rollout/parse_error_fraction": sum(errors.values()) / max(len(rollouts), 1),
        "rollout/completion_tokens": statistics.fmean(lengths) if lengths else math.nan,
        "rollout/groups": float(len(groups)),
        **{f"parse_error/{why}": n / len(rollouts) for why, n in sorted(errors.items())},
    }


def rollout_rows(
    step: int,
    groups: Sequence[Group],
    scores: Sequence[Sequence[Score]],
    advantages: Mapping[str, Sequence[float | None]],
) -> list[dict[str, Any]]:
    """Return one row per completion, for rollouts/step_N.jsonl.

    Args:
        step: The step that made them.
        groups: Every group, dropped ones included.
        scores: The scores of each group's rollouts.
        advantages: Group id -> advantage of each rollout; absent for a dropped group.
    """
    rows = []
    for group, group_scores in zip(groups, scores, strict=True):
        values = advantages.get(group.group_id, [None] * len(group.rollouts))
        asked = {
            "media": [plain(item) for item in group.prompt.media],
            "target": plain(group.prompt.sample.target),
        }
        for rollout, score, advantage in zip(group.rollouts, group_scores, values, strict=True):
            row = rollout_row(group, rollout, score)
            rows.append({"step": step, **row, **asked, "advantage": advantage})
    return rows


def rollout_row(group: Group, rollout: Rollout, score: Score) -> dict[str, Any]:
    """Return what one completion said and what it was worth."""
    prompt, completion = group.prompt, rollout.completion
    failed = isinstance(rollout.answer, ParseError)
    return {
        "prompt_id": prompt.prompt_id,
        "sample_id": prompt.sample.sample_id,
        "question": prompt.sample.question,
        "kind": prompt.sample.kind,
        "index": rollout.index,
        "completion": completion.text,
        "reward": score.value,
        "rewards": dict(score.parts),
        "unscored_reason": score.reason,
        "answer": None if failed else plain(rollout.answer),
        "parse_error": rollout.answer.reason if isinstance(rollout.answer, ParseError) else None,
        "finish_reason": completion.finish_reason,
        "num_tokens": len(completion.completion_ids),
        "policy_version": completion.policy_version,
        "completion_ids": list(completion.completion_ids),
        "rollout_logprobs": list(completion.rollout_logprobs),
    }


_SCALARS = {int, float, str}
"""Token ids and log-probs come in lists of thousands."""


def plain(value: Any) -> Any:
    """Return a record as nested dicts and lists; keys become text, as JSON has no others."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [item if type(item) in _SCALARS else plain(item) for item in value]
    return value
