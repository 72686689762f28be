"""Check what a reward function returned, in the process that called it and in the one that asked.

A reward function returns one value per completion: a number, None for "does not apply", or a dict
of named parts. A dict of lists is accepted as well.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

Parts: TypeAlias = dict[str, float | None]
"""Named parts of one completion's reward; the part "" is the reward itself."""


class BadReturn(ValueError):
    """A reward function returned something that is no reward."""


def read_returned(value: Any, count: int) -> list[Parts]:
    """Turn what a reward function returned into parts per completion.

    Args:
        value: A list (or tuple, array, tensor) of `count` entries, or a dict of such lists. An
            entry is a number, a bool, None, or a dict of those.
        count: Number of completions that were scored.

    Returns:
        Per completion a dict with the reward under "" and its named parts, if any. The reward of
        named parts is the one named "reward", else the sum of those that apply.

    Raises:
        BadReturn: For a wrong count, a wrong type, NaN or an infinite number; the text says which
            completion.
    """
    if isinstance(value, Mapping):
        columns = {_name(key): _entries(column, count) for key, column in value.items()}
        rows: list[Any] = [
            {name: column[at] for name, column in columns.items()} for at in range(count)
        ]
        if not columns:
            raise BadReturn("returned an empty dict, expected named lists")
    else:
        rows = _entries(value, count)
    return [_parts(row, at) for at, row in enumerate(rows)]


def _entries(value: Any, count: int) -> list[Any]:
    if hasattr(value, "tolist"):  # numpy arrays and torch tensors
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise BadReturn(
            f"returned {_type_name(value)}, expected a list of {count} numbers, one per completion"
        )
    if len(value) != count:
        raise BadReturn(f"returned {len(value)} values for {count} completions")
    return list(value)


def _parts(row: Any, at: int) -> Parts:
    if not isinstance(row, Mapping):
        return {"": _number(row, at, "")}
    parts = {_name(key): _number(entry, at, f" part {key!r}") for key, entry in row.items()}
    if "reward" in parts:
        total = parts.pop("reward")
    else:
        applying = [part for part in parts.values() if part is not None]
        total = sum(applying) if applying else None
    return {"": total, **parts}


def _name(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise BadReturn(f"named a part {key!r}, expected a word")
    return key


def _number(entry: Any, at: int, what: str) -> float | None:
    if entry is None:
        return None
    if isinstance(entry, str | bytes) or not hasattr(entry, "__float__"):
        raise BadReturn(
            f"returned {_type_name(entry)} for completion {at}{what}, expected a number or None"
        )
    try:
        number = float(entry)
    except Exception as error:
        raise BadReturn(
            f"returned {_type_name(entry)} for completion {at}{what}, which is no number: {error}"
        ) from error
    if not math.isfinite(number):
        raise BadReturn(f"returned {number} for completion {at}{what}")
    return number


def _type_name(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
