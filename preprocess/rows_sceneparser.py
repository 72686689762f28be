"""SceneParser: objects of an image, their parts, and what can be done with each part and where.

One raw line of val.jsonl:

    {"image_path": "datasets/EgoObjects/images/X.jpg", "objects": [
      {"phrase": "mug", "object_bbox": [10, 20, 110, 120], "parts": [
        {"part_name": "handle", "part_bbox": [90, 40, 110, 100], "is_pseudo_part": false,
         "affordances": [{"action": "grasp", "affordance_bbox": [92, 45, 108, 95],
                          "mask_path": "masks/1.png", "sampled_points": [[100, 70]]}]}]}]}

Source: ZGCA-HMI-Lab/SceneParser datasets/tools/convert__to_tsv_mp.py, evaluation/metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import Box2D
from scenerl.preprocess.row_sources import json_lines
from scenerl.preprocess.rows import (
    Rows,
    collect_rows,
    is_true,
    listing,
    mapping,
    need,
    numbers,
    one,
    optional_text,
    text,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedAffordance:
    """What can be done with a part, and where to touch it."""

    action: str
    box: Box2D | None
    points: tuple[tuple[float, float], ...]
    mask_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedPart:
    """A part of an object."""

    name: str
    box: Box2D | None
    is_pseudo: bool
    affordances: tuple[ParsedAffordance, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedObject:
    """An object of an image; boxes are (x0, y0, x1, y1) in pixels."""

    name: str
    box: Box2D
    parts: tuple[ParsedPart, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneParserRow:
    """One image and one category of its objects, which is one item of the benchmark."""

    image_path: str
    category: str
    objects: tuple[ParsedObject, ...]
    """All objects of the category."""

    @property
    def item_id(self) -> str:
        """Return ``image|category``."""
        return f"{self.image_path}|{self.category}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneParserImage:
    """One line of the file: an image with all of its objects."""

    image_path: str
    objects: tuple[ParsedObject, ...]

    @property
    def item_id(self) -> str:
        """Return the image's path."""
        return self.image_path

    def by_category(self) -> list[SceneParserRow]:
        """Return one row per category, in the order of first appearance."""
        groups: dict[str, list[ParsedObject]] = {}
        for item in self.objects:
            groups.setdefault(item.name, []).append(item)
        return [
            SceneParserRow(image_path=self.image_path, category=name, objects=tuple(objects))
            for name, objects in groups.items()
        ]


def read_sceneparser_images(path: str | Path) -> Rows[SceneParserImage]:
    """Return one row per image of a SceneParser file.

    Raises:
        DataError: If the file cannot be read.
    """
    return collect_rows(json_lines(path), one(_image))


def read_sceneparser(path: str | Path) -> Rows[SceneParserRow]:
    """Return one row per image and category, the items of the benchmark.

    Raises:
        DataError: If the file cannot be read.
    """
    images = read_sceneparser_images(path)
    rows = tuple(row for image in images.rows for row in image.by_category())
    return Rows(rows=rows, skipped=images.skipped)


def _image(raw: Mapping[str, Any], _number: int) -> SceneParserImage:
    return SceneParserImage(
        image_path=text(raw, "image_path"),
        objects=tuple(_object(item) for item in listing(need(raw, "objects"), "objects")),
    )


def _object(value: Any) -> ParsedObject:
    raw = mapping(value, "an object")
    key = "bbox" if "bbox" in raw and "object_bbox" not in raw else "object_bbox"
    x0, y0, x1, y1 = numbers(need(raw, key), 4, key)
    return ParsedObject(
        name=text(raw, "name" if "name" in raw and "phrase" not in raw else "phrase"),
        box=(x0, y0, x1, y1),
        parts=tuple(_part(item) for item in listing(raw.get("parts") or [], "parts")),
    )


def _part(value: Any) -> ParsedPart:
    raw = mapping(value, "a part")
    return ParsedPart(
        name=text(raw, "part_name"),
        box=_box(raw, "part_bbox" if "part_bbox" in raw else "bbox"),
        is_pseudo=is_true(raw.get("is_pseudo_part") or False, "is_pseudo_part"),
        affordances=tuple(
            _affordance(item) for item in listing(raw.get("affordances") or [], "affordances")
        ),
    )


def _affordance(value: Any) -> ParsedAffordance:
    raw = mapping(value, "an affordance")
    points = [numbers(p, 2, "a point") for p in listing(raw.get("sampled_points") or [], "points")]
    return ParsedAffordance(
        action=optional_text(raw, "action"),
        box=_box(raw, "affordance_bbox"),
        points=tuple((point[0], point[1]) for point in points),
        mask_path=optional_text(raw, "mask_path"),
    )


def _box(raw: Mapping[str, Any], key: str) -> Box2D | None:
    if raw.get(key) is None:
        return None
    x0, y0, x1, y1 = numbers(raw[key], 4, key)
    return (x0, y0, x1, y1)
