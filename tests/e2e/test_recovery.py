"""Actors that die under a run over Ray: it goes on by itself and ends bit for bit the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descendants, kill
from training_runs import make_inputs, recorded_steps, run_undisturbed, what_must_agree

from scenerl.launch.cli import main
from scenerl.rl.durable import read_lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    return run_undisturbed(root)


CANARY = "hf_canary_91c2"
"""A secret of the environment; nothing that is written may hold it."""
Fault = tuple[str, int, Callable[[Path], bool]]
"""Kind of process, signal, and whether the moment has come."""


def run_with_faults(root: Path, name: str, faults: list[Fault], *more: str) -> tuple[int, int]:
    """Run stage 1 over Ray; send each signal, in order, once its moment has come."""
    words = ["stage1", "--config", str(root / "tiny.yaml"), f"name={name}", *more]
    todo = list(faults)
    with (root / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.launch.cli", *words],
            stdout=log, stderr=log, start_new_session=True, env={**os.environ, "HF_TOKEN": CANARY},
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            if todo:
                kind, number, moment = todo[0]
                if moment(root / "runs" / name) and kill(process.pid, kind, number):
                    del todo[0]
            time.sleep(0.01)
        left = descendants(process.pid)
        process.kill()
        code = process.wait()
    assert not left or code == -9
    return code, len(faults) - len(todo)


def journaled(run: Path, step: int) -> bool:
    return (run / "journal" / f"step_{step:06d}.json").exists()


def test_a_run_that_loses_its_engine_and_its_learner_ends_bit_identical(
    root: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, sent = run_with_faults(
        root, "faults",
        [
            ("ray::EngineActor", signal.SIGKILL, lambda run: recorded_steps(run) >= 1),
            ("ray::LearnerActor", signal.SIGKILL, lambda run: recorded_steps(run) >= 3),
        ],
    )  # fmt: skip
    log = (root / "faults.log").read_text()
    assert code == 0, log[-5000:]
    assert sent == 2
    run = root / "runs" / "faults"
    assert what_must_agree(run) == what_must_agree(undisturbed)
    engine, learner = read_lines(run / "faults.jsonl")
    assert (engine["engine"], learner.get("engine")) == (0, None)
    assert "the process died" in engine["lost"]
    assert "learner 0: " in learner["lost"]
    # the engine is replaced alone; only the learner's end costs the generation
    assert (engine["generation"], learner["generation"]) == (1, 1)
    assert json.loads((run / "generation.json").read_text())["generation"] == 2
    assert log.count("engine 0 is started anew, alone") == 1

    files = [file for file in run.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]
    assert CANARY not in log

    capsys.readouterr()
    assert main(["audit", str(run)]) == 0
    assert "all accounted for, once" in capsys.readouterr().out
    assert main(["status", str(run)]) == 0
    assert "stage1 done, step 4/4" in capsys.readouterr().out
    assert main(["logs", str(run), "--lines", "400"]) == 0
    assert "starting all anew" in capsys.readouterr().out


@pytest.mark.slow
def test_a_frozen_engine_is_replaced_after_its_deadline(root: Path, undisturbed: Path) -> None:
    code, sent = run_with_faults(
        root, "frozen",
        [("ray::EngineActor", signal.SIGSTOP, lambda run: recorded_steps(run) >= 1)],
        "cluster.rollout_timeout_s=15", "cluster.step_timeout_s=20", "train.save_steps=1",
    )  # fmt: skip
    assert (code, sent) == (0, 1), (root / "frozen.log").read_text()[-5000:]
    run = root / "runs" / "frozen"
    assert what_must_agree(run) == what_must_agree(undisturbed)
    (fault,) = read_lines(run / "faults.jsonl")
    assert fault["engine"] == 0
    assert "no answer within" in fault["lost"]
    assert json.loads((run / "generation.json").read_text())["generation"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "staleness"), [("transformers", 0), ("transformers", 1), ("vllm", 0)]
)
def test_one_of_two_engines_is_replaced_while_the_other_stays(
    root: Path, engine: str, staleness: int
) -> None:
    more = ["rollout.num_engines=2", f"train.max_staleness={staleness}", "train.save_steps=4"]
    more += [f"rollout.engine={engine}", "rollout.cpu_kv_cache_gib=0.25"]
    name = f"two_{engine}_{staleness}"
    assert run_with_faults(root, f"{name}_whole", [], *more) == (0, 0)
    code, sent = run_with_faults(
        root, name,
        [
            ("ray::EngineActor", signal.SIGKILL, lambda run: journaled(run, 2)),
            ("ray::EngineActor", signal.SIGKILL, lambda run: journaled(run, 3)),
        ],
        *more,
    )  # fmt: skip
    log = (root / f"{name}.log").read_text()
    assert (code, sent) == (0, 2), log[-5000:]
    run = root / "runs" / name
    assert what_must_agree(run) == what_must_agree(root / "runs" / f"{name}_whole")
    assert {fault["generation"] for fault in read_lines(run / "faults.jsonl")} == {1}
    assert "is started anew, alone" in log


def test_an_actor_that_dies_at_once_again_and_again_stops_the_run(root: Path) -> None:
    code, sent = run_with_faults(
        root, "hopeless",
        [("ray::LearnerActor", signal.SIGKILL, lambda run: True)],
        "cluster.max_recoveries=0",
    )  # fmt: skip
    assert sent == 1
    assert code == 75, (root / "hopeless.log").read_text()[-3000:]
    ended = json.loads((root / "runs" / "hopeless" / "exit.json").read_text())
    assert ended["code"] == 75
    assert "the process died" in ended["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ray::EngineActor", "VLLM::Worker_TP1"])
def test_a_tensor_parallel_engine_is_replaced_and_leaves_nothing(root: Path, victim: str) -> None:
    more = ["rollout.engine=vllm", "rollout.tensor_parallel_size=2", "train.save_steps=4"]
    more += ["rollout.cpu_kv_cache_gib=0.25"]
    name = "wide_" + victim[-3:]
    assert run_with_faults(root, f"{name}_whole", [], *more) == (0, 0)
    code, sent = run_with_faults(
        root, name, [(victim, signal.SIGKILL, lambda run: journaled(run, 2))], *more
    )
    log = (root / f"{name}.log").read_text()
    assert (code, sent) == (0, 1), log[-5000:]
    run = root / "runs" / name
    assert what_must_agree(run) == what_must_agree(root / "runs" / f"{name}_whole")
    assert {fault["generation"] for fault in read_lines(run / "faults.jsonl")} == {1}
    assert "is started anew, alone" in log
    assert not [line for line in descendants(1).values() if "VLLM::Worker" in line]
