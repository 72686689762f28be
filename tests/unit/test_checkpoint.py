import os
import shutil
from pathlib import Path

import pytest

from scenerl.rl.checkpoint import CheckpointError, CheckpointStore, verify


def write_commit(store: CheckpointStore, step: int) -> None:
    with store.write(step, {"score": step / 10}) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes([step]) * 1000)
        (folder / "trainer.json").write_text(f'{{"step": {step}}}')


def test_commit_is_found_again_with_its_metrics(tmp_path: Path) -> None:
    write_commit(CheckpointStore(tmp_path), 3)
    commit = CheckpointStore(tmp_path).newest()
    assert commit is not None
    assert (commit.step, commit.metrics) == (3, {"score": 0.3})
    assert (commit.model_dir / "weights").read_bytes() == b"\x03" * 1000


def test_only_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        write_commit(store, step)
        if step == 2:
            store.mark_best(2, "score", 0.2)
    assert [commit.step for commit in store.commits()] == [2, 4, 5]
    best = store.best()
    assert best is not None
    assert best.step == 2
    assert not list(tmp_path.glob("tmp.*"))


def test_at_least_two_commits_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    for step in (1, 2, 3):
        write_commit(store, step)
    assert [commit.step for commit in store.commits()] == [2, 3]


def test_best_without_a_mark_is_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.best() is None
    write_commit(store, 1)
    write_commit(store, 2)
    assert store.best() == store.newest()


def test_writer_that_lost_the_run_cannot_commit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, may_write=lambda: False)
    with pytest.raises(CheckpointError, match="taken over"):
        write_commit(store, 1)
    assert list(tmp_path.iterdir()) == []


def test_failed_block_leaves_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)

    def fail() -> None:
        with store.write(1) as folder:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert list(tmp_path.iterdir()) == []


FILES = ("model/weights", "trainer.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "delete", "append"])
def test_damaged_commit_is_found_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    write_commit(store, 1)
    write_commit(store, 2)
    file = tmp_path / "step_000002" / name
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncate": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "append": content + b"0",
    }
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    commit = CheckpointStore(tmp_path).newest()
    assert commit is not None
    assert commit.step == 1
    assert len(list(tmp_path.glob("damaged.step_000002.*"))) == 1


def test_commit_under_another_number_is_damaged(tmp_path: Path) -> None:
    write_commit(CheckpointStore(tmp_path), 1)
    shutil.copytree(tmp_path / "step_000001", tmp_path / "step_000009")
    problem = verify(tmp_path / "step_000009")
    assert problem is not None
    assert "manifest.json" in problem


def crash_at(root: Path, call: int) -> bool:
    """Commit step 2 in a child that dies at the given system call; True when it got there."""
    child = os.fork()
    if child == 0:
        left = [call]

        def dying(function):  # type: ignore[no-untyped-def]
            def wrapper(*arguments, **options):  # type: ignore[no-untyped-def]
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return function(*arguments, **options)

            return wrapper

        for name in ("fsync", "rename", "mkdir", "open", "unlink", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            store = CheckpointStore(root, keep=2)
            write_commit(store, 2)
            store.mark_best(2, "score", 0.2)
            write_commit(store, 3)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_crash_at_any_system_call_leaves_a_whole_commit(tmp_path: Path) -> None:
    steps = []
    for call in range(1000):
        root = tmp_path / str(call)
        write_commit(CheckpointStore(root), 1)
        crashed = crash_at(root, call)
        store = CheckpointStore(root)
        commit = store.newest()
        assert commit is not None
        assert verify(commit.path) is None
        assert not list(root.glob("tmp.*"))
        assert not list(root.glob("damaged.*"))
        best = store.best()
        assert best is not None
        steps.append(commit.step)
        if not crashed:
            break
    assert len(steps) > 40
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3}
