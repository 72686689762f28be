"""The objects of a ScanNet scan: their file, their boxes, and the mesh to look at."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scenerl.preprocess.records import DataError, SceneObject
from scenerl.preprocess.scannet_files import ORIGIN, ScanFiles
from scenerl.preprocess.scannet_frames import GEOMETRY
from scenerl.preprocess.scannet_objects import (
    Group,
    Instances,
    align,
    official_instances,
    read_groups,
    read_mesh,
    read_segments,
    sound_instances,
)
from scenerl.preprocess.scannet_settings import ScannetConfig, skip
from scenerl.preprocess.scene_writer import object_row
from scenerl.preprocess.store import Skipped


def write_annotation(
    files: ScanFiles,
    folder: Path,
    world: np.ndarray | None,
    config: ScannetConfig,
    nyu40: Mapping[str, int],
) -> tuple[bool, list[Skipped]]:
    """Write objects.json, scannet_boxes.json and, for the processes that look at it, the mesh.

    Args:
        files: The scan.
        folder: Where to.
        world: Transform of the mesh; None leaves it.
        config: How.
        nyu40: Raw label -> class.

    Returns:
        Whether the scan is annotated, and what is wrong with its annotation.
    """
    objects: list[SceneObject] = []
    skipped: list[Skipped] = []
    is_annotated = files.is_annotated
    (folder / GEOMETRY).unlink(missing_ok=True)
    if is_annotated:
        try:
            objects, faults = _write_geometry(files, folder, world, config, nyu40)
            skipped += [skip(config, files.scan_id, *fault) for fault in faults]
        except DataError as error:
            is_annotated = False
            reason = "annotation_unreadable"
            skipped.append(skip(config, files.scan_id, "annotation", reason, str(error)))
    else:
        reason = "not annotated" if len(files.missing) == 3 else "annotation_missing"
        detail = f"{', '.join(files.missing)}: not found. {ORIGIN} them"
        skipped.append(skip(config, files.scan_id, "annotation", reason, detail))
    rows = [object_row(item) for item in objects]
    (folder / "objects.json").write_text(json.dumps(rows, indent=1) + "\n")
    return is_annotated, skipped


def _write_geometry(
    files: ScanFiles,
    folder: Path,
    world: np.ndarray | None,
    config: ScannetConfig,
    nyu40: Mapping[str, int],
) -> tuple[list[SceneObject], tuple[tuple[str, str, str], ...]]:
    assert files.mesh is not None
    assert files.segments is not None
    assert files.aggregation is not None
    groups, segments = read_groups(files.aggregation), read_segments(files.segments)
    points, triangles = read_mesh(files.mesh)
    if len(segments) != len(points):
        raise DataError(
            f"{files.segments} has {len(segments)} entries, {files.mesh.name} {len(points)} "
            "vertices; the files belong to different versions of the scan"
        )
    points = align(points, world)
    official = official_instances(points, segments, groups, nyu40)
    sound = sound_instances(points, segments, groups, nyu40)
    chosen = official if config.boxes == "official" else sound
    np.savez(folder / GEOMETRY, points=points, triangles=triangles, vertex_ids=chosen.vertex_ids)
    (folder / "instance").mkdir(exist_ok=True)
    report = {
        "columns": ["cx", "cy", "cz", "dx", "dy", "dz", "nyu40_id", "object_id"],
        "official": (official.kept() if nyu40 else official.boxes).tolist(),
        "sound": sound.boxes.tolist(),
        "different": _different(official, sound),
    }
    (folder / "scannet_boxes.json").write_text(json.dumps(report) + "\n")
    return _objects(groups, chosen), official.faults


def _rows(instances: Instances) -> dict[int, np.ndarray]:
    """Return objectId -> row, without the rows of zeros of objects that have no vertices."""
    return {int(row[7]): row for row in instances.boxes if row[:6].any()}


def _different(official: Instances, sound: Instances) -> list[int]:
    """Return the object ids whose official and sound rows differ."""
    one, two = _rows(official), _rows(sound)
    return [
        name
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or (one[name] != two[name]).any()
    ]


def _objects(groups: tuple[Group, ...], instances: Instances) -> list[SceneObject]:
    """Return the objects; ids count from 1, so that 0 is no object in instance images."""
    rows = _rows(instances)
    labels = {group.object_id: group.label for group in groups}
    objects = []
    for object_id in sorted(labels):
        row = rows.get(object_id)
        box = None
        if row is not None:
            low, high = row[:3] - row[3:6] / 2, row[:3] + row[3:6] / 2
            x0, y0, z0, x1, y1, z1 = (float(value) for value in (*low, *high))
            box = (x0, y0, z0, x1, y1, z1)
        attributes = {"scannet_object_id": str(object_id)}
        if row is not None and row[6]:
            attributes["nyu40_id"] = str(int(row[6]))
        objects.append(
            SceneObject(
                object_id=object_id + 1,
                label=labels[object_id],
                box_world=box,
                attributes=attributes,
            )
        )
    return objects
