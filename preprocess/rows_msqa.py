"""MSQA / MSR3D, GQA3D and SceneCOT's annotations with chains of thought: one layout, two dialects.

One raw row of msqa_scannet_val.json:

    {"index": 17, "scan_id": "scene0011_00", "situation": "I sit on <chair-5-IMG>.", "location":
     [1.2, 0.3, 0.4], "orientation": [0.0, 1.0, 0.0], "question": "What is on my right?",
     "answers": ["a table"], "type": "spatial relationship", "raw_thought": "table-3, chair-5"}

and of SceneCOT's situated_qa_train_pure_txt.json (gqa3d_train.json: no situation, no index;
sqa_cot_train.json: question_id for index):

    {"index": 17, "scene_id": "scene0011_00", "situation": "You sit on a chair.", "position":
     [1.2, 0.3, 0.4], "rotation": [0, 0, 0.7, 0.7], "orientation_angle": 1.57, "question": "..",
     "answers": ["table"], "type": "counting", "obj_ids": [3], "labels": ["table"],
     "answer_with_cot": "<think_type>This is a counting question</think_type> ..."}

Sources: MSR3D/MSR3D data/datasets/msr3d.py; SceneCOT/scenecot data/datasets.py (load_anno).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import table_items
from scenerl.preprocess.rows import (
    RowError,
    Rows,
    as_number,
    as_text,
    collect_rows,
    key_text,
    need,
    numbers,
    one,
    optional_text,
    text,
    texts,
    wholes,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MSQARow:
    """One question asked from a place."""

    number: int
    """0-based row of the file."""
    index: str | None
    scan_id: str
    situations: tuple[str, ...]
    """One, or several wordings of the same; empty where the format has none."""
    location_m: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    """The facing vector of MSQA; SceneCOT's angle is turned into one."""
    question: str
    answers: tuple[str, ...]
    type: str
    object_ids: tuple[int, ...]
    """Instance numbers from 0 that the answer is about."""
    labels: tuple[str, ...]
    raw_thought: str
    answer_with_cot: str | None
    """SceneCOT's reference reply, thoughts and all."""
    answer_with_cot_region: str | None

    @property
    def item_id(self) -> str:
        """Return the index, or ``scene|row`` where the file has none."""
        return f"{self.scan_id}|{self.number}" if self.index is None else self.index

    @property
    def situation(self) -> str:
        """Return the first wording, which the official evaluation reads; "" without any."""
        return self.situations[0] if self.situations else ""


def read_msqa(path: str | Path) -> Rows[MSQARow]:
    """Return the rows of an MSQA file, or of SceneCOT's copy of it.

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(table_items(path), one(_row))


def read_gqa3d(path: str | Path) -> Rows[MSQARow]:
    """Return the rows of a GQA3D file; ids are ``scene|row``.

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(table_items(path), one(_without_index))


def read_scenecot(path: str | Path) -> Rows[MSQARow]:
    """Return the rows of a SceneCOT file that have a reply with thoughts; the others are skipped.

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(table_items(path), one(_with_thoughts))


def _without_index(raw: Mapping[str, Any], number: int) -> MSQARow:
    return _row({key: value for key, value in raw.items() if key != "index"}, number)


def _with_thoughts(raw: Mapping[str, Any], number: int) -> MSQARow:
    row = _row(raw, number)
    if row.answer_with_cot is None and row.answer_with_cot_region is None:
        raise RowError("no thoughts", "has neither answer_with_cot nor answer_with_cot_region")
    return row


def _row(raw: Mapping[str, Any], number: int) -> MSQARow:
    index = "index" if "index" in raw else "question_id"
    answers = need(raw, "answers")
    if isinstance(answers, str):
        answers = [answers]
    if not answers:
        raise RowError("no answer", "answers is an empty list")
    situations = raw.get("situation") or ()
    if isinstance(situations, str):
        situations = [situations]
    thought = optional_text(raw, "raw_thought")
    return MSQARow(
        number=number,
        index=None if raw.get(index) is None else key_text(raw, index),
        scan_id=text(raw, "scan_id" if "scan_id" in raw else "scene_id"),
        situations=tuple(as_text(s, "situation", empty=True) for s in situations),
        location_m=_vector(raw, ("location", "position")),
        orientation=_orientation(raw),
        question=text(raw, "question"),
        answers=texts(answers, "answers"),
        type=optional_text(raw, "type"),
        object_ids=wholes(raw["obj_ids"], "obj_ids") if raw.get("obj_ids") else _insts(thought),
        labels=_optional(raw, "labels", texts) or (),
        raw_thought=thought,
        answer_with_cot=_optional(raw, "answer_with_cot", as_text),
        answer_with_cot_region=_optional(raw, "answer_with_cot_region", as_text),
    )


def _optional(raw: Mapping[str, Any], key: str, read: Callable[[Any, str], Any]) -> Any:
    return None if raw.get(key) is None else read(raw[key], key)


def _vector(raw: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[float, ...] | None:
    for key in keys:
        if raw.get(key) is not None:
            return numbers(raw[key], 3, key)
    return None


def _orientation(raw: Mapping[str, Any]) -> tuple[float, ...] | None:
    if raw.get("orientation_angle") is not None:
        angle = as_number(raw["orientation_angle"], "orientation_angle")
        return (math.cos(angle), math.sin(angle), 0.0)
    return _vector(raw, ("orientation",))


def _insts(thought: str) -> tuple[int, ...]:
    """Return the objects of "table-3, chair-5", none unless every part names one, as upstream."""
    parts = [part.split("-")[-1] for part in thought.split(", ")]
    if all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        return tuple(int(part) for part in parts if len(part) < 19)
    return ()
