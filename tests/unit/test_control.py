import fcntl
import json
import threading
import time
from pathlib import Path

import pytest

from scenerl.launch.cli import main
from scenerl.launch.control import is_locked


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints" / "step_000002").mkdir(parents=True)
    (folder / "config.yaml").write_text("# launch stage1\ntrain: {max_steps: 4}\n")
    rows = [{"step": n, "time/step_s": 30.0, "reward/mean": 0.25} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "generation.json").write_text('{"generation": 2}')
    (folder / "lock").touch()
    return folder


def end(run: Path, code: int, reason: str) -> None:
    (run / "exit.json").write_text(json.dumps({"code": code, "reason": reason}))


def test_status_tells_the_states_of_a_run_apart(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(run)]) == 75
    said = capsys.readouterr().out
    assert "stage1 dead, step 3/4, commit 2, reward 0.250, started 2 times" in said
    assert f"launch resume {run}" in said
    end(run, 75, "STOP file")
    assert main(["status", str(run)]) == 75
    assert "stage1 stopped" in capsys.readouterr().out
    end(run, 65, "DataError: no samples")
    assert main(["status", str(run), "--json"]) == 65
    values = json.loads(capsys.readouterr().out)
    assert (values["state"], values["code"]) == ("failed", 65)
    end(run, 0, "done")
    assert main(["status", str(run)]) == 0
    with (run / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_locked(run)
        assert main(["status", str(run)]) == 0
        assert "stage1 working, step 3/4" in capsys.readouterr().out
        assert main(["status", str(run), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["seconds_left"] == 30.0
    assert not is_locked(run)


def test_the_worst_of_several_runs_is_the_exit_code(run: Path, tmp_path: Path) -> None:
    end(run, 0, "done")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("# launch sft\nsft: {max_steps: 4}\n")
    end(other, 70, "a bug")
    assert main(["status", str(run), str(other)]) == 70
    assert main(["status", str(run), str(tmp_path)]) == 0


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume", "audit"])
def test_a_folder_that_is_no_run_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path)]) == 64
    assert "is not a run directory" in capsys.readouterr().err


def test_stop_asks_a_working_run_and_waits_for_its_code(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stop", str(run)]) == 0
    assert not (run / "STOP").exists()
    lock = (run / "lock").open()
    fcntl.flock(lock, fcntl.LOCK_EX)

    def obey() -> None:
        while not (run / "STOP").exists():
            time.sleep(0.01)
        end(run, 75, "STOP file")
        lock.close()

    thread = threading.Thread(target=obey)
    thread.start()
    assert main(["stop", str(run), "--wait", "20"]) == 75
    thread.join()
    assert "stage1 stopped" in capsys.readouterr().out


def test_logs_show_the_last_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(run)]) == 64
    (run / "log.txt").write_text("one\ntwo\nthree\n")
    assert main(["logs", str(run), "--lines", "2", "-f"]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
