"""What prepared scenes know about the objects that annotations name, and bringing them along."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.annotations import Appearance, find_appearances
from scenerl.preprocess.records import DataError, SceneObject, Span
from scenerl.preprocess.rows import RowError
from scenerl.preprocess.safe_files import FileError, check_name, local_path, open_image
from scenerl.preprocess.scene import Scene, read_objects
from scenerl.preprocess.store import SceneEntry, read_manifest

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")
"""In the order in which the official script of temporal grounding looks for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFacts:
    """The annotated objects of a scene."""

    scene_id: str
    objects: dict[int, SceneObject]
    appearances: dict[int, Appearance]
    """Where the frames show them; empty without instance images."""
    provenance: str
    """Of boxes and appearances."""


class PreparedScenes:
    """The scenes of a prepared data folder, each read once."""

    def __init__(self, root: str | Path) -> None:
        """Open a prepared data folder.

        Raises:
            DataError: If it is none.
        """
        self.root = Path(root)
        manifest = read_manifest(self.root)
        self._entries = {row["scene_id"]: row for row in manifest.get("scenes", ())}
        self._known: dict[str, SceneFacts] = {}

    def has(self, scene_id: str) -> bool:
        """Whether there is such a scene; False for a name that no folder may have."""
        try:
            check_name(scene_id, "scene")
        except FileError:
            return False
        return (self.root / "scenes" / scene_id / "scene.json").is_file()

    def find(self, scene_id: str) -> SceneFacts:
        """Return what is known about a scene.

        Raises:
            RowError: If the name is no folder's name, or there is no such scene.
        """
        if scene_id in self._known:
            return self._known[scene_id]
        try:
            check_name(scene_id, "scene")
        except FileError as error:
            raise RowError("hostile name", str(error)) from error
        if not self.has(scene_id):
            raise RowError(
                "no such scene", f"{scene_id} is not among the prepared scenes of {self.root}"
            )
        try:
            facts = read_facts(self.root / "scenes" / scene_id)
        except (DataError, ValueError, KeyError, TypeError, OSError) as error:
            raise RowError("scene unreadable", f"{scene_id}: {error}") from error
        self._known[scene_id] = facts
        return facts

    def entry(self, scene_id: str) -> SceneEntry | None:
        """Return the scene's row of the manifest."""
        row = self._entries.get(scene_id)
        return None if row is None else SceneEntry(**row)

    def bring(self, scene_id: str, output: Path) -> None:
        """Make the scene stand in another data folder too, its files linked where possible."""
        source, target = self.root / "scenes" / scene_id, output / "scenes" / scene_id
        if target.exists():
            return
        partial = target.with_name(f".partial-{scene_id}-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial, copy_function=link_or_copy)
        partial.rename(target)


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_facts(folder: Path) -> SceneFacts:
    """Return the objects of a scene folder and where its frames show them.

    Spans and boxes come from appearances.json where a source wrote it, else from the instance
    images, by the rule of `find_appearances`.

    Raises:
        DataError: If a file of the scene is broken.
    """
    facts = json.loads((folder / "scene.json").read_text())
    objects = {item.object_id: item for item in read_objects(folder)}
    stored = folder / "appearances.json"
    if stored.is_file():
        rows: dict[str, Any] = json.loads(stored.read_text())
        appearances = {int(name): _appearance(row) for name, row in rows.items()}
    elif (folder / "instance").is_dir():
        scene = Scene.open(folder, check="files")
        appearances = find_appearances(scene, scene.frame_indices)
    else:
        appearances = {}
    return SceneFacts(
        scene_id=folder.name,
        objects=objects,
        appearances=appearances,
        provenance=str(facts.get("provenance") or "unknown"),
    )


def _appearance(row: dict[str, Any]) -> Appearance:
    return Appearance(
        spans_s=tuple((float(start), float(end)) for start, end in row["spans_s"]),
        boxes_px={
            int(frame): (float(x0), float(y0), float(x1), float(y1))
            for frame, (x0, y0, x1, y1) in row["boxes_px"].items()
        },
    )


def merge_spans(spans: list[Span]) -> tuple[Span, ...]:
    """Return the union of spans, in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def bring_file(name: str, source: Path, output: Path, folder: str) -> str:
    """Make a media file stand in a data folder; return its path there, relative to the folder.

    Args:
        name: As an annotation names it: relative to `source`; a video's may lack its suffix.
        source: Where the files are.
        output: The data folder.
        folder: Subfolder of `output`.

    Raises:
        RowError: If the name is a URL or leads out of `source`, or there is no such file.
    """
    names = [name] if folder == "images" else [name + suffix for suffix in ("", *VIDEO_SUFFIXES)]
    problem: FileError | None = None
    for attempt in names:
        try:
            path = local_path(attempt, source)
            if folder == "images":
                open_image(path, str(path))
        except FileError as error:
            problem = error if problem is None or error.code != "file_missing" else problem
            continue
        target = output / folder / attempt
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(str(path.resolve()), str(target))
        return f"{folder}/{attempt}"
    assert problem is not None
    reasons = {"file_missing": "no such file", "image_size": "image size"}
    reason = reasons.get(problem.code, "hostile name")
    if problem.code == "image_unreadable":
        reason = "image unreadable"
    raise RowError(reason, str(problem))
