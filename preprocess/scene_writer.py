"""Write a prepared scene folder, the layout that ScanNet's exporters write plus our labels.

color/0.jpg  depth/0.png  pose/0.txt  instance/0.png     one of each per frame
intrinsic/intrinsic_color.txt  intrinsic/intrinsic_depth.txt  4x4
times.json  objects.json  scene.json
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from scenerl.preprocess.records import SceneObject

JPEG_QUALITY = 92
SCENE_FORMAT = "scenerl-scene"
"""Marks a scene that this project wrote, so whose content was checked once."""


def matrix_text(matrix: np.ndarray) -> str:
    """Return a matrix as text, one row a line, exact to nine digits."""
    return "\n".join(" ".join(f"{value:.9g}" for value in row) for row in matrix) + "\n"


def object_row(item: SceneObject) -> dict[str, Any]:
    """Return the JSON object of one scene object."""
    return {
        "id": item.object_id,
        "label": item.label,
        "box_world": None if item.box_world is None else list(item.box_world),
        "attributes": item.attributes,
    }


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 over names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


class SceneWriter:
    """Writes one scene; the folder appears under its name only when it is complete.

    Use as a context manager: leaving it with an error removes what was written.
    """

    def __init__(self, folder: Path, *, scene_id: str) -> None:
        """Open a scene for writing.

        Args:
            folder: Where the scene will stand; a folder already there is replaced.
            scene_id: Its name.
        """
        self._folder = folder
        self._partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
        self._scene_id = scene_id
        self._times_s: dict[str, float] = {}

    def __enter__(self) -> "SceneWriter":
        """Create the working folder."""
        shutil.rmtree(self._partial, ignore_errors=True)
        for name in ("color", "depth", "pose", "intrinsic"):
            (self._partial / name).mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the finished folder in its place, or remove an unfinished one."""
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        times = json.dumps({"times_s": self._times_s}, indent=1)
        (self._partial / "times.json").write_text(times + "\n")
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._partial.rename(self._folder)

    def write_frame(
        self,
        index: int,
        *,
        color: np.ndarray | Path,
        depth: np.ndarray | Path,
        camera_to_world: np.ndarray,
        time_s: float,
    ) -> None:
        """Write one frame.

        Args:
            index: Frame index, the file name.
            color: uint8 [H, W, 3], or a JPEG or PNG file to copy unchanged.
            depth: uint16 millimetres [h, w], or a PNG file of such to copy unchanged.
            camera_to_world: float [4, 4], OpenCV camera axes.
            time_s: Seconds since the first frame.
        """
        from PIL import Image

        target = self._partial / "color" / f"{index}.jpg"
        if isinstance(color, Path):
            target = target.with_suffix(".png" if color.suffix.lower() == ".png" else ".jpg")
            shutil.copyfile(color, target)
        else:
            Image.fromarray(color).save(target, quality=JPEG_QUALITY)
        target = self._partial / "depth" / f"{index}.png"
        if isinstance(depth, Path):
            shutil.copyfile(depth, target)
        else:
            Image.fromarray(depth.astype(np.uint16)).save(target, compress_level=3)
        (self._partial / "pose" / f"{index}.txt").write_text(matrix_text(camera_to_world))
        self._times_s[str(index)] = round(time_s, 6)

    def write_instance(self, index: int, instance: np.ndarray) -> None:
        """Write the instance image of a frame, uint16 [H, W] in the size of the colour image."""
        from PIL import Image

        (self._partial / "instance").mkdir(exist_ok=True)
        path = self._partial / "instance" / f"{index}.png"
        Image.fromarray(instance.astype(np.uint16)).save(path, compress_level=3)

    def write_intrinsics(self, color: np.ndarray, depth: np.ndarray) -> None:
        """Write the intrinsics of both cameras, float [3, 3] each."""
        for name, matrix in (("color", color), ("depth", depth)):
            square = np.eye(4)
            square[:3, :3] = matrix
            path = self._partial / "intrinsic" / f"intrinsic_{name}.txt"
            path.write_text(matrix_text(square))

    def write_json(self, name: str, content: object) -> None:
        """Write a further file of the scene."""
        (self._partial / name).write_text(json.dumps(content, indent=1) + "\n")

    def write_labels(
        self,
        objects: Sequence[SceneObject],
        *,
        provenance: str,
        up: Sequence[float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what is known about the scene.

        Args:
            objects: Annotated objects; may be empty.
            provenance: Where the labels come from.
            up: World direction that points up, when known.
            facts: Further entries of scene.json; may replace depth_scale, units per metre.
        """
        rows = json.dumps([object_row(item) for item in objects], indent=1)
        (self._partial / "objects.json").write_text(rows + "\n")
        content = {
            "format": SCENE_FORMAT,
            "scene_id": self._scene_id,
            "depth_scale": 1000.0,
            "provenance": provenance,
            "up": None if up is None else [float(value) for value in up],
            **(facts or {}),
        }
        self.write_json("scene.json", content)
