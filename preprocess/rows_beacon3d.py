"""Beacon3D: three chains of expressions from fine to coarse for each object, and three questions.

The start of metadata_scannet_grounding.json (scene, class, object, chain):

    {"scene0025_00": {"box": {"27": {"chain_1": [
        {"text": "White box on the desk", "obj_id": ["27"], "tag": "class-appearance-spatial"},
        {"text": "Box", "obj_id": ["29", "27"], "tag": "class"}]}}}}

and of metadata_scannet_qa.json:

    {"scene0025_00": {"box": {"27": {"grounding_text": ["White box on the desk", ..], "qa": [
        {"question": "What color is the largest box?", "answer": "White", "tag": "appearance",
         "extra_knowledge": 0}]}}}}

Source: beacon-3d/beacon-3d data/*.json, data/grounding_to_scanrefer_format.py, evaluate_*.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import json_items
from scenerl.preprocess.rows import (
    Item,
    RowError,
    Rows,
    as_text,
    collect_rows,
    key_text,
    listing,
    mapping,
    need,
    optional_text,
    text,
    texts,
    whole,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Beacon3DGroundingRow:
    """One level of one chain."""

    scene_id: str
    object_class: str
    object_id: str
    """The object that the chain is of."""
    chain: str
    level: int
    """0 is the finest, as in the file."""
    text: str
    target_ids: tuple[str, ...]
    """All objects that the expression fits."""
    tag: str

    @property
    def item_id(self) -> str:
        """Return ``scene|class|object|chain|level``."""
        return "|".join(
            (self.scene_id, self.object_class, self.object_id, self.chain, str(self.level))
        )

    @property
    def upstream_id(self) -> str:
        """Return the item_id of the official converter."""
        return f"{self.scene_id}_{self.object_id}_{self.chain}_{self.level}_{self.tag}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Beacon3DQARow:
    """One question about one object."""

    scene_id: str
    object_class: str
    object_id: str
    k: int
    """Its place among the object's questions, from 0."""
    question: str
    answer: str
    tag: str
    extra_knowledge: int
    grounding_text: tuple[str, ...]

    @property
    def item_id(self) -> str:
        """Return ``scene|class|object|k``."""
        return "|".join((self.scene_id, self.object_class, self.object_id, str(self.k)))

    @property
    def upstream_id(self) -> str:
        """Return the question_id of the official converter."""
        return f"{self.scene_id}_{self.object_id}_{self.k}_{self.tag}_{self.extra_knowledge}"


def read_beacon3d_grounding(path: str | Path) -> Rows[Beacon3DGroundingRow]:
    """Return the rows of metadata_*_grounding.json in the order of the file, duplicates and all.

    The official converter drops the second of two equal texts of a scene; that is left to those
    who score.

    Raises:
        DataError: If the file is missing or holds no object.
    """
    return collect_rows(_objects(path), _grounding_rows)


def read_beacon3d_qa(path: str | Path) -> Rows[Beacon3DQARow]:
    """Return the rows of metadata_*_qa.json in the order of the file.

    Raises:
        DataError: If the file is missing or holds no object.
    """
    return collect_rows(_objects(path), _qa_rows)


def _objects(path: str | Path) -> Iterator[Item]:
    """Yield one item for every object, its key "scene|class|object"; a bad scene is one item."""
    for scene in json_items(path):
        if scene.error is not None:
            yield scene
            continue
        try:
            as_text(scene.key, "the scene")
            classes = mapping(scene.value, "a scene").items()
        except RowError as error:
            yield Item(location=f"{scene.location}, {scene.key!r:.80}", number=0, error=error)
            continue
        for name, objects in classes:
            where = f"{scene.key}, {name!r:.80}"
            if not isinstance(objects, dict):
                wrong = RowError("wrong type", "expected an object of objects")
                yield Item(location=where, number=0, error=wrong)
                continue
            for object_id, value in objects.items():
                yield Item(
                    location=f"{where}, object {object_id!r:.40}",
                    number=0,
                    value=(scene.key, name, object_id, value),
                )


def _names(item: Item) -> tuple[str, str, str, Mapping[str, Any]]:
    scene_id, name, object_id, value = item.value
    return (
        scene_id,
        as_text(name, "the class"),
        as_text(object_id, "the object"),
        mapping(value, "an object"),
    )


def _grounding_rows(item: Item) -> Iterator[Beacon3DGroundingRow]:
    scene_id, name, object_id, chains = _names(item)
    for chain, levels in chains.items():
        for level, raw in enumerate(listing(levels, f"chain {chain!r:.40}")):
            row = mapping(raw, "a level")
            targets = listing(need(row, "obj_id"), "obj_id")
            yield Beacon3DGroundingRow(
                scene_id=scene_id,
                object_class=name,
                object_id=object_id,
                chain=as_text(chain, "the chain"),
                level=level,
                text=text(row, "text"),
                target_ids=tuple(key_text({"obj_id": target}, "obj_id") for target in targets),
                tag=optional_text(row, "tag"),
            )


def _qa_rows(item: Item) -> Iterator[Beacon3DQARow]:
    scene_id, name, object_id, value = _names(item)
    grounding = texts(value.get("grounding_text") or [], "grounding_text")
    for k, raw in enumerate(listing(need(value, "qa"), "qa")):
        row = mapping(raw, "a question")
        yield Beacon3DQARow(
            scene_id=scene_id,
            object_class=name,
            object_id=object_id,
            k=k,
            question=text(row, "question"),
            answer=text(row, "answer"),
            tag=optional_text(row, "tag"),
            extra_knowledge=whole(row, "extra_knowledge") if "extra_knowledge" in row else 0,
            grounding_text=grounding,
        )
