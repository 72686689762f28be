"""Prepare RGB-D recordings: check them, copy them into a data folder, write their samples."""

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.annotations import (
    Annotation,
    Appearance,
    derive_annotations,
    find_appearances,
    fuse_box,
    parse_query,
    read_annotations,
)
from scenerl.preprocess.records import DataError, Media, Sample, SceneObject
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.scene_writer import SceneWriter, folder_hash
from scenerl.preprocess.store import SceneEntry, Skipped, write_samples

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingsConfig:
    """How recordings are prepared."""

    dataset: str = "rgbd"
    split: str = "train"
    annotations: str | None = None
    """JSON file of queries; None derives queries from instance images where there are any."""
    every: int = 1
    """Keep each so many-th good frame."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.every < 1 or not self.dataset or not re.fullmatch(r"[\w-]+", self.split):
            raise ValueError(
                f"found every={self.every}, dataset={self.dataset!r}, split={self.split!r}; "
                "expected every >= 1, a data set name, and a split of letters, digits, _ and -"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What one recording yields."""

    scene: SceneEntry
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]


def scene_name(folder: Path) -> str:
    """Return the scene id of a recording: its folder's name, in safe characters."""
    return re.sub(r"[^\w.-]+", "_", folder.resolve().name).strip(".") or "scene"


def _write_scene(
    scene: Scene, folder: Path, frames: tuple[int, ...], objects: list[SceneObject]
) -> None:
    with SceneWriter(folder, scene_id=folder.name) as writer:
        writer.write_intrinsics(scene.intrinsics_color, scene.intrinsics_depth)
        for index in frames:
            color, depth = scene.color_path(index), scene.depth_path(index)
            is_ready = depth.suffix.lower() == ".png" and scene.depth_scale == 1000
            is_jpeg = color.suffix.lower() in (".jpg", ".jpeg")
            writer.write_frame(
                index,
                color=color if is_jpeg else scene.color(index),
                depth=depth if is_ready else _millimetres(scene.depth_m(index)),
                camera_to_world=scene.camera_to_world(index),
                time_s=scene.times_s(index) - scene.times_s(frames[0]),
            )
            instance = scene.instances(index)
            if instance is not None:
                writer.write_instance(index, instance)
        up = scene.up
        writer.write_labels(objects, provenance="recording", up=None if up is None else up.tolist())


def _millimetres(depth_m: np.ndarray) -> np.ndarray:
    return np.clip(np.round(depth_m * 1000), 0, 65535).astype(np.uint16)


def _complete_objects(scene: Scene, appearances: dict[int, Appearance]) -> dict[int, SceneObject]:
    """Return the objects by id, boxes that no file gives fused from the masks."""
    objects = {}
    for item in scene.objects:
        if item.box_world is None and item.object_id in appearances:
            frames = sorted(appearances[item.object_id].boxes_px)
            box = fuse_box(scene, item.object_id, frames)
            objects[item.object_id] = dataclasses.replace(item, box_world=box)
        else:
            objects[item.object_id] = item
    return objects


def prepare_recording(
    source: Path, output: Path, config: RecordingsConfig, queries: Sequence[dict[str, Any]] = ()
) -> Prepared:
    """Check one recording, copy it into a data folder and make its samples.

    Args:
        source: Recording in one of the layouts of docs/data.md.
        output: The data folder.
        config: How.
        queries: Its queries from an annotation file.

    Raises:
        DataError: If too few frames are good, or a query is wrong.
    """
    scene_id = scene_name(source)
    folder = output / "scenes" / scene_id
    if folder.resolve() == source.resolve():
        raise DataError(f"{source} already stands in {output}; give another output folder")
    scene = Scene.open(source, check="content")
    frames = scene.frame_indices[:: config.every]
    if len(frames) < 2:
        raise DataError(f"{source}: every={config.every} leaves {len(frames)} frame; lower it")
    appearances = find_appearances(scene, frames)
    objects = _complete_objects(scene, appearances)
    annotations = [
        parse_query(query, f"{scene_id}, query {number}", objects, appearances)
        for number, query in enumerate(queries)
    ]
    annotations += derive_annotations(scene, objects, appearances)
    _write_scene(scene, folder, frames, list(objects.values()))
    skipped = [
        _skip(config, scene_id, f"frame {problem.frame_index}", problem.code, problem.reason)
        for problem in scene.problems
    ]
    skipped += [
        _skip(config, scene_id, f"object {item.object_id}, {item.label}", "never visible", "")
        for item in objects.values()
        if scene.instances(frames[0]) is not None and item.object_id not in appearances
    ]
    return Prepared(
        scene=SceneEntry(
            scene_id=scene_id,
            dataset=config.dataset,
            sha256=folder_hash(folder),
            frames=len(frames),
        ),
        samples=tuple(make_samples(annotations, scene_id, config, scene.times_s(frames[0]))),
        skipped=tuple(skipped),
    )


def _skip(config: RecordingsConfig, scene_id: str, item: str, reason: str, detail: str) -> Skipped:
    return Skipped(
        dataset=config.dataset, scene_id=scene_id, item=item, reason=reason, detail=detail
    )


def make_samples(
    annotations: list[Annotation], scene_id: str, config: RecordingsConfig, start_s: float
) -> list[Sample]:
    """Return the samples of a recording's queries; times count from the first kept frame."""
    samples = []
    for number, annotation in enumerate(annotations):
        target = annotation.target
        if target.spans_s is not None and start_s:
            spans = tuple(
                (round(max(0.0, start - start_s), 3), round(end - start_s, 3))
                for start, end in target.spans_s
                if end > start_s
            )
            target = dataclasses.replace(target, spans_s=spans)
        samples.append(
            Sample(
                sample_id=f"{scene_id}-{number:03d}",
                dataset=config.dataset,
                split=config.split,
                question=annotation.question,
                media=Media(kind="video", scene=f"scenes/{scene_id}"),
                target=target,
                scene_id=scene_id,
                kind=annotation.kind,
                provenance=annotation.provenance,
            )
        )
    return samples


def prepare_recordings(
    sources: Sequence[str | Path],
    output: str | Path,
    config: RecordingsConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prepared]:
    """Prepare recordings into a data folder, which may hold others already.

    Args:
        sources: Recording folders with different names.
        output: The data folder; a scene of the same name in it is replaced.
        config: How.
        progress: Called with (recordings done, recordings in all).

    Returns:
        What each recording yielded.

    Raises:
        DataError: If an input is unusable or the annotations do not fit; nothing is recorded then.
    """
    root = Path(output)
    names = [scene_name(Path(source)) for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"two inputs are named {repeated[0]!r}; rename one of the folders")
    queries = {} if config.annotations is None else read_annotations(config.annotations, names)
    (root / "scenes").mkdir(parents=True, exist_ok=True)
    prepared = []
    for number, (name, source) in enumerate(zip(names, sources, strict=True), start=1):
        made = prepare_recording(Path(source), root, config, queries.get(name, ()))
        prepared.append(made)
        logger.info(
            "%s: %d frames, %d left out, %d samples",
            name,
            made.scene.frames,
            len(made.skipped),
            len(made.samples),
        )
        if progress is not None:
            progress(number, len(names))
    write_samples(
        root,
        [sample for made in prepared for sample in made.samples],
        [item for made in prepared for item in made.skipped],
        [made.scene for made in prepared],
        replace="scenes",
    )
    return prepared
