"""ScanNet-style scans of a synthetic room: `.sens`, mesh, segments, aggregation, facts, labels."""

import functools
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from recording import SMALL, small_room

from scenerl.preprocess.rooms_layout import Room
from scenerl.preprocess.sens import IMU_DTYPE, SensHeader
from scenerl.preprocess.sens_writer import SensFrame, write_sens, zlib_depth

ALIGNMENT = np.array([[0.6, 0.8, 0, 0.5], [-0.8, 0.6, 0, -0.25], [0, 0, 1, 0.125], [0, 0, 0, 1.0]])
"""Takes the scan's world to the room's; the scan itself is stored turned away from it."""
CLASSES = {"chair": 5, "table": 7, "sofa": 6, "bed": 4, "lamp": 35, "shelf": 15, "plant": 40}
OTHER_CLASS = 39
TSV_HEAD = "id\traw_category\tcategory\tcount\tnyu40id"


def header(**changes: object) -> SensHeader:
    """Return the header of the shared room's recording; color and depth share one camera."""
    _, rendered = small_room()
    intrinsics = np.eye(4, dtype=np.float32)
    intrinsics[:3, :3] = rendered.intrinsics
    return replace(
        SensHeader(
            intrinsic_color=intrinsics,
            intrinsic_depth=intrinsics,
            extrinsic_color=np.eye(4, dtype=np.float32),
            extrinsic_depth=np.eye(4, dtype=np.float32),
            color_size=(SMALL.width, SMALL.height),
            depth_size=(SMALL.width, SMALL.height),
        ),
        **changes,  # type: ignore[arg-type]
    )


def jpeg(color: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, "jpeg", quality=quality)
    return buffer.getvalue()


def frames(untracked: tuple[int, ...] = ()) -> list[SensFrame]:
    """Return the shared room's frames in the scan's world, one in 1/30 s."""
    _, rendered = small_room()
    back = np.linalg.inv(ALIGNMENT)
    return [
        SensFrame(
            camera_to_world=np.full((4, 4), -np.inf)
            if number in untracked
            else back @ rendered.camera_to_world[number],
            color=jpeg(rendered.color[number]),
            depth=zlib_depth(rendered.depth_mm[number]),
            color_us=1_000_000 + number * 33_333,
            depth_us=1_000_500 + number * 33_333,
        )
        for number in range(SMALL.num_frames)
    ]


@functools.cache
def room_mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vertices [n, 3] in the room's world, triangles, and piece number + 1 per vertex.

    The floor is one more object, the last.
    """
    room, _ = small_room()
    points, triangles, owners, offset = [], [], [], 0
    meshes = [
        (part.vertices, part.triangles, number)
        for number, piece in enumerate(room.pieces, start=1)
        for part in piece.parts
    ]
    meshes.append((*_floor(room), len(room.pieces) + 1))
    for vertices, faces, owner in meshes:
        points.append(vertices)
        triangles.append(faces + offset)
        owners += [owner] * len(vertices)
        offset += len(vertices)
    return np.concatenate(points), np.concatenate(triangles), np.array(owners)


def _floor(room: Room) -> tuple[np.ndarray, np.ndarray]:
    side = 6.0
    corners = np.array([[-side, -side, 0], [side, -side, 0], [side, side, 0], [-side, side, 0]])
    return corners, np.array([[0, 1, 2], [0, 2, 3]])


def write_ply(path: Path, points: np.ndarray, triangles: np.ndarray) -> None:
    """Write a binary PLY with colours and alpha, as ScanNet's meshes are."""
    vertex = np.zeros(len(points), [("p", "<f4", 3), ("c", "u1", 4)])
    vertex["p"], vertex["c"] = points, 200
    face = np.zeros(len(triangles), [("n", "u1"), ("i", "<i4", 3)])
    face["n"], face["i"] = 3, triangles
    names = [f"property float {axis}" for axis in "xyz"]
    names += [f"property uchar {color}" for color in ("red", "green", "blue", "alpha")]
    text = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(points)}",
        *names,
        f"element face {len(triangles)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    path.write_bytes("\n".join([*text, ""]).encode() + vertex.tobytes() + face.tobytes())


def write_annotation(folder: Path) -> None:
    """Write mesh, segments, aggregation and facts of the shared room for the scan `folder.name`."""
    room, _ = small_room()
    points, triangles, owners = room_mesh()
    back = np.linalg.inv(ALIGNMENT)
    name = folder.name
    moved = points @ back[:3, :3].T + back[:3, 3]
    write_ply(folder / f"{name}_vh_clean_2.ply", moved, triangles)
    halves = np.arange(len(owners)) % 2  # every object has two segments
    segments = (owners * 10 + halves).tolist()
    text = json.dumps({"params": {}, "sceneId": f"scannet.{name}", "segIndices": segments})
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(text)
    labels = [piece.label for piece in room.pieces] + ["floor"]
    groups = [
        {"id": n, "objectId": n, "segments": [10 * (n + 1), 10 * (n + 1) + 1], "label": label}
        for n, label in enumerate(labels)
    ]
    text = json.dumps({"sceneId": f"scannet.{name}", "appId": "x", "segGroups": groups})
    (folder / f"{name}.aggregation.json").write_text(text)
    numbers = " ".join(f"{value:.9g}" for value in ALIGNMENT.reshape(-1))
    (folder / f"{name}.txt").write_text(f"axisAlignment = {numbers} \nsceneType = Bedroom\n")


def write_labels(path: Path) -> Path:
    """Write the table of labels."""
    room, _ = small_room()
    rows = {piece.label: CLASSES.get(piece.label, OTHER_CLASS) for piece in room.pieces}
    rows["floor"] = 2
    lines = [f"{n}\t{label}\t{label}\t1\t{nyu}" for n, (label, nyu) in enumerate(rows.items())]
    path.write_text("\n".join([TSV_HEAD, *lines, ""]))
    return path


def write_scan(folder: Path, *, untracked: tuple[int, ...] = (), annotated: bool = True) -> Path:
    """Write a scan folder and return it."""
    folder.mkdir(parents=True)
    imu = np.zeros(3, IMU_DTYPE)
    write_sens(folder / f"{folder.name}.sens", header(), frames(untracked), imu)
    if annotated:
        write_annotation(folder)
    return folder
