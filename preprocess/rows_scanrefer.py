"""ScanRefer's annotation list, for grounding and, as Scan2Cap reads it, for captions.

One raw row of ScanRefer_filtered_val.json:

    {"scene_id": "scene0011_00", "object_id": "0", "object_name": "brown_table", "ann_id": "1",
     "description": "this is a brown table. it is by the wall.", "token": ["this", "is", ...]}

Sources: daveredrum/ScanRefer lib/dataset.py; daveredrum/Scan2Cap lib/eval_helper.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import Rows, collect_rows, key_text, one, text, texts


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReferRow:
    """One description of one object."""

    scene_id: str
    object_id: str
    """The instance number of ScanNet's aggregation (objectId, from 0)."""
    object_name: str
    """As in the file, underscores for spaces."""
    ann_id: str
    description: str
    token: tuple[str, ...] | None

    @property
    def item_id(self) -> str:
        """Return ``scene|object|annotation``."""
        return f"{self.scene_id}|{self.object_id}|{self.ann_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan2CapRow:
    """All descriptions of one object, the references of its caption."""

    scene_id: str
    object_id: str
    object_name: str
    descriptions: tuple[str, ...]
    tokens: tuple[tuple[str, ...] | None, ...]
    """The tokens of each description, as the official corpus is built of."""

    @property
    def item_id(self) -> str:
        """Return ``scene|object|name``, the key of the official corpus."""
        return f"{self.scene_id}|{self.object_id}|{self.object_name}"


def read_scanrefer(path: str | Path) -> Rows[ScanReferRow]:
    """Return the rows of a file in ScanRefer's layout.

    Raises:
        DataError: If the file is missing or holds no list.
    """
    return collect_rows(json_items(path), one(_row))


def read_scan2cap(path: str | Path) -> Rows[Scan2CapRow]:
    """Return one row per object of a file in ScanRefer's layout, in the order of first mention.

    Raises:
        DataError: If the file is missing or holds no list.
    """
    read = read_scanrefer(path)
    groups: dict[tuple[str, str, str], list[ScanReferRow]] = {}
    for row in read.rows:
        groups.setdefault((row.scene_id, row.object_id, row.object_name), []).append(row)
    return Rows(
        rows=tuple(
            Scan2CapRow(
                scene_id=scene_id,
                object_id=object_id,
                object_name=name,
                descriptions=tuple(row.description for row in rows),
                tokens=tuple(row.token for row in rows),
            )
            for (scene_id, object_id, name), rows in groups.items()
        ),
        skipped=read.skipped,
    )


def _row(raw: Mapping[str, Any], _number: int) -> ScanReferRow:
    token = raw.get("token")
    return ScanReferRow(
        scene_id=text(raw, "scene_id"),
        object_id=key_text(raw, "object_id"),
        object_name=text(raw, "object_name"),
        ann_id=key_text(raw, "ann_id"),
        description=text(raw, "description"),
        token=None if token is None else texts(token, "token"),
    )
