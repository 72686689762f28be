"""Files that survive a crash: written whole, flushed to the disk, then renamed into place."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")
"""What `write_text` calls a file until it is whole."""

_TROUBLES = {
    errno.ENOSPC: r"No space left on device|os error 28\b|inline_container\.cc",
    errno.EDQUOT: r"Disk quota exceeded|os error 122\b",
    errno.EROFS: r"Read-only file system|os error 30\b",
    errno.EACCES: r"Permission denied|os error 13\b",
    errno.EFBIG: r"File too large|os error 27\b",
    errno.EIO: r"Input/output error|os error 5\b",
}
"""What a disk says, and how writers that raise no OSError (safetensors, torch) put it."""


class DiskError(OSError):
    """A file of a run that cannot be written: names it and says what to do."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses inside the block into an error that names the file.

    Raises:
        DiskError: With the `errno` of the disk.
    """
    try:
        yield
    except Exception as error:
        number = _disk_trouble(error)
        if number is None or isinstance(error, DiskError):
            raise
        what_to_do = "make it writable, or set output_dir to a disk that is"
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what_to_do = "free some space and run the same command again"
        raise DiskError(
            number,
            f"{path} cannot be written: {os.strerror(number)} ({_room(path)}); what was committed "
            f"before is whole; {what_to_do}",
        ) from error


def _disk_trouble(error: BaseException) -> int | None:
    """Return the errno when a disk refused to be written."""
    if isinstance(error, OSError) and error.errno in (*_TROUBLES, errno.EPERM):
        return error.errno
    found = [number for number, text in _TROUBLES.items() if re.search(text, str(error))]
    return found[0] if found else None


def _room(path: Path) -> str:
    there = next((folder for folder in path.parents if folder.is_dir()), Path("/"))
    try:
        return f"{shutil.disk_usage(there).free / 2**20:,.1f} MiB free in {there}"
    except OSError as error:
        return f"{there}: {error.strerror}"


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: after a crash it holds the old text or the new, never a part.

    Raises:
        DiskError: If the disk is full or read-only; the old text is still there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of one JSON object a line in one step."""
    write_text(path, "".join(json_line(row) for row in rows))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one JSON object to a file of lines and flush it to the disk."""
    append_lines(path, [row])


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON objects to a file of lines and flush them to the disk.

    A last line that a crash cut short goes first, or it would become one with the next.
    """
    with writing(path), path.open("ab") as file:
        _cut_torn_line(path, file.tell())
        file.write("".join(json_line(row) for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(path: Path, size: int) -> None:
    with path.open("rb") as file:
        file.seek(max(size - 1, 0))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        os.truncate(path, file.read().rfind(b"\n") + 1)


def remove_leftovers(folder: Path) -> None:
    """Delete what `write_text` had not finished in a folder when its process died."""
    for file in folder.glob(".*") if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(file.name):
            file.unlink(missing_ok=True)


def json_line(row: Mapping[str, Any]) -> str:
    """Write one object as a line of JSON; a float reads back as the same float."""
    return json.dumps(row, ensure_ascii=False, allow_nan=True) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a last line that a crash cut short is left out.

    Raises:
        ValueError: If a line before the last is not JSON, which no crash explains.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise ValueError(
                f"{path}:{number}: found {line[:60]!r}, expected one JSON object a line; the file "
                "was changed by hand or the disk is damaged"
            ) from error
    return rows


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush every file and folder below a folder to the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_folder(Path(folder) / name)
        sync_folder(Path(folder))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
