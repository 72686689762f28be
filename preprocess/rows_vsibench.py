"""VSI-Bench: questions about sizes, distances, directions, counts and orders in a video of a room.

One raw row of test.jsonl (test-00000-of-00001.parquet has the same columns):

    {"id": 0, "dataset": "arkitscenes", "scene_name": "41069025", "question_type":
     "object_rel_distance", "question": "Which of these objects is closest to the stove?",
     "ground_truth": "C", "options": ["A. table", "B. stool", "C. sofa", "D. tv"]}

Source: vision-x-nyu/thinking-in-space lmms_eval/tasks/vsibench/utils.py.
"""

from collections.abc import Mapping
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
    found,
    key_text,
    need,
    one,
    text,
    texts,
)

CHOICE_TYPES = (
    *(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")),
    *("object_rel_distance", "route_planning", "obj_appearance_order"),
)
NUMBER_TYPES = (
    *("object_abs_distance", "object_counting", "object_size_estimation"),
    "room_size_estimation",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VSIBenchRow:
    """One question."""

    id: str
    dataset: str
    """scannet, scannetpp or arkitscenes."""
    scene_name: str
    question_type: str
    question: str
    ground_truth: str
    """A letter for a choice, else a number as the file writes it."""
    options: tuple[str, ...] | None
    """With their letters, "A. table"; None for a question that wants a number."""

    @property
    def item_id(self) -> str:
        """Return the question's id."""
        return self.id

    @property
    def video(self) -> str:
        """Return where the official release keeps the video."""
        return f"{self.dataset}/{self.scene_name}.mp4"


def read_vsibench(path: str | Path) -> Rows[VSIBenchRow]:
    """Return the rows of a VSI-Bench file: JSON lines, a JSON list or Parquet.

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(table_items(path), one(_row))


def _row(raw: Mapping[str, Any], _number: int) -> VSIBenchRow:
    kind = text(raw, "question_type")
    if kind not in (*CHOICE_TYPES, *NUMBER_TYPES):
        raise RowError("unknown type", f"question_type is {found(kind)}, no task of VSI-Bench")
    options = raw.get("options") or None
    if (kind in CHOICE_TYPES) != (options is not None):
        count = "no options" if options is None else "options"
        raise RowError("contradiction", f"question_type {kind} with {count}")
    truth = need(raw, "ground_truth")
    if not isinstance(truth, str):
        as_number(truth, "ground_truth")
        truth = found(truth)
    return VSIBenchRow(
        id=key_text(raw, "id"),
        dataset=text(raw, "dataset"),
        scene_name=key_text(raw, "scene_name"),
        question_type=kind,
        question=text(raw, "question"),
        ground_truth=as_text(truth, "ground_truth"),
        options=None if options is None else texts(options, "options"),
    )
