"""The run directory: everything a run says about itself, and what it continues from.

Layout and meaning of every file: docs/runs.md. One process owns a run at a time (a lock that the
system drops when the process dies); each start takes a new generation number, and a writer of an
older generation can no longer commit.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from scenerl.configs.load import to_dict, to_yaml
from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.rl.checkpoint import CheckpointStore
from scenerl.rl.durable import (
    DiskError,
    append_line,
    append_lines,
    read_lines,
    remove_leftovers,
    write_json,
    write_lines,
    writing,
)
from scenerl.rl.durable import write_text as write_text_durably

logger = logging.getLogger(__name__)

LOCATION_KEYS = frozenset({"name", "output_dir"})
"""Settings that say where a run is, not what it does."""

UNUSED_SECTIONS = {
    "stage1": frozenset({"sft", "tracker_sft", "ground"}),
    "stage2": frozenset({"sft", "tracker_sft", "ground"}),
}
"""Settings that a command never reads; they may differ when it continues."""


LOCK_PATIENCE_S = 0.5
"""`launch status` looks at a lock by holding it for a moment; a start waits that out."""


class RunBusyError(RuntimeError):
    """Another process is working in the run directory."""


class RunDir:
    """One run directory, owned by this process until `close`."""

    def __init__(
        self, config: RunConfig, command: str, *, allow_config_changes: Sequence[str] = ()
    ) -> None:
        """Take a run directory, new or to be continued.

        Args:
            config: Resolved settings; the folder is ``output_dir/name``.
            command: Subcommand that runs here; a folder of another one is refused.
            allow_config_changes: Settings that may differ from those the run was started with.

        Raises:
            ConfigError: If the folder holds a run with other settings, or of another command.
            RunBusyError: If another process works in it.
            DiskError: If nothing can be written there.
        """
        self.path = Path(config.output_dir) / config.name
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        self.config_changed = False
        try:
            self._check_config(config, command, allow_config_changes)
        except BaseException:
            self._lock.close()
            raise
        self.generation = self._next_generation()
        self.checkpoints = CheckpointStore(
            self.path / "checkpoints",
            keep=config.train.save_total_limit,
            may_write=self.owns_run,
        )
        for folder in (".", "journal", "rollouts", "eval", "predictions"):
            remove_leftovers(self.path / folder)
        self._rollout_steps = max(config.log.rollout_steps, 1)
        (self.path / "STOP").unlink(missing_ok=True)
        (self.path / "exit.json").unlink(missing_ok=True)

    def begin_generation(self, fault: Mapping[str, Any]) -> None:
        """Go on after a loss: writers of before can no longer commit, and faults.jsonl says why."""
        self.append_fault(fault)
        self.generation = self._next_generation()

    def append_fault(self, fault: Mapping[str, Any]) -> None:
        """Add what was lost, and why, to faults.jsonl."""
        row = {"time": _now(), "generation": self.generation, **fault}
        append_line(self.path / "faults.jsonl", row)

    def append_quarantine(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add samples whose data are broken, with the reason, to quarantine.jsonl."""
        append_lines(self.path / "quarantine.jsonl", rows)

    def owns_run(self) -> bool:
        """Whether no newer process has taken over."""
        return self._read_generation() == self.generation

    @property
    def stop_requested(self) -> bool:
        """Whether someone has put a file named STOP into the folder."""
        return (self.path / "STOP").exists()

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Keep versions, machine and git state of this start beside those of earlier starts."""
        file = self.path / "environment.json"
        starts = json.loads(file.read_text())["starts"] if file.is_file() else []
        start = {"generation": self.generation, "time": _now(), **environment}
        write_json(file, {**environment, "starts": [*starts, start]})

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add the numbers of a step to metrics.jsonl."""
        append_line(self.path / "metrics.jsonl", row)

    def append_ledger(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what became of each drawn sample to ledger.jsonl."""
        append_lines(self.path / "ledger.jsonl", rows)

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write every completion of a step, whole and flushed, before the learner sees them."""
        folder = self.path / "rollouts"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        write_lines(folder / f"step_{step:06d}.jsonl", rows)

    def write_journal(self, step: int, journal: Mapping[str, Any]) -> None:
        """Keep a step's rollouts until it is committed: a restart replays them."""
        folder = self.path / "journal"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        text = json.dumps(journal, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        row = f'{{"sha256": "{digest}", "journal": {text}}}'
        write_text_durably(folder / f"step_{step:06d}.json", row)

    def read_journal(self, step: int) -> dict[str, Any] | None:
        """Return the journal of a step; None when it is absent or damaged."""
        file = self.path / "journal" / f"step_{step:06d}.json"
        if not file.is_file():
            return None
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            text = json.dumps(row["journal"], ensure_ascii=False)
            if hashlib.sha256(text.encode()).hexdigest() == row["sha256"]:
                return dict(row["journal"])
        except (ValueError, KeyError, TypeError):
            pass
        logger.warning("%s is damaged; the rollouts of step %d are made again", file, step)
        return None

    def drop_journals(self, *, up_to: int | None = None) -> None:
        """Delete the journals of committed steps, or all of them."""
        for file in (self.path / "journal").glob("step_*.json"):
            if up_to is None or int(file.stem.removeprefix("step_")) <= up_to:
                file.unlink()

    def rewind(self, step: int) -> None:
        """Forget everything after a committed step; the run continues from there."""
        for name in ("metrics.jsonl", "ledger.jsonl", "quarantine.jsonl"):
            file = self.path / name
            rows = read_lines(file)
            kept = [row for row in rows if row["step"] <= step]
            if file.is_file() and (len(kept) < len(rows) or not file.read_bytes().endswith(b"\n")):
                write_lines(file, kept)
        for file in (self.path / "rollouts").glob("step_*.jsonl"):
            if int(file.stem.removeprefix("step_")) > step:
                file.unlink()
        self.checkpoints.forget_after(step)

    def drop_rollouts(self, step: int) -> None:
        """Delete the rollouts of a committed step that `log.rollout_steps` does not keep."""
        if step % self._rollout_steps != 0:
            (self.path / "rollouts" / f"step_{step:06d}.jsonl").unlink(missing_ok=True)

    def write_exit(self, code: int, reason: str) -> None:
        """Say how the process ended, for launchers that lose the exit code."""
        values = {"code": code, "reason": reason, "time": _now(), "generation": self.generation}
        try:
            write_json(self.path / "exit.json", values)
        except DiskError as error:  # the run ends for a reason of its own, often this one
            logger.warning("%s", error)

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def _take_lock(self) -> IO[str]:
        lock = (self.path / "lock").open("a+", encoding="utf-8")
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not _try_lock(lock):
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise RunBusyError(
                f"{self.path} is in use by another process ({owner}); wait for it, stop it with "
                f"`launch stop {self.path}`, or give this run another name"
            )
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} since {_now()}\n")
        lock.flush()
        return lock

    def _check_config(
        self, config: RunConfig, command: str, allow_config_changes: Sequence[str]
    ) -> None:
        file = self.path / "config.yaml"
        header = f"# launch {command}\n"
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            if not text.startswith(header):
                raise ConfigError(
                    f"{self.path} holds a run of `{text.splitlines()[0].lstrip('# ')}`, not of "
                    f"`launch {command}`; choose another name"
                )
            unused = UNUSED_SECTIONS.get(command, frozenset())
            changes = {
                key: change
                for key, change in config_changes(yaml.safe_load(text), to_dict(config)).items()
                if key.partition(".")[0] not in unused
            }
            allowed = [key for key in changes if _is_allowed(key, allow_config_changes)]
            if len(allowed) < len(changes):
                raise ConfigError(_changes_message(self.path, changes))
            if not changes:
                return
            self.config_changed = True
            for key, (old, new) in changes.items():
                logger.warning("%s: %s changes from %r to %r", self.path, key, old, new)
        write_text_durably(file, header + to_yaml(config))

    def _read_generation(self) -> int:
        file = self.path / "generation.json"
        return int(json.loads(file.read_text())["generation"]) if file.is_file() else 0

    def _next_generation(self) -> int:
        generation = self._read_generation() + 1
        write_json(self.path / "generation.json", {"generation": generation})
        return generation


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def config_changes(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return dotted setting -> (old, new) for every setting of a run that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*old, *new}):
            dotted = f"{prefix}{key}"
            if dotted not in LOCATION_KEYS:
                changes |= config_changes(old.get(key), new.get(key), f"{dotted}.")
        return changes
    return {} if old == new else {prefix.rstrip("."): (old, new)}


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def _changes_message(path: Path, changes: Mapping[str, tuple[Any, Any]]) -> str:
    listed = "; ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in changes.items())
    flags = " ".join(f"--allow-config-change {key}" for key in changes)
    return (
        f"{path} holds a run with other settings ({listed}); the same settings continue it, "
        f"another name starts afresh, and {flags} continues it with the new ones"
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
