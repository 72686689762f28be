"""Full disks, read-only ones and clocks that jump: named errors, and the commits stay whole."""

import ctypes
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rollouts import group, reply
from toy_run import toy_config, train_toy, what_a_toy_run_did

from scenerl.configs.schema import RewardConfig
from scenerl.launch.exit_codes import exit_code
from scenerl.launch.plan import RAY_ENVIRONMENT
from scenerl.rewards.scorer import Scorer
from scenerl.rl.checkpoint import CheckpointStore, verify
from scenerl.rl.durable import DiskError, write_json, writing
from scenerl.rl.run_dir import RunDir

CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 16384, 1 << 18
ROOT = Path(__file__).parents[2]


def mount(kind: str | None, where: Path, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    kind_bytes = kind.encode() if kind else None
    if libc.mount(b"none", bytes(where), kind_bytes, flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def on_a_small_disk(where: Path, kib: int, work: Callable[[], None]) -> None:
    """Do work in a child that sees a file system of some KiB at a folder, as nobody else does."""
    where.mkdir()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            try:
                if libc.unshare(CLONE_NEWNS) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                mount(None, Path("/"), MS_REC | MS_PRIVATE)
                mount("tmpfs", where, 0, f"size={kib}k")
            except OSError:
                code = 77
            else:
                work()
                code = 0
        except BaseException as error:  # the parent tells
            (where.parent / "failed").write_text(repr(error))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 77:
        pytest.skip("this system lets nobody mount a small file system")
    assert code == 0, (where.parent / "failed").read_text()


def test_a_disk_that_fills_up_anywhere_keeps_the_last_commit(tmp_path: Path) -> None:
    expected = what_a_toy_run_did(train_toy(tmp_path / "whole", max_steps=2))
    shutil.rmtree(tmp_path / "whole" / "toy" / "checkpoints" / "step_000002")
    said = tmp_path / "said"

    def fill_and_free() -> None:
        messages = []
        for free in range(0, 80, 4):
            there = tmp_path / "disk" / str(free)
            shutil.copytree(tmp_path / "whole", there)
            ballast = tmp_path / "disk" / "ballast"
            left = shutil.disk_usage(tmp_path / "disk").free - free * 1024
            ballast.write_bytes(b"0" * left)
            try:
                train_toy(there, max_steps=2)
            except DiskError as error:
                messages.append((exit_code(error), str(error)))
            assert verify(there / "toy" / "checkpoints" / "step_000001") is None
            ballast.unlink()
            train_toy(there, max_steps=2)
            assert what_a_toy_run_did(there / "toy") == expected, free
            shutil.rmtree(there)
        said.write_text(json.dumps(messages))

    on_a_small_disk(tmp_path / "disk", 2048, fill_and_free)
    messages = json.loads(said.read_text())
    assert len(messages) >= 8
    for code, message in messages:
        assert code == 75
        assert re.search(r"disk/\d+/toy/\S+ cannot be written: No space left on device", message)
        assert "free some space and run the same command again" in message
    named = {re.search(r"toy/([a-z]+)", message)[1] for _, message in messages}  # type: ignore[index]
    assert {"checkpoints", "generation"} <= named


def test_a_read_only_run_directory_is_refused_by_name(tmp_path: Path) -> None:
    disk = tmp_path / "disk"

    def try_to_start() -> None:
        train_toy(disk, max_steps=1)
        mount(None, disk, MS_REMOUNT | MS_RDONLY)
        with pytest.raises(DiskError, match=r"disk/toy.* be written: Read-only") as caught:
            train_toy(disk, max_steps=1)
        assert "make it writable, or set output_dir" in str(caught.value)
        assert exit_code(caught.value) == 69
        assert CheckpointStore.read_only(disk / "toy" / "checkpoints").best() is not None

    on_a_small_disk(disk, 2048, try_to_start)


def test_a_disk_that_turns_read_only_in_a_run_does_not_hide_why(tmp_path: Path) -> None:
    disk = tmp_path / "disk"

    def lose_the_disk() -> None:
        run_dir = RunDir(toy_config(disk), "stage1")
        run_dir.close()  # the system refuses the change while a file is open
        mount(None, disk, MS_REMOUNT | MS_RDONLY)
        for write in (
            lambda: run_dir.append_metrics({"step": 1}),
            lambda: run_dir.write_journal(1, {"step": 1}),
            lambda: write_json(run_dir.path / "x.json", {}),
        ):
            with pytest.raises(DiskError, match="Read-only"):
                write()
        run_dir.write_exit(69, "the disk")  # it cannot be said there; that is no second error

    on_a_small_disk(disk, 2048, lose_the_disk)


def test_writers_that_raise_errors_of_their_own_are_understood(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"w": torch.zeros(1_000_000)}

    def overflow() -> None:
        for write in (
            lambda file: save_file(weights, file),
            lambda file: torch.save(weights, file),
            lambda file: file.write_bytes(b"0" * 4_000_000),
        ):
            file = tmp_path / "disk" / "weights"
            with pytest.raises(DiskError, match=r"disk/weights .*: No space"), writing(file):
                write(file)
            file.unlink(missing_ok=True)

    on_a_small_disk(tmp_path / "disk", 1024, overflow)


def test_errors_that_are_not_the_disks_stay_themselves(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "no" / "file").read_text()


def test_a_clock_that_jumps_changes_nothing_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = what_a_toy_run_did(train_toy(tmp_path / "steady"))
    dice, true_gmtime = random.Random(0), time.gmtime

    def jumping(*_: object) -> float:
        return dice.uniform(0, 4e9)  # 1970 to 2096, back and forth

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "gmtime", lambda *given: true_gmtime(*(given or (jumping(),))))
    run = train_toy(tmp_path / "jumping")
    shutil.rmtree(run / "checkpoints" / "step_000003")
    train_toy(tmp_path / "jumping")
    assert what_a_toy_run_did(run) == expected
    assert json.loads((run / "generation.json").read_text())["generation"] == 2


def test_no_decision_of_a_run_looks_at_the_wall_clock() -> None:
    for folder in ("launch", "rl", "rewards", "rollout", "envs"):
        for file in (ROOT / folder).glob("*.py"):
            assert not re.search(r"\btime\.time\(|datetime\.(utc)?now\(", file.read_text()), file


def test_short_of_memory_the_kernel_takes_the_plugin_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text(
        "from pathlib import Path\n"
        "def says(completions):\n"
        "    return [float(Path('/proc/self/oom_score_adj').read_text())] * len(completions)\n"
    )
    subject = Scorer([RewardConfig(path=f"{tmp_path / 'says.py'}:says")])
    (scores,) = subject.score([group([reply("1s to 3s"), reply("1s to 2s")])])
    subject.close()
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert [score.value for score in scores] == [1000.0, 1000.0]
    assert ours < 1000
    assert int(RAY_ENVIRONMENT["RAY_worker_oom_score_adjustment"]) < 1000
