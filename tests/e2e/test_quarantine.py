"""Rows whose media are broken: written down, counted, and bounded."""

import json
from pathlib import Path

from training_runs import make_inputs, run_child

from scenerl.launch.cli import main
from scenerl.rl.durable import read_lines


def test_broken_frames_are_quarantined_and_too_many_of_them_stop_the_run(tmp_path: Path) -> None:
    config = make_inputs(tmp_path)
    scenes = sorted((tmp_path / "rooms" / "scenes").glob("*train*"))
    for frame in (scenes[0] / "color").iterdir():
        frame.write_bytes(frame.read_bytes()[:100])
    words = ["stage1", "--config", str(config), "name=half", "--no-ray", "train.save_steps=1"]
    log = tmp_path / "half.log"
    assert run_child([*words, "train.max_quarantined_fraction=0.2"], log) == 65
    run = tmp_path / "runs" / "half"
    ended = json.loads((run / "exit.json").read_text())
    assert "drawn samples have broken data" in ended["reason"]
    rows = read_lines(run / "quarantine.jsonl")
    assert len(rows) >= 3
    assert all(row["reason"] for row in rows)
    assert rows == [r for r in read_lines(run / "ledger.jsonl") if r["outcome"] == "quarantined"]
    assert main(["audit", str(run)]) == 0

    allow = ["--allow-config-change", "train.max_quarantined_fraction"]
    assert run_child([*words, "train.max_quarantined_fraction=1.0", *allow], log) == 0
    assert main(["audit", str(run)]) == 0
    metrics = read_lines(run / "metrics.jsonl")
    counted = sum(row["data/quarantined"] for row in metrics)
    assert counted == len(read_lines(run / "quarantine.jsonl"))
