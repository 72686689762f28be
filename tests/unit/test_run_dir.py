import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scenerl.configs.schema import ConfigError, RunConfig, TrainConfig
from scenerl.rl.durable import read_lines
from scenerl.rl.run_dir import RunBusyError, RunDir, config_changes


def settings(root: Path, **train: object) -> RunConfig:
    return RunConfig(output_dir=str(root), name="r", train=TrainConfig(**train))  # type: ignore[arg-type]


def test_same_settings_continue_and_count_generations(tmp_path: Path) -> None:
    first = RunDir(settings(tmp_path), "stage1")
    assert first.generation == 1
    first.close()
    second = RunDir(settings(tmp_path), "stage1")
    assert second.generation == 2
    assert second.owns_run()
    assert not first.owns_run()
    assert not second.config_changed
    second.close()


def test_other_settings_are_refused_with_every_difference(tmp_path: Path) -> None:
    RunDir(settings(tmp_path), "stage1").close()
    changed = settings(tmp_path, max_steps=7, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"train.learning_rate: 1e-06 -> 0.5; train.max_steps"):
        RunDir(changed, "stage1")
    with pytest.raises(ConfigError, match="learning_rate"):
        RunDir(changed, "stage1", allow_config_changes=["train.max_steps"])
    allowed = RunDir(changed, "stage1", allow_config_changes=["train"])
    assert allowed.config_changed
    allowed.close()
    again = RunDir(changed, "stage1")
    assert not again.config_changed
    again.close()


def test_run_of_another_command_is_refused(tmp_path: Path) -> None:
    RunDir(settings(tmp_path), "stage1").close()
    with pytest.raises(ConfigError, match="launch stage1"):
        RunDir(settings(tmp_path), "stage2")


def test_moved_run_continues(tmp_path: Path) -> None:
    RunDir(settings(tmp_path / "a"), "stage1").close()
    (tmp_path / "a").rename(tmp_path / "b")
    RunDir(settings(tmp_path / "b"), "stage1").close()


def test_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run_dir = RunDir(settings(tmp_path), "stage1")
    code = (
        "import sys; from scenerl.configs.schema import RunConfig\n"
        "from scenerl.rl.run_dir import RunDir\n"
        "RunDir(RunConfig(output_dir=sys.argv[1], name='r'), 'stage1')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert "RunBusyError" in refused.stderr
    with pytest.raises(RunBusyError, match="in use"):
        RunDir(settings(tmp_path), "stage1")
    run_dir.close()
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_rewind_forgets_what_came_after_the_commit(tmp_path: Path) -> None:
    run_dir = RunDir(settings(tmp_path), "stage1")
    for step in (1, 2, 3):
        run_dir.append_metrics({"step": step, "reward/mean": 0.1 * step})
        run_dir.append_ledger([{"step": step, "sample_id": f"s{step}"}])
        run_dir.write_rollouts(step, [{"step": step}])
    with (run_dir.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # a crash cut the line
    run_dir.checkpoints.mark_best(3, "x", 1.0)
    run_dir.rewind(2)
    rows = read_lines(run_dir.path / "metrics.jsonl")
    assert rows == [{"step": 1, "reward/mean": 0.1}, {"step": 2, "reward/mean": 0.2}]
    assert [row["step"] for row in read_lines(run_dir.path / "ledger.jsonl")] == [1, 2]
    assert len(list((run_dir.path / "rollouts").iterdir())) == 2
    assert not (run_dir.path / "checkpoints" / "best.json").exists()
    run_dir.append_metrics({"step": 3})
    assert len(read_lines(run_dir.path / "metrics.jsonl")) == 3
    run_dir.close()


def test_garbage_in_the_middle_of_a_file_of_lines_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"x.jsonl:2"):
        read_lines(tmp_path / "x.jsonl")


def test_journal_is_read_back_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    run_dir = RunDir(settings(tmp_path), "stage1")
    journal = {"step": 5, "logprobs": [-0.1, -1e-17, -3.25]}
    run_dir.write_journal(5, journal)
    assert run_dir.read_journal(5) == journal
    assert run_dir.read_journal(6) is None
    file = run_dir.path / "journal" / "step_000005.json"
    file.write_text(file.read_text().replace("-3.25", "-3.26"))
    assert run_dir.read_journal(5) is None
    run_dir.drop_journals(up_to=5)
    assert not file.exists()
    run_dir.close()


def test_stop_file_exit_file_and_rollout_thinning(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config = dataclasses.replace(config, log=dataclasses.replace(config.log, rollout_steps=2))
    run_dir = RunDir(config, "stage1")
    assert not run_dir.stop_requested
    (run_dir.path / "STOP").touch()
    assert run_dir.stop_requested
    for step in (1, 2):
        run_dir.write_rollouts(step, [{"step": step}])
        run_dir.drop_rollouts(step)
    assert [f.name for f in (run_dir.path / "rollouts").iterdir()] == ["step_000002.jsonl"]
    run_dir.write_exit(75, "STOP file")
    assert json.loads((run_dir.path / "exit.json").read_text())["code"] == 75
    run_dir.close()
    again = RunDir(config, "stage1")
    assert not again.stop_requested
    assert not (again.path / "exit.json").exists()
    again.close()


def test_changes_name_nested_settings() -> None:
    old = {"name": "a", "train": {"lr": 1, "beta": 0}, "rewards": [1]}
    new = {"name": "b", "train": {"lr": 2, "beta": 0}, "rewards": [1], "extra": {"x": None}}
    assert config_changes(old, new) == {"train.lr": (1, 2), "extra": (None, {"x": None})}
