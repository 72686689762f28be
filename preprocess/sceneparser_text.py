"""The JSON text that SceneParser's policy learns to write about one category of an image.

As ZGCA-HMI-Lab/SceneParser builds it without placeholders (finetuning/dataset/task_fns,
``..obj_part_aff_drop_pseudo_task.py``): coordinates in 1000 bins, int(clamp(v / size, 0, 1) * 999),
parts without a box and affordances without a point left out, equal entries once, objects in the
order of their left edge.
"""

import json
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from scenerl.preprocess.rows_sceneparser import (
    ParsedAffordance,
    ParsedObject,
    ParsedPart,
    SceneParserRow,
)

PSEUDO_PARTS = frozenset({"__placeholder_part__", "placeholder_part", "placeholder part"})
PSEUDO_ACTIONS = frozenset({"", "__none__", "none", "null"})
_LAST = 10**9
"""Where objects without a box stand in the order."""

T = TypeVar("T")


def parse_text(row: SceneParserRow, width: int, height: int) -> str:
    """Return the text of a category.

    Args:
        row: The category's objects.
        width: Of the image, pixels.
        height: Of the image, pixels.
    """
    size = (width, height)
    entries = [(_left(item, size), _entry(item, size)) for item in row.objects]
    unique = _unique(
        entries, lambda e: (_word(e[1]["name"]), e[1]["bbox"], json.dumps(e[1]["parts"]))
    )
    ordered = sorted(unique, key=lambda e: (e[0], _word(e[1]["name"])))
    return json.dumps({"objects": [entry for _, entry in ordered]}, ensure_ascii=False)


def bin_of(value: float, size: int) -> int:
    """Return the bin, 0 to 999, of a coordinate."""
    return int(max(0.0, min(1.0, value / size)) * 999)


def _tokens(values: tuple[float, ...], size: tuple[int, int]) -> str | None:
    """Return coordinates as tokens; None for a box that ends before it starts."""
    bins = [bin_of(value, size[at % 2]) for at, value in enumerate(values)]
    if len(bins) == 4 and (bins[2] < bins[0] or bins[3] < bins[1]):
        return None
    return "".join(f"<{number}>" for number in bins)


def _left(item: ParsedObject, size: tuple[int, int]) -> int:
    return _LAST if _tokens(item.box, size) is None else bin_of(item.box[0], size[0])


def _entry(item: ParsedObject, size: tuple[int, int]) -> dict[str, Any]:
    parts = (_part(part, size) for part in item.parts if _word(part.name) not in PSEUDO_PARTS)
    kept = [part for part in parts if part is not None]
    unique = _unique(kept, lambda p: (_word(p["part_name"]), p["bbox"]))
    return {"name": item.name, "bbox": _tokens(item.box, size), "parts": unique}


def _part(item: ParsedPart, size: tuple[int, int]) -> dict[str, Any] | None:
    box = None if item.box is None else _tokens(item.box, size)
    if box is None:
        return None
    affordances = [
        {"action": one.action, "point": _tokens(one.points[0], size)}
        for one in item.affordances
        if _is_real(one)
    ]
    unique = _unique(affordances, lambda a: (_word(a["action"] or ""), a["point"]))
    return {"part_name": item.name, "bbox": box, "affordances": unique}


def _is_real(item: ParsedAffordance) -> bool:
    return _word(item.action) not in PSEUDO_ACTIONS and bool(item.points)


def _word(text: str) -> str:
    return text.strip().lower()


def _unique(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    first: dict[Hashable, T] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())
