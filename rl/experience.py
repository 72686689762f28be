"""One step's experience: samples drawn, rollouts made and scored, before anything is trained."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scenerl.configs.seeding import derive_seed
from scenerl.envs.records import Prompt
from scenerl.envs.tasks import Env
from scenerl.preprocess.records import DataError, Sample, Span
from scenerl.rewards.records import Score
from scenerl.rewards.scorer import Scorer
from scenerl.rl.advantages import reward_spread
from scenerl.rl.fleet import EncodeFailure, Fleet
from scenerl.rl.metrics import plain
from scenerl.rl.sampler import EpochSampler
from scenerl.rl.stopwatch import Stopwatch
from scenerl.rollout.records import Completion, EncodedPrompt, Group, Rollout

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What became of one drawn sample or one of its prompts."""

    position: int
    epoch: int
    sample_id: str
    group_id: str | None
    """None when the sample gave no prompt."""
    reason: str | None
    """Why it was skipped; None when it has rollouts."""
    broken: bool = False
    """Whether it was skipped because its data cannot be used, not because it does not fit."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Experience:
    """Scored rollouts for one step."""

    step: int
    start_position: int
    end_position: int
    """Where the next step draws."""
    policy_version: int
    """Updates that the weights that made it had seen."""
    groups: tuple[Group, ...]
    scores: tuple[tuple[Score, ...], ...]
    draws: tuple[Draw, ...]
    refills: int
    reward_metrics: dict[str, float]
    """What the rewards logged, and their faults in this step."""
    measured: dict[str, float]
    """`time/...` and `throughput/...` of making it; times of what was restored are absent."""

    def completion_rate(self) -> dict[str, float]:
        """Return completion tokens per second of generation, when it was measured."""
        seconds = self.measured.get("time/rollout_s")
        if not seconds:
            return {}
        tokens = sum(
            len(rollout.completion.completion_ids)
            for group in self.groups
            for rollout in group.rollouts
        )
        return {"throughput/completion_tokens_per_s": tokens / seconds}


def has_spread(scores: Sequence[Score], tolerance: float) -> bool:
    """Whether at least two rollouts were scored and their rewards differ by more than noise."""
    values = [score.value for score in scores if score.value is not None]
    return len(values) >= 2 and float(reward_spread(torch.tensor([values]))[0]) > tolerance


@dataclasses.dataclass(frozen=True, slots=True)
class Skip:
    """Why a sample gives no prompt."""

    reason: str
    broken: bool = False
    """Whether its data cannot be used."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is trained on: the samples, how they are asked, and where stage 1 looked."""

    env: Env
    data_root: Path
    samples: tuple[Sample, ...]
    spans_s: Mapping[str, Span | None] | None = None
    """Sample id -> predicted span of an earlier stage; None uses the true ones."""

    def prompts(self, sample: Sample, seed: int) -> "tuple[list[Prompt], Skip | None]":
        """Return the training prompts of a sample, or why there are none."""
        reason = self.env.skip_reason(sample)
        if reason is not None:
            return [], Skip(reason)
        span_s = None
        if self.spans_s is not None:
            span_s = self.spans_s.get(sample.sample_id)
            if span_s is None:
                return [], Skip("no usable predicted span")
        try:
            prompts = self.env.prompts(
                sample, self.data_root, span_s=span_s, seed=seed, supervised=True
            )
        except (OSError, ValueError) as error:
            return [], Skip(f"{type(error).__name__}: {error}", broken=True)
        return prompts, None if prompts else Skip("no frame of the span has a true box")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExperienceConfig:
    """The settings that decide a step's experience."""

    seed: int
    prompts_per_step: int
    group_size: int
    max_refills: int
    zero_spread_tolerance: float


class ExperienceMaker:
    """Draws samples, generates, parses and scores; pure in (seed, step, position, weights)."""

    def __init__(self, task: Task, fleet: Fleet, scorer: Scorer, config: ExperienceConfig) -> None:
        """Prepare to make experience for a task."""
        self._task, self._fleet, self._scorer, self._config = task, fleet, scorer, config
        self._sampler = EpochSampler([s.sample_id for s in task.samples], config.seed)
        self._ahead: dict[int, tuple[list[Prompt], Skip | None]] = {}
        """Position -> prompts made ahead of use."""

    def make(self, step: int, position: int) -> Experience:
        """Make the experience of one step, drawing from a position on.

        Groups without a spread of rewards are replaced by new prompts, at most
        `max_refills` times; they stay in the experience and are dropped from the batch.

        Raises:
            DataError: If a whole epoch gives no prompt.
        """
        watch = Stopwatch()
        start = position
        groups: list[Group] = []
        scores: list[tuple[Score, ...]] = []
        draws: list[Draw] = []
        version = self._fleet.engine_version
        faults_before = Counter(self._scorer.counters)
        missing, rounds = self._config.prompts_per_step, 0
        while missing > 0 and rounds <= self._config.max_refills:
            rounds += 1
            with watch.measure("encode"):
                encoded, drawn, position = self._draw(position, missing)
            with watch.measure("rollout"):
                made = self._generate(step, encoded)
            with watch.measure("reward"):
                scores += [tuple(row) for row in self._scorer.score(made, step=step)]
            groups += made
            draws += drawn
            useful = sum(has_spread(row, self._config.zero_spread_tolerance) for row in scores)
            missing = self._config.prompts_per_step - useful
        return Experience(
            step=step,
            start_position=start,
            end_position=position,
            policy_version=version,
            groups=tuple(groups),
            scores=tuple(scores),
            draws=tuple(draws),
            refills=rounds - 1,
            reward_metrics=self._reward_metrics(faults_before),
            measured=watch.seconds,
        )

    def prefetch(self, position: int) -> None:
        """Begin to encode the prompts of the step that draws from a position on."""
        prompts: list[Prompt] = []
        for at in range(position, position + 2 * len(self._sampler)):
            missing = self._config.prompts_per_step - len(prompts)
            if missing <= 0:
                break
            self._ahead[at] = self._prompts_at(at)
            prompts += self._ahead[at][0][:missing]
        self._fleet.prefetch(prompts)

    def probe(self, groups: Sequence[Group], step: int) -> list[Group]:
        """Ask the prompts of some groups once more, with the weights the engines hold now."""
        seeds = [[derive_seed(self._config.seed, step, g.group_id, "probe")] for g in groups]
        made = self._fleet.generate([group.encoded for group in groups], seeds)
        return [
            self._group(group.group_id, group.encoded, completions)
            for group, completions in zip(groups, made, strict=True)
        ]

    def restore(self, journal: Mapping[str, Any]) -> Experience:
        """Rebuild an experience from its journal: the same rollouts and scores, not made again.

        Raises:
            DataError: If the data no longer give the prompts of the journal.
        """
        rows = journal["groups"]
        positions = {row["group_id"]: row["position"] for row in journal["draws"]}
        prompts = [self._prompt_of(row["group_id"], positions[row["group_id"]]) for row in rows]
        groups = []
        for row, encoded in zip(rows, self._fleet.encode(prompts), strict=True):
            if isinstance(encoded, EncodeFailure) or encoded.content_hash != row["content_hash"]:
                raise DataError(
                    f"the media of {row['group_id']} changed since its rollouts were made; restore "
                    "the data, or delete the folder `journal` of the run to make them again"
                )
            completions = [Completion(**_tuples(item)) for item in row["completions"]]
            groups.append(self._group(row["group_id"], encoded, completions))
        return Experience(
            step=journal["step"],
            start_position=journal["start_position"],
            end_position=journal["end_position"],
            policy_version=journal["policy_version"],
            groups=tuple(groups),
            scores=tuple(tuple(Score(**item) for item in row["scores"]) for row in rows),
            draws=tuple(Draw(**row) for row in journal["draws"]),
            refills=journal["refills"],
            reward_metrics=dict(journal["reward_metrics"]),
            measured={},
        )

    def _reward_metrics(self, faults_before: Counter[str]) -> dict[str, float]:
        """Return what the rewards logged since the last call, and their new faults."""
        new = Counter(self._scorer.counters) - faults_before
        faults = {f"reward/{name}": float(n) for name, n in new.items() if n}
        return {f"reward/{name}": v for name, v in self._scorer.drain_metrics().items()} | faults

    def _draw(self, position: int, count: int) -> tuple[dict[str, EncodedPrompt], list[Draw], int]:
        """Draw samples until `count` prompts are encoded; group id -> encoded prompt."""
        encoded: dict[str, EncodedPrompt] = {}
        draws: list[Draw] = []
        start = position
        while len(encoded) < count:
            if not encoded and position - start >= len(self._sampler):
                reasons = Counter(draw.reason for draw in draws).most_common(3)
                raise DataError(
                    f"a whole epoch of {len(self._sampler)} samples gave no prompt; most common "
                    f"reasons: {'; '.join(f'{reason} ({n})' for reason, n in reasons)}"
                )
            wanted: dict[str, tuple[int, Prompt]] = {}
            while len(encoded) + len(wanted) < count and position - start < 2 * len(self._sampler):
                prompts, skip = self._prompts_at(position)
                if skip is not None:
                    draws.append(self._record(position, None, skip))
                for prompt in prompts[: count - len(encoded) - len(wanted)]:
                    wanted[_group_id(prompt, position)] = (position, prompt)
                position += 1
            results = self._fleet.encode([prompt for _, prompt in wanted.values()])
            for (group_id, (at, _)), result in zip(wanted.items(), results, strict=True):
                if isinstance(result, EncodeFailure):
                    skip = Skip(result.reason, broken=result.broken)
                    draws.append(self._record(at, group_id, skip))
                else:
                    draws.append(self._record(at, group_id, None))
                    encoded[group_id] = result
        return encoded, draws, position

    def _record(self, position: int, group_id: str | None, skip: Skip | None) -> Draw:
        sample = self._task.samples[self._sampler.index(position)]
        if skip is not None:
            logger.debug("%s is skipped: %s", sample.sample_id, skip.reason)  # the ledger has it
        return Draw(
            position=position,
            epoch=self._sampler.epoch(position),
            sample_id=sample.sample_id,
            group_id=group_id,
            reason=skip.reason if skip else None,
            broken=skip is not None and skip.broken,
        )

    def _prompts_at(self, position: int) -> tuple[list[Prompt], Skip | None]:
        if position in self._ahead:
            return self._ahead.pop(position)
        sample = self._task.samples[self._sampler.index(position)]
        epoch = self._sampler.epoch(position)
        return self._task.prompts(sample, derive_seed(self._config.seed, epoch, sample.sample_id))

    def _prompt_of(self, group_id: str, position: int) -> Prompt:
        for prompt in self._prompts_at(position)[0]:
            if _group_id(prompt, position) == group_id:
                return prompt
        raise DataError(
            f"the data no longer give the prompt {group_id} of the run's journal; restore the "
            "data, or delete the folder `journal` of the run to make the rollouts again"
        )

    def _generate(self, step: int, encoded: Mapping[str, EncodedPrompt]) -> list[Group]:
        seeds = [
            [derive_seed(self._config.seed, step, name, k) for k in range(self._config.group_size)]
            for name in encoded
        ]
        made = self._fleet.generate(list(encoded.values()), seeds)
        return [
            self._group(name, prompt, completions)
            for (name, prompt), completions in zip(encoded.items(), made, strict=True)
        ]

    def _group(
        self, group_id: str, encoded: EncodedPrompt, completions: Sequence[Completion]
    ) -> Group:
        return Group(
            group_id=group_id,
            encoded=encoded,
            rollouts=tuple(
                Rollout(
                    index=index,
                    completion=completion,
                    answer=self._task.env.parse(completion.text, encoded.prompt),
                )
                for index, completion in enumerate(completions)
            ),
        )


def journal_of(experience: Experience) -> dict[str, Any]:
    """Return all of an experience that cannot be derived again from the data."""
    return {
        "step": experience.step,
        "start_position": experience.start_position,
        "end_position": experience.end_position,
        "policy_version": experience.policy_version,
        "refills": experience.refills,
        "reward_metrics": experience.reward_metrics,
        "draws": [plain(draw) for draw in experience.draws],
        "groups": [
            {
                "group_id": group.group_id,
                "content_hash": group.encoded.content_hash,
                "completions": [plain(rollout.completion) for rollout in group.rollouts],
                "scores": [plain(score) for score in scores],
            }
            for group, scores in zip(experience.groups, experience.scores, strict=True)
        ],
    }


def _group_id(prompt: Prompt, position: int) -> str:
    """Name a prompt's group: the same sample may be drawn again, at another position."""
    return f"{prompt.prompt_id}#{position}"


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in row.items()}
