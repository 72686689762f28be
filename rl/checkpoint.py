"""Commits: a training state that is either whole on the disk or not there.

A commit is written to ``tmp.<step>.<uuid>``, flushed file by file, listed with SHA-256 in
``manifest.json``, flushed again and renamed to ``step_<step>``. A crash at any moment leaves the
previous commit untouched. Loading verifies every hash and falls back to the commit before when
one is damaged. Nothing in a commit is unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scenerl.rl.durable import (
    file_sha256,
    remove_leftovers,
    sync_folder,
    sync_tree,
    write_json,
    writing,
)

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_STEP = re.compile(r"step_(\d{6,})")


class CheckpointError(RuntimeError):
    """A commit that is damaged, or a writer that may no longer write."""


class LostCommitsError(RuntimeError):
    """A run whose commits are all damaged: starting it afresh would hide that."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One finished commit."""

    path: Path
    step: int
    metrics: dict[str, float]
    """What decides which commit is the best."""

    @property
    def model_dir(self) -> Path:
        """Folder with the policy in the layout of `save_pretrained`."""
        return self.path / "model"


class CheckpointStore:
    """The commits of one run directory."""

    def __init__(
        self, root: Path, *, keep: int = 2, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        """Open the folder of commits and remove what crashed writers left.

        Args:
            root: Folder of the commits; made when missing.
            keep: Newest commits that stay, at least 2, so that a damaged one has a predecessor.
            may_write: Asked right before a commit becomes visible; False (a newer process owns
                the run) makes the commit fail.
        """
        self.root = root
        self.keep = max(keep, 2)
        self._may_write = may_write
        root.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()

    @classmethod
    def read_only(cls, root: Path) -> "CheckpointStore":
        """Open the commits of a run that another process may be writing; nothing is touched."""
        store = cls.__new__(cls)
        store.root, store.keep, store._may_write = root, 2, lambda: False
        return store

    @contextlib.contextmanager
    def write(self, step: int, metrics: dict[str, float] | None = None) -> Iterator[Path]:
        """Give a folder to write into; it becomes the commit of `step` when the block ends well.

        Args:
            step: Number of the step whose end the commit holds.
            metrics: Kept in the manifest.

        Yields:
            An empty folder.

        Raises:
            CheckpointError: If another process has taken over the run.
            DiskError: If the disk is full or read-only; the commits before are untouched.
        """
        folder = self.root / f"tmp.{step}.{uuid.uuid4().hex}"
        try:
            with writing(self.root / f"step_{step:06d}"):
                folder.mkdir()
                yield folder
                self._seal(folder, step, metrics or {})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._retire()

    def commits(self) -> list[Commit]:
        """Return the commits whose manifest can be read, oldest first. Hashes are not checked."""
        found = []
        for path in self.folders():
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
                metrics = dict(values.get("metrics", {}))
                found.append(Commit(path=path, step=step_of(path), metrics=metrics))
        return found

    def folders(self) -> list[Path]:
        """Return the folders of all commits, damaged ones too, oldest first."""
        named = [path for path in self.root.iterdir() if _STEP.fullmatch(path.name)]
        return sorted(named, key=step_of)

    def newest(self) -> Commit | None:
        """Return the newest commit whose hashes are right, setting damaged newer ones aside.

        Returns:
            None when the run has made no commit yet.

        Raises:
            LostCommitsError: If it has made some, and every one is damaged.
        """
        for path in reversed(self.folders()):
            problem = verify(path)
            if problem is None:
                return next(c for c in self.commits() if c.path == path)
            aside = path.with_name(f"damaged.{path.name}.{uuid.uuid4().hex[:8]}")
            logger.warning("%s; it is set aside as %s, the commit before is used", problem, aside)
            path.rename(aside)
            sync_folder(self.root)
        if lost := sorted(path.name for path in self.root.glob("damaged.*")):
            raise LostCommitsError(
                f"{self.root}: all commits are damaged ({', '.join(lost)}), so the run cannot "
                "continue; restore one as step_N from a backup, or delete the damaged ones to "
                "start the run afresh"
            )
        return None

    def best(self) -> Commit | None:
        """Return the commit that `mark_best` named, else the newest whole one."""
        pointer = self.root / "best.json"
        if pointer.is_file():
            step = int(json.loads(pointer.read_text(encoding="utf-8"))["step"])
            for commit in self.commits():
                if commit.step == step and verify(commit.path) is None:
                    return commit
            logger.warning("the best commit, step %d, is missing or damaged", step)
        whole = [commit for commit in self.commits() if verify(commit.path) is None]
        return whole[-1] if whole else None

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Name the commit that later stages take; it is never deleted while it is the best."""
        write_json(self.root / "best.json", {"step": step, "metric": metric, "value": value})

    def forget_after(self, step: int) -> None:
        """Drop a best mark that points past the step a run continues from."""
        pointer = self.root / "best.json"
        if pointer.is_file() and int(json.loads(pointer.read_text())["step"]) > step:
            pointer.unlink()
            sync_folder(self.root)

    def _seal(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        sync_tree(folder)
        files = {
            str(path.relative_to(folder)): {
                "sha256": file_sha256(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        values = {"format": FORMAT, "step": step, "metrics": metrics, "files": files}
        write_json(folder / MANIFEST, {**values, "sha256": _own_hash(values)})
        sync_folder(folder)
        if not self._may_write():
            raise CheckpointError(
                f"another process has taken over {self.root.parent}; this one may not commit step "
                f"{step} and stops"
            )
        target = self.root / f"step_{step:06d}"
        if target.exists():
            target.rename(self.root / f"tmp.old.{uuid.uuid4().hex}")
        folder.rename(target)
        sync_folder(self.root)

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.root)
        for left in self.root.glob("tmp.*"):
            shutil.rmtree(left, ignore_errors=True)

    def _retire(self) -> None:
        pointer = self.root / "best.json"
        best = int(json.loads(pointer.read_text())["step"]) if pointer.is_file() else None
        for commit in self.commits()[: -self.keep]:
            if commit.step != best:
                gone = self.root / f"tmp.old.{uuid.uuid4().hex}"
                commit.path.rename(gone)
        for left in self.root.glob("tmp.old.*"):
            shutil.rmtree(left, ignore_errors=True)


def step_of(path: Path) -> int:
    """Return the step in the name of a commit's folder."""
    return int(path.name.removeprefix("step_"))


def _own_hash(values: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own hash."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def verify(path: Path) -> str | None:
    """Check a commit against its manifest.

    Returns:
        None when every file is there with the right size and SHA-256, else what is wrong.
    """
    try:
        values: Any = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = dict(values["files"])
        if values["format"] != FORMAT:
            return f"{path}: format {values['format']}, this version reads {FORMAT}"
        if values.pop("sha256") != _own_hash(values) or f"step_{values['step']:06d}" != path.name:
            return f"{path}: {MANIFEST} does not have the SHA-256 it states"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path}: no readable {MANIFEST} ({error})"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{path}: {name} is missing"
        if os.path.getsize(file) != expected["bytes"]:
            return f"{path}: {name} has {os.path.getsize(file)} bytes, not {expected['bytes']}"
        if file_sha256(file) != expected["sha256"]:
            return f"{path}: {name} does not have the SHA-256 of the manifest"
    return None
