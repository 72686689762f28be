r"""GS-Reasoner's conversations: boxes to find, questions to answer, chains of thought (GCoT).

One raw row of a grounding file:

    {"id": "scanrefer_12", "video": "scannet/scene0011_00", "conversations": [
       {"from": "human", "value": "<image>\nLocate the brown table by the wall."},
       {"from": "gpt", "value": "<ground>"}],
     "metadata": {"dataset": "scanrefer", "question_type": "unique", "target_object_id": 5,
       "object": [{"object_id": [5], "object_name": "table",
                   "object_bbox": [[cx, cy, cz, dx, dy, dz]]}]}}

A GCoT row (dataset "vsibench_cot") has ``data_source`` and ``scene_name`` instead of ``video``, its
reply is "<think>..</think><answer>..</answer>", and ``metadata.data_augmentation`` says how the
scene was moved before the text was written.

Source: WU-CVGL/GS-Reasoner llava/train/train_3d.py, llava/eval/model_*.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.records import Box3D
from scenerl.preprocess.row_sources import table_items
from scenerl.preprocess.rows import (
    RowError,
    Rows,
    as_text,
    as_whole,
    collect_rows,
    key_text,
    listing,
    mapping,
    need,
    numbers,
    one,
    optional_text,
    text,
)

WRAPPED = ("scanqa", "sqa3d", "scan2cap")
"""Data sets whose replies are put into ``<think></think><answer>..</answer>`` when read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedBoxes:
    """The objects of one name in a reply."""

    name: str
    object_ids: tuple[int, ...]
    centre_sizes: tuple[Box3D, ...]
    """(centre x, y, z, size x, y, z), as in the file."""

    @property
    def boxes(self) -> tuple[Box3D, ...]:
        """Return the boxes by their corners."""
        return tuple(_corners(box) for box in self.centre_sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class GSReasonerRow:
    """One question and its reply."""

    id: str
    video: str
    """``<data set>/<scene>``."""
    dataset: str
    question_type: str
    prompt: str
    reply: str
    """As in the file; ``<ground>`` stands for the boxes."""
    objects: tuple[NamedBoxes, ...]
    target_object_id: int | None
    is_augmented: bool
    """Whether the text tells of a scene that was scaled, turned or moved."""
    answers: tuple[str, ...] = ()

    @property
    def item_id(self) -> str:
        """Return the row's id."""
        return self.id

    @property
    def scene_id(self) -> str:
        """Return the name of the scene."""
        return self.video.rstrip("/").rsplit("/", 1)[-1]

    @property
    def question(self) -> str:
        """Return the prompt without the image placeholder, ``<ground>`` replaced by the boxes."""
        words = self.prompt.replace("<image>", "").strip()
        return words.replace("<ground>", boxes_text(self.objects, named=False))

    @property
    def completion(self) -> str:
        """Return the reply that the official training reads, boxes in the order of the file."""
        boxes = boxes_text(self.objects, named=self.dataset.lower() != "scan2cap")
        if self.dataset.lower() in WRAPPED:
            return _wrap(self.reply.replace("<ground>", boxes))
        return self.reply.replace("<ground>", _wrap(boxes))


def _wrap(answer: str) -> str:
    return f"<think></think><answer>{answer}</answer>"


def boxes_text(objects: tuple[NamedBoxes, ...], *, named: bool = True) -> str:
    """Return boxes as GS-Reasoner trains on them: ``chair 1 <bbox>(x1, ..., z2)</bbox>``."""
    parts = []
    for item in objects:
        boxes = "".join(_box_text(box) for box in item.centre_sizes)
        if not boxes:
            parts = ["<bbox></bbox>"]  # upstream forgets the objects before an empty one
        else:
            parts.append(f"{item.name} {len(item.centre_sizes)} {boxes}" if named else boxes)
    return ", ".join(parts)


def _box_text(centre_size: Box3D) -> str:
    """Return a box as text; upstream computes the corners in float32, which moves digits."""
    values = np.asarray(centre_size, dtype=np.float32)
    half = values[3:] / np.float32(2)
    corners = [*(values[:3] - half).tolist(), *(values[:3] + half).tolist()]
    return f"<bbox>({', '.join(f'{value:.4f}' for value in corners)})</bbox>"


def read_gsreasoner(path: str | Path) -> Rows[GSReasonerRow]:
    """Return the rows of a file of conversations (a JSON list or JSON lines).

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(table_items(path), one(_row))


def _row(raw: Mapping[str, Any], number: int) -> GSReasonerRow:
    metadata = mapping(raw.get("metadata") or {}, "metadata")
    turns = [
        mapping(turn, "a turn") for turn in listing(need(raw, "conversations"), "conversations")
    ]
    if len(turns) != 2:
        raise RowError("wrong length", f"conversations has {len(turns)} turns; expected 2")
    if "video" in raw:
        video = text(raw, "video")
    else:
        video = f"{text(raw, 'data_source')}/{key_text(raw, 'scene_name')}"
    target = metadata.get("target_object_id")
    answers = metadata.get("answers") or raw.get("annotations") or []
    moves = mapping(metadata.get("data_augmentation") or {}, "data_augmentation")
    return GSReasonerRow(
        id=key_text(raw, "id") if "id" in raw else f"{video}|{number}",
        video=video,
        dataset=text(metadata, "dataset") if "dataset" in metadata else "vsibench_cot",
        question_type=optional_text(metadata, "question_type"),
        prompt=text(turns[0], "value"),
        reply=text(turns[1], "value"),
        objects=tuple(_boxes(item) for item in listing(metadata.get("object") or [], "object")),
        target_object_id=None if target is None else as_whole(target, "target_object_id"),
        is_augmented=any(isinstance(m, dict) and bool(m.get("flag")) for m in moves.values()),
        answers=tuple(as_text(a, "answers", empty=True) for a in listing(answers, "answers")),
    )


def _boxes(raw: Any) -> NamedBoxes:
    item = mapping(raw, "an object")
    boxes = [
        numbers(b, 6, "object_bbox") for b in listing(need(item, "object_bbox"), "object_bbox")
    ]
    ids = item.get("object_id")
    if ids is None:
        ids = []
    return NamedBoxes(
        name=optional_text(item, "object_name"),
        object_ids=tuple(
            as_whole(value, "object_id") for value in (ids if isinstance(ids, list) else [ids])
        ),
        centre_sizes=tuple(_six(box) for box in boxes),
    )


def _six(values: tuple[float, ...]) -> Box3D:
    cx, cy, cz, dx, dy, dz = values
    return (cx, cy, cz, dx, dy, dz)


def _corners(box: Box3D) -> Box3D:
    cx, cy, cz, dx, dy, dz = box
    hx, hy, hz = dx / 2, dy / 2, dz / 2
    return (cx - hx, cy - hy, cz - hz, cx + hx, cy + hy, cz + hz)
