"""kill -9 of any process of a run at random moments: the same command ends with the same bytes.

SCENERL_CHAOS_KILLS (10) kills over SCENERL_CHAOS_SEED (0): the driver, engines, learners, encoders,
reward children, the raylet and Ray's head. `make chaos`.
"""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import descendants
from training_runs import make_inputs, run_child, what_must_agree

from scenerl.launch.cli import main

KINDS = (
    "driver", "ray::EngineActor", "ray::LearnerActor", "ray::EncoderActor", "scenerl.rewards",
    "raylet/raylet", "gcs_server",
)  # fmt: skip
KILLS = int(os.environ.get("SCENERL_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("SCENERL_CHAOS_SEED", "0"))
RESUMABLE = {75, -signal.SIGKILL, 1}
"""What a run says whose driver or Ray was killed; 1 is Ray ending the driver when its head died."""


@pytest.mark.slow
@pytest.mark.chaos
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    config = str(make_inputs(tmp_path))
    steps = ["train.max_steps=12", "train.save_steps=3"]
    whole = ["stage1", "--config", config, "name=whole", "--no-ray", *steps]
    assert run_child(whole, tmp_path / "whole.log") == 0
    words = ["stage1", "--config", config, "name=chaos", *steps]
    dice, done = random.Random(SEED), collections.Counter[str]()
    log = tmp_path / "chaos.log"
    for start in range(4 * KILLS + 4):
        code, killed = start_and_disturb(words, log, dice, KILLS - done.total())
        done.update(killed)
        if code == 0:
            break
        assert code in RESUMABLE, f"start {start} ended with {code}: {log.read_text()[-4000:]}"
    run = tmp_path / "runs" / "chaos"
    assert what_must_agree(run) == what_must_agree(tmp_path / "runs" / "whole"), done
    assert main(["audit", str(run)]) == 0
    generations = json.loads((run / "generation.json").read_text())["generation"]
    print(f"{done.total()} kills: {dict(done)}, {generations} generations")  # noqa: T201
    assert done.total() == KILLS


def start_and_disturb(
    words: list[str], log: Path, dice: random.Random, kills: int
) -> tuple[int, list[str]]:
    """Run the command and kill up to `kills` processes below it, seconds apart."""
    killed: list[str] = []
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.launch.cli", *words],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        pause = time.monotonic() + dice.uniform(5, 40)
        while process.poll() is None:
            if len(killed) < kills and time.monotonic() > pause:
                kind = dice.choice(KINDS)
                if strike(process.pid, kind, dice):
                    killed.append(kind)
                    pause = time.monotonic() + dice.uniform(5, 40)
            time.sleep(0.05)
    return process.returncode, killed


def strike(driver: int, kind: str, dice: random.Random) -> bool:
    """Kill one process of a kind; whether there was one."""
    below = descendants(driver)
    pids = [driver] if kind == "driver" else [p for p, line in below.items() if kind in line]
    if not pids:
        return False
    os.kill(dice.choice(sorted(pids)), signal.SIGKILL)
    return True
