"""Prepare ScanNet++ scenes: the iPhone's colour, depth and poses, and the objects of the mesh.

splits/nvs_sem_train.txt ...           one scene a line
data/SCENE/iphone/rgb.mkv              1920 x 1440 at 60 frames a second (or rgb/frame_%06d.jpg)
data/SCENE/iphone/depth.bin            256 x 192 (or depth/frame_%06d.png, uint16 mm)
data/SCENE/iphone/pose_intrinsic_imu.json, nerfstudio/, colmap/
data/SCENE/scans/mesh_aligned_0.05.ply, segments.json, segments_anno.json
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.iphone_depth import FPS, DepthStream
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
from scenerl.preprocess.records import DataError
from scenerl.preprocess.safe_files import FileError, check_name, inside, read_text
from scenerl.preprocess.scannetpp_objects import (
    ANNOTATION,
    PROVENANCE,
    AnnotatedMesh,
    read_annotated_mesh,
)
from scenerl.preprocess.scannetpp_objects import FILES as OBJECT_FILES
from scenerl.preprocess.scannetpp_poses import FILES as POSE_FILES
from scenerl.preprocess.scannetpp_poses import CameraTrack, PoseSource, read_track
from scenerl.preprocess.scene_writer import SceneWriter
from scenerl.preprocess.video import stream_frames

ORIGIN = (
    "ScanNet++ is handed out by its authors under its Terms of Use: register at the project's page "
    "and use their download script"
)
Item = tuple[int, Any]
"""(frame, its content or the FileError that says why there is none)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannetppConfig:
    """How ScanNet++ scenes are prepared."""

    every: int = 30
    """Keep each so many-th frame that has a pose: 2 a second."""
    poses: PoseSource = "imu"
    resize: tuple[int, int] | None = None
    """(width, height) of the colour frames to write; None keeps their size."""
    objects: bool = True
    """Read the annotated mesh where there is one, and project it into the frames."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}; expected 1 or more")
        if self.resize is not None and not all(16 <= side <= 8192 for side in self.resize):
            raise ValueError(f"resize is {self.resize}; expected sides of 16 to 8192 pixels")


def find_scenes(
    root: Path, *, splits: Sequence[str] = (), scenes: Sequence[str] = (), split: str = "train"
) -> tuple[list[SceneJob], list[tuple[str, Fault]]]:
    """Return the scenes of a data set folder, and those that a list names but that are not there.

    Args:
        root: Folder with data/ (and splits/), or the data folder itself.
        splits: Lists, names in splits/ or files; what they name is prepared. The split is the
            one of train, val and test that is in the list's name.
        scenes: Scene ids, instead of lists.
        split: Split of scenes that no list names.

    Raises:
        DataError: If there is no such folder, or a list cannot be read or says no split.
    """
    data = root / "data" if (root / "data").is_dir() else root
    if not data.is_dir():
        raise DataError(f"{root} does not exist; expected the folder with data/. {ORIGIN}")
    names: dict[str, str] = {}
    for entry in splits:
        path = Path(entry) if Path(entry).is_file() else root / "splits" / f"{entry}.txt"
        found = re.search(r"train|val|test", path.stem)
        if found is None:
            raise DataError(f"{path}: its name says none of train, val and test")
        for line in read_text(path).splitlines():
            if line.strip():
                names.setdefault(line.strip(), found.group())
    for name in scenes:
        names.setdefault(name, split)
    if not splits and not scenes:
        places = sorted(path for path in data.iterdir() if (path / "iphone").is_dir())
        names = {path.name: split for path in places}
    jobs, faults = [], []
    for name, its_split in names.items():
        try:
            folder = data / check_name(name, "scene")
            if not (folder / "iphone").is_dir():
                raise FileError("scene_missing", f"{folder}/iphone does not exist. {ORIGIN}")
        except FileError as error:
            faults.append((name, Fault(item="scene", code=error.code, detail=str(error))))
            continue
        jobs.append(_job(folder.resolve(), name, its_split))
    if not jobs and not faults:
        raise DataError(f"{data} holds no scene with iphone/. {ORIGIN}")
    return jobs, faults


def _job(folder: Path, name: str, split: str) -> SceneJob:
    iphone, scans = folder / "iphone", folder / "scans"
    files = [iphone / part for parts in POSE_FILES.values() for part in parts]
    files += [iphone / part for part in ("depth.bin", "rgb.mkv", "depth", "rgb")]
    files += [scans / part for part in OBJECT_FILES]
    return SceneJob(scene_id=name, split=split, folder=folder, sources=tuple(files))


def _colors(iphone: Path, wanted: Sequence[int]) -> Iterator[Item]:
    """Yield the colour frames: a checked file (path, image), pixels, or what is wrong."""
    if (iphone / "rgb").is_dir():
        for index in wanted:
            path = iphone / "rgb" / f"frame_{index:06d}.jpg"
            try:
                image = checked_image(path, iphone)
                if image.format != "JPEG":
                    raise FileError("image_unreadable", f"{path} is {image.format}, no JPEG")
                yield index, (path, image)
            except FileError as error:
                yield index, error
        return
    video = inside(iphone / "rgb.mkv", iphone)
    for index, pixels in stream_frames(video, wanted):
        if pixels is None:
            text = f"{video} ends or breaks off before frame {index}"
            yield index, FileError("color_missing", text)
        else:
            yield index, pixels


def _depths(iphone: Path, wanted: Sequence[int], faults: list[Fault], poses: int) -> Iterator[Item]:
    """Yield the depth frames, uint16 millimetres, or what is wrong."""
    path = iphone / "depth.bin"
    if not path.is_file():
        for index in wanted:
            try:
                yield index, checked_depth(iphone / "depth" / f"frame_{index:06d}.png", iphone)
            except FileError as error:
                yield index, error
        return
    stream = DepthStream(inside(path, iphone))
    if stream.num_frames is not None and stream.num_frames < poses:
        detail = f"{path} holds {stream.num_frames} frames, the poses reach frame {poses - 1}"
        faults.append(Fault(item="depth.bin", code="counts_differ", detail=detail))
    yield from stream.frames(wanted)
    if stream.damage is not None:
        fault = Fault(item="depth.bin", code=stream.damage.code, detail=str(stream.damage))
        faults.append(fault)


def _choose(track: CameraTrack, every: int, faults: list[Fault]) -> list[int]:
    chosen = []
    for index in sorted(track.frames)[::every]:
        fault = pose_fault(index, track.frames[index].camera_to_world)
        if fault is None:
            chosen.append(index)
        else:
            faults.append(fault)
    return chosen


def convert(job: SceneJob, writer: SceneWriter, *, config: ScannetppConfig) -> SceneOutcome:
    """Write one scene.

    Raises:
        DataError: If poses, depth or colour cannot be opened.
    """
    iphone = job.folder / "iphone"
    track = read_track(iphone, config.poses)
    faults = list(track.faults)
    chosen = _choose(track, config.every, faults)
    mesh = _read_objects(job.folder / "scans", faults) if config.objects else None
    cameras = _Cameras(track, chosen, config.resize)
    eye = None
    frames = 0
    depths = _depths(iphone, chosen, faults, max(track.frames) + 1)
    for (index, depth), (_, color) in zip(depths, _colors(iphone, chosen), strict=True):
        try:
            _raise(depth)
            _raise(color)
            require_depth(depth, f"{iphone}: frame {index}")
            picture = cameras.picture(index, color, depth)
        except FileError as error:
            faults.append(frame_fault(index, error, broken=error.code != "depth_empty"))
            continue
        pose = track.frames[index].camera_to_world
        writer.write_frame(
            index, color=picture, depth=depth, camera_to_world=pose, time_s=cameras.time_s(index)
        )
        if mesh is not None:
            eye = eye or _Eye(mesh, cameras)
            writer.write_instance(index, eye.see(pose, depth))
        frames += 1
    if frames:
        _write_facts(writer, job, config, track, (cameras, mesh))
    return SceneOutcome(frames=frames, faults=tuple(faults))


def _raise(item: Any) -> None:
    if isinstance(item, FileError):
        raise item


class _Cameras:
    """Sizes, intrinsics and times of a recording, as its frames show them."""

    def __init__(
        self, track: CameraTrack, chosen: Sequence[int], resize: tuple[int, int] | None
    ) -> None:
        self._track, self._resize = track, resize
        rows = np.array([track.frames[index].intrinsics for index in chosen]).reshape(-1, 3, 3)
        self.native = np.median(rows, axis=0) if len(rows) else np.eye(3)
        spread = np.abs(rows - self.native).max(axis=(1, 2)) if len(rows) else np.zeros(1)
        self.spread_px = float(spread.max())
        times = [track.frames[index].time_s for index in chosen]
        is_timed = all(time is not None for time in times) and all(
            after > before  # type: ignore[operator]
            for before, after in itertools.pairwise(times)
        )
        self.has_times = is_timed
        self._first = chosen[0] if chosen else 0
        self.native_size: tuple[int, int] | None = None
        self.depth_size: tuple[int, int] | None = None

    def time_s(self, index: int) -> float:
        if self.has_times:
            frames = self._track.frames
            return float(frames[index].time_s or 0) - float(frames[self._first].time_s or 0)
        return (index - self._first) / FPS

    def picture(self, index: int, color: Any, depth: np.ndarray) -> np.ndarray | Path:
        """Return what to write as colour, after a look at the frame's sizes.

        Raises:
            FileError: color_size or depth_size, if it differs from the frames before.
        """
        path, image = color if isinstance(color, tuple) else (None, None)
        size = image.size if image is not None else (color.shape[1], color.shape[0])
        if self.native_size is None:
            self._first_size(size)
        if size != self.native_size:
            raise FileError("color_size", f"frame {index} is {size}, others {self.native_size}")
        shape = (depth.shape[1], depth.shape[0])
        self.depth_size = self.depth_size or shape
        if shape != self.depth_size:
            raise FileError("depth_size", f"frame {index} is {shape}, others {self.depth_size}")
        if self._resize is None or self._resize == size:
            return path if path is not None else color  # type: ignore[no-any-return]
        from PIL import Image

        picture = image.convert("RGB") if image is not None else Image.fromarray(color)
        return np.asarray(picture.resize(self._resize, Image.Resampling.BILINEAR, reducing_gap=2.0))

    def _first_size(self, size: tuple[int, int]) -> None:
        stated = self._track.size
        if stated is not None and stated != size:
            text = f"colour frames are {size}, the intrinsics are for {stated}"
            raise FileError("color_size", text)
        if not (0 < self.native[0, 2] < size[0] and 0 < self.native[1, 2] < size[1]):
            center = (self.native[0, 2], self.native[1, 2])
            text = f"the principal point {center} lies outside the {size} colour frames"
            raise FileError("intrinsics", text)
        self.native_size = size

    @property
    def color_size(self) -> tuple[int, int]:
        return self._resize or self.native_size or (1, 1)

    def intrinsics(self, size: tuple[int, int]) -> np.ndarray:
        """Return the intrinsics of frames of a size.

        ARKit counts the principal point from the corner of the image, so all of a row scales alike,
        as GS-Reasoner's export does it too.
        """
        native = self.native_size or size
        return np.diag([size[0] / native[0], size[1] / native[1], 1.0]) @ self.native


class _Eye:
    """Looks at the mesh from the frames of the recording."""

    def __init__(self, mesh: AnnotatedMesh, cameras: _Cameras) -> None:
        from scenerl.preprocess.scannet_views import FrameGrid, InstanceViews

        depth_size = cameras.depth_size or (1, 1)
        self._views = InstanceViews(mesh.points, mesh.triangles, mesh.vertex_ids)
        self._grid = FrameGrid(
            cameras.intrinsics(cameras.color_size),
            cameras.color_size,
            cameras.intrinsics(depth_size),
            depth_size,
        )

    def see(self, pose: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return self._grid.see(self._views, pose, depth.astype(np.float32) / np.float32(1000))


def _read_objects(scans: Path, faults: list[Fault]) -> AnnotatedMesh | None:
    if not (scans / ANNOTATION).exists():  # test scenes have none
        detail = f"{scans / ANNOTATION} does not exist"
        faults.append(Fault(item="annotation", code="not_annotated", detail=detail, broken=False))
        return None
    try:
        mesh = read_annotated_mesh(scans)
    except DataError as error:
        faults.append(Fault(item="annotation", code="annotation_unreadable", detail=str(error)))
        return None
    faults += mesh.faults
    return mesh


def _write_facts(
    writer: SceneWriter,
    job: SceneJob,
    config: ScannetppConfig,
    track: CameraTrack,
    seen: tuple[_Cameras, AnnotatedMesh | None],
) -> None:
    cameras, mesh = seen
    depth_size = cameras.depth_size or (1, 1)
    writer.write_intrinsics(cameras.intrinsics(cameras.color_size), cameras.intrinsics(depth_size))
    facts = {
        "dataset": "scannetpp",
        "split": job.split,
        "poses": config.poses,
        "intrinsics": "median over the kept frames",
        "intrinsics_spread_px": round(cameras.spread_px, 4),
        "distortion_ignored": track.distortion,
        "times": "timestamps" if cameras.has_times else f"frame index over {FPS:g}",
    }
    writer.write_labels(
        [] if mesh is None else mesh.objects, provenance=PROVENANCE, up=(0, 0, 1), facts=facts
    )
