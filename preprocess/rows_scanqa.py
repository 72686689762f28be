"""ScanQA: questions about a scene, with several answers and the objects they are about.

One raw row of ScanQA_v1.0_val.json:

    {"scene_id": "scene0011_00", "question_id": "val-scene0011-0", "question": "What color is the
     chair?", "answers": ["brown", "dark brown"], "object_ids": [8], "object_names": ["chair"]}

The test files have no answers and no objects.

Source: ATR-DBI/ScanQA lib/dataset.py, scripts/score.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import Rows, collect_rows, key_text, one, text, texts, wholes


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanQARow:
    """One question."""

    scene_id: str
    question_id: str
    question: str
    answers: tuple[str, ...]
    """Empty in the test files."""
    object_ids: tuple[int, ...]
    object_names: tuple[str, ...]

    @property
    def item_id(self) -> str:
        """Return the question's id."""
        return self.question_id


def read_scanqa(path: str | Path) -> Rows[ScanQARow]:
    """Return the rows of a ScanQA file.

    Raises:
        DataError: If the file is missing or holds no list.
    """
    return collect_rows(json_items(path), one(_row))


def _row(raw: Mapping[str, Any], _number: int) -> ScanQARow:
    return ScanQARow(
        scene_id=text(raw, "scene_id"),
        question_id=key_text(raw, "question_id"),
        question=text(raw, "question"),
        answers=texts(raw.get("answers") or [], "answers"),
        object_ids=wholes(raw.get("object_ids") or [], "object_ids"),
        object_names=texts(raw.get("object_names") or [], "object_names"),
    )
