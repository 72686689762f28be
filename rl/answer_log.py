"""The answers of one shard of an evaluation: an append-only file that a kill cannot spoil.

    {"format": "scenerl-answers", "version": 1, "identity": {...}, "shard": 0, "shards": 4, ...}
    {"id": "scene0011_00|5|0", ...}

The first line says what the answers are to and by whom; only the same identity continues the file
or is merged with it. A last line that a kill cut short is cut off and answered again.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scenerl.configs.schema import ConfigError
from scenerl.preprocess.records import DataError
from scenerl.rl.durable import json_line, read_lines, sync_folder, write_lines
from scenerl.rl.run_dir import RunBusyError

logger = logging.getLogger(__name__)

FORMAT, VERSION = "scenerl-answers", 1
NAMED = 5
"""How many ids a message names; all are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardHeader:
    """The first line of a shard."""

    identity: Mapping[str, Any]
    """What must agree between shards, and between a command and the one that it continues."""
    shard: int
    shards: int
    about: Mapping[str, Any]
    """What may differ, for people: where the model is, how many engines."""

    def as_json(self) -> dict[str, Any]:
        """Return the line."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "identity": dict(self.identity),
            "shard": self.shard,
            "shards": self.shards,
            "about": dict(self.about),
        }


def shard_file(folder: Path, shard: int, shards: int, what: str = "answers") -> Path:
    """Return where a shard's lines are: "answers", "errors", or a step of the chain."""
    return folder / "shards" / f"{shard:04d}-of-{shards:04d}.{what}.jsonl"


def shard_ids(ids: Sequence[str], shard: int, shards: int) -> list[str]:
    """Return the ids of a shard: every `shards`-th one, so that all shards are alike."""
    return list(ids[shard::shards])


def ids_sha256(ids: Iterable[str]) -> str:
    """Return the SHA-256 of an id list; that of its file, one id a line."""
    return hashlib.sha256("".join(f"{item}\n" for item in ids).encode()).hexdigest()


class AnswerLog:
    """One shard's file, open for appending by one process."""

    def __init__(self, file: Path, header: ShardHeader, ids: Sequence[str]) -> None:
        """Open or make the file, repair its end and read what is answered.

        Args:
            file: See `shard_file`.
            header: Of this command.
            ids: The items of this shard.

        Raises:
            RunBusyError: If another process writes it.
            ConfigError: If it holds answers under other settings.
            DataError: If it is damaged, or holds an id twice or one that is not in the shard.
        """
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _open_alone(file)
        try:
            _cut_torn_line(self._stream, file)
            lines = read_lines(file)
            if lines:
                check_same(file, lines[0], header)
            else:
                self._append([header.as_json()])
                sync_folder(file.parent)
            self.rows = rows_by_id(file, lines[1:], ids)
        except BaseException:
            self._stream.close()
            raise

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add answers and flush them to the disk."""
        self._append(rows)
        self.rows |= {str(row["id"]): dict(row) for row in rows}

    def write_errors(self, errors: Mapping[str, str]) -> None:
        """Replace the list of the items that could not be asked: id -> reason."""
        write_lines(errors_of(self.file), ({"id": i, "reason": r} for i, r in errors.items()))

    def close(self) -> None:
        """Give the file free."""
        self._stream.close()

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._stream.write("".join(json_line(row) for row in rows).encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())


def errors_of(file: Path) -> Path:
    """Return where the items of a shard that could not be asked are listed."""
    return file.with_name(file.name.replace(".answers.", ".errors."))


def _open_alone(file: Path) -> IO[bytes]:
    stream = file.open("ab+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise RunBusyError(
            f"{file} is being written by another process; wait for it, or give each job a --shard "
            "of its own"
        ) from None
    return stream


def _cut_torn_line(stream: IO[bytes], file: Path) -> None:
    """Drop what stands after the last line end, and a last line that is no JSON."""
    stream.seek(0)
    content = stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    try:
        json.loads(last or b"{}")
    except ValueError:
        whole = whole[: -len(last)]
    if len(whole) < len(content):
        logger.warning("%s: the last line was cut short; its item is answered again", file)
        stream.truncate(len(whole))
        os.fsync(stream.fileno())
    stream.seek(0, os.SEEK_END)


def check_same(file: Path, found: Mapping[str, Any], header: ShardHeader) -> None:
    """Check that a first line fits the header that is expected.

    Raises:
        DataError: If it is no header of this format.
        ConfigError: If the identities or the numbers of shards differ; names what differs.
    """
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise DataError(
            f"{file}: the first line is no header of {FORMAT} version {VERSION}; give --output "
            "another folder"
        )
    old = {**found["identity"], "shard": found["shard"], "shards": found["shards"]}
    new = {**header.identity, "shard": header.shard, "shards": header.shards}
    differing = [
        f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{file} holds answers under other settings ({'; '.join(differing)}); the same "
            "settings continue it, another --output starts afresh"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def rows_by_id(
    file: Path, rows: Iterable[Mapping[str, Any]], ids: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return the answers by id.

    Raises:
        DataError: If an id is there twice or does not belong to the shard.
    """
    known = set(ids)
    by_id: dict[str, dict[str, Any]] = {}
    twice, foreign = [], []
    for row in rows:
        item = str(row.get("id"))
        if item in by_id:
            twice.append(item)
        elif item not in known:
            foreign.append(item)
        by_id[item] = dict(row)
    for names, what in ((twice, "answered more than once"), (foreign, "not of this shard")):
        if names:
            raise DataError(
                f"{file}: {len(names)} items {what}: {named(names)}; the file was put together by "
                "hand: give --output another folder"
            )
    return by_id


def named(ids: Sequence[str]) -> str:
    """Return the first few ids for a message."""
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """All shards of an evaluation."""

    identity: Mapping[str, Any]
    rows: dict[str, dict[str, Any]]
    """Item id -> answer, in the order of the id list."""
    errors: dict[str, str]
    """Item id -> why it could not be asked."""
    about: tuple[Mapping[str, Any], ...]


def merge_shards(folder: Path, ids: Sequence[str]) -> Merged:
    """Read all shards of a folder and check that every item is there once.

    Raises:
        DataError: If a shard is missing or unfinished, belongs to another id list, or holds an id
            twice or one that is not its own.
        ConfigError: If shards were made under different settings.
    """
    files = sorted((folder / "shards").glob("*.answers.jsonl"))
    if not files:
        raise DataError(f"{folder} has no shards; run `launch eval` with --output {folder} first")
    first = _header(files[0])
    shards = first.shards
    expected = [shard_file(folder, shard, shards) for shard in range(shards)]
    strange = sorted(file.name for file in set(files) - set(expected))
    absent = [file.name for file in expected if not file.is_file()]
    if strange or absent:
        raise DataError(
            f"{folder}: {files[0].name} is one of {shards} shards; missing: {named(absent) or '-'}"
            f"; of another number of shards: {named(strange) or '-'}"
        )
    if first.identity.get("ids_sha256") != ids_sha256(ids):
        raise DataError(f"{folder}: the shards answer another id list than ids.txt holds")
    rows: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    about = []
    for shard, file in enumerate(expected):
        lines = read_lines(file)
        check_same(file, lines[0] if lines else {}, _as_shard(first, shard))
        about.append(lines[0]["about"])
        mine = shard_ids(ids, shard, shards)
        rows |= rows_by_id(file, lines[1:], mine)
        failed = rows_by_id(errors_of(file), read_lines(errors_of(file)), mine)
        errors |= {item: str(row["reason"]) for item, row in failed.items() if item not in rows}
        missing = [item for item in mine if item not in rows and item not in errors]
        if missing:
            raise DataError(
                f"{file}: {len(missing)} of {len(mine)} items are not answered yet: "
                f"{named(missing)}; run shard {shard} of {shards} again, it continues"
            )
    return Merged(
        identity=first.identity,
        rows={item: rows[item] for item in ids if item in rows},
        errors={item: errors[item] for item in ids if item in errors},
        about=tuple(about),
    )


def _header(file: Path) -> ShardHeader:
    lines = read_lines(file)
    found = lines[0] if lines else {}
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{file}: the first line is no header of {FORMAT} version {VERSION}")
    return ShardHeader(
        identity=found["identity"],
        shard=found["shard"],
        shards=found["shards"],
        about=found["about"],
    )


def _as_shard(header: ShardHeader, shard: int) -> ShardHeader:
    return ShardHeader(
        identity=header.identity, shard=shard, shards=header.shards, about=header.about
    )
