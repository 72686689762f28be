"""kill -9 at any moment, the same command again: the run ends bit for bit as if nothing was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_runs import make_inputs, run_child, what_must_agree

from scenerl.rl.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_inputs(folder)
    return folder


def command(root: Path, name: str, *more: str) -> list[str]:
    return ["stage1", "--config", str(root / "tiny.yaml"), f"name={name}", "--no-ray", *more]


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    assert run_child(command(root, "whole"), root / "whole.log") == 0, (
        root / "whole.log"
    ).read_text()[-3000:]
    return root / "runs" / "whole"


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "evaluating": lambda run: (run / "eval" / "before.jsonl").exists(),
    "before an update": lambda run: (run / "journal" / "step_000002.json").exists(),
    "inside a commit": lambda run: any((run / "checkpoints").glob("tmp.2.*/model")),
    "between commits": lambda run: lines(run / "metrics.jsonl") >= 3,
    "predicting": lambda run: (run / "eval" / "predict_train.jsonl").exists(),
}


def test_run_killed_again_and_again_ends_bit_identical(root: Path, undisturbed: Path) -> None:
    run, log = root / "runs" / "killed", root / "killed.log"
    for name, moment in MOMENTS.items():
        code = run_child(command(root, "killed"), log, lambda now=moment: now(run))
        assert code == -9, f"{name}: {log.read_text()[-3000:]}"
    assert run_child(command(root, "killed"), log) == 0, log.read_text()[-3000:]
    assert what_must_agree(run) == what_must_agree(undisturbed)
    assert json.loads((run / "exit.json").read_text())["code"] == 0
    assert json.loads((run / "generation.json").read_text())["generation"] == len(MOMENTS) + 1


@pytest.mark.parametrize("forgotten", ["optimizer", "position"])
def test_a_resume_that_forgets_something_is_noticed(
    root: Path, undisturbed: Path, forgotten: str
) -> None:
    run = root / "runs" / forgotten
    shutil.copytree(undisturbed, run)
    (run / "summary.json").unlink()
    store = CheckpointStore(run / "checkpoints")
    shutil.rmtree(run / "checkpoints" / "step_000004")
    old = run / "checkpoints" / "step_000002"
    with store.write(2) as folder:
        shutil.copytree(old, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        forget(folder, forgotten)
    assert run_child(command(root, forgotten), root / f"{forgotten}.log") == 0
    assert what_must_agree(run) != what_must_agree(undisturbed)


def forget(folder: Path, what: str) -> None:
    if what == "position":
        state = json.loads((folder / "trainer.json").read_text())
        (folder / "trainer.json").write_text(json.dumps(state | {"position": 0}))
        return
    file = folder / "learner" / "rank0.pt"
    state = torch.load(file, weights_only=True)
    zeroed = [0]

    def clear(value: object) -> None:
        items = value.items() if isinstance(value, dict) else []
        for key, item in items:
            if "exp_avg" in str(key) and isinstance(item, torch.Tensor):
                item.zero_()
                zeroed[0] += 1
            clear(item)
        for item in value if isinstance(value, list | tuple) else []:
            clear(item)

    clear(state)
    assert zeroed[0] > 0
    torch.save(state, file)


def test_stop_file_ends_with_75_and_the_run_continues(root: Path, undisturbed: Path) -> None:
    run, log = root / "runs" / "stopped", root / "stopped.log"

    def ask() -> bool:
        if lines(run / "metrics.jsonl") >= 1:
            (run / "STOP").touch()
        return False

    assert run_child(command(root, "stopped"), log, ask) == 75, log.read_text()[-3000:]
    steps = lines(run / "metrics.jsonl")
    assert 1 <= steps < 4
    assert json.loads((run / "exit.json").read_text())["reason"] == "STOP file"
    assert run_child(command(root, "stopped"), log) == 0
    assert what_must_agree(run) == what_must_agree(undisturbed)


def test_other_settings_are_refused(root: Path, undisturbed: Path) -> None:
    log = root / "refused.log"
    assert run_child(command(root, "whole", "train.max_steps=5"), log) == 64
    assert "train.max_steps: 4 -> 5" in log.read_text()


def test_finished_run_is_left_alone(root: Path, undisturbed: Path) -> None:
    before = what_must_agree(undisturbed)
    assert run_child(command(root, "whole"), root / "again.log") == 0
    assert what_must_agree(undisturbed) == before
    assert "is finished" in (root / "again.log").read_text()


def test_a_run_that_rolls_out_ahead_ends_bit_identical_after_kills(root: Path) -> None:
    ahead = ("train.max_staleness=1",)
    assert run_child(command(root, "ahead", *ahead), root / "ahead.log") == 0, (
        root / "ahead.log"
    ).read_text()[-3000:]
    whole, run, log = root / "runs" / "ahead", root / "runs" / "ahead_killed", root / "ak.log"
    for name in ("before an update", "inside a commit", "between commits"):
        code = run_child(
            command(root, "ahead_killed", *ahead), log, lambda now=MOMENTS[name]: now(run)
        )
        assert code == -9, f"{name}: {log.read_text()[-3000:]}"
    assert run_child(command(root, "ahead_killed", *ahead), log) == 0, log.read_text()[-3000:]
    assert what_must_agree(run) == what_must_agree(whole)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["rollout/staleness"] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    assert all("time/wait_s" in row for row in rows[:-1])
    assert all(0 <= row["time/overhead_fraction"] <= 1 for row in rows)
