"""A small real-enough recording, rendered once, written in the layouts that scenes come in."""

import functools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from scenerl.preprocess.rooms import RoomsConfig, draw_room
from scenerl.preprocess.rooms_layout import Room
from scenerl.preprocess.rooms_render import RenderedRoom
from scenerl.preprocess.scene_writer import matrix_text

SMALL = RoomsConfig(rooms=(("train", 1),), num_frames=16, width=96, height=72, seed=3)


@functools.cache
def small_room() -> tuple[Room, RenderedRoom]:
    """Render the room that the tests share."""
    room, rendered, _ = draw_room(SMALL, "train", 0)
    return room, rendered


def write_minimal(folder: Path) -> Path:
    """Write color/ depth/ pose/ intrinsic.txt, frames 00000, 00003, 00006, ..."""
    _, rendered = small_room()
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    for number in range(SMALL.num_frames):
        stem = f"{3 * number:05d}"
        Image.fromarray(rendered.color[number]).save(folder / "color" / f"{stem}.jpg", quality=95)
        Image.fromarray(rendered.depth_mm[number]).save(folder / "depth" / f"{stem}.png")
        text = matrix_text(rendered.camera_to_world[number])
        (folder / "pose" / f"{stem}.txt").write_text(text)
    (folder / "intrinsic.txt").write_text(matrix_text(rendered.intrinsics))
    return folder


def write_instances(folder: Path) -> None:
    """Add instances.json and masks/ to a minimal recording; frames without objects get no file."""
    room, rendered = small_room()
    (folder / "masks").mkdir()
    for number, instance in enumerate(rendered.instance):
        if instance.any():
            path = folder / "masks" / f"{3 * number:05d}.png"
            Image.fromarray(instance.astype(np.uint8)).save(path)
    rows = [
        {
            "id": piece.object_id,
            "label": piece.label,
            "referring": [f"the {piece.color} {piece.label}"],
        }
        for piece in room.pieces
    ]
    (folder / "instances.json").write_text(json.dumps({"instances": rows, "up": "+z"}))


def pose_file(folder: Path, number: int) -> Path:
    """Return the pose file of the n-th frame of a minimal recording."""
    return folder / "pose" / f"{3 * number:05d}.txt"
