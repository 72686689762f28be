"""Camera poses of ScanNet++'s iPhone recordings, from any of the three files that hold them.

    iphone/pose_intrinsic_imu.json     {"frame_000000": {"timestamp": 12.3, "pose": 4x4,
                                         "aligned_pose": 4x4, "intrinsic": 3x3, "imu": {...}}, ...}
    iphone/nerfstudio/transforms.json  {"fl_x", "fl_y", "cx", "cy", "w", "h", "frames": [
                                         {"file_path": "frame_000000.jpg",
                                         "transform_matrix": 4x4}, ...], "test_frames": [...]}
    iphone/colmap/{cameras,images}.txt COLMAP's text model

Read as scannetpp/scannetpp writes them (common/utils/nerfstudio.py, common/utils/colmap.py).
aligned_pose is camera-to-world with OpenCV axes in the world of the meshes; COLMAP's poses are
world-to-camera in the same world. transforms.json has OpenGL camera axes *and* another world: its
rows are (y, x, -z) of the mesh's.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scenerl.preprocess.raw_scenes import Fault
from scenerl.preprocess.safe_files import FileError, inside, read_json, read_text

PoseSource = Literal["imu", "nerfstudio", "colmap"]
FILES: dict[PoseSource, tuple[str, ...]] = {
    "imu": ("pose_intrinsic_imu.json",),
    "nerfstudio": ("nerfstudio/transforms.json",),
    "colmap": ("colmap/cameras.txt", "colmap/images.txt"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraFrame:
    """Where one frame was taken from."""

    camera_to_world: np.ndarray
    """float64 [4, 4], OpenCV axes; may hold nan."""
    intrinsics: np.ndarray
    """float64 [3, 3] of the colour frame."""
    time_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraTrack:
    """The frames of a recording that have a pose."""

    frames: dict[int, CameraFrame]
    faults: tuple[Fault, ...]
    size: tuple[int, int] | None
    """(width, height) that the intrinsics are for; None when the file does not say."""
    distortion: dict[str, float]
    """Lens distortion that the pinhole intrinsics leave out."""


def frame_number(name: object) -> int | None:
    """Return the index in a name such as "frame_000012" or "iphone/frame_000012.jpg"."""
    found = re.fullmatch(r"(?:.*/)?frame_(\d{1,9})(?:\.\w+)?", str(name))
    return None if found is None else int(found.group(1))


def read_track(folder: Path, source: PoseSource) -> CameraTrack:
    """Return the poses of an iphone/ folder.

    Raises:
        FileError: If the file is missing, broken, or holds no pose at all.
    """
    paths = [inside(folder / name, folder) for name in FILES[source]]
    if source == "imu":
        track = _read_imu(paths[0])
    elif source == "nerfstudio":
        track = _read_nerfstudio(paths[0])
    else:
        track = _read_colmap(*paths)
    if not track.frames:
        raise FileError("no_poses", f"{paths[-1]} holds no pose that can be read")
    return track


def matrix(value: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """Return a JSON value as float64 matrix of a shape; None if it is none."""
    try:
        found = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == shape else None


def _intrinsics(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def is_pinhole(intrinsics: np.ndarray | None) -> bool:
    """Return whether a matrix is finite with focal lengths above 0."""
    return (
        intrinsics is not None
        and bool(np.isfinite(intrinsics).all())
        and intrinsics[0, 0] > 0
        and intrinsics[1, 1] > 0
    )


def _read_imu(path: Path) -> CameraTrack:
    frames, faults = {}, []
    for name, row in read_json(path, dict).items():
        index = frame_number(name)
        if index is None or not isinstance(row, dict):
            faults.append(Fault(item=f"{name!r:.80}", code="pose_entry", detail=str(path)))
            continue
        pose = matrix(row.get("aligned_pose"), (4, 4))
        K = matrix(row.get("intrinsic"), (3, 3))
        time_s = row.get("timestamp")
        if pose is None or K is None or not is_pinhole(K):
            detail = f"{path}: {name}: no aligned_pose of 4x4 with an intrinsic of 3x3"
            faults.append(Fault(item=f"frame {index}", code="pose_entry", detail=detail))
            continue
        is_time = isinstance(time_s, int | float) and np.isfinite(time_s)
        frames[index] = CameraFrame(
            camera_to_world=pose, intrinsics=K, time_s=float(time_s) if is_time else None
        )
    return CameraTrack(frames=frames, faults=tuple(faults), size=None, distortion={})


def from_nerfstudio(transform: np.ndarray) -> np.ndarray:
    """Return the camera-to-world matrix, OpenCV axes, in the world of the meshes.

    Undoes scannetpp's convert_frames: camera axes y and z negated, world axes x and y swapped, z
    negated.
    """
    pose = transform[[1, 0, 2, 3]]
    pose[2] *= -1
    pose[:3, 1:3] *= -1
    return pose


def _read_nerfstudio(path: Path) -> CameraTrack:
    content = read_json(path, dict)
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h")
    numbers = [float(v) for v in map(content.get, names) if isinstance(v, int | float)]
    if len(numbers) != len(names) or not np.isfinite(numbers).all():
        raise FileError("intrinsics", f"{path}: {', '.join(names)} must be numbers")
    K = _intrinsics(*numbers[:4])
    if not is_pinhole(K):
        raise FileError("intrinsics", f"{path}: focal lengths are {K[0, 0]}, {K[1, 1]}")
    frames, faults = {}, []
    for key in ("frames", "test_frames"):
        rows = content.get(key, [])
        if not isinstance(rows, list):
            raise FileError("json_kind", f"{path}: {key} is no list")
        for number, row in enumerate(rows):
            entry = row if isinstance(row, dict) else {}
            index = frame_number(entry.get("file_path"))
            pose = matrix(entry.get("transform_matrix"), (4, 4))
            if index is None or pose is None:
                item = f"{key}[{number}]"
                faults.append(Fault(item=item, code="pose_entry", detail=f"{path}: {item}"))
                continue
            frames[index] = CameraFrame(
                camera_to_world=from_nerfstudio(pose), intrinsics=K, time_s=None
            )
    return CameraTrack(
        frames=frames,
        faults=tuple(faults),
        size=(int(numbers[4]), int(numbers[5])),
        distortion={
            name: float(content[name])
            for name in ("k1", "k2", "k3", "k4", "p1", "p2")
            if isinstance(content.get(name), int | float) and content[name]
        },
    )


def rotation_of(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation of a quaternion w x y z, float64 [3, 3]."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _floats(words: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(word) for word in words], np.float64)
    except ValueError:
        return None


def _read_colmap(cameras: Path, images: Path) -> CameraTrack:
    table: dict[str, tuple[np.ndarray, tuple[int, int], dict[str, float]]] = {}
    for line in read_text(cameras).splitlines():
        words = line.split()
        if len(words) < 8 or line.startswith("#"):
            continue
        values = _floats(words[2:])
        if (
            values is None
            or words[1] not in ("PINHOLE", "OPENCV")
            or not is_pinhole(_intrinsics(*values[2:6]))
        ):
            raise FileError("intrinsics", f"{cameras}: {line!r:.120}; expected PINHOLE or OPENCV")
        names = ("k1", "k2", "p1", "p2")
        bent = {name: float(v) for name, v in zip(names, values[6:], strict=False) if v}
        table[words[0]] = (_intrinsics(*values[2:6]), (int(values[0]), int(values[1])), bent)
    if len(table) != 1:
        raise FileError("intrinsics", f"{cameras} has {len(table)} cameras; expected one")
    K, size, distortion = next(iter(table.values()))
    frames, faults, is_pose_line = {}, [], True
    for number, line in enumerate(read_text(images).splitlines(), start=1):
        if line.startswith("#"):
            continue
        if is_pose_line and line.strip():
            words = line.split()
            index = frame_number(words[-1])
            values = _floats(words[1:8])
            if index is None or values is None or len(values) != 7 or not values[:4].any():
                detail = f"{images}: line {number}: {line!r:.120}"
                faults.append(Fault(item=f"line {number}", code="pose_entry", detail=detail))
            else:
                frames[index] = _colmap_frame(values, K)
        is_pose_line = not is_pose_line
    return CameraTrack(frames=frames, faults=tuple(faults), size=size, distortion=distortion)


def _colmap_frame(values: np.ndarray, K: np.ndarray) -> CameraFrame:
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation_of(values[:4])
    world_to_camera[:3, 3] = values[4:7]
    pose = np.full((4, 4), np.nan)
    if np.isfinite(world_to_camera).all():
        pose = np.linalg.inv(world_to_camera)
    return CameraFrame(camera_to_world=pose, intrinsics=K, time_s=None)
