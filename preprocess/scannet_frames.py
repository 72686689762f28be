"""Turn the frames of a `.sens` into files of a scene folder, a stretch at a time.

A stretch is done when its JSON file stands in chunks/; an interrupted conversion goes on after it.
"""

import functools
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenerl.preprocess.depth_png import encode_png16
from scenerl.preprocess.scannet_views import FrameGrid, InstanceViews
from scenerl.preprocess.scene_files import pose_problem
from scenerl.preprocess.scene_writer import JPEG_QUALITY, matrix_text
from scenerl.preprocess.sens import SensError, SensFile, SensHeader
from scenerl.preprocess.sens_images import check_color, read_color, read_depth
from scenerl.preprocess.validate import MIN_VALID_SHARE
from scenerl.preprocess.visibility import instance_boxes

GEOMETRY = "geometry.npz"
CHUNKS = "chunks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Frames of one scan that one process converts."""

    sens: Path
    folder: Path
    """The unfinished scene folder; holds `GEOMETRY` when there are objects."""
    indices: tuple[int, ...]
    world: tuple[tuple[float, ...], ...] | None = None
    """4x4 transform applied to every pose; None leaves them."""
    resize: tuple[int, int] | None = None
    """(width, height) of the colour frames to write; None copies their bytes."""
    min_pixel_share: float = 0.001
    """An object with fewer of a frame's pixels is not visible in it."""

    @property
    def record(self) -> Path:
        """The file that says the stretch is done."""
        return self.folder / CHUNKS / f"{self.indices[0]}.json"


@dataclass(kw_only=True, slots=True)
class StretchRecord:
    """What a stretch yielded; stored as JSON."""

    frames: list[tuple[int, int]] = field(default_factory=list)
    """(index, time in microseconds) of the frames written."""
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    """(index, code, reason) of the frames left out."""
    boxes: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Object id -> frame index -> x0, y0, x1, y1, pixels."""
    sha256: dict[str, str] = field(default_factory=dict)
    """File, relative to the scene folder -> hash of its content."""


def read_record(path: Path) -> StretchRecord:
    """Return the record of a finished stretch."""
    return StretchRecord(**json.loads(path.read_text()))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(content)
    partial.replace(path)


def output_intrinsics(
    header: SensHeader, resize: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the intrinsics of the written colour and depth frames, float64 [3, 3] each.

    Pixel centers have whole-numbered coordinates, so a resize maps u to (u + 1/2) s - 1/2.
    """
    color = header.intrinsic_color[:3, :3].astype(np.float64)
    if resize is not None:
        scale = np.array(resize) / np.array(header.color_size)
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        color = np.linalg.inv(shift) @ np.diag([*scale, 1.0]) @ shift @ color
    return color, header.intrinsic_depth[:3, :3].astype(np.float64)


@functools.lru_cache(maxsize=1)
def _views(path: Path, stamp: int) -> InstanceViews:
    with np.load(path) as arrays:
        return InstanceViews(arrays["points"], arrays["triangles"], arrays["vertex_ids"])


def convert_stretch(job: Stretch) -> int:
    """Write the frames of a stretch and its record.

    Returns:
        The number of frames asked for.
    """
    record = StretchRecord()
    geometry = job.folder / GEOMETRY
    with SensFile(job.sens) as sens:
        views = grid = None
        if geometry.is_file():
            views = _views(geometry, geometry.stat().st_mtime_ns)
            color, depth = output_intrinsics(sens.header, job.resize)
            grid = FrameGrid(
                color, job.resize or sens.header.color_size, depth, sens.header.depth_size
            )
        for index in job.indices:
            try:
                problem = _convert(sens, index, job, record)
            except SensError as error:
                problem = error.code, str(error)
            if problem is not None:
                record.problems.append((index, *problem))
                continue
            if views is not None and grid is not None:
                _write_instances(sens, index, job, (views, grid), record)
    content = {name: getattr(record, name) for name in StretchRecord.__dataclass_fields__}
    write_whole(job.record, json.dumps(content).encode())
    return len(job.indices)


def _pose(sens: SensFile, index: int, job: Stretch) -> np.ndarray:
    pose: np.ndarray = sens.frames[index]["camera_to_world"].astype(np.float64)
    return pose if job.world is None else np.array(job.world) @ pose


def _convert(
    sens: SensFile, index: int, job: Stretch, record: StretchRecord
) -> tuple[str, str] | None:
    """Write one frame, or return what is wrong with it."""
    with np.errstate(all="ignore"):
        wrong = pose_problem(sens.frames[index]["camera_to_world"].astype(np.float64))
    if wrong is not None:
        return wrong
    depth = read_depth(sens, index)
    valid = int(np.count_nonzero(depth))
    if valid < MIN_VALID_SHARE * depth.size:
        share = 100 * valid / depth.size
        return "depth_empty", f"only {share:.1f} % of the depth pixels are valid"
    name, content = _color_file(sens, index, job.resize)
    _write(job, record, f"color/{name}", content)
    _write(job, record, f"depth/{index}.png", encode_png16(_millimetres(sens, depth)))
    _write(job, record, f"pose/{index}.txt", matrix_text(_pose(sens, index, job)).encode())
    record.frames.append((index, int(sens.frames[index]["color_us"])))
    return None


def _color_file(sens: SensFile, index: int, resize: tuple[int, int] | None) -> tuple[str, bytes]:
    """Return the name and content of a frame's colour file."""
    from PIL import Image

    if resize is None and sens.header.color_format != "raw":
        content = sens.color_bytes(index)
        check_color(sens, index, content)
        return f"{index}.{'jpg' if sens.header.color_format == 'jpeg' else 'png'}", content
    image = read_color(sens, index, at_least=resize)
    if resize is not None:
        image = image.resize(resize, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=JPEG_QUALITY)
    return f"{index}.jpg", buffer.getvalue()


def _millimetres(sens: SensFile, depth: np.ndarray) -> np.ndarray:
    if sens.header.depth_shift == 1000:
        return depth
    scaled = np.round(depth.astype(np.float64) * (1000 / sens.header.depth_shift))
    return np.clip(scaled, 0, 65535).astype(np.uint16)


def _write(job: Stretch, record: StretchRecord, name: str, content: bytes) -> None:
    (job.folder / name).write_bytes(content)
    record.sha256[name] = hashlib.sha256(content).hexdigest()


def _write_instances(
    sens: SensFile,
    index: int,
    job: Stretch,
    sight: tuple[InstanceViews, FrameGrid],
    record: StretchRecord,
) -> None:
    """Write the instance image of a frame and note what it shows."""
    views, grid = sight
    depth_m = read_depth(sens, index).astype(np.float32) / np.float32(sens.header.depth_shift)
    instance = grid.see(views, _pose(sens, index, job), depth_m)
    _write(job, record, f"instance/{index}.png", encode_png16(instance))
    least = max(1, int(job.min_pixel_share * instance.size))
    for object_id, (box, pixels) in instance_boxes(instance, min_pixels=least).items():
        record.boxes.setdefault(str(object_id), {})[str(index)] = [*box, pixels]


def scene_sha256(folder: Path, known: dict[str, str], names: list[str]) -> str:
    """Return the hash of a scene folder as `folder_hash` does, from hashes already taken.

    Args:
        folder: The folder.
        known: File -> SHA-256.
        names: Further files, which are read.
    """
    hashes = known | {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
    }
    digest = hashlib.sha256()
    for path in sorted(Path(name) for name in hashes):
        digest.update(f"{path.as_posix()}\0{hashes[path.as_posix()]}\n".encode())
    return digest.hexdigest()
