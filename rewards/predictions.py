"""Prediction files: lines of JSON with an id each, and whether every item is there once.

A line that cannot be read is an error, since dropping it would be a missing prediction nobody sees.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import Predictions

NAMED = 5
"""How many ids a message names; all are counted."""


def read_json_lines(path: Path, *, allow_nan: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of every line of a JSONL file; blank lines are passed over.

    Args:
        path: The file.
        allow_nan: Whether NaN and Infinity may stand for numbers.

    Raises:
        DataError: If a line is not UTF-8, not JSON, or not an object; names the line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if line.strip():
                value = parse_json(line, where, allow_nan=allow_nan)
                if not isinstance(value, dict):
                    raise DataError(
                        f"{where}: found {type(value).__name__}, expected one object a line"
                    )
                yield where, value


def first_object(path: Path) -> dict[str, Any]:
    """Return the object of the first line of a JSONL file, {} when it is empty."""
    return next(read_json_lines(path), ("", {}))[1]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If it is not UTF-8 or not JSON; says where.
    """
    return parse_json(path.read_bytes(), str(path))


def parse_json(raw: bytes, where: str, *, allow_nan: bool = False) -> Any:
    """Return the value of JSON bytes; NaN and Infinity are refused unless allowed.

    Raises:
        DataError: If the bytes are not UTF-8 or not JSON.
    """

    def refuse(name: str) -> float:
        if allow_nan:
            return float(name)
        raise DataError(f"{where}: found {name}, expected a finite number; write null or leave out")

    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "is the file cut off?"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON nested too deeply") from error


def read_own_predictions(
    path: Path, parse: Callable[[dict[str, Any], str], Any], *, key: str = "id"
) -> Iterator[tuple[str, Any]]:
    """Yield (item id, record) of our own prediction JSONL: {"id": ..., the payload}.

    Args:
        path: The file.
        parse: (object, where) -> the benchmark's record; raises DataError.
        key: Where the id stands.

    Raises:
        DataError: If a line has no id.
    """
    for where, row in read_json_lines(path):
        item_id = row.get(key)
        if not isinstance(item_id, str | int) or isinstance(item_id, bool) or item_id == "":
            raise DataError(f'{where}: "{key}" is {item_id!r:.80}; expected the id of an item')
        yield str(item_id), parse(row, where)


def collect(pairs: Iterable[tuple[str, Any]], notes: tuple[str, ...] = ()) -> Predictions:
    """Return predictions by id; later ones of the same id are counted as duplicates."""
    by_id: dict[str, Any] = {}
    duplicates = []
    for item_id, record in pairs:
        if item_id in by_id:
            duplicates.append(item_id)
        else:
            by_id[item_id] = record
    return Predictions(by_id=by_id, duplicates=tuple(duplicates), notes=notes)


def check_ids(
    predictions: Predictions, references: Mapping[str, Any], *, allow_missing: bool
) -> Predictions:
    """Return the predictions with missing and extra ids filled in.

    Raises:
        DataError: If an item is predicted twice, is not one of the references, or (unless that
            is allowed) is not predicted. Names the first few and counts all.
    """
    missing = tuple(item_id for item_id in references if item_id not in predictions.by_id)
    extra = tuple(item_id for item_id in predictions.by_id if item_id not in references)
    problems = [
        f"{len(ids)} {what}: {', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''}"
        for ids, what in (
            (predictions.duplicates, "predicted more than once"),
            (extra, "not among the references"),
            (() if allow_missing else missing, "without a prediction"),
        )
        if ids
    ]
    if problems:
        advice = "every item of the references is expected exactly once"
        if not allow_missing and missing and len(problems) == 1:
            advice += "; --allow-missing counts the missing ones as wrong"
        raise DataError(
            f"{len(predictions.by_id)} predictions for {len(references)} items; "
            + "; ".join(problems)
            + f"; {advice}"
        )
    return replace(predictions, missing=missing, extra=extra)


def numbers(value: Any, count: int, what: str, where: str) -> tuple[float, ...]:
    """Return a list of finite numbers of a given length.

    Raises:
        DataError: If it is anything else.
    """
    if (
        not isinstance(value, list)
        or len(value) != count
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value)
        or any(abs(v) == float("inf") for v in value)
    ):
        raise DataError(f"{where}: {what} is {value!r}; expected {count} finite numbers")
    return tuple(float(v) for v in value)
