"""An RGB-D recording on disk, opened by reference: frames are decoded when asked for."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scenerl.preprocess.records import Box3D, DataError, SceneObject
from scenerl.preprocess.safe_files import read_json
from scenerl.preprocess.scene_files import (
    Problem,
    SceneFiles,
    find_files,
    pose_problem,
    read_intrinsics,
    read_matrix,
    read_times,
)
from scenerl.preprocess.scene_writer import SCENE_FORMAT
from scenerl.preprocess.validate import check_content

logger = logging.getLogger(__name__)

ReadImage = Callable[[Path, str | None], np.ndarray]
"""Returns the pixels of an image file, in a mode of Pillow's or as they are stored."""

MIN_FRAMES = 2
MIN_GOOD_SHARE = 0.2


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from an image's header.

    Raises:
        OSError: If it is not an image, or claims so many pixels that Pillow refuses it.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return (image.width, image.height)
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from error


def read_image(path: Path, mode: str | None) -> np.ndarray:
    """Return the pixels of an image file, in a mode of Pillow's or as they are stored."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image if mode is None else image.convert(mode))


class Scene:
    """A recording with colour, depth, poses and perhaps instances.

    World axes are those of the poses, metres; camera axes are OpenCV's (x right, y down, z
    forward). Open one with `Scene.open`.

    Attributes:
        scene_id: Name of the scene.
        path: Its folder.
        frame_indices: Usable frames, increasing.
        color_size: (width, height) of colour frames.
        depth_size: (width, height) of depth frames.
        intrinsics_color: float64 [3, 3].
        intrinsics_depth: float64 [3, 3].
        objects: Annotated objects.
        problems: Frames that are left out and why, and remarks on the whole scene.
    """

    def __init__(self, files: SceneFiles, read: ReadImage = read_image) -> None:
        """Read everything but the images; use `Scene.open`, which also checks."""
        self.path = files.root
        self._read = read
        self.scene_id = str(files.facts.get("scene_id", files.root.name))
        self._files = files
        self._depth_scale = float(files.facts.get("depth_scale", 1000.0))
        self._times_s = read_times(files.root, sorted(files.color), files.facts.get("fps"))
        self._poses: dict[int, np.ndarray] = {}
        problems = list(files.problems)
        self.color_size = usual_size(files.color)
        self.depth_size = usual_size(files.depth)
        for index in sorted(files.color.keys() | files.depth.keys() | files.pose.keys()):
            found = self._check_frame(index)
            if found is not None:
                problems.append(Problem(frame_index=index, code=found[0], reason=found[1]))
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.frame_indices: tuple[int, ...] = tuple(sorted(self._poses))
        self.intrinsics_color, self.intrinsics_depth = self._read_cameras()
        self.objects: tuple[SceneObject, ...] = read_objects(files.root)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        check: Literal["auto", "files", "content"] = "auto",
        read: ReadImage = read_image,
    ) -> "Scene":
        """Open a recording folder and leave out its bad frames.

        Args:
            path: Folder in one of the layouts of docs/data.md.
            check: "files" looks at names, poses and image headers. "content" also decodes all
                images and compares neighbouring frames through depth and poses. "auto" is
                "files" for a scene that `launch preprocess` wrote, and "content" otherwise.
            read: Decodes its images; `Decoder.image` does it in a process that may be lost.

        Raises:
            DataError: If the layout is unknown, something belonging to the whole scene is
                missing, or too few good frames are left.
        """
        scene = cls(find_files(Path(path)), read)
        prepared = scene._files.facts.get("format") == SCENE_FORMAT
        scene._require_frames()
        if check == "content" or (check == "auto" and not prepared):
            scene._leave_out(check_content(scene))
            scene._require_frames()
        return scene

    def _check_frame(self, index: int) -> tuple[str, str] | None:
        """Return what is wrong with a frame's files, or remember its pose."""
        files = self._files
        for name, paths in (("color", files.color), ("depth", files.depth), ("pose", files.pose)):
            if index not in paths:
                return f"{name}_missing", f"frame {index} has no {name} file"
        for name, paths, size in (
            ("color", files.color, self.color_size),
            ("depth", files.depth, self.depth_size),
        ):
            try:
                found = image_size(paths[index])
            except OSError as error:
                return "image_unreadable", f"{paths[index].name} is not an image: {error}"
            if found != size:
                text = f"{name} image is {found[0]}x{found[1]}, the others {size[0]}x{size[1]}"
                return f"{name}_size", text
        try:
            matrix = read_matrix(files.pose[index])
        except DataError as error:
            return "pose_unreadable", str(error)
        wrong = pose_problem(matrix)
        if wrong is None:
            self._poses[index] = matrix
        return wrong

    def _read_cameras(self) -> tuple[np.ndarray, np.ndarray]:
        root = self.path
        color = read_intrinsics(root, "color")
        if color is None:
            raise DataError(
                f"{root} has no intrinsics; write intrinsic.txt, the 3x3 matrix of the color "
                "frames, or intrinsic/intrinsic_color.txt"
            )
        width, height = self.color_size
        if not (0 < color[0, 2] < width and 0 < color[1, 2] < height):
            raise DataError(
                f"{root}: the principal point ({color[0, 2]:.1f}, {color[1, 2]:.1f}) lies outside "
                f"the {width}x{height} color frames; give the intrinsics of this resolution"
            )
        depth = read_intrinsics(root, "depth")
        if depth is None:
            scale = (self.depth_size[0] / width, self.depth_size[1] / height)
            if abs(scale[0] / scale[1] - 1) > 0.02:
                raise DataError(
                    f"{root}: depth is {self.depth_size}, color {self.color_size}, not the same "
                    "shape; write depth_intrinsic.txt, the 3x3 matrix of the depth frames"
                )
            depth = np.diag([scale[0], scale[1], 1.0]) @ color
        return color, depth

    def _require_frames(self) -> None:
        total = len(self._files.color)
        good = len(self.frame_indices)
        if good >= MIN_FRAMES and good >= MIN_GOOD_SHARE * total:
            return
        reasons = [f"{p.frame_index}: {p.reason}" for p in self.problems[:3]]
        raise DataError(
            f"{self.path}: {good} of {total} frames can be used, expected at least {MIN_FRAMES} "
            f"and {100 * MIN_GOOD_SHARE:.0f} %; the first problems: " + "; ".join(reasons)
        )

    def _leave_out(self, problems: list[Problem]) -> None:
        bad = {problem.frame_index for problem in problems}
        self.problems += tuple(problems)
        self.frame_indices = tuple(index for index in self.frame_indices if index not in bad)

    def times_s(self, index: int) -> float:
        """Return the time of a frame, seconds since the first frame of the recording."""
        return self._times_s[index]

    def camera_to_world(self, index: int) -> np.ndarray:
        """Return the pose of a usable frame, float64 [4, 4]."""
        if index not in self._poses:
            raise KeyError(f"{self.path} has no usable frame {index}")
        return self._poses[index]

    def color_path(self, index: int) -> Path:
        """Return the file of a colour frame."""
        return self._files.color[index]

    def depth_path(self, index: int) -> Path:
        """Return the file of a depth frame."""
        return self._files.depth[index]

    @property
    def depth_scale(self) -> float:
        """Units of the depth files per metre."""
        return self._depth_scale

    @property
    def up(self) -> np.ndarray | None:
        """World direction that points up, float64 [3]; None when nothing says."""
        up = self._files.facts.get("up")
        if up is None:
            up = _instances_json(self.path).get("up")
        return None if up is None else direction(up)

    def color(self, index: int) -> np.ndarray:
        """Return a colour frame, uint8 RGB [H, W, 3]."""
        return self._read(self._files.color[index], "RGB")

    def depth_m(self, index: int) -> np.ndarray:
        """Return a depth frame, float32 [h, w] metres along the optical axis, 0 = invalid."""
        raw = self._read(self._files.depth[index], None)
        if raw.ndim != 2 or raw.dtype == np.uint8:
            raise DataError(
                f"{self._files.depth[index]} is {raw.dtype} {raw.shape}; expected a 16-bit "
                "single-channel image"
            )
        return (raw.astype(np.float32) / np.float32(self._depth_scale)).astype(np.float32)

    def instances(self, index: int) -> np.ndarray | None:
        """Return object ids per pixel, uint16 [H, W] in the size of the colour frames.

        None when the scene has no instance images; a frame without a file shows no object.
        """
        from PIL import Image

        if self._files.instance is None:
            return None
        width, height = self.color_size
        if index not in self._files.instance:
            return np.zeros((height, width), np.uint16)
        with Image.open(self._files.instance[index]) as image:
            fitting = image if image.size == self.color_size else _shrink(image, self.color_size)
            return np.asarray(fitting).astype(np.uint16)


def _shrink(image: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    return image.resize(size, Image.Resampling.NEAREST)


def direction(value: Any) -> np.ndarray:
    """Return a unit vector from three numbers or a text such as "+y" or "-z"."""
    if isinstance(value, str) and value.lstrip("+-") in ("x", "y", "z"):
        axis = np.eye(3)["xyz".index(value[-1])]
        return np.asarray(-axis if value.startswith("-") else axis)
    vector = np.asarray(np.nan if isinstance(value, str) else value, np.float64)
    if vector.shape != (3,) or not np.linalg.norm(vector) > 0:
        raise DataError(f"up is {value!r}; expected three numbers or one of +x -x +y -y +z -z")
    return np.asarray(vector / np.linalg.norm(vector))


def usual_size(paths: dict[int, Path]) -> tuple[int, int]:
    """Return the most frequent (width, height) of readable images; (0, 0) when there is none."""
    counts: dict[tuple[int, int], int] = {}
    for path in paths.values():
        try:
            size = image_size(path)
        except OSError:
            continue
        counts[size] = counts.get(size, 0) + 1
    return max(counts, key=lambda size: counts[size], default=(0, 0))


def _instances_json(root: Path) -> dict[str, Any]:
    path = root / "instances.json"
    if not path.is_file():
        return {}
    content: dict[str, Any] = read_json(path, dict)
    if not isinstance(content.get("instances"), list):
        raise DataError(f'{path}: expected {{"instances": [{{"id": 1, "label": "sofa"}}, ...]}}')
    return content


def _read_box(value: Any, where: str) -> Box3D | None:
    if value is None:
        return None
    box = np.asarray(value, np.float64).reshape(-1)
    if box.shape != (6,) or not np.isfinite(box).all() or (box[3:] < box[:3]).any():
        raise DataError(f"{where}: box {value!r} is not min x y z, max x y z in metres")
    x0, y0, z0, x1, y1, z1 = (float(v) for v in box)
    return (x0, y0, z0, x1, y1, z1)


def object_rows(root: Path) -> list[dict[str, Any]]:
    """Return the objects as their file gives them: objects.json, instances.json or ScanNet's.

    ScanNet's aggregation counts objects from 0, its instance images from 1.
    """
    if (root / "objects.json").is_file():
        rows: list[dict[str, Any]] = read_json(root / "objects.json", list)
        return rows
    if (root / "instances.json").is_file():
        rows = _instances_json(root)["instances"]
        return [{**row, "box_world": row.get("aabb_world", row.get("aabb"))} for row in rows]
    for path in sorted(root.glob("*.aggregation.json")):
        groups = read_json(path, dict).get("segGroups")
        if not isinstance(groups, list):
            raise DataError(f"{path}: expected a list segGroups")
        return [{"id": group["objectId"] + 1, "label": group["label"]} for group in groups]
    return []


def read_objects(root: Path) -> tuple[SceneObject, ...]:
    """Return the annotated objects of a scene folder.

    Raises:
        DataError: If an id is not positive or repeats, or a label is missing.
    """
    objects: dict[int, SceneObject] = {}
    for row in object_rows(root):
        object_id, label = row.get("id"), row.get("label")
        where = f"{root}: object {object_id!r}"
        if not isinstance(object_id, int) or object_id < 1 or object_id in objects:
            raise DataError(f"{where}: ids must be whole numbers above 0, each used once")
        if not isinstance(label, str) or not label:
            raise DataError(f"{where}: label is {label!r}; expected a text")
        objects[object_id] = SceneObject(
            object_id=object_id,
            label=label,
            box_world=_read_box(row.get("box_world"), where),
            attributes={str(k): str(v) for k, v in (row.get("attributes") or {}).items()},
        )
    return tuple(objects.values())
