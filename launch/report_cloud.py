"""Point clouds for the browser: the lifted object in its room, thinned and quantised."""

from pathlib import Path
from typing import Any

import numpy as np

from scenerl.launch.overview import MASK_COLOR, scene_cloud
from scenerl.launch.report_files import Packer
from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import Scene

MAX_ROOM_POINTS = 14_000
MAX_OBJECT_POINTS = 5_000
CLOUD_FRAMES = 24
PLANE_DISTANCE_M = 0.06
DEFAULT_UP = (0.0, 0.0, 1.0)


def pack_cloud(ply: Path | None, scene: Scene | None, packer: Packer) -> dict[str, Any] | None:
    """Pack the lifted points and, where the recording is still there, the room around them.

    Args:
        ply: Lifted points; None when there are none.
        scene: The recording; None when it is gone.
        packer: Packs, and keeps remarks.

    Returns:
        ``points`` (uint16, [n, 3], to be scaled into ``low`` .. ``low + size``), ``colors``
        (uint8), ``parts`` ({"count", "spacing", "normal"}; a part with a normal is a wall, floor or
        ceiling to be hidden from behind) and the direction ``up``; None without any point.
    """
    parts: list[tuple[np.ndarray, np.ndarray, float, list[float] | None]] = []
    up = list(DEFAULT_UP)
    if scene is not None:
        from scenerl.launch.ground_output import guess_up

        known = scene.up
        up = [float(v) for v in (guess_up(scene) if known is None else known)]
        parts += _room(scene)
    found = _read_ply(ply)
    if found is not None:
        points, colors, spacing = _thin(*found, MAX_OBJECT_POINTS, 0.01)
        tinted = 0.6 * colors + 0.4 * np.array(MASK_COLOR)
        parts.append((points, tinted.astype(np.uint8), spacing, None))
    if not parts:
        return None
    every = np.concatenate([part[0] for part in parts])
    low, high = every.min(axis=0), every.max(axis=0)
    size = np.maximum(high - low, 1e-6)
    codes = np.round((every - low) / size * 65535).astype("<u2")
    points_text = packer.pack(codes.tobytes())
    colors_text = packer.pack(np.concatenate([part[1] for part in parts]).tobytes())
    if points_text is None or colors_text is None:
        return None
    return {
        "points": points_text,
        "colors": colors_text,
        "low": low.tolist(),
        "size": size.tolist(),
        "up": up,
        "parts": [
            {"count": len(points), "spacing": spacing, "normal": normal}
            for points, _, spacing, normal in parts
        ],
    }


def open_scene(path: Path | None, packer: Packer) -> Scene | None:
    """Open a recording; None, with a remark, when it is not there any more."""
    if path is None:
        return None
    try:
        return Scene.open(path, check="files")
    except (OSError, DataError):
        packer.note(f"{path} cannot be read any more; clouds show the lifted points only")
        return None


def _room(scene: Scene) -> list[tuple[np.ndarray, np.ndarray, float, list[float] | None]]:
    """Split a room's cloud into what stands in it and the planes that bound it."""
    import torch

    from scenerl.kernels.planes import bounding_planes

    every = max(1, -(-len(scene.frame_indices) // CLOUD_FRAMES))
    step = max(3, scene.depth_size[0] // 100)
    cloud = scene_cloud(scene, scene.frame_indices[::every], step)
    if not len(cloud[0]):
        return []
    points, colors, spacing = _thin(*cloud, MAX_ROOM_POINTS, 0.03)
    planes = bounding_planes(torch.tensor(points, dtype=torch.float64)).numpy()
    owner = np.full(len(points), -1)
    if len(planes):
        distance = np.abs(points @ planes[:, :3].T + planes[:, 3])
        owner = np.where(distance.min(axis=1) < PLANE_DISTANCE_M, distance.argmin(axis=1), -1)
    parts = []
    for number in range(-1, len(planes)):
        mine = owner == number
        if mine.any():
            normal = None if number < 0 else [float(v) for v in planes[number, :3]]
            parts.append((points[mine], colors[mine], spacing, normal))
    return parts


def _thin(
    points: np.ndarray, colors: np.ndarray, limit: int, voxel_m: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Keep one point per voxel, of the smallest size at which at most `limit` are left."""
    while True:
        cells = np.floor((points - points.min(axis=0)) / voxel_m).astype(np.int64)
        keys = (cells[:, 0] << 42) + (cells[:, 1] << 21) + cells[:, 2]
        _, kept = np.unique(keys, return_index=True)
        if len(kept) <= limit:
            return points[kept], colors[kept], voxel_m
        voxel_m *= 1.25


def _read_ply(file: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    if file is None or not file.is_file():
        return None
    import open3d

    cloud = open3d.io.read_point_cloud(file)
    points = np.asarray(cloud.points, dtype=np.float64)
    if not len(points):
        return None
    colors = np.asarray(cloud.colors)
    colors = colors if len(colors) else np.full(points.shape, 0.7)
    return points, (colors * 255).round().astype(np.uint8)
