"""Both stages through the command line: Ray actors, vLLM rollouts, a torch learner."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import make_inputs, run_child, what_must_agree

from scenerl.configs.load import load_config
from scenerl.launch.session import write_predictions
from scenerl.preprocess.store import read_samples
from scenerl.rl.durable import read_lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    make_inputs(folder)
    return folder


def launch(
    root: Path, name: str, *more: str, kill_when: Callable[[Path], bool] | None = None
) -> int:
    """Run stage 1 over Ray and vLLM in a process of its own; the log is root/NAME.log."""
    words = ["stage1", "--config", str(root / "tiny.yaml"), f"name={name}", "rollout.engine=vllm"]
    command = [sys.executable, "-m", "scenerl.launch.cli", *words, "train.max_steps=2", *more]
    with (root / f"{name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            if kill_when is not None and kill_when(root / "runs" / name):
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        process.kill()
        return process.wait()


@pytest.fixture(scope="module")
def stage1(root: Path) -> Path:
    code = launch(root, "stage1", "train.save_steps=1")
    assert code == 0, (root / "stage1.log").read_text()[-5000:]
    return root / "runs" / "stage1"


def test_stage_one_leaves_a_whole_run(stage1: Path) -> None:
    rows = read_lines(stage1 / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["policy/version"] for row in rows] == [1.0, 2.0]
    assert all(row["logprob_gate/mean_abs_diff"] < 1e-4 for row in rows)
    rollouts = read_lines(stage1 / "rollouts" / "step_000002.jsonl")
    assert len(rollouts) == 2 * 3
    assert {row["policy_version"] for row in rollouts} == {1}
    assert all(row["media"][0]["kind"] == "video" for row in rollouts)
    ledger = read_lines(stage1 / "ledger.jsonl")
    assert [row["position"] for row in ledger] == sorted({row["position"] for row in ledger})
    assert (stage1 / "checkpoints" / "step_000002" / "model" / "config.json").is_file()
    summary = json.loads((stage1 / "summary.json").read_text())
    assert (summary["steps"], summary["eval_prompts"]) == (2, 2)
    predictions = read_lines(stage1 / "predictions" / "train.jsonl")
    assert len(predictions) == 12
    assert json.loads((stage1 / "exit.json").read_text())["code"] == 0


def test_stage_two_trains_on_the_predicted_spans(root: Path, stage1: Path) -> None:
    config = load_config(str(root / "tiny.yaml"), [])
    samples = [s for s in read_samples(root / "rooms", "train") if s.target.spans_s][:6]
    rows = [
        {
            "sample_id": sample.sample_id,
            "answer": {"span_s": list(sample.target.spans_s[0])},
            "parse_error": None,
            "scores": {"temporal_iou": 1.0},
        }
        for sample in samples
    ]
    write_predictions(stage1, config, "train", rows, "made for this test")
    words = ["stage2", "--config", str(root / "tiny.yaml"), "name=stage2", "--from", str(stage1)]
    words += ["env.name=image_grounding", "env.frames_per_span=2", "train.max_steps=1", "--no-ray"]
    log = root / "stage2.log"
    code = run_child([*words, "data.max_train_samples=null"], log)
    assert code == 0, log.read_text()[-5000:]
    run = root / "runs" / "stage2"
    spans = json.loads((run / "spans.json").read_text())
    assert spans["usable"] == 6
    known = {sample.sample_id for sample in samples}
    ledger = read_lines(run / "ledger.jsonl")
    trained = [row for row in ledger if row["outcome"] == "trained"]
    assert trained
    assert {row["sample_id"] for row in trained} <= known
    reasons = {row["reason"] for row in ledger if row["sample_id"] not in known}
    assert reasons <= {"no usable predicted span", "no true box"}
    saved = load_config(str(run / "config.yaml"), [])
    assert saved.model.path == str(stage1 / "checkpoints" / "step_000002" / "model")
    assert read_lines(run / "rollouts" / "step_000001.jsonl")[0]["media"][0]["kind"] == "image"


def test_stage_two_refuses_a_run_without_predictions(root: Path, stage1: Path) -> None:
    words = ["stage2", "--config", str(root / "tiny.yaml"), "name=x", "env.name=image_grounding"]
    log = root / "x.log"
    bare = root / "bare"
    (bare / "checkpoints").mkdir(parents=True)
    (bare / "config.yaml").write_text("# launch stage1\n")
    assert run_child([*words, "--from", str(bare), "--no-ray"], log) == 64
    assert run_child([*words, "--from", str(bare), "--no-ray", "model.path=tiny"], log) == 65
    assert "no predictions for split 'train'" in log.read_text()


@pytest.mark.slow
def test_ray_run_equals_the_run_in_one_process(root: Path, stage1: Path) -> None:
    assert launch(root, "alone", "train.save_steps=1", "--no-ray") == 0
    one, other = what_must_agree(root / "runs" / "alone"), what_must_agree(stage1)
    same = [name for name in one if not name.startswith("predictions")]
    assert {name: one[name] for name in same} == {name: other[name] for name in same}


@pytest.mark.slow
def test_ray_run_killed_and_continued_ends_bit_identical(root: Path) -> None:
    assert launch(root, "whole", "train.save_steps=1") == 0
    moments = [
        lambda run: (run / "journal" / "step_000001.json").exists(),
        lambda run: any((run / "checkpoints").glob("tmp.1.*/model")),
        lambda run: (run / "journal" / "step_000002.json").exists(),
    ]
    for moment in moments:
        assert launch(root, "killed", "train.save_steps=1", kill_when=moment) == -9
    assert launch(root, "killed", "train.save_steps=1") == 0
    assert what_must_agree(root / "runs" / "killed") == what_must_agree(root / "runs" / "whole")


@pytest.mark.slow
def test_a_dead_engine_ends_the_run_so_that_it_can_continue(root: Path) -> None:
    killed: list[int] = []

    def kill_the_engine(run: Path) -> bool:
        if not killed and (run / "metrics.jsonl").exists():
            found = subprocess.run(
                ["pgrep", "-f", "ray::EngineActor"], capture_output=True, text=True
            ).stdout.split()
            for pid in (int(text) for text in found if _is_ours(int(text))):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        return False

    assert launch(root, "orphan", "train.save_steps=1", kill_when=kill_the_engine) == 75
    assert killed
    assert "the process died" in (root / "runs" / "orphan" / "exit.json").read_text()
    assert launch(root, "orphan", "train.save_steps=1") == 0


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one; other tests may run engines of their own."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False
