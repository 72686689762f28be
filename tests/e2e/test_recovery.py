"""Actors that die under a run over Ray: it goes on by itself and ends bit for bit the same."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descendants, kill
from training_runs import make_inputs, run_child, what_must_agree

from scenerl.launch.cli import main
from scenerl.rl.durable import read_lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    words = ["stage1", "--config", str(root / "tiny.yaml"), "name=whole", "--no-ray"]
    assert run_child(words, root / "whole.log") == 0, (root / "whole.log").read_text()[-3000:]
    return root / "runs" / "whole"


def run_with_faults(
    root: Path, name: str, faults: dict[str, Callable[[Path], bool]], *more: str
) -> tuple[int, list[str]]:
    """Run stage 1 over Ray; kill one process of each kind once its moment has come."""
    words = ["stage1", "--config", str(root / "tiny.yaml"), f"name={name}", *more]
    todo, killed = dict(faults), []
    with (root / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.launch.cli", *words],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            for kind, moment in list(todo.items()):
                if moment(root / "runs" / name) and kill(process.pid, kind):
                    killed.append(kind)
                    del todo[kind]
            time.sleep(0.01)
        left = descendants(process.pid)
        process.kill()
        code = process.wait()
    assert not left or code == -9
    return code, killed


def steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_run_that_loses_its_engine_and_its_learner_ends_bit_identical(
    root: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, killed = run_with_faults(
        root, "faults",
        {
            "ray::EngineActor": lambda run: steps(run) >= 1,
            "ray::LearnerActor": lambda run: steps(run) >= 3,
        },
    )  # fmt: skip
    log = (root / "faults.log").read_text()
    assert code == 0, log[-5000:]
    assert killed == ["ray::EngineActor", "ray::LearnerActor"]
    run = root / "runs" / "faults"
    assert what_must_agree(run) == what_must_agree(undisturbed)
    faults = read_lines(run / "faults.jsonl")
    assert [fault["generation"] for fault in faults] == [1, 2]
    assert all("the process died" in fault["lost"] for fault in faults)
    assert json.loads((run / "generation.json").read_text())["generation"] == 3

    capsys.readouterr()
    assert main(["audit", str(run)]) == 0
    assert "all accounted for, once" in capsys.readouterr().out
    assert main(["status", str(run)]) == 0
    assert "stage1 done, step 4/4" in capsys.readouterr().out
    assert main(["logs", str(run), "--lines", "400"]) == 0
    assert "starting all anew" in capsys.readouterr().out


def test_an_actor_that_dies_at_once_again_and_again_stops_the_run(root: Path) -> None:
    code, killed = run_with_faults(
        root, "hopeless", {"ray::EngineActor": lambda run: True}, "cluster.max_recoveries=0"
    )
    assert killed == ["ray::EngineActor"]
    assert code == 75, (root / "hopeless.log").read_text()[-3000:]
    ended = json.loads((root / "runs" / "hopeless" / "exit.json").read_text())
    assert ended["code"] == 75
    assert "the process died" in ended["reason"]
