"""Prepare ARKitScenes recordings: low-resolution colour and depth, the trajectory, the 3D boxes.

    Training/VIDEO/VIDEO_3dod_annotation.json
    Training/VIDEO/VIDEO_frames/
      lowres_wide/VIDEO_6845.906.png                colour
      lowres_depth/VIDEO_6845.906.png               uint16 millimetres
      lowres_wide_intrinsics/VIDEO_6845.906.pincam  width height fx fy cx cy
      lowres_wide.traj                              time rx ry rz tx ty tz

Without the folder VIDEO_frames in the "raw" data set. Frames, poses and intrinsics are matched as
apple/ARKitScenes does it (threedod/benchmark_scripts/utils/tenFpsDataLoader.py).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenerl.preprocess.arkitscenes_boxes import PROVENANCE, read_boxes
from scenerl.preprocess.raw_scenes import (
    Fault,
    SceneJob,
    SceneOutcome,
    checked_depth,
    checked_image,
    frame_fault,
    pose_fault,
    require_depth,
)
from scenerl.preprocess.records import DataError, SceneObject
from scenerl.preprocess.safe_files import FileError, check_name, inside, read_text
from scenerl.preprocess.scene_writer import SceneWriter

ORIGIN = (
    "ARKitScenes is licensed by Apple for non-commercial use; its repository's download_data.py "
    "brings it: download_data.py 3dod --split Training --video_id VIDEO"
)
FOLDS = {"Training": "train", "Validation": "val"}
MAX_GAP_S = 0.005
"""A pose is taken for a frame that is nearer in time than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArkitConfig:
    """How ARKitScenes recordings are prepared."""

    every: int = 5
    """Keep each so many-th frame that has depth: 2 a second of the 10 of the 3dod data set."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}; expected 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pincam:
    """Intrinsics of one colour frame."""

    size: tuple[float, float]
    """(width, height)."""
    intrinsics: np.ndarray
    """float64 [3, 3]."""


def find_recordings(
    root: Path, *, folds: Sequence[str] = (), videos: Sequence[str] = (), split: str = "train"
) -> tuple[list[SceneJob], list[tuple[str, Fault]]]:
    """Return the recordings of a folder, and those asked for that are not there.

    Args:
        root: Folder with Training/ and Validation/, or one of videos.
        folds: Only these of Training and Validation; empty takes both.
        videos: Only these; empty takes all.
        split: Split of videos that stand in no fold.

    Raises:
        DataError: If there is no recording.
    """
    places = [(root / fold, name) for fold, name in FOLDS.items() if not folds or fold in folds]
    places = [(folder, name) for folder, name in places if folder.is_dir()]
    if not places:
        places = [(root, FOLDS.get(root.name, split))]
    found: dict[str, SceneJob] = {}
    for folder, name in places:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if frames_folder(path) is not None and (not videos or path.name in videos):
                found.setdefault(path.name, _job(path.resolve(), path.name, name))
    faults = []
    for video in sorted(set(videos) - set(found)):
        detail = f"{root} has no folder {video!r:.80} with lowres_depth. {ORIGIN}"
        faults.append((video, Fault(item="scene", code="scene_missing", detail=detail)))
    if not found:
        raise DataError(f"{root} holds no VIDEO/VIDEO_frames/lowres_depth. {ORIGIN}")
    return list(found.values()), faults


def frames_folder(folder: Path) -> Path | None:
    """Return the folder of a recording's frames, in either layout; None if it is none."""
    for place in (folder / f"{folder.name}_frames", folder):
        if (place / "lowres_depth").is_dir():
            return place
    return None


def _job(folder: Path, name: str, split: str) -> SceneJob:
    check_name(name, "video")
    frames = frames_folder(folder) or folder
    names = ("lowres_wide.traj", "lowres_wide", "lowres_depth", "lowres_wide_intrinsics")
    sources = [frames / part for part in names] + [folder / f"{name}_3dod_annotation.json"]
    return SceneJob(scene_id=name, split=split, folder=folder, sources=tuple(sources))


def rotation_matrix(axis_angle: Sequence[float]) -> np.ndarray:
    """Return the rotation about an axis by its length in radians (Rodrigues), float64 [3, 3]."""
    rotation = np.asarray(axis_angle, np.float64)
    angle = float(np.linalg.norm(rotation))
    if angle < np.finfo(np.float64).eps:
        return np.eye(3)
    x, y, z = rotation / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def read_trajectory(path: Path) -> tuple[dict[str, np.ndarray], list[Fault]]:
    """Return camera-to-world matrices by time, as text with three decimals.

    A line holds the world-to-camera transform. Of two lines that round to one time the later
    counts, at the place of the earlier, as in upstream's dictionary.

    Returns:
        Poses, and the lines that are none.
    """
    poses: dict[str, np.ndarray] = {}
    faults = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != 7 or not math.isfinite(values[0]):
            detail = f"{path}: line {number}: {line!r:.120}; expected time rx ry rz tx ty tz"
            faults.append(Fault(item=f"line {number}", code="pose_entry", detail=detail))
            continue
        pose = np.full((4, 4), np.nan)
        if all(math.isfinite(value) for value in values):
            world_to_camera = np.eye(4)
            world_to_camera[:3, :3] = rotation_matrix(values[1:4])
            world_to_camera[:3, 3] = values[4:7]
            pose = np.linalg.inv(world_to_camera)
        poses[f"{round(values[0], 3):.3f}"] = pose
    return poses, faults


class Trajectory:
    """Finds the pose of a frame by its time."""

    def __init__(self, poses: dict[str, np.ndarray]) -> None:
        """Take the poses of `read_trajectory`."""
        self._poses = poses
        self._times = np.array([float(key) for key in poses], np.float64)
        self._values = list(poses.values())

    def find(self, frame: str) -> np.ndarray | None:
        """Return the camera-to-world matrix of a frame, or None.

        The pose whose time reads the same; else of all poses nearer than 5 ms the last of the
        file, not the nearest, as upstream's search leaves it. Upstream does not interpolate, and
        fails where there is none.

        Args:
            frame: The time in the frame's name.
        """
        exact = self._poses.get(frame)
        if exact is not None:
            return exact
        near = np.flatnonzero(np.abs(float(frame) - self._times) < MAX_GAP_S)
        return self._values[near[-1]] if len(near) else None


def read_pincam(path: Path) -> Pincam:
    """Return the intrinsics of a .pincam file.

    Raises:
        FileError: If it is missing or is not six numbers of a pinhole camera.
    """
    words = read_text(path, max_bytes=4096).split()
    try:
        width, height, fx, fy, cx, cy = (float(word) for word in words)
    except ValueError:
        text = f"{path}: found {' '.join(words)!r:.120}; expected width height fx fy cx cy"
        raise FileError("intrinsics", text) from None
    if not (math.isfinite(sum((width, height, fx, fy, cx, cy))) and min(width, height, fx, fy) > 0):
        raise FileError("intrinsics", f"{path}: found {words}; expected sizes and focals above 0")
    return Pincam(size=(width, height), intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))


def find_pincam(folder: Path, video: str, frame: str) -> Path:
    """Return the .pincam of a frame: of its time, else a millisecond earlier, else later.

    Raises:
        FileError: intrinsics_missing.
    """
    second = float(frame)
    for time in (frame, f"{second - 0.001:.3f}", f"{second + 0.001:.3f}"):
        path = folder / f"{video}_{time}.pincam"
        if path.is_file():
            return path
    raise FileError("intrinsics_missing", f"{folder} has no {video}_{frame}.pincam within 1 ms")


def _frame_names(folder: Path, faults: list[Fault]) -> list[str]:
    """Return the times in the names of the depth images, in order."""
    names = []
    for path in sorted(folder.glob("*.png")):
        found = re.fullmatch(r"[^_]+_(\d{1,12}(?:\.\d{1,9})?)\.png", path.name)
        if found is None:
            detail = f"{path}: expected VIDEO_TIME.png"
            faults.append(Fault(item=path.name[:80], code="unnumbered_file", detail=detail))
        else:
            names.append(found.group(1))
    return sorted(names, key=float)


def convert(job: SceneJob, writer: SceneWriter, *, config: ArkitConfig) -> SceneOutcome:
    """Write one recording.

    Raises:
        DataError: If there is no trajectory.
    """
    frames = frames_folder(job.folder) or job.folder
    poses, faults = read_trajectory(inside(frames / "lowres_wide.traj", job.folder))
    trajectory = Trajectory(poses)
    names = _frame_names(frames / "lowres_depth", faults)
    seen = _Seen(job, frames, trajectory)
    for index, name in list(enumerate(names))[:: config.every]:
        fault = seen.write(index, name, writer)
        if fault is not None:
            faults.append(fault)
    objects = _objects(job, faults)
    if seen.frames:
        seen.finish(writer, objects)
    return SceneOutcome(frames=len(seen.frames), faults=tuple(faults))


def _objects(job: SceneJob, faults: list[Fault]) -> tuple[SceneObject, ...]:
    path = job.folder / f"{job.folder.name}_3dod_annotation.json"
    if not path.exists():
        detail = f"{path} does not exist"
        faults.append(Fault(item="annotation", code="not_annotated", detail=detail, broken=False))
        return ()
    try:
        objects, found = read_boxes(inside(path, job.folder))
    except FileError as error:
        faults.append(Fault(item="annotation", code=error.code, detail=str(error)))
        return ()
    faults += found
    return objects


class _Seen:
    """The frames of one recording on their way into a scene folder."""

    def __init__(self, job: SceneJob, folder: Path, trajectory: Trajectory) -> None:
        self._job, self._folder, self._trajectory = job, folder, trajectory
        self.frames: dict[int, str] = {}
        self._cameras: list[np.ndarray] = []
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._start = 0.0

    def write(self, index: int, name: str, writer: SceneWriter) -> Fault | None:
        """Write a frame, or return what is wrong with it."""
        pose = self._trajectory.find(name)
        if pose is None:
            detail = f"no pose within {1000 * MAX_GAP_S:g} ms of {name}"
            return Fault(item=f"frame {index}", code="pose_missing", detail=detail, broken=False)
        fault = pose_fault(index, pose)
        if fault is not None:
            return fault
        try:
            self._write(index, name, pose, writer)
        except FileError as error:
            return frame_fault(index, error, broken=error.code != "depth_empty")
        return None

    def _write(self, index: int, name: str, pose: np.ndarray, writer: SceneWriter) -> None:
        folder, video = self._folder, self._job.folder.name
        depth_path = folder / "lowres_depth" / f"{video}_{name}.png"
        color_path = folder / "lowres_wide" / f"{video}_{name}.png"
        depth = require_depth(checked_depth(depth_path, self._job.folder), str(depth_path))
        color = checked_image(color_path, self._job.folder)
        path = find_pincam(folder / "lowres_wide_intrinsics", video, name)
        pincam = read_pincam(inside(path, self._job.folder))
        sizes = (color.size, (depth.shape[1], depth.shape[0]))
        self._sizes = self._sizes or sizes
        if sizes != self._sizes:
            text = f"frame {index}: colour and depth are {sizes}, others {self._sizes}"
            raise FileError("image_size", text)
        self._start = self._start if self.frames else float(name)
        writer.write_frame(
            index,
            color=color_path if color.format in ("PNG", "JPEG") else np.asarray(color),
            depth=depth_path,
            camera_to_world=pose,
            time_s=float(name) - self._start,
        )
        scale = np.diag([1 / pincam.size[0], 1 / pincam.size[1], 1.0])
        self._cameras.append(scale @ pincam.intrinsics)
        self.frames[index] = name

    def finish(self, writer: SceneWriter, objects: tuple[SceneObject, ...]) -> None:
        """Write what belongs to the whole recording."""
        cameras = np.array(self._cameras)
        middle = np.median(cameras, axis=0)
        color, depth = self._sizes or ((1, 1), (1, 1))
        writer.write_intrinsics(*(np.diag([*size, 1.0]) @ middle for size in (color, depth)))
        spread = np.abs(cameras - middle).max(axis=0)
        writer.write_json("frame_names.json", {str(k): name for k, name in self.frames.items()})
        facts = {
            "dataset": "arkitscenes",
            "split": self._job.split,
            "intrinsics": "median over the kept frames",
            "intrinsics_spread_px": round(float(spread[0].max() * color[0]), 4),
            "poses": "same time, else the last within 5 ms",
        }
        writer.write_labels(objects, provenance=PROVENANCE, up=(0, 0, 1), facts=facts)
