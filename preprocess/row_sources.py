"""The values of JSON, JSON lines, CSV and Parquet files, each with its place in the file."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.preprocess.rows import Item, RowError, found

_SPACE = re.compile(r"[ \t\r\n]*")
_NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")
_NEXT_MEMBER = re.compile(r"[\}\]]\s*,\s*(?=\")")
_DECODER = json.JSONDecoder()


def read_bytes(path: str | Path) -> bytes:
    """Return the content of an annotation file.

    Raises:
        DataError: If it is not there, is no file, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, or is no file; annotation files come from their owners and "
            "are never downloaded, docs/annotations.md says from where and under which terms"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def json_items(path: str | Path, *, key: str | None = None) -> Iterator[Item]:
    """Yield the elements of a JSON list, or the named values of a JSON object.

    A value that is no JSON is passed over up to where the next one seems to start.

    Args:
        path: The file.
        key: The list stands under this key of the file's object; None: the file is the list (or
            the object whose values are wanted).

    Raises:
        DataError: If the file cannot be read, or holds no such list.
    """
    content = _decode(read_bytes(path))
    start = _after_space(content, 0)
    if key is not None:
        named = re.search(rf'"{re.escape(key)}"\s*:\s*(?=\[)', content)
        if named is None:
            raise DataError(f'{path}: has no list under "{key}"; is it another file of the set?')
        start = named.end()
    if content[start : start + 1] not in ("[", "{"):
        raise DataError(
            f"{path}: starts with {content[start : start + 20]!r}; expected a JSON list or object"
        )
    yield from _elements(content, start, is_whole_file=key is None)


def _decode(raw: bytes) -> str:
    """Return bytes as text; bytes that are not UTF-8 become surrogates, which `as_text` refuses."""
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _after_space(content: str, position: int) -> int:
    match = _SPACE.match(content, position)
    assert match is not None
    return match.end()


def _byte(content: str, position: int) -> int:
    return len(content[:position].encode("utf-8", "surrogateescape"))


def _elements(content: str, start: int, *, is_whole_file: bool) -> Iterator[Item]:
    is_object = content[start] == "{"
    closing, position, number = ("}" if is_object else "]"), start + 1, 0
    seen: set[str] = set()
    while True:
        position = _after_space(content, position)
        if content[position : position + 1] == closing:
            break
        where = position
        name, value, error = "", None, None
        try:
            if is_object:
                name, position = _member_name(content, position)
            value, position = _DECODER.raw_decode(content, position)
            position = _after_space(content, position)
            if content[position : position + 1] == ",":
                position += 1
            elif content[position : position + 1] != closing:
                raise json.JSONDecodeError("Expecting ',' or the end", content, position)
        except (ValueError, RecursionError) as problem:
            error, position = _resume(content, where, problem, is_object)
        if is_object and name in seen and error is None:
            error = RowError("duplicate id", f"the key {found(name)} is there before")
        seen.add(name)
        location = (
            f"row {number}" if error is None else f"row {number}, byte {_byte(content, where)}"
        )
        yield Item(location=location, number=number, value=value, key=name, error=error)
        number += 1
        if position < 0:
            return
    rest = content[position + 1 :].strip()
    if rest and is_whole_file:
        error = RowError("not JSON", f"{found(rest)} stands after the end of the data")
        yield Item(location=f"byte {_byte(content, position + 1)}", number=number, error=error)


def _member_name(content: str, position: int) -> tuple[str, int]:
    name, position = _DECODER.raw_decode(content, position)
    position = _after_space(content, position)
    if not isinstance(name, str) or content[position : position + 1] != ":":
        raise json.JSONDecodeError("Expecting a name and ':'", content, position)
    return name, _after_space(content, position + 1)


def _resume(content: str, where: int, problem: Exception, is_object: bool) -> tuple[RowError, int]:
    """Return the error of a value and where the next one starts, -1 when there is none."""
    at = getattr(problem, "pos", where)
    following = (_NEXT_MEMBER if is_object else _NEXT_OBJECT).search(content, max(where, at - 1))
    if at >= len(content.rstrip()) or (following is None and _is_open(content, where)):
        return RowError("cut off", "the file ends inside this value; is it complete?"), -1
    detail = f"{getattr(problem, 'msg', problem)} at byte {_byte(content, at)}"
    return RowError("not JSON", detail), -1 if following is None else following.end()


def _is_open(content: str, where: int) -> bool:
    """Whether the file ends without closing what is open."""
    return content.rstrip()[-1:] not in ("]", "}") and where < len(content)


def json_lines(path: str | Path) -> Iterator[Item]:
    """Yield the value of every line; blank lines are passed over.

    Raises:
        DataError: If the file cannot be read.
    """
    number = 0
    for line_number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        value, error = None, None
        try:
            value = _DECODER.decode(_decode(line))
        except json.JSONDecodeError as problem:
            is_cut = problem.pos >= len(problem.doc.rstrip())
            reason = "cut off" if is_cut else "not JSON"
            error = RowError(reason, f"{problem.msg} at column {problem.colno}")
        except (ValueError, RecursionError) as problem:
            error = RowError("not JSON", str(problem))
        yield Item(location=f"line {line_number}", number=number, value=value, error=error)
        number += 1


def csv_items(path: str | Path) -> Iterator[Item]:
    """Yield every row of a CSV file with a header as an object of texts.

    Raises:
        DataError: If the file cannot be read or has no header.
    """
    reader = csv.reader(io.StringIO(_decode(read_bytes(path)), newline=""))
    try:
        header = next(reader, None)
    except csv.Error as problem:
        raise DataError(f"{path}: the header cannot be read: {problem}") from problem
    if not header:
        raise DataError(f"{path} is empty; expected a header line and rows")
    number = 0
    while True:
        line = reader.line_num + 1
        value, error = None, None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            fields, error = [], RowError("not CSV", str(problem))
        if not fields and error is None:
            continue
        if error is None and len(fields) != len(header):
            detail = f"found {len(fields)} fields, expected {len(header)} as in the header"
            error = RowError("wrong length", detail)
        if error is None:
            value = dict(zip(header, fields, strict=True))
        yield Item(location=f"line {line}", number=number, value=value, error=error)
        number += 1


def parquet_items(path: str | Path) -> Iterator[Item]:
    """Yield every row of a Parquet file as an object.

    Raises:
        DataError: If the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; is it complete?") from error
    for number in range(table.num_rows):
        value: Any = None
        problem = None
        try:
            value = table.slice(number, 1).to_pylist()[0]
        except (UnicodeDecodeError, pa.ArrowException, ValueError) as error:
            problem = RowError("not UTF-8", str(error))
        yield Item(location=f"row {number}", number=number, value=value, error=problem)


def table_items(path: str | Path) -> Iterator[Item]:
    """Yield the objects of a JSON list, a JSON-lines or a Parquet file, told by the file's name."""
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return parquet_items(path)
    return json_lines(path) if suffix in (".jsonl", ".ndjson") else json_items(path)
