"""References out of annotation files: every row counts, so one that cannot be read is an error."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from scenerl.preprocess.records import DataError
from scenerl.preprocess.rows import Row, Rows
from scenerl.rewards.predictions import NAMED

R = TypeVar("R", bound=Row, covariant=True)


def whole(rows: Rows[R], path: Path) -> Iterator[tuple[str, R]]:
    """Yield (where, row) of an annotation file that was read completely.

    Raises:
        DataError: If rows were skipped (a benchmark without them is another benchmark) or none are
            there.
    """
    if rows.skipped:
        named = "; ".join(
            f"{skip.location}: {skip.reason} ({skip.detail})" for skip in rows.skipped[:NAMED]
        )
        raise DataError(
            f"{path}: {len(rows.skipped)} rows cannot be read: {named}; a score over the rest "
            "would be of another benchmark, so correct or remove them"
        )
    if not rows.rows:
        raise DataError(f"{path} has no rows")
    for row in rows.rows:
        yield f"{path}: {row.item_id}", row
