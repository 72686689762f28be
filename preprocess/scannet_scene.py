"""One ScanNet scan on its way to a scene folder: opened, converted in stretches, finished.

Beside what every scene folder holds (docs/data.md) there are
    appearances.json     object id -> spans_s, boxes_px and pixels by frame
    scannet_boxes.json   rows of center, size, nyu40 class, objectId: ScanRefer's and the sound ones
    conversion.json      what was converted, how, and what was left out
"""

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from scenerl.preprocess.export_frames import export_sha256, open_store
from scenerl.preprocess.records import DataError
from scenerl.preprocess.scannet_annotation import write_annotation
from scenerl.preprocess.scannet_files import ScanFiles, axis_alignment
from scenerl.preprocess.scannet_frames import (
    CHUNKS,
    GEOMETRY,
    Stretch,
    StretchRecord,
    output_intrinsics,
    read_record,
    scene_sha256,
    write_whole,
)
from scenerl.preprocess.scannet_settings import ScannetConfig, skip
from scenerl.preprocess.scene_writer import SCENE_FORMAT, matrix_text
from scenerl.preprocess.sens import SensHeader
from scenerl.preprocess.store import SceneEntry, Skipped
from scenerl.preprocess.visibility import visible_spans

VERSION = 1
FPS = 30.0
"""Of ScanNet's sensor; used where the time stamps do not increase."""
PROVENANCE = "projected_from_3d_mask"


@dataclass(kw_only=True, slots=True)
class OpenScan:
    """A scan between its first and its last frame."""

    files: ScanFiles
    split: str
    folder: Path
    """Unfinished; becomes `target`."""
    target: Path
    header: SensHeader
    indices: tuple[int, ...]
    """Frames to convert."""
    world: np.ndarray | None
    is_annotated: bool
    skipped: list[Skipped]
    lock: IO[str]
    stretches: list[Stretch] = field(default_factory=list)
    """All of them; those with a record are done."""


def ends_sha256(path: Path) -> str:
    """Return a hash of a file's size and its first and last 64 KiB."""
    with path.open("rb") as file:
        size = path.stat().st_size
        digest = hashlib.sha256(f"{size}\n".encode() + file.read(1 << 16))
        file.seek(max(0, size - (1 << 16)))
        digest.update(file.read())
    return digest.hexdigest()


def conversion_key(
    files: ScanFiles, config: ScannetConfig, nyu40: Mapping[str, int], split: str
) -> dict[str, Any]:
    """Return what decides how a converted scan looks: its files and the settings."""
    paths = (files.facts, files.mesh, files.segments, files.aggregation)
    hashes = {path.name: ends_sha256(path) for path in paths if path is not None}
    is_folder = files.source.is_dir()
    hashes["frames"] = export_sha256(files.source) if is_folder else ends_sha256(files.source)
    labels = json.dumps(sorted(nyu40.items())).encode()
    return {
        "version": VERSION,
        "files": hashes,
        "labels": hashlib.sha256(labels).hexdigest() if nyu40 else None,
        "split": split,
        "dataset": config.dataset,
        "every": config.every,
        "stretch": config.stretch,
        "resize": None if config.resize is None else list(config.resize),
        "axis_align": config.axis_align,
        "boxes": config.boxes,
    }


def stored_conversion(folder: Path) -> dict[str, Any]:
    """Return conversion.json of a folder, empty when there is none that can be read."""
    try:
        content = json.loads((folder / "conversion.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def open_scan(
    files: ScanFiles,
    scenes: Path,
    config: ScannetConfig,
    nyu40: Mapping[str, int],
    split: str,
) -> OpenScan:
    """Read everything but the images of a scan and lay out its conversion.

    Raises:
        DataError: If the scan cannot be used, or another process converts it.
    """
    key = conversion_key(files, config, nyu40, split)
    header, indices, skipped = _frames(files, config)
    _check_cameras(files.source, header)
    world = axis_alignment(files.facts) if config.axis_align else None
    folder = scenes / f".partial-{files.scan_id}"
    folder.mkdir(exist_ok=True)
    scan = OpenScan(
        files=files,
        split=split,
        folder=folder,
        target=scenes / files.scan_id,
        header=header,
        indices=indices,
        world=world,
        is_annotated=files.is_annotated,
        skipped=skipped,
        lock=_lock(folder),
    )
    if stored_conversion(folder).get("key") != key:
        _clear(folder)
    for name in ("color", "depth", "pose", "intrinsic", CHUNKS):
        (folder / name).mkdir(exist_ok=True)
    scan.is_annotated, faults = write_annotation(files, folder, world, config, nyu40)
    scan.skipped += faults
    write_whole(folder / "conversion.json", json.dumps({"key": key}).encode())
    scan.stretches = [
        Stretch(
            source=files.source,
            folder=folder,
            indices=indices[start : start + config.stretch],
            world=None if world is None else tuple(tuple(row) for row in world.tolist()),
            resize=config.resize,
        )
        for start in range(0, len(indices), config.stretch)
    ]
    return scan


def _frames(
    files: ScanFiles, config: ScannetConfig
) -> tuple[SensHeader, tuple[int, ...], list[Skipped]]:
    """Return the header, the frames to convert, and what is wrong with the recording."""
    with open_store(files.source) as store:
        header, found, damage = store.header, store.indices, store.damage
        problems = store.problems
    count, indices = len(found), found[:: config.every]
    if len(indices) < 2:
        why = "" if damage is None else f" ({damage})"
        raise DataError(
            f"{files.source}: {count} frames and every={config.every} leave {len(indices)}, "
            f"expected at least 2; lower it or copy the file again{why}"
        )
    skipped = [
        skip(config, files.scan_id, f"frame {problem.frame_index}", problem.code, problem.reason)
        for problem in problems
    ]
    if damage is not None:
        missing = f"frames {count} to {header.num_frames - 1}"
        item = missing if count < header.num_frames else "the IMU frames"
        skipped.append(skip(config, files.scan_id, item, damage.code, str(damage)))
    return header, indices, skipped


def _clear(folder: Path) -> None:
    """Empty an unfinished folder of other settings, first of what says which they were."""
    (folder / "conversion.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _lock(folder: Path) -> IO[str]:
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise DataError(f"{folder} is being written by another process; wait for it") from error
    return lock


def _check_cameras(path: Path, header: SensHeader) -> None:
    for name in ("color", "depth"):
        matrix = getattr(header, f"intrinsic_{name}")
        if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
            raise DataError(
                f"{path}: the {name} intrinsics are {matrix[:3, :3].tolist()}; expected finite "
                "numbers and focal lengths above 0"
            )


def finish_scan(scan: OpenScan, config: ScannetConfig) -> tuple[SceneEntry, list[Skipped]]:
    """Put the finished folder in its place.

    Raises:
        DataError: If fewer than 2 frames are good; the folder is removed.
    """
    records = [read_record(stretch.record) for stretch in scan.stretches]
    frames = [frame for record in records for frame in record.frames]
    problems = [problem for record in records for problem in record.problems]
    scan_id = scan.files.scan_id
    scan.skipped += [
        skip(config, scan_id, f"frame {index}", code, reason) for index, code, reason in problems
    ]
    if len(frames) < 2:
        scan.lock.close()
        shutil.rmtree(scan.folder)
        reasons = ", ".join(
            f"{n} x {code}" for code, n in Counter(p[1] for p in problems).most_common(3)
        )
        raise DataError(
            f"{scan.files.source}: {len(frames)} of {len(scan.indices)} frames are good, expected "
            f"at least 2; left out: {reasons}"
        )
    times, source = frame_times(frames)
    appearances = _appearances(records, times)
    _write_cameras(scan, config)
    _write_facts(scan, config, {"times": source})
    stored = {"times_s": {str(index): value for index, value in times.items()}}
    (scan.folder / "times.json").write_text(json.dumps(stored, indent=1) + "\n")
    if scan.is_annotated:
        (scan.folder / "appearances.json").write_text(json.dumps(appearances) + "\n")
    named = {
        row["id"]: row["label"] for row in json.loads((scan.folder / "objects.json").read_text())
    }
    scan.skipped += [
        skip(config, scan_id, f"object {name}, {label}", "never visible")
        for name, label in named.items()
        if str(name) not in appearances
    ]
    conversion = stored_conversion(scan.folder) | {"skipped": [asdict(s) for s in scan.skipped]}
    write_whole(scan.folder / "conversion.json", (json.dumps(conversion, indent=1) + "\n").encode())
    entry = SceneEntry(
        scene_id=scan_id,
        dataset=config.dataset,
        sha256=_move(scan, records),
        frames=len(frames),
    )
    return entry, scan.skipped


def _move(scan: OpenScan, records: list[StretchRecord]) -> str:
    """Drop what is only for the conversion, rename the folder, and return its hash."""
    folder = scan.folder
    shutil.rmtree(folder / CHUNKS)
    (folder / GEOMETRY).unlink(missing_ok=True)
    (folder / "lock").unlink()
    known = {name: value for record in records for name, value in record.sha256.items()}
    written = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name not in ("color", "depth", "pose", "instance")
    }
    digest = scene_sha256(folder, known, sorted(written))
    if scan.target.exists():
        shutil.rmtree(scan.target)
    folder.rename(scan.target)
    scan.lock.close()
    return digest


def frame_times(frames: list[tuple[int, int]]) -> tuple[dict[int, float], str]:
    """Return frame -> seconds since the first, and where they come from.

    Time stamps count where they increase by 1/240 to 1 second a frame; else it is 30 frames a
    second.

    Args:
        frames: (index, time stamp in microseconds).
    """
    stamps = [stamp for _, stamp in frames]
    steps = np.diff(np.array(stamps, np.uint64).astype(np.float64)) / 1e6
    gaps = np.diff([index for index, _ in frames])
    if (steps > 0).all() and 1 / 240 < np.median(steps / gaps) < 1:
        return {i: round((stamp - stamps[0]) / 1e6, 6) for i, stamp in frames}, "time stamps"
    first = frames[0][0]
    return {i: round((i - first) / FPS, 6) for i, _ in frames}, f"{FPS:.0f} frames a second"


def _appearances(
    records: list[StretchRecord], times: dict[int, float]
) -> dict[str, dict[str, Any]]:
    boxes: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for object_id, seen in record.boxes.items():
            boxes.setdefault(object_id, {}).update(seen)
    return {
        object_id: {
            "spans_s": visible_spans([str(i) in seen for i in times], list(times.values())),
            "boxes_px": {frame: values[:4] for frame, values in seen.items()},
            "pixels": {frame: values[4] for frame, values in seen.items()},
        }
        for object_id, seen in sorted(boxes.items(), key=lambda pair: int(pair[0]))
    }


def _write_cameras(scan: OpenScan, config: ScannetConfig) -> None:
    folder, header = scan.folder, scan.header
    color, depth = output_intrinsics(header, config.resize)
    for name, matrix in (("color", color), ("depth", depth)):
        square = np.eye(4)
        square[:3, :3] = matrix
        (folder / "intrinsic" / f"intrinsic_{name}.txt").write_text(matrix_text(square))
        extrinsic = matrix_text(getattr(header, f"extrinsic_{name}"))
        (folder / "intrinsic" / f"extrinsic_{name}.txt").write_text(extrinsic)


def _write_facts(scan: OpenScan, config: ScannetConfig, more: dict[str, str]) -> None:
    header = scan.header
    facts = {
        "format": SCENE_FORMAT,
        "scene_id": scan.files.scan_id,
        "split": scan.split,
        "depth_scale": 1000.0,
        "provenance": PROVENANCE if scan.is_annotated else "recording",
        "up": [0.0, 0.0, 1.0],
        "world": "sensor" if scan.world is None else "axis_aligned",
        "axis_alignment": None if scan.world is None else scan.world.tolist(),
        "boxes": config.boxes if scan.is_annotated else None,
        "sensor": header.sensor_name,
        "sens_version": header.version,
        "color_size_stored": list(header.color_size),
        "frames_stored": header.num_frames,
        **more,
    }
    (scan.folder / "scene.json").write_text(json.dumps(facts, indent=1) + "\n")
