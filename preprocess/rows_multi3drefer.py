"""Multi3DRefer: descriptions that mean no, one or several objects.

One raw row of multi3drefer_val.json:

    {"scene_id": "scene0011_00", "object_ids": [4, 7], "object_name": "chair", "ann_id": 12,
     "eval_type": "mt", "description": "the chairs at the table", "spatial": true, ...}

Source: 3dlg-hcvc/M3DRef-CLIP m3drefclip/data/dataset/multi3drefer.py, m3drefclip/evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import (
    RowError,
    Rows,
    collect_rows,
    found,
    key_text,
    need,
    one,
    text,
    wholes,
)

EVAL_TYPES = ("zt_w_d", "zt_wo_d", "st_w_d", "st_wo_d", "mt")
"""Zero targets with and without distractors, a single one with and without, multiple."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Multi3DReferRow:
    """One description."""

    scene_id: str
    object_ids: tuple[int, ...]
    """Instance numbers from 0; empty when nothing in the scene is meant."""
    object_name: str
    ann_id: str
    eval_type: str
    description: str

    @property
    def item_id(self) -> str:
        """Return ``scene|annotation``, the key of the official evaluator."""
        return f"{self.scene_id}|{self.ann_id}"


def read_multi3drefer(path: str | Path) -> Rows[Multi3DReferRow]:
    """Return the rows of a Multi3DRefer file.

    Raises:
        DataError: If the file is missing or holds no list.
    """
    return collect_rows(json_items(path), one(_row))


def _row(raw: Mapping[str, Any], _number: int) -> Multi3DReferRow:
    eval_type = text(raw, "eval_type")
    object_ids = wholes(need(raw, "object_ids"), "object_ids")
    if eval_type not in EVAL_TYPES:
        raise RowError("unknown type", f"eval_type is {found(eval_type)}, none of {EVAL_TYPES}")
    if eval_type.startswith("zt") != (not object_ids):
        raise RowError("contradiction", f"eval_type {eval_type} with {len(object_ids)} object_ids")
    return Multi3DReferRow(
        scene_id=text(raw, "scene_id"),
        object_ids=object_ids,
        object_name=text(raw, "object_name"),
        ann_id=key_text(raw, "ann_id"),
        eval_type=eval_type,
        description=text(raw, "description"),
    )
