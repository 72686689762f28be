import json
from pathlib import Path
from typing import Any

import pytest

from scenerl.rl.audit import audit_run
from scenerl.rl.checkpoint import CheckpointStore
from scenerl.rl.durable import write_json, write_lines
from scenerl.rl.sampler import EpochSampler

IDS = ["a", "b", "c"]


def ledger(count: int) -> list[dict[str, Any]]:
    """Two draws a step, over epochs of three samples; the fourth is broken."""
    sampler = EpochSampler(IDS, seed=5)
    rows = []
    for position in range(count):
        name = IDS[sampler.index(position)]
        broken = position == 3
        rows.append(
            {
                "step": position // 2 + 1,
                "position": position,
                "epoch": sampler.epoch(position),
                "sample_id": name,
                "group_id": None if broken else f"{name}#{position}",
                "outcome": "quarantined" if broken else "trained",
                "reason": "OSError: cut off" if broken else None,
            }
        )
    return rows


def write_run(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.mkdir()
    write_lines(path / "ledger.jsonl", rows)
    write_lines(path / "metrics.jsonl", [{"step": 1}, {"step": 2}, {"step": 3}])
    with CheckpointStore(path / "checkpoints").write(2) as folder:
        write_lines(folder / "ledger.jsonl", [row for row in rows if row["step"] <= 2])
        write_json(folder / "trainer.json", {"step": 2, "position": 4})
    return path


def test_a_sound_run_is_balanced_and_counted_by_epoch(tmp_path: Path) -> None:
    found = audit_run(write_run(tmp_path / "run", ledger(6)), IDS, 5)
    assert found.balanced
    assert found.problems == ()
    assert (found.steps, found.commits) == (3, (2,))
    assert [(e.epoch, e.rows, e.drawn, e.outcomes) for e in found.epochs] == [
        (0, 3, 3, {"trained": 3}),
        (1, 3, 3, {"quarantined": 1, "trained": 2}),
    ]


def test_several_prompts_of_a_sample_count_once_by_the_best_outcome(tmp_path: Path) -> None:
    rows = ledger(6)
    rows.insert(1, {**rows[0], "group_id": "second#0", "outcome": "zero_spread"})
    found = audit_run(write_run(tmp_path / "run", rows), IDS, 5)
    assert found.balanced
    assert found.epochs[0].outcomes == {"trained": 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.pop(1), "1 of 6 drawn positions are not in the ledger, first 1"),
        (lambda rows: rows.append(dict(rows[0])), "#0 is in the ledger 2 times"),
        (lambda rows: rows[0].update(sample_id="x"), "other samples than seed 5 draws"),
        (lambda rows: rows[3].update(reason=None), "was quarantined without a reason"),
        (lambda rows: rows[2].update(outcome="lost"), "unknown outcome 'lost'"),
        (lambda rows: rows[5].update(step=9), "metrics.jsonl does not: [9]"),
        (lambda rows: rows[0].update(reason="edited"), "the ledger inside commit 2"),
    ],
)
def test_each_contradiction_is_named(tmp_path: Path, change: Any, words: str) -> None:
    run = write_run(tmp_path / "run", ledger(6))
    rows = ledger(6)
    change(rows)
    write_lines(run / "ledger.jsonl", rows)
    found = audit_run(run, IDS, 5)
    assert not found.balanced
    assert any(words in problem for problem in found.problems), found.problems


def test_a_flipped_bit_in_a_commit_is_noticed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ledger(6))
    file = run / "checkpoints" / "step_000002" / "trainer.json"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))
    found = audit_run(run, IDS, 5)
    assert found.commits == ()
    assert any("SHA-256" in problem for problem in found.problems)


def test_another_position_in_a_commit_is_noticed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ledger(6))
    folder = run / "checkpoints" / "step_000002"
    values = json.loads((folder / "trainer.json").read_text())
    with CheckpointStore(run / "checkpoints").write(3) as again:
        write_lines(again / "ledger.jsonl", ledger(6))
        write_json(again / "trainer.json", {**values, "position": 7})
    found = audit_run(run, IDS, 5)
    assert found.problems == ("commit 3 continues at position 7, its ledger ends at 6",)
