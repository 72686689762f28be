"""Annotation files to typed rows: every row that can be read, and a located reason for every other.

Files are read as bytes. One bad row never costs the others: a JSON list that is cut off gives the
rows before the cut, text that is not UTF-8 costs the rows it stands in. The reading itself is in
`row_sources`; the formats are in ``rows_<format>``, each with one raw row in its docstring.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from scenerl.preprocess.records import DataError


class Row(Protocol):
    """One annotation, with the fields of its file."""

    @property
    def item_id(self) -> str:
        """The id that samples, predictions and scores share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedRow:
    """A place of an annotation file that gave no row."""

    location: str
    """Such as "row 12, byte 3417", "line 4" or "byte 9120"."""
    reason: str
    """Short and countable, for example "missing key"."""
    detail: str = ""


R_co = TypeVar("R_co", bound=Row, covariant=True)
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Generic[R_co]):
    """What an annotation file holds. Item ids are unique."""

    rows: tuple[R_co, ...]
    skipped: tuple[SkippedRow, ...] = ()

    def reasons(self) -> dict[str, int]:
        """Return how many places gave no row, by reason."""
        return dict(sorted(Counter(item.reason for item in self.skipped).items()))


class RowError(DataError):
    """A row that cannot be used.

    Attributes:
        reason: Short and countable.
        detail: What was found and what is expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Say what is wrong."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One value of a file, before it is understood: an object, or why there is none."""

    location: str
    number: int
    """0-based place among the file's rows, bad ones included."""
    value: Any = None
    key: str = ""
    """Its name, in a file that is one object of named values."""
    error: RowError | None = None


def collect_rows(items: Iterable[Item], parse: Callable[[Item], Iterable[R]]) -> Rows[R]:
    """Return the rows of a file; the first of several rows with one id is kept.

    Args:
        items: What a reader of `row_sources` yields.
        parse: Item -> its rows; raises RowError for one that cannot be used. Rows it has yielded
            before raising are kept.
    """
    rows: dict[str, R] = {}
    skipped: list[SkippedRow] = []

    def skip(item: Item, error: RowError) -> None:
        skipped.append(SkippedRow(location=item.location, reason=error.reason, detail=error.detail))

    for item in items:
        try:
            if item.error is not None:
                raise item.error
            for row in parse(item):
                if rows.setdefault(row.item_id, row) is not row:
                    skip(item, RowError("duplicate id", f"{row.item_id!r:.200} is there before"))
        except RowError as error:
            skip(item, error)
    return Rows(rows=tuple(rows.values()), skipped=tuple(skipped))


def one(parse: Callable[[Mapping[str, Any], int], R]) -> Callable[[Item], Iterator[R]]:
    """Return the parser of items for a format whose items are objects of one row each."""

    def rows(item: Item) -> Iterator[R]:
        yield parse(mapping(item.value), item.number)

    return rows


def found(value: Any) -> str:
    """Return a value as a message shows it, shortened."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def mapping(value: Any, what: str = "the row") -> Mapping[str, Any]:
    """Return a JSON object, or raise RowError."""
    if not isinstance(value, dict):
        raise RowError("wrong type", f"{what} is {found(value)}; expected an object")
    return value


def listing(value: Any, what: str) -> list[Any]:
    """Return a JSON list, or raise RowError."""
    if not isinstance(value, list):
        raise RowError("wrong type", f"{what} is {found(value)}; expected a list")
    return value


def need(row: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, or raise RowError."""
    if key not in row:
        raise RowError("missing key", f"{key!r} is not among {found(sorted(row))}")
    return row[key]


def as_text(value: Any, what: str, *, empty: bool = False) -> str:
    """Return a text that can be stored as UTF-8, or raise RowError.

    Args:
        value: What the file has there.
        what: The key, for the message.
        empty: Whether "" may stand there.
    """
    if not isinstance(value, str):
        raise RowError("wrong type", f"{what} is {found(value)}; expected a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            detail = f"character {error.start} of {what} is no UTF-8; save the file as UTF-8"
            raise RowError("not UTF-8", detail) from error
    if not empty and not value.strip():
        raise RowError("empty text", f"{what} is {found(value)}; expected words")
    return value


def text(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """Return the text of a key, or raise RowError."""
    return as_text(need(row, key), key, empty=empty)


def optional_text(row: Mapping[str, Any], key: str) -> str:
    """Return the text of a key, "" where there is none, or raise RowError."""
    return "" if row.get(key) is None else text(row, key, empty=True)


def key_text(row: Mapping[str, Any], key: str) -> str:
    """Return an id as text, whether the file writes it as text or as a whole number."""
    value = need(row, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return found(value)
    return as_text(value, key)


def as_whole(value: Any, what: str) -> int:
    """Return a whole number of 64 bits, also when written as a text, or raise RowError."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer():
        is_whole, value = True, int(value)
    if not is_whole or not -(2**63) <= value < 2**63:
        raise RowError("wrong type", f"{what} is {found(value)}; expected a whole number")
    return int(value)


def whole(row: Mapping[str, Any], key: str) -> int:
    """Return the whole number of a key, or raise RowError."""
    return as_whole(need(row, key), key)


def as_number(value: Any, what: str) -> float:
    """Return a finite number, or raise RowError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("wrong type", f"{what} is {found(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError("not finite", f"{what} is {found(value)}; expected a finite number")
    return number


def numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    """Return a list of finite numbers of a given length, or raise RowError."""
    values = listing(value, what)
    if len(values) != count:
        raise RowError("wrong length", f"{what} has {len(values)} numbers; expected {count}")
    return tuple(as_number(part, what) for part in values)


def texts(value: Any, what: str) -> tuple[str, ...]:
    """Return a list of texts, or raise RowError."""
    return tuple(as_text(part, what, empty=True) for part in listing(value, what))


def wholes(value: Any, what: str) -> tuple[int, ...]:
    """Return a list of whole numbers, or raise RowError."""
    return tuple(as_whole(part, what) for part in listing(value, what))


def is_true(value: Any, what: str) -> bool:
    """Return a truth value, also when written as "True" or "false", or raise RowError."""
    if isinstance(value, bool):
        return value
    named = {"true": True, "false": False}
    if isinstance(value, str) and value.strip().lower() in named:
        return named[value.strip().lower()]
    raise RowError("wrong type", f"{what} is {found(value)}; expected true or false")
