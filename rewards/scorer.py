"""Score groups of rollouts with the rewards of a config."""

import difflib
import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from scenerl.configs.schema import ConfigError, LiftConfig, RewardConfig, TrackerConfig
from scenerl.envs.records import Prompt
from scenerl.envs.templates import TaskName
from scenerl.rewards.builtin import BUILTINS, LIFTED_IOU
from scenerl.rewards.canary import canary_columns, canary_prompt
from scenerl.rewards.columns import Columns, group_columns
from scenerl.rewards.lifted import LiftedIou
from scenerl.rewards.loading import ENTRY_POINTS
from scenerl.rewards.records import RewardError, Score
from scenerl.rewards.runner import BuiltinRunner, Fault, Outcome, PluginRunner, RewardRunner
from scenerl.rollout.records import Group

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reward:
    name: str
    config: RewardConfig
    runner: RewardRunner


class Scorer:
    """The weighted rewards of a run.

    Attributes:
        counters: What went wrong so far: "<reward>/errors", "<reward>/<cause>" and
            "<reward>/not_applicable", in completions.
    """

    def __init__(
        self,
        configs: Sequence[RewardConfig],
        *,
        task: TaskName = "temporal_grounding",
        tracker: TrackerConfig | None = None,
        lift: LiftConfig | None = None,
        max_steps: int = 0,
    ) -> None:
        """Look the rewards up; nothing is started before `canary` or `score`.

        Args:
            configs: The rewards list of the run.
            task: Name of the env, for the canary.
            tracker: How `lifted_iou` tracks; the default settings when None.
            lift: How `lifted_iou` lifts; the default settings when None.
            max_steps: Shown to reward functions as `trainer_state.max_steps`.

        Raises:
            ConfigError: For an empty list or a name that nothing has.
        """
        if not any(config.weight for config in configs):
            raise ConfigError(
                f"the rewards list has {len(configs)} entries, none with a weight other than 0, "
                "so there is nothing to train towards; add one to rewards"
            )
        self.counters: Counter[str] = Counter()
        self._task = task
        self._max_steps = max_steps
        self._logged: dict[str, list[float]] = {}
        lifted = LiftedIou(tracker or TrackerConfig(), lift or LiftConfig())
        names = _names(configs)
        self._rewards = [
            _Reward(name=name, config=config, runner=_runner(name, config, lifted))
            for name, config in zip(names, configs, strict=True)
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, as in `Score.parts`."""
        return tuple(reward.name for reward in self._rewards)

    def canary(self, prompts: Sequence[Prompt] = ()) -> None:
        """Call every reward once, whatever its `on_error`, so that a broken one is found now.

        Args:
            prompts: Real first prompts to try on; none takes a made-up one.

        Raises:
            RewardError: Naming every reward that failed, and why.
        """
        batches = [canary_columns(prompt) for prompt in prompts or (canary_prompt(self._task),)]
        problems = []
        for reward in self._rewards:
            try:
                reward.runner.start(frozenset(batches[0]))
            except RewardError as error:
                problems.append(str(error))
                continue
            for outcome in reward.runner.call(batches, self._state(0)):
                if outcome.fault is not None:
                    problems.append(f"reward {reward.name}: {outcome.fault.text}")
                    break
        if problems:
            self.close()
            raise RewardError("the rewards do not work on a first try:\n  " + "\n  ".join(problems))

    def score(self, groups: Sequence[Group], *, step: int = 0) -> list[list[Score]]:
        """Score every rollout of every group.

        Args:
            groups: The rollouts, grouped by prompt; each plug-in is called once per group.
            step: Shown to reward functions as `trainer_state.global_step`.

        Returns:
            One list per group, one Score per rollout, in order.

        Raises:
            RewardError: When a reward with ``on_error: raise`` failed; names the reward, the
                sample and the cause.
        """
        scored = [at for at, group in enumerate(groups) if group.rollouts]
        batches = [group_columns(groups[at]) for at in scored]
        outcomes = [self._call(reward, batches, step) for reward in self._rewards]
        scores: list[list[Score]] = [[] for _ in groups]
        for column, at in enumerate(scored):
            of_group = [by_group[column] for by_group in outcomes]
            scores[at] = [self._score(of_group, index) for index in range(len(groups[at].rollouts))]
        return scores

    def _call(self, reward: _Reward, batches: Sequence[Columns], step: int) -> list[Outcome]:
        outcomes = reward.runner.call(batches, self._state(step)) if batches else []
        for batch, outcome in zip(batches, outcomes, strict=True):
            for name, value in outcome.metrics.items():
                self._logged.setdefault(f"{reward.name}/{name}", []).append(value)
            if outcome.fault is not None:
                self._note_fault(reward, batch, outcome.fault)
        return outcomes

    def _note_fault(self, reward: _Reward, batch: Columns, fault: Fault) -> None:
        count = len(batch["completions"])
        self.counters[f"{reward.name}/errors"] += count
        self.counters[f"{reward.name}/{fault.cause}"] += count
        text = f"reward {reward.name} failed on sample {batch['sample_id'][0]}: {fault.text}"
        if reward.config.on_error == "raise":
            raise RewardError(f"{text}; set on_error to none or zero to go on without it")
        if self.counters[f"{reward.name}/errors"] == count:
            logger.warning("%s (counted from now on)", text)
        else:
            logger.debug("%s", text)

    def _score(self, outcomes: Sequence[Outcome], index: int) -> Score:
        """Put together what each reward gave for one rollout."""
        parts: dict[str, float | None] = {}
        extra: dict[str, Any] = {}
        applying: list[float] = []
        reason = None
        for reward, outcome in zip(self._rewards, outcomes, strict=True):
            weight = reward.config.weight
            raw = _raw_parts(reward, outcome, index)
            parts |= raw
            value = raw[reward.name]
            if outcome.fault is not None and reward.config.on_error == "none":
                if weight:
                    reason = reason or f"{reward.name}: {outcome.fault.text}"
            elif value is None:
                self.counters[f"{reward.name}/not_applicable"] += 1
            elif weight:
                applying.append(weight * value)
            for name, values in outcome.extra.items():
                extra[f"{reward.name}/{name}"] = values[index] if index < len(values) else None
        if reason is None and not applying:
            reason = "no weighted reward applies"
        value = sum(applying) if reason is None else None
        return Score(value=value, parts=parts, reason=reason, extra=extra)

    def _state(self, step: int) -> Mapping[str, Any]:
        return {"global_step": step, "max_steps": self._max_steps}

    def drain_metrics(self) -> dict[str, float]:
        """Return the means of what rewards logged with `log_metric` since the last call."""
        means = {name: statistics.fmean(values) for name, values in self._logged.items()}
        self._logged = {}
        return means

    def close(self) -> None:
        """End the processes of all plug-ins. May be called again."""
        for reward in self._rewards:
            reward.runner.close()


def _raw_parts(reward: _Reward, outcome: Outcome, index: int) -> dict[str, float | None]:
    if outcome.parts is None:
        return {reward.name: 0.0 if reward.config.on_error == "zero" else None}
    return {
        f"{reward.name}/{name}" if name else reward.name: value
        for name, value in outcome.parts[index].items()
    }


def _names(configs: Sequence[RewardConfig]) -> list[str]:
    """Name every entry after its reward or function; repeated names are numbered."""
    seen: Counter[str] = Counter()
    names = []
    for config in configs:
        name = config.name or str(config.path).rpartition(":")[2]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _runner(name: str, config: RewardConfig, lifted: LiftedIou) -> RewardRunner:
    if config.name == LIFTED_IOU:
        return BuiltinRunner(name, lifted, config.kwargs)
    if config.name in BUILTINS:
        return BuiltinRunner(name, BUILTINS[config.name], config.kwargs)
    path = config.path or _entry_point(str(config.name))
    return PluginRunner(
        name,
        path,
        config.kwargs,
        config.timeout_s,
        memory_gib=config.max_memory_gib,
        network=config.network,
    )


def _entry_point(name: str) -> str:
    offered = {entry.name: entry.value for entry in metadata.entry_points(group=ENTRY_POINTS)}
    if name in offered:
        return offered[name]
    known = sorted([*BUILTINS, LIFTED_IOU, *offered])
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise ConfigError(f"rewards: {name!r} is no built-in reward and no entry point; {hint}")


def score_metrics(scores: Sequence[Sequence[Score]]) -> dict[str, float]:
    """Summarise the scores of a step for the metrics file.

    Returns:
        "reward/mean"; "reward/unscored_fraction"; for each reward its raw mean "reward/<name>" and
        "reward/<name>/spread", the mean over groups of the standard deviation inside a group: a
        reward with no spread teaches a group-relative advantage nothing.
    """
    everything = [score for group in scores for score in group]
    values = [score.value for score in everything if score.value is not None]
    metrics = {}
    if everything:
        metrics["reward/unscored_fraction"] = 1 - len(values) / len(everything)
    if values:
        metrics["reward/mean"] = statistics.fmean(values)
    for name in dict.fromkeys(name for score in everything for name in score.parts):
        columns = [_applying(group, name) for group in scores]
        flat = [value for column in columns for value in column]
        spreads = [statistics.pstdev(column) for column in columns if len(column) > 1]
        if flat:
            metrics[f"reward/{name}"] = statistics.fmean(flat)
        if spreads:
            metrics[f"reward/{name}/spread"] = statistics.fmean(spreads)
    return metrics


def _applying(group: Sequence[Score], name: str) -> list[float]:
    found = (score.parts.get(name) for score in group)
    return [value for value in found if value is not None]
