"""A process that dies at any of its writes: the run goes on exactly, and nothing is lost.

Two enemies. One ends the process right before its n-th write, flush, close, fsync, rename, mkdir or
deletion, for every n. The other also takes the power away: what was not flushed to the disk before
that moment is gone.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from toy_run import SAMPLES, ForgetfulLearner, train_toy, what_a_toy_run_did

from scenerl.launch.exit_codes import exit_code
from scenerl.rl.audit import audit_run
from scenerl.rl.checkpoint import CheckpointStore, LostCommitsError
from scenerl.rl.durable import append_line, read_lines

TOUCHES_THE_DISK = frozenset(
    {
        "open",
        "write",
        "flush",
        "fsync",
        "rename",
        "mkdir",
        "unlink",
        "rmdir",
        "ftruncate",
        "write_record",
        "write_end_of_file",
        "serialize_file",
        "sendfile",
    }
)
IN_MEMORY = ("emitter.py",)
"""PyYAML writes into a string."""
DIED = 9


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory where there is one: an fsync costs nothing there."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


class Enemy:
    """Ends this process at its n-th call that touches the disk."""

    def __init__(self, left: int, root: Path, *, power_cut: bool) -> None:
        self._left, self._root, self._power_cut = left, root, power_cut
        self._kept = {
            file.stat().st_ino: file.stat().st_size for file in root.rglob("*") if file.is_file()
        }
        """Inode -> bytes that survive a power cut."""

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event not in ("c_call", "c_return"):
            return
        if getattr(function, "__name__", "") not in TOUCHES_THE_DISK:
            return
        if frame.f_code.co_filename.endswith(IN_MEMORY):
            return
        if event == "c_return":
            if function.__name__ == "fsync":
                self._note_flushed(frame)
            return
        if self._left == 0:
            sys.setprofile(None)
            if self._power_cut:
                self._cut()
            os._exit(DIED)
        self._left -= 1

    def _note_flushed(self, frame: FrameType) -> None:
        for name in ("descriptor", "file"):
            value = frame.f_locals.get(name)
            if value is not None:
                status = os.fstat(value if isinstance(value, int) else value.fileno())
                self._kept[status.st_ino] = status.st_size

    def _cut(self) -> None:
        for file in self._root.rglob("*"):
            if file.is_file():
                status = file.stat()
                kept = self._kept.get(status.st_ino, 0)
                if status.st_size > kept:
                    os.truncate(file, kept)


def in_a_child(work: Callable[[], object], enemy: Enemy | None = None) -> int:
    """Run work in a child process; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.setprofile(enemy)
            work()
            sys.setprofile(None)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state_of(run: Path) -> dict[str, int]:
    """Return what is on the disk: path, without random parts, -> size, or lines of the metrics."""
    return {
        re.sub("[0-9a-f]{32}", "", str(file.relative_to(run))): (
            file.read_bytes().count(b"\n") if file.name == "metrics.jsonl" else file.stat().st_size
        )
        for file in run.rglob("*")
        if file.is_file()
    }


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("fresh", "enemies", "every"),
    [
        pytest.param(False, (False, True), 3, id="the enemies take turns"),
        pytest.param(False, (False,), 1, id="continued, killed", marks=SLOW),
        pytest.param(False, (True,), 1, id="continued, power cut", marks=SLOW),
        pytest.param(True, (False,), 1, id="fresh, killed", marks=SLOW),
        pytest.param(True, (True,), 1, id="fresh, power cut", marks=SLOW),
    ],
)
def test_a_run_that_dies_at_any_write_continues_to_the_same_bytes(
    root: Path, fresh: bool, enemies: tuple[bool, ...], every: int
) -> None:
    whole = train_toy(root / "whole", max_steps=2)
    expected = what_a_toy_run_did(whole)
    shutil.rmtree(whole / "checkpoints" / "step_000002")  # a run that died before its last commit
    state: dict[str, int] = {}
    continued = 0
    for point in range(0, 10_000, every):
        there = root / f"at_{point}"
        there.mkdir() if fresh else shutil.copytree(root / "whole", there)
        code = in_a_child(
            lambda there=there: train_toy(there, max_steps=2),
            Enemy(point, there, power_cut=enemies[point % len(enemies)]),
        )
        if code == 0:
            break
        assert code == DIED, point
        before, state = state, state_of(there)
        if state != before:
            train_toy(there, max_steps=2)
            assert what_a_toy_run_did(there / "toy") == expected, point
            assert not list(there.glob("toy/checkpoints/damaged.*")), point
            assert not list(there.glob("toy/checkpoints/tmp.*")), point
            continued += 1
        shutil.rmtree(there)
    assert point > 100
    assert continued > 30 / every


def test_a_generator_that_is_not_restored_is_noticed(root: Path) -> None:
    expected = what_a_toy_run_did(train_toy(root / "whole"))
    for learner, same in ((None, True), (ForgetfulLearner, False)):
        there = root / str(same)
        train_toy(there, max_steps=3)
        shutil.rmtree(there / "toy" / "checkpoints" / "step_000003")
        again = train_toy(there, max_steps=3, **({"learner": learner} if learner else {}))
        assert (what_a_toy_run_did(again) == expected) is same


FILES = (
    "manifest.json", "trainer.json", "ledger.jsonl", "model/model.safetensors",
    "learner/rank0.pt", "learner/learner.json",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "delete", "flip"])
def test_a_damaged_file_of_the_newest_commit_costs_one_step_and_no_byte(
    root: Path, name: str, damage: str
) -> None:
    run = train_toy(root)
    expected = what_a_toy_run_did(run)
    harm(run / "checkpoints" / "step_000003" / name, damage)
    assert any("step_000003" in problem for problem in audit(run))
    train_toy(root)
    assert what_a_toy_run_did(run) == expected
    assert len(list(run.glob("checkpoints/damaged.step_000003.*"))) == 1
    assert audit(run) == ()


def harm(file: Path, damage: str, at: int | None = None) -> None:
    content = bytearray(file.read_bytes())
    at = len(content) // 2 if at is None else at
    if damage == "delete":
        file.unlink()
        return
    if damage == "flip":
        content[at] ^= 1
    file.write_bytes(content[: {"cut": at, "empty": 0}.get(damage, len(content))])


def audit(run: Path) -> tuple[str, ...]:
    return audit_run(run, [sample.sample_id for sample in SAMPLES], seed=0).problems


def test_no_flipped_bit_of_a_commit_changes_what_is_trained(root: Path) -> None:
    run = train_toy(root, max_steps=2)
    commit = run / "checkpoints" / "step_000002"
    for file in sorted(path for path in commit.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for at in range(0, len(content), max(len(content) // 40, 1)):
            harm(file, "flip", at)
            store = CheckpointStore.read_only(run / "checkpoints")
            best = store.best()
            assert best is not None
            # a flip inside the manifest's white space changes nothing that it says
            assert best.step == 1 or file.name == "manifest.json", (file, at)
            file.write_bytes(content)


def test_a_run_without_a_whole_commit_says_so_instead_of_starting_afresh(root: Path) -> None:
    run = train_toy(root)
    for commit in (run / "checkpoints").glob("step_*"):
        harm(commit / "trainer.json", "flip")
    for _ in range(2):  # the second start finds them set aside already
        with pytest.raises(LostCommitsError, match="all commits are damaged") as caught:
            train_toy(root)
    assert exit_code(caught.value) == 65
    assert (run / "metrics.jsonl").read_text().count("\n") == 3
    for damaged in (run / "checkpoints").glob("damaged.*"):
        shutil.rmtree(damaged)
    train_toy(root)
    assert audit(run) == ()


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "faults.jsonl"
    append_line(file, {"a": 1})
    with file.open("a") as half:
        half.write('{"a": 2, "b')
    append_line(file, {"a": 3})
    assert read_lines(file) == [{"a": 1}, {"a": 3}]
