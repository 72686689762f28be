"""Prepared rooms as the benchmarks' own annotation files: data of known truth in their layouts.

ScanNet's objects count from 0, those of prepared scenes from 1; the files have the former.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.annotated_scenes import SceneFacts, read_facts
from scenerl.preprocess.drafts import OBJECT_OFFSET
from scenerl.preprocess.export_sceneparser import sceneparser_images
from scenerl.preprocess.export_vsibench import vsibench_rows
from scenerl.preprocess.records import DataError, Sample, Span
from scenerl.preprocess.rooms_furniture import COLORS, FURNITURE
from scenerl.preprocess.rooms_queries import plural
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.store import read_manifest, read_samples

REFERRING = ("attribute", "relation", "superlative", "label")
"""Kinds of samples whose question means one object."""
ASKING = ("count", "existence", "color")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedRoom:
    """A prepared scene and its samples."""

    facts: SceneFacts
    folder: Path
    samples: tuple[Sample, ...]

    @property
    def referring(self) -> list[Sample]:
        """Return the samples that mean one object."""
        return [s for s in self.samples if s.kind in REFERRING and s.target.object_id is not None]

    @property
    def asking(self) -> list[Sample]:
        """Return the samples that ask a question."""
        return [s for s in self.samples if s.kind in ASKING and s.target.answers]


Write = Callable[[list[ExportedRoom], Path, str], dict[str, int]]


def read_rooms(root: Path, split: str) -> list[ExportedRoom]:
    """Return the scenes of a split with their samples.

    Raises:
        DataError: If the folder has no such split.
    """
    by_scene: dict[str, list[Sample]] = {}
    for sample in read_samples(root, split):
        if sample.media.scene is not None:
            by_scene.setdefault(sample.media.scene, []).append(sample)
    return [
        ExportedRoom(facts=read_facts(root / name), folder=root / name, samples=tuple(samples))
        for name, samples in sorted(by_scene.items())
    ]


def export_rooms(root: Path, name: str, output: Path, splits: Sequence[str] = ()) -> dict[str, int]:
    """Write the annotation files of a format; return file name -> number of entries.

    Args:
        root: Prepared rooms.
        name: Of EXPORTS.
        output: Folder to write into.
        splits: Which splits; empty takes all.

    Raises:
        DataError: If a split is missing, or gives no entry.
    """
    known = read_manifest(root)["splits"]
    output.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    for split in splits or sorted(known):
        rooms = read_rooms(root, split)
        made = EXPORTS[name](rooms, output, split)
        if not any(made.values()):
            raise DataError(f"split {split!r} of {root} has nothing to write as {name}")
        written |= made
    return written


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")


def box_rows(rooms: list[ExportedRoom]) -> list[dict[str, Any]]:
    """Return the true boxes as `launch score --boxes` reads them."""
    return [
        {
            "scene_id": room.facts.scene_id,
            "object_id": str(item.object_id - OBJECT_OFFSET),
            "object_name": item.label,
            "box": list(item.box_world),
        }
        for room in rooms
        for item in room.facts.objects.values()
        if item.box_world is not None
    ]


def _object_id(sample: Sample) -> int:
    assert sample.target.object_id is not None
    return sample.target.object_id - OBJECT_OFFSET


def scanrefer_rows(rooms: list[ExportedRoom]) -> list[dict[str, Any]]:
    """Return ScanRefer's rows; annotations of an object count from 0."""
    rows = []
    for room in rooms:
        counts: Counter[int] = Counter()
        for sample in room.referring:
            number = _object_id(sample)
            rows.append(
                {
                    "scene_id": room.facts.scene_id,
                    "object_id": str(number),
                    "object_name": (sample.target.label or "object").replace(" ", "_"),
                    "ann_id": str(counts[number]),
                    "description": sample.question,
                    "token": sample.question.lower().split(),
                }
            )
            counts[number] += 1
    return rows


def multi3drefer_rows(rooms: list[ExportedRoom]) -> list[dict[str, Any]]:
    """Return Multi3DRefer's rows: single objects, all of a class, and things that are not there."""
    rows = []
    for room in rooms:
        labels = Counter(item.label for item in room.facts.objects.values())
        said = [
            (s.question, [_object_id(s)], s.target.label or "object", _single(s, labels))
            for s in room.referring
        ]
        said += [
            (f"all the {plural(label)}", _of_label(room, label), label, "mt")
            for label, count in sorted(labels.items())
            if count > 1
        ]
        said += [(f"the {name}", [], name.split()[-1], kind) for name, kind in _absent(room)]
        for number, (words, ids, label, kind) in enumerate(said):
            rows.append(
                {
                    "scene_id": room.facts.scene_id,
                    "object_ids": ids,
                    "object_name": label.replace(" ", "_"),
                    "ann_id": number,
                    "eval_type": kind,
                    "description": words,
                }
            )
    return rows


def _single(sample: Sample, labels: Counter[str]) -> str:
    return "st_w_d" if labels[sample.target.label or ""] > 1 else "st_wo_d"


def _of_label(room: ExportedRoom, label: str) -> list[int]:
    objects = room.facts.objects.values()
    return [item.object_id - OBJECT_OFFSET for item in objects if item.label == label]


def _absent(room: ExportedRoom) -> Iterator[tuple[str, str]]:
    """Yield things that the room does not have, and their type: two of a class that it has."""
    there = {(i.attributes.get("color"), i.label) for i in room.facts.objects.values()}
    labels = sorted({label for _, label in there})
    for label in labels[:1]:
        free = [color for color in sorted(COLORS) if (color, label) not in there]
        yield from ((f"{color} {label}", "zt_w_d") for color in free[:2])
    absent = [label for label in sorted(FURNITURE) if label not in labels]
    yield from ((label, "zt_wo_d") for label in absent[:2])


def scanqa_rows(rooms: list[ExportedRoom], split: str) -> list[dict[str, Any]]:
    """Return ScanQA's rows; a room's questions name no objects."""
    return [
        {
            "scene_id": room.facts.scene_id,
            "question_id": f"{split}-{sample.sample_id}",
            "question": sample.question,
            "answers": list(sample.target.answers or ()),
            "object_ids": [],
            "object_names": [],
        }
        for room in rooms
        for sample in room.asking
    ]


def sqa3d_rows(rooms: list[ExportedRoom]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return SQA3D's questions and annotations, asked from where the video starts."""
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for room in rooms:
        pose = _first_pose(room)
        position, forward = pose[:3, 3], pose[:3, 2]
        yaw = math.atan2(forward[1], forward[0])
        for sample in room.asking:
            name = {"question_id": len(questions), "scene_id": room.facts.scene_id}
            questions.append(
                {
                    **name,
                    "situation": _situation(room, position),
                    "alternative_situation": [],
                    "question": sample.question,
                }
            )
            annotations.append(
                {
                    **name,
                    "answer_type": "other",
                    "question_type": "N/A",
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": n}
                        for n, answer in enumerate(sample.target.answers or (), start=1)
                    ],
                    "position": dict(zip("xyz", map(float, position), strict=True)),
                    "rotation": {
                        "_x": 0.0,
                        "_y": 0.0,
                        "_z": math.sin(yaw / 2),
                        "_w": math.cos(yaw / 2),
                    },
                }
            )
    return questions, annotations


def _first_pose(room: ExportedRoom) -> np.ndarray:
    scene = Scene.open(room.folder, check="files")
    return scene.camera_to_world(scene.frame_indices[0])


def _situation(room: ExportedRoom, position: np.ndarray) -> str:
    boxes = [(i.label, i.attributes, i.box_world) for i in room.facts.objects.values()]
    distances = [
        (math.hypot((b[0] + b[3]) / 2 - position[0], (b[1] + b[4]) / 2 - position[1]), label, facts)
        for label, facts, b in boxes
        if b is not None
    ]
    _, label, facts = min(distances, key=lambda found: found[0])
    name = f"{facts.get('color', '')} {label}".strip()
    return f"I stand where the video starts; the nearest thing to me is a {name}."


def _longest(spans_s: tuple[Span, ...]) -> Span:
    return max(spans_s, key=lambda span: span[1] - span[0])


def temporal_videos(rooms: list[ExportedRoom]) -> dict[str, Any]:
    """Return TimeZero's videos: what is referred to, and the longest time it is seen."""
    videos = {}
    for room in rooms:
        scene = Scene.open(room.folder, check="files")
        times = [scene.times_s(index) for index in scene.frame_indices]
        seen = [s for s in room.referring if s.target.spans_s]
        if seen:
            videos[room.facts.scene_id] = {
                "duration": round(times[-1] + (times[-1] - times[-2]), 3),
                "timestamps": [list(_longest(s.target.spans_s)) for s in seen if s.target.spans_s],
                "sentences": [f"{s.question}." for s in seen],
            }
    return videos


def _scanrefer(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    rows, name = scanrefer_rows(rooms), f"ScanRefer_filtered_{split}.json"
    write_json(output / name, rows)
    write_lines(output / f"boxes_{split}.jsonl", box_rows(rooms))
    return {name: len(rows)}


def _multi3drefer(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    rows, name = multi3drefer_rows(rooms), f"multi3drefer_{split}.json"
    write_json(output / name, rows)
    write_lines(output / f"boxes_{split}.jsonl", box_rows(rooms))
    return {name: len(rows)}


def _scanqa(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    rows, name = scanqa_rows(rooms, split), f"ScanQA_v1.0_{split}.json"
    write_json(output / name, rows)
    return {name: len(rows)}


def _sqa3d(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    questions, annotations = sqa3d_rows(rooms)
    names = [
        f"v1_balanced_{what}_{split}_scannetv2.json" for what in ("questions", "sqa_annotations")
    ]
    write_json(output / names[0], {"questions": questions})
    write_json(output / names[1], {"annotations": annotations})
    return {names[0]: len(questions), names[1]: len(annotations)}


def _vsibench(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    rows: list[dict[str, Any]] = []
    for room in rooms:
        counts = [s for s in room.samples if s.kind == "count"]
        rows += vsibench_rows(room.facts, counts)
    name = f"{split}.jsonl"
    write_lines(output / name, [{"id": n, **row} for n, row in enumerate(rows)])
    return {name: len(rows)}


def _temporal(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    videos, name = temporal_videos(rooms), f"{split}.json"
    write_json(output / name, videos)
    return {name: sum(len(video["sentences"]) for video in videos.values())}


def _sceneparser(rooms: list[ExportedRoom], output: Path, split: str) -> dict[str, int]:
    lines = [line for room in rooms for line in sceneparser_images(room.folder, room.facts, output)]
    name = f"{split}.jsonl"
    write_lines(output / name, lines)
    return {name: len(lines)}


EXPORTS: dict[str, Write] = {
    "scanrefer": _scanrefer,
    "multi3drefer": _multi3drefer,
    "scanqa": _scanqa,
    "sqa3d": _sqa3d,
    "vsibench": _vsibench,
    "temporal": _temporal,
    "sceneparser": _sceneparser,
}
"""Format -> what writes the files of one split and returns name -> number of entries."""
