"""SQA3D: questions asked by somebody who stands somewhere in the scene; two files, joined by id.

One question of v1_balanced_questions_val_scannetv2.json, under "questions":

    {"question_id": 220602000000, "scene_id": "scene0380_00", "situation": "I face the window.",
     "alternative_situation": ["I just opened the door."], "question": "What is behind me?"}

and its annotation in v1_balanced_sqa_annotations_val_scannetv2.json, under "annotations":

    {"question_id": 220602000000, "scene_id": "scene0380_00", "answer_type": "other",
     "question_type": "N/A", "answers": [{"answer": "door", "answer_confidence": "yes",
     "answer_id": 1}], "position": {"x": 0.1, "y": -1.2, "z": 0}, "rotation": {"_x": 0, "_y": 0,
     "_z": 0.7, "_w": 0.7}}

Source: SilongYong/SQA3D ScanQA/lib/dataset.py, LLM/eval_sqa3d_llm.py.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import (
    RowError,
    Rows,
    SkippedRow,
    as_number,
    collect_rows,
    key_text,
    listing,
    mapping,
    need,
    one,
    optional_text,
    text,
    texts,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SQA3DRow:
    """One question with its situation and its answer."""

    question_id: str
    scene_id: str
    situation: str
    alternative_situation: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    answer_type: str
    position_m: tuple[float, float, float] | None
    rotation: tuple[float, float, float, float] | None
    """Quaternion (x, y, z, w)."""

    @property
    def item_id(self) -> str:
        """Return the question's id."""
        return self.question_id


@dataclass(frozen=True, kw_only=True, slots=True)
class _Truth:
    question_id: str
    scene_id: str
    answers: tuple[str, ...]
    answer_type: str
    position_m: tuple[float, float, float] | None
    rotation: tuple[float, float, float, float] | None

    @property
    def item_id(self) -> str:
        return self.question_id


def annotations_path(questions: str | Path) -> Path:
    """Return the annotation file that belongs to a file of questions, by its official name."""
    path = Path(questions)
    return path.with_name(path.name.replace("questions", "sqa_annotations"))


def read_sqa3d(path: str | Path, annotations: str | Path | None = None) -> Rows[SQA3DRow]:
    """Return the rows of a pair of SQA3D files.

    Args:
        path: The questions.
        annotations: The answers; None takes the file beside it that is named as the official ones
            are (``questions`` -> ``sqa_annotations``).

    Raises:
        DataError: If a file is missing or holds no list.
    """
    answers_path = annotations_path(path) if annotations is None else Path(annotations)
    if answers_path == Path(path):
        raise DataError(
            f"{path}: the file of answers cannot be told from this name; expected a name with "
            "'questions' in it, such as v1_balanced_questions_val_scannetv2.json"
        )
    asked = collect_rows(json_items(path, key="questions"), one(_question))
    true = collect_rows(json_items(answers_path, key="annotations"), one(_truth))
    by_id = {truth.question_id: truth for truth in true.rows}
    rows: list[SQA3DRow] = []
    skipped = [
        *asked.skipped,
        *(dataclasses.replace(s, location=f"annotations, {s.location}") for s in true.skipped),
    ]
    for row in asked.rows:
        truth = by_id.pop(row.question_id, None)
        if truth is None:
            skipped.append(_unmatched(row.question_id, "no annotation", "no annotation has its id"))
        elif truth.scene_id != row.scene_id:
            detail = f"asked in {row.scene_id!r:.80}, answered in {truth.scene_id!r:.80}"
            skipped.append(_unmatched(row.question_id, "contradiction", detail))
        else:
            rows.append(
                dataclasses.replace(
                    row,
                    answers=truth.answers,
                    answer_type=truth.answer_type,
                    position_m=truth.position_m,
                    rotation=truth.rotation,
                )
            )
    skipped += [_unmatched(name, "no question", "no question has its id") for name in by_id]
    return Rows(rows=tuple(rows), skipped=tuple(skipped))


def _unmatched(question_id: str, reason: str, detail: str) -> SkippedRow:
    return SkippedRow(location=f"question_id {question_id:.80}", reason=reason, detail=detail)


def _question(raw: Mapping[str, Any], _number: int) -> SQA3DRow:
    return SQA3DRow(
        question_id=key_text(raw, "question_id"),
        scene_id=text(raw, "scene_id"),
        situation=text(raw, "situation", empty=True),
        alternative_situation=texts(
            raw.get("alternative_situation") or [], "alternative_situation"
        ),
        question=text(raw, "question"),
        answers=(),
        answer_type="",
        position_m=None,
        rotation=None,
    )


def _truth(raw: Mapping[str, Any], _number: int) -> _Truth:
    answers = listing(need(raw, "answers"), "answers")
    if not answers:
        raise RowError("no answer", "answers is an empty list")
    x_y_z, quaternion = raw.get("position"), raw.get("rotation")
    position = None if x_y_z is None else _parts(x_y_z, ("x", "y", "z"), "position")
    rotation = (
        None if quaternion is None else _parts(quaternion, ("_x", "_y", "_z", "_w"), "rotation")
    )
    return _Truth(
        question_id=key_text(raw, "question_id"),
        scene_id=text(raw, "scene_id"),
        answers=tuple(text(mapping(a, "an answer"), "answer", empty=True) for a in answers),
        answer_type=optional_text(raw, "answer_type"),
        position_m=None if position is None else (position[0], position[1], position[2]),
        rotation=None if rotation is None else (rotation[0], rotation[1], rotation[2], rotation[3]),
    )


def _parts(value: Any, names: tuple[str, ...], what: str) -> tuple[float, ...]:
    parts = mapping(value, what)
    return tuple(as_number(need(parts, name), f"{what}.{name}") for name in names)
