"""The training loop: draw, generate, score, update, sync, record; stop and continue exactly."""

import dataclasses
import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from scenerl.configs.schema import TrainConfig
from scenerl.preprocess.records import DataError
from scenerl.rl.batch import BatchReport, make_batches
from scenerl.rl.checkpoint import Commit
from scenerl.rl.durable import read_lines, write_json
from scenerl.rl.experience import Experience, ExperienceMaker, journal_of
from scenerl.rl.fleet import Fleet
from scenerl.rl.logprob_gate import check_logprobs
from scenerl.rl.metrics import (
    MetricLogger,
    memory_gib,
    rollout_metrics,
    rollout_rows,
)
from scenerl.rl.records import TrainBatch, UpdateResult
from scenerl.rl.run_dir import RunDir
from scenerl.rl.stopwatch import Stopwatch, overhead

logger = logging.getLogger(__name__)

GATE_GROUPS = 4
"""Groups whose log-probs the gate compares."""

MIN_QUARANTINE = 2
"""Samples with broken data that never stop a run by themselves."""


class StalenessError(RuntimeError):
    """Rollouts were made by weights older than `train.max_staleness` allows."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the loop needs of an evaluation."""

    metrics: dict[str, float]
    primary: str
    """The metric that decides which commit is the best."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """What the loop is put together from."""

    fleet: Fleet
    maker: ExperienceMaker
    run_dir: RunDir
    logger: MetricLogger
    should_stop: Callable[[], str | None]
    """Why the run should end after this step, or None."""
    evaluate: Callable[[int], Evaluation] | None = None
    """Measures the policy after a step, when `train.eval_steps` asks for it."""


class Trainer:
    """Trains a policy for `train.max_steps` steps, from wherever the run directory stands."""

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        """Prepare; nothing is loaded until `resume`."""
        self._parts, self._config = parts, config
        self._fleet, self._run_dir = parts.fleet, parts.run_dir
        self._pending: deque[Experience] = deque()
        self._position = 0
        """Where the next experience draws."""
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="rollout",
            initializer=torch.set_num_threads,  # each thread has a number of its own
            initargs=(torch.get_num_threads(),),
        )
        self._gate_now = True
        self._drawn = self._quarantined = 0
        """Ledger rows, and those with broken data."""
        self.step_number = 0
        """Steps done."""
        self._started = time.monotonic()
        self._steps_here = 0

    def resume(self, commit: Commit | None) -> None:
        """Continue from a commit, or begin; everything later in the run directory is forgotten."""
        self.step_number = commit.step if commit else 0
        if commit is not None:
            self._fleet.load(commit.path)
            state = json.loads((commit.path / "trainer.json").read_text(encoding="utf-8"))
            self._position = int(state["position"])
            shutil.copyfile(commit.path / "ledger.jsonl", self._run_dir.path / "ledger.jsonl")
            logger.info("continues %s after step %d", self._run_dir.path, commit.step)
        self._run_dir.rewind(self.step_number)
        self._run_dir.drop_journals(
            up_to=None if self._run_dir.config_changed else self.step_number
        )
        outcomes = [row["outcome"] for row in read_lines(self._run_dir.path / "ledger.jsonl")]
        self._drawn, self._quarantined = len(outcomes), outcomes.count("quarantined")
        first = self.step_number + 1
        staleness = self._config.max_staleness
        for step in range(first, min(first + staleness, self._config.max_steps + 1)):
            self._pending.append(self._make(step, oldest=self._fleet.engine_version - staleness))

    def run(self) -> str | None:
        """Step until the end.

        Returns:
            None when all steps are done, else why it stopped; both leave a commit.
        """
        try:
            while self.step_number < self._config.max_steps:
                self.step()
                reason = self._parts.should_stop()
                if reason is not None and self.step_number < self._config.max_steps:
                    self.commit()
                    return reason
            self.commit()
            self._fleet.sync_weights()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
        return None

    def step(self) -> UpdateResult | None:
        """Make one step. None when no group had anything to teach."""
        step, watch = self.step_number + 1, Stopwatch()
        started = time.perf_counter()
        overlapped = bool(self._pending)
        experience = self._pending.popleft() if overlapped else self._sync_and_make(step)
        self._check_versions(experience)
        gate = self._gate(step, experience, watch)
        batches, report = make_batches(experience.groups, experience.scores, self._config)
        self._write_rollouts(experience, report)
        ahead = self._start_ahead(step)
        with watch.measure("update"):
            result = self._update(batches)
        if ahead is not None:
            with watch.measure("wait"):
                self._pending.append(ahead.result())
        metrics = {
            **rollout_metrics(experience.groups, experience.scores),
            **report.metrics(),
            **experience.reward_metrics,
            **(result.metrics if result else {}),
            **gate,
            "rollout/staleness": float(self._staleness_of(experience, result)),
            "rollout/refills": float(experience.refills),
            "data/quarantined": float(sum(draw.broken for draw in experience.draws)),
            "policy/version": float(self._fleet.policy_version),
            "memory/driver_gib": memory_gib(),
            "memory/media_gib": self._fleet.media_bytes() / 2**30,
            **{f"memory/frames_{name}": n for name, n in self._fleet.frame_counts().items()},
            **experience.measured,
            **watch.seconds,
        }
        self._fleet.release([group.encoded for group in experience.groups])
        self.step_number = step
        metrics["time/step_s"] = time.perf_counter() - started
        metrics |= overhead(metrics, overlapped=overlapped) | experience.completion_rate()
        self._record(experience, batches, metrics)
        return result

    def _update(self, batches: list[TrainBatch]) -> UpdateResult | None:
        """Train; engines that can sleep do so, unless they are to generate meanwhile."""
        if not batches:
            return None
        if self._config.max_staleness > 0:
            return self._fleet.update(batches)
        self._fleet.sleep()
        try:
            return self._fleet.update(batches)
        finally:
            self._fleet.wake()

    def commit(self) -> None:
        """Write a commit of the state after the last step, unless it is there."""
        store = self._run_dir.checkpoints
        if any(found.step == self.step_number for found in store.commits()):
            return
        with store.write(self.step_number) as folder:
            self._fleet.save(folder)
            position = self._pending[0].start_position if self._pending else self._position
            write_json(
                folder / "trainer.json",
                {
                    "step": self.step_number,
                    "position": position,
                    "policy_version": self._fleet.policy_version,
                },
            )
            ledger = self._run_dir.path / "ledger.jsonl"
            shutil.copyfile(ledger, folder / "ledger.jsonl") if ledger.is_file() else (
                folder / "ledger.jsonl"
            ).touch()
        self._run_dir.drop_journals(up_to=self.step_number)
        logger.debug("committed step %d", self.step_number)

    def _make(self, step: int, oldest: int | None = None) -> Experience:
        """Make the experience of a step, or replay it when its journal fits."""
        version, position = self._fleet.engine_version, self._position
        oldest = version if oldest is None else max(oldest, 0)
        journal = self._run_dir.read_journal(step)
        if (
            journal is not None
            and journal["start_position"] == position
            and oldest <= journal["policy_version"] <= version
        ):
            logger.info("step %d: the rollouts of the interrupted run are used again", step)
            experience = self._parts.maker.restore(journal)
        else:
            experience = self._parts.maker.make(step, position)
            self._run_dir.write_journal(step, journal_of(experience))
        self._position = experience.end_position
        if step < self._config.max_steps:
            self._parts.maker.prefetch(self._position)
        return experience

    def _sync_and_make(self, step: int, weights: Any = None) -> Experience:
        """Bring weights (a copy, or the newest) to the engines, then make a step's experience."""
        watch = Stopwatch()
        with watch.measure("sync"):
            sent_bytes = self._fleet.sync_weights(weights)
        measured = dict(watch.seconds)
        if sent_bytes:
            measured["throughput/weight_sync_gb_per_s"] = sent_bytes / 1e9 / measured["time/sync_s"]
        experience = self._make(step)
        return dataclasses.replace(experience, measured=measured | experience.measured)

    def _start_ahead(self, step: int) -> "Future[Experience] | None":
        """Start the rollouts of a later step, to be made while this one trains.

        The engines take the weights as they are now, beside the update that changes them.
        """
        later = step + self._config.max_staleness
        if self._config.max_staleness == 0 or later > self._config.max_steps:
            return None
        weights = self._fleet.copy_weights()
        if weights is None:
            return self._thread.submit(self._make, later)
        return self._thread.submit(self._sync_and_make, later, weights)

    def _check_versions(self, experience: Experience) -> None:
        versions = {r.completion.policy_version for g in experience.groups for r in g.rollouts}
        if versions - {experience.policy_version}:
            raise StalenessError(
                f"step {experience.step}: completions say they were made by policy versions "
                f"{sorted(versions)}, the engines held version {experience.policy_version}; a "
                "weight update went into the middle of a generation"
            )
        behind = self._fleet.policy_version - experience.policy_version
        if not 0 <= behind <= self._config.max_staleness:
            raise StalenessError(
                f"step {experience.step}: rollouts are {behind} updates behind the learner, "
                f"train.max_staleness allows {self._config.max_staleness}"
            )

    def _staleness_of(self, experience: Experience, result: UpdateResult | None) -> int:
        before = self._fleet.policy_version - (1 if result else 0)
        return before - experience.policy_version

    def _gate(self, step: int, experience: Experience, watch: Stopwatch) -> dict[str, float]:
        """Compare engine and learner at the first two steps, on schedule and after a resume."""
        every = self._config.logprob_gate_steps
        scheduled = every > 0 and (step <= 2 or (step - 1) % every == 0)
        if not scheduled and not (every > 0 and self._gate_now):
            return {}
        self._gate_now = False
        groups = experience.groups[:GATE_GROUPS]
        with watch.measure("gate"):
            if experience.policy_version != self._fleet.policy_version:
                self._fleet.sync_weights()
                groups = tuple(self._parts.maker.probe(groups, step))
            values = check_logprobs(
                groups, self._fleet.logprobs(groups), step, self._config.logprob_gate_tolerance
            )
        return values if scheduled else {}

    def _write_rollouts(self, experience: Experience, report: BatchReport) -> None:
        advantages = {
            group.group_id: row
            for group, row in zip(experience.groups, report.advantages, strict=True)
        }
        rows = rollout_rows(experience.step, experience.groups, experience.scores, advantages)
        self._run_dir.write_rollouts(experience.step, rows)

    def _record(
        self, experience: Experience, batches: list[TrainBatch], metrics: dict[str, float]
    ) -> None:
        """Write ledger and metrics; evaluate and commit when it is time."""
        step, config = self.step_number, self._config
        trained = {group.group_id for batch in batches for group in batch.groups}
        rows = ledger_rows(experience, trained)
        self._run_dir.append_ledger(rows)
        self._quarantine(rows)
        evaluation = None
        if self._parts.evaluate and config.eval_steps and step % config.eval_steps == 0:
            self._fleet.sync_weights()
            evaluation = self._parts.evaluate(step)
            metrics |= {f"eval/{name}": value for name, value in evaluation.metrics.items()}
        self._parts.logger.log(step, metrics)
        self._steps_here += 1
        logger.info("%s", self._progress(metrics))
        if not trained:
            logger.warning(
                "step %d: no group had a spread of rewards, nothing was trained; a higher "
                "rollout.temperature or rollout.group_size, or other samples, may help",
                step,
            )
        if evaluation or (config.save_steps and step % config.save_steps == 0):
            self.commit()
        if evaluation:
            self._mark_best(evaluation)
        self._run_dir.drop_rollouts(step)
        self._check_quarantine()

    def _quarantine(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write down the samples whose data are broken, and count them."""
        broken = [row for row in rows if row["outcome"] == "quarantined"]
        self._drawn += len(rows)
        self._quarantined += len(broken)
        if broken:
            self._run_dir.append_quarantine(broken)

    def _check_quarantine(self) -> None:
        """Stop when too much of the data is broken.

        Raises:
            DataError: If `train.max_quarantined_fraction` is passed; the run has committed.
        """
        bound = self._config.max_quarantined_fraction
        allowed = max(bound * self._drawn, MIN_QUARANTINE)
        if self._quarantined > allowed:
            self.commit()
            raise DataError(
                f"{self._quarantined} of {self._drawn} drawn samples have broken data, "
                f"train.max_quarantined_fraction allows {bound:g}; quarantine.jsonl in "
                f"{self._run_dir.path} names them. Mend the data, or raise the bound, and "
                "continue with the same command"
            )

    def _mark_best(self, evaluation: Evaluation) -> None:
        value = evaluation.metrics[evaluation.primary]
        pointer = self._run_dir.checkpoints.root / "best.json"
        if pointer.is_file() and json.loads(pointer.read_text())["value"] > value:
            return
        self._run_dir.checkpoints.mark_best(self.step_number, evaluation.primary, value)

    def _progress(self, metrics: dict[str, float]) -> str:
        left = self._config.max_steps - self.step_number
        per_step = (time.monotonic() - self._started) / max(self._steps_here, 1)
        parts = " ".join(
            f"{name.removeprefix('time/').removesuffix('_s')} {seconds:.1f}s"
            for name, seconds in metrics.items()
            if name.startswith("time/") and name.endswith("_s") and name != "time/step_s"
        )
        return (
            f"step {self.step_number}/{self._config.max_steps} "
            f"reward {metrics.get('reward/mean', float('nan')):.3f} "
            f"unparsed {metrics['rollout/parse_error_fraction']:.0%} "
            f"{metrics['time/step_s']:.1f}s ({parts}) "
            f"ETA {time.strftime('%H:%M:%S', time.gmtime(left * per_step))}"
        )


def ledger_rows(experience: Experience, trained: set[str]) -> list[dict[str, object]]:
    """Return what became of every draw: see `rl.audit.OUTCOMES`; the last two have a reason."""
    scored = {
        group.group_id: sum(score.value is not None for score in row)
        for group, row in zip(experience.groups, experience.scores, strict=True)
    }
    rows: list[dict[str, object]] = []
    for draw in experience.draws:
        outcome, reason = "trained", draw.reason
        if draw.reason is not None:
            outcome = "quarantined" if draw.broken else "skipped"
        elif draw.group_id not in trained:
            enough = scored[draw.group_id or ""] >= 2
            outcome = "zero_spread" if enough else "skipped"
            reason = None if enough else "fewer than two rollouts have a score"
        rows.append(
            {
                "step": experience.step,
                "position": draw.position,
                "epoch": draw.epoch,
                "sample_id": draw.sample_id,
                "group_id": draw.group_id,
                "outcome": outcome,
                "reason": reason,
            }
        )
    return rows
