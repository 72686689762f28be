"""kill -9 of any process of a run at random moments: the same command ends with the same bytes.

SCENERL_CHAOS_KILLS (10) kills over SCENERL_CHAOS_SEED (0): the driver, engines, learners, encoders,
reward and decode children, the raylet and Ray's head. `make chaos`. SCENERL_CHAOS_LEARNERS=2 trains
with two DeepSpeed ranks, SCENERL_CHAOS_ENGINE=vllm rolls out with vLLM:

    SCENERL_CHAOS_KILLS=100 SCENERL_CHAOS_LEARNERS=2 SCENERL_CHAOS_ENGINE=vllm make chaos
"""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import descendants
from training_runs import make_inputs, recorded_steps, what_must_agree

from scenerl.launch.cli import main
from scenerl.rl.checkpoint import CheckpointStore

KINDS = (
    "driver", "ray::EngineActor", "ray::LearnerActor", "ray::EncoderActor", "scenerl.rewards",
    "scenerl.preprocess.decode", "raylet/raylet", "gcs_server",
)  # fmt: skip
KILLS = int(os.environ.get("SCENERL_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("SCENERL_CHAOS_SEED", "0"))
LEARNERS = int(os.environ.get("SCENERL_CHAOS_LEARNERS", "1"))
ENGINE = os.environ.get("SCENERL_CHAOS_ENGINE", "transformers")
STEPS = max(12, 6 * KILLS)
"""Enough to kill at; a run that ends before its last kill proves less."""
RESUMABLE = {75, -signal.SIGKILL, 1}
"""What a run says whose driver or Ray was killed; 1 is Ray ending the driver when its head died."""


@pytest.mark.slow
@pytest.mark.chaos
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    config = str(make_inputs(tmp_path))
    steps = [f"train.max_steps={STEPS}", "train.save_steps=3", f"rollout.engine={ENGINE}"]
    if LEARNERS > 1:
        steps += [f"cluster.num_learners={LEARNERS}", "train.learner=deepspeed"]
        steps += ["train.zero_stage=2"]
    # one process where one process can do it: the comparison then spans both ways to run
    alone = ["--no-ray"] if LEARNERS == 1 else []
    whole = ["stage1", "--config", config, "name=whole", *alone, *steps]
    code, _ = start_and_disturb(whole, tmp_path / "whole.log", random.Random(SEED), 0)
    assert code == 0, (tmp_path / "whole.log").read_text()[-4000:]
    words = ["stage1", "--config", config, "name=chaos", *steps]
    dice, done = random.Random(SEED), collections.Counter[str]()
    log, run = tmp_path / "chaos.log", tmp_path / "runs" / "chaos"
    for start in range(4 * KILLS + 4):
        code, killed = start_and_disturb(words, log, dice, KILLS - done.total(), run)
        done.update(killed)
        if code == 0:
            break
        assert code in RESUMABLE, f"start {start} ended with {code}: {log.read_text()[-4000:]}"
    assert what_must_agree(run) == what_must_agree(tmp_path / "runs" / "whole"), done
    assert main(["audit", str(run)]) == 0
    generations = json.loads((run / "generation.json").read_text())["generation"]
    print(f"{done.total()} kills: {dict(done)}, {generations} generations")  # noqa: T201
    assert done.total() == KILLS


def start_and_disturb(
    words: list[str], log: Path, dice: random.Random, kills: int, run: Path = Path()
) -> tuple[int, list[str]]:
    """Run the command and kill up to `kills` processes below it, seconds apart.

    Two kills of three wait for the run's next step, or all would strike while it loads.
    """
    killed: list[str] = []
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.launch.cli", *words],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        moment = next_moment(run, dice)
        while process.poll() is None:
            if len(killed) < kills and next(moment):
                kind = dice.choice(KINDS)
                if strike(process.pid, kind, dice):
                    killed.append(kind)
                    moment = next_moment(run, dice)
            time.sleep(0.05)
    return process.returncode, killed


def next_moment(run: Path, dice: random.Random) -> Iterator[bool]:
    """Yield whether it is time to kill something: up to 3 s after a step, or any time."""
    if dice.random() < 2 / 3:
        before = recorded_steps(run)
        while recorded_steps(run) <= before:
            yield False
        until = time.monotonic() + dice.uniform(0, 3)
    else:
        until = time.monotonic() + dice.uniform(1, 15)
    while time.monotonic() < until:
        yield False
    while True:
        yield True


def strike(driver: int, kind: str, dice: random.Random) -> bool:
    """Kill one process of a kind; whether there was one."""
    below = descendants(driver)
    pids = [driver] if kind == "driver" else [p for p, line in below.items() if kind in line]
    if not pids:
        return False
    os.kill(dice.choice(sorted(pids)), signal.SIGKILL)
    return True


@pytest.mark.slow
@pytest.mark.chaos
def test_the_comparison_notices_a_generator_that_is_not_restored(tmp_path: Path) -> None:
    """The negative control: dropout draws from the learner's generator."""
    config = str(make_inputs(tmp_path))
    more = ["model.lora_r=4", "model.lora_dropout=0.3", "train.max_steps=4", "train.save_steps=2"]
    log = tmp_path / "control.log"
    results = {}
    for name, forget in (("whole", None), ("kept", False), ("forgotten", True)):
        words = ["stage1", "--config", config, f"name={name}", "--no-ray", *more]
        assert start_and_disturb(words, log, random.Random(SEED), 0)[0] == 0
        run = tmp_path / "runs" / name
        if forget is not None:
            go_back_to_step_2(run, forget=forget)
            assert start_and_disturb(words, log, random.Random(SEED), 0)[0] == 0
        results[name] = what_must_agree(run)
    assert results["kept"] == results["whole"]
    assert results["forgotten"] != results["whole"]
    assert results["forgotten"]["ledger.jsonl"] == results["whole"]["ledger.jsonl"]


def go_back_to_step_2(run: Path, *, forget: bool) -> None:
    """Make a finished run one that died after step 2, with or without the generator's state."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step_000004")
    if not forget:
        return
    old = run / "checkpoints" / "step_000002"
    with CheckpointStore(run / "checkpoints").write(2) as folder:
        shutil.copytree(old, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        file = folder / "learner" / "rank0.pt"
        state = torch.load(file, weights_only=True)
        fresh = torch.Generator().manual_seed(1234)
        torch.save({**state, "rng": fresh.get_state()}, file)
