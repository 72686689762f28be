"""Check a run from its files alone: every drawn sample accounted for, once, in the right order."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenerl.rl.checkpoint import CheckpointStore, step_of, verify
from scenerl.rl.durable import read_lines
from scenerl.rl.sampler import EpochSampler

OUTCOMES = ("trained", "zero_spread", "skipped", "quarantined")
"""What can become of a drawn sample."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EpochCount:
    """What became of the samples of one epoch."""

    epoch: int
    rows: int
    """Samples in an epoch."""
    drawn: int
    outcomes: dict[str, int]
    """By outcome; a sample with several prompts counts once, by the best of its outcomes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the files of a run prove, and what contradicts it."""

    steps: int
    """Steps in the ledger."""
    epochs: tuple[EpochCount, ...]
    commits: tuple[int, ...]
    """Steps of the commits whose files have the SHA-256 that their manifest states."""
    problems: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether trained + zero_spread + skipped + quarantined = drawn, with nothing twice."""
        return not self.problems


def audit_run(path: Path, sample_ids: Sequence[str] | None, seed: int) -> Audit:
    """Audit a run directory without starting anything.

    Args:
        path: Run directory of stage1 or stage2.
        sample_ids: Ids of the training split; None (the data are elsewhere) skips the comparison of
            the order of the samples with `EpochSampler`.
        seed: Seed of the run.

    Returns:
        Counts per epoch and every contradiction that was found.

    Raises:
        ValueError: If a file of lines is damaged before its last line.
    """
    ledger = read_lines(path / "ledger.jsonl")
    problems = [*_check_ledger(ledger, sample_ids, seed), *_check_steps(path, ledger)]
    commits, damaged = _check_commits(path, ledger)
    return Audit(
        steps=max((row["step"] for row in ledger), default=0),
        epochs=tuple(_count(ledger, len(sample_ids) if sample_ids is not None else None)),
        commits=tuple(commits),
        problems=(*problems, *damaged),
    )


def _check_ledger(
    ledger: Sequence[dict[str, Any]], sample_ids: Sequence[str] | None, seed: int
) -> list[str]:
    problems = []
    groups = Counter(row["group_id"] for row in ledger if row["group_id"] is not None)
    problems += [f"group {name} is in the ledger {n} times" for name, n in groups.items() if n > 1]
    problems += [
        f"step {row['step']}: {row['sample_id']} has the unknown outcome {row['outcome']!r}"
        for row in ledger
        if row["outcome"] not in OUTCOMES
    ]
    problems += [
        f"step {row['step']}: {row['sample_id']} was {row['outcome']} without a reason"
        for row in ledger
        if row["outcome"] in ("skipped", "quarantined") and not row["reason"]
    ]
    names: dict[int, str] = {}
    for row in ledger:
        if names.setdefault(row["position"], row["sample_id"]) != row["sample_id"]:
            problems.append(f"position {row['position']} holds two samples")
    end = max(names, default=-1) + 1
    missing = [position for position in range(end) if position not in names]
    if missing:
        problems.append(
            f"{len(missing)} of {end} drawn positions are not in the ledger, first {missing[0]}"
        )
    if sample_ids is not None and names:
        sampler = EpochSampler(sample_ids, seed)
        wrong = [p for p, name in names.items() if sampler.sample_ids[sampler.index(p)] != name]
        if wrong:
            problems.append(
                f"{len(wrong)} positions hold other samples than seed {seed} draws from the data, "
                f"first position {min(wrong)}: {names[min(wrong)]}"
            )
    return problems


def _check_steps(path: Path, ledger: Sequence[dict[str, Any]]) -> list[str]:
    metrics = [row["step"] for row in read_lines(path / "metrics.jsonl")]
    problems = []
    if metrics != list(range(1, len(metrics) + 1)):
        problems.append(f"metrics.jsonl does not hold steps 1 to {len(metrics)} once each")
    extra = {row["step"] for row in ledger} - {*metrics, len(metrics) + 1}
    if extra:
        problems.append(f"the ledger knows steps that metrics.jsonl does not: {sorted(extra)[:5]}")
    return problems


def _check_commits(path: Path, ledger: Sequence[dict[str, Any]]) -> tuple[list[int], list[str]]:
    folder = path / "checkpoints"
    if not folder.is_dir():
        return [], []
    whole, problems = [], []
    for path in CheckpointStore.read_only(folder).folders():
        problem = verify(path)
        if problem is not None:
            problems.append(problem)
            continue
        step = step_of(path)
        whole.append(step)
        kept = read_lines(path / "ledger.jsonl")
        if kept != [row for row in ledger if row["step"] <= step]:
            problems.append(f"the ledger inside commit {step} is not the run's up to there")
        file = path / "trainer.json"
        position = json.loads(file.read_text())["position"] if file.is_file() else None
        drawn = max((row["position"] for row in kept), default=-1) + 1
        if position is not None and position != drawn:
            problems.append(
                f"commit {step} continues at position {position}, its ledger ends at {drawn}"
            )
    return whole, problems


def _count(ledger: Sequence[dict[str, Any]], rows: int | None) -> list[EpochCount]:
    best: dict[int, dict[int, str]] = {}
    for row in ledger:
        outcomes = best.setdefault(row["epoch"], {})
        held = outcomes.get(row["position"])
        if held is None or OUTCOMES.index(row["outcome"]) < OUTCOMES.index(held):
            outcomes[row["position"]] = row["outcome"]
    return [
        EpochCount(
            epoch=epoch,
            rows=len(outcomes) if rows is None else rows,
            drawn=len(outcomes),
            outcomes=dict(Counter(outcomes.values())),
        )
        for epoch, outcomes in sorted(best.items())
    ]
