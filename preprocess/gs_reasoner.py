"""Prepare the processed_data tree of GS-Reasoner: poses and depth that may come from elsewhere.

    scannet | scannetpp | arkitscenes/
      color/SPLIT/SCENE/000000.jpg, frame_000000.jpg or VIDEO_6845.906.png
      depth/SPLIT/SCENE/STEM.png                  uint16, 1000 units per unit of the poses
      pose/SPLIT/SCENE/STEM.txt                   4x4 camera-to-world
      intrinsic/SPLIT/intrinsic_depth_SCENE.txt   scannet;  intrinsics_SCENE.txt for the others;
      intrinsic/SPLIT/SCENE/STEM.txt              or one a frame (VGGT-SLAM)
      axis_align_matrix/SPLIT/SCENE_further_aligned_transform.txt
      global_scale/SPLIT/SCENE.txt                metres per unit (MoGe-2); one number

As WU-CVGL/GS-Reasoner reads it (llava/video_utils.py, calculate_world_coords): a pixel (u, v) of
depth d lies at scale * (align @ pose @ K^-1 (u, v, 1) d / 1000). Poses of scannet are aligned
already when they are written there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
from scenerl.preprocess.scene_files import pose_problem
from scenerl.preprocess.scene_writer import SceneWriter

DATASETS = ("scannet", "scannetpp", "arkitscenes")
FPS = {"scannet": 30.0, "scannetpp": 60.0}
PROVENANCE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class GsReasonerConfig:
    """How a processed_data tree is prepared."""

    every: int = 1
    """Keep each so many-th frame."""
    color_root: Path | None = None
    """Tree with the color folders, when the one with poses has none (as of VGGT-SLAM)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}; expected 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What is done to the poses of a scene."""

    align: np.ndarray
    """float64 [4, 4]."""
    scale: float
    align_source: str
    scale_source: str

    def apply(self, pose: np.ndarray) -> np.ndarray:
        """Return the camera-to-world matrix in aligned metres.

        The rotation keeps its length; depth has to be scaled as well.
        """
        moved = self.align @ pose
        moved[:3, 3] *= self.scale
        return np.asarray(moved)


def dataset_of(folder: Path) -> str:
    """Return the data set that a folder's name says (arkitscenes_x is arkitscenes)."""
    return next((name for name in reversed(DATASETS) if folder.name.startswith(name)), "scannet")


def find_scenes(
    root: Path,
    config: GsReasonerConfig,
    *,
    datasets: Sequence[str] = (),
    splits: Sequence[str] = (),
    scenes: Sequence[str] = (),
) -> tuple[list[SceneJob], list[tuple[str, Fault]]]:
    """Return the scenes of a tree that have poses, and those asked for that have none.

    Args:
        root: processed_data, or one data set's folder in it.
        config: How.
        datasets: Only these folders; empty takes all.
        splits: Only these; empty takes all.
        scenes: Only these; empty takes all.

    Raises:
        DataError: If there is no scene.
    """
    trees = [root] if (root / "pose").is_dir() else sorted(p.parent for p in root.glob("*/pose"))
    jobs = []
    for tree in trees:
        if datasets and tree.name not in datasets:
            continue
        for folder in sorted((tree / "pose").glob("*/*")):
            split, name = folder.parent.name, folder.name
            if (splits and split not in splits) or (scenes and name not in scenes):
                continue
            if folder.is_dir() and not name.startswith("."):
                jobs.append(_job(tree, split, check_name(name, "scene"), config))
    missing = sorted(set(scenes) - {job.scene_id for job in jobs})
    faults = [
        (name, Fault(item="scene", code="scene_missing", detail=f"{root}: no pose/*/{name:.80}"))
        for name in missing
    ]
    if not jobs:
        raise DataError(f"{root} holds no pose/SPLIT/SCENE; expected GS-Reasoner's processed_data")
    return jobs, faults


def _job(tree: Path, split: str, name: str, config: GsReasonerConfig) -> SceneJob:
    sources = [tree / part / split / name for part in ("pose", "depth")]
    sources += [_colors(tree, config) / split / name, tree / "intrinsic" / split]
    sources += [_align_file(tree, split, name), _scale_file(tree, split, name)]
    return SceneJob(scene_id=name, split=split, folder=tree, sources=tuple(sources))


def _colors(tree: Path, config: GsReasonerConfig) -> Path:
    if config.color_root is None:
        return tree / "color"
    inner = config.color_root / tree.name
    return (inner if inner.is_dir() else config.color_root) / "color"


def _align_file(tree: Path, split: str, name: str) -> Path:
    return tree / "axis_align_matrix" / split / f"{name}_further_aligned_transform.txt"


def _scale_file(tree: Path, split: str, name: str) -> Path:
    return tree / "global_scale" / split / f"{name}.txt"


def read_numbers(path: Path, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the numbers of a text file, float64 in one of the shapes.

    Raises:
        FileError: matrix, unless it holds finite or infinite numbers of such a shape.
    """
    rows = [line.split() for line in read_text(path, max_bytes=1 << 16).splitlines()]
    try:
        values = np.array([[float(word) for word in row] for row in rows if row], np.float64)
    except ValueError as error:
        raise FileError("matrix", f"{path} is no matrix of numbers: {error}") from error
    if values.shape not in shapes:
        raise FileError("matrix", f"{path} is {values.shape}; expected one of {list(shapes)}")
    return values


def read_world(job: SceneJob, faults: list[Fault]) -> World:
    """Return alignment and scale of a scene; what is missing is listed.

    Raises:
        FileError: If a file is there but broken.
    """
    align_file = _align_file(job.folder, job.split, job.scene_id)
    align, align_source = np.eye(4), "already in the poses"
    if align_file.exists():
        align = read_numbers(inside(align_file, job.folder), [(4, 4)])
        wrong = pose_problem(align)
        if wrong is not None:
            raise FileError("axis_align", f"{align_file}: {wrong[1]}")
        align_source = align_file.name
    elif dataset_of(job.folder) != "scannet":
        align_source = "missing, identity used"
        detail = (
            f"{align_file} does not exist; the world stays as the poses have it, so boxes of "
            "aligned data do not fit; make the file with axis_align_pcd.py of GS-Reasoner"
        )
        faults.append(Fault(item="axis_align_matrix", code="axis_align_missing", detail=detail))
    scale_file = _scale_file(job.folder, job.split, job.scene_id)
    if not scale_file.exists():
        return World(align=align, scale=1.0, align_source=align_source, scale_source="none")
    scale = float(read_numbers(inside(scale_file, job.folder), [(1, 1)])[0, 0])
    if not 1e-3 < scale < 1e3:
        raise FileError(
            "global_scale", f"{scale_file} is {scale}; expected metres per unit above 0"
        )
    return World(align=align, scale=scale, align_source=align_source, scale_source=scale_file.name)


def frame_key(dataset: str, stem: str) -> float | None:
    """Return the number in a frame's name by which upstream orders frames; None for no frame."""
    pattern = {"scannet": r"(\d{1,9})", "scannetpp": r"(?:frame_)?(\d{1,9})"}.get(
        dataset, r"(?:.*_)?(\d{1,12}(?:\.\d{1,9})?)"
    )
    found = re.fullmatch(pattern, stem)
    return None if found is None else float(found.group(1))


def list_frames(folder: Path, dataset: str, faults: list[Fault]) -> list[tuple[int, float, str]]:
    """Return (index, time in seconds, stem) of the colour images, in order.

    The index is the number in the name; of arkitscenes, whose names hold times, the place.
    """
    suffix = ".png" if dataset == "arkitscenes" else ".jpg"
    found: dict[float, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        key = frame_key(dataset, path.stem)
        if path.suffix.lower() != suffix or key is None or key in found:
            detail = f"{path}: expected a frame's number or time and {suffix}, each once"
            faults.append(Fault(item=path.name[:80], code="unnumbered_file", detail=detail))
        else:
            found[key] = path.stem
    order = sorted(found)
    if dataset == "arkitscenes":
        return [(place, key, found[key]) for place, key in enumerate(order)]
    return [(int(key), key / FPS[dataset], found[key]) for key in order]


def convert(job: SceneJob, writer: SceneWriter, *, config: GsReasonerConfig) -> SceneOutcome:
    """Write one scene.

    Raises:
        DataError: If alignment, scale or intrinsics are broken, or there are no colour images.
    """
    faults: list[Fault] = []
    scene = _Scene(job, config, read_world(job, faults))
    frames = list_frames(scene.folders["color"], dataset_of(job.folder), faults)
    if not frames:
        hint = "; link or name the tree that has them (--color)"
        raise FileError("color_missing", f"{scene.folders['color']} holds no frames{hint}")
    for index, time_s, stem in frames[:: config.every]:
        try:
            fault = scene.write(index, time_s, stem, writer)
        except FileError as error:
            fault = frame_fault(index, error, broken=error.code != "depth_empty")
        if fault is not None:
            faults.append(fault)
    if scene.cameras:
        scene.finish(writer)
    return SceneOutcome(frames=len(scene.cameras), faults=tuple(faults))


class _Scene:
    """One scene of the tree on its way into a scene folder."""

    def __init__(self, job: SceneJob, config: GsReasonerConfig, world: World) -> None:
        self._job, self._world = job, world
        tail = Path(job.split) / job.scene_id
        self.folders = {
            "color": (_colors(job.folder, config) / tail).resolve(),
            "depth": (job.folder / "depth" / tail).resolve(),
            "pose": (job.folder / "pose" / tail).resolve(),
            "intrinsic": (job.folder / "intrinsic" / tail).resolve(),
        }
        self.cameras: list[np.ndarray] = []
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._start_s = 0.0
        self._shared = self._read_shared()

    def _read_shared(self) -> np.ndarray | None:
        """Return the intrinsics of the whole scene; None when each frame has its own."""
        name = "intrinsic_depth" if dataset_of(self._job.folder) == "scannet" else "intrinsics"
        folder = self._job.folder / "intrinsic" / self._job.split
        path = folder / f"{name}_{self._job.scene_id}.txt"
        return self._camera(inside(path, folder)) if path.exists() else None

    def _camera(self, path: Path) -> np.ndarray:
        K = read_numbers(path, [(3, 3), (4, 4)])[:3, :3]
        if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
            raise FileError("intrinsics", f"{path}: focal lengths must be above 0: {K.tolist()}")
        return K

    def write(self, index: int, time_s: float, stem: str, writer: SceneWriter) -> Fault | None:
        """Write a frame, or return what is wrong with its pose.

        Raises:
            FileError: If a file of it is missing or broken.
        """
        pose_path = inside(self.folders["pose"] / f"{stem}.txt", self.folders["pose"])
        pose = read_numbers(pose_path, [(4, 4)])
        fault = pose_fault(index, pose)
        if fault is not None:
            return fault
        depth_path = self.folders["depth"] / f"{stem}.png"
        depth = require_depth(checked_depth(depth_path, self.folders["depth"]), str(depth_path))
        color_path = self._color_path(stem)
        color = checked_image(color_path, self.folders["color"])
        K = self._shared
        if K is None:
            folder = self.folders["intrinsic"]
            K = self._camera(inside(folder / f"{stem}.txt", folder))
        sizes = (color.size, (depth.shape[1], depth.shape[0]))
        self._sizes = self._sizes or sizes
        if sizes != self._sizes:
            text = f"frame {index}: colour and depth are {sizes}, others {self._sizes}"
            raise FileError("image_size", text)
        self._start_s = self._start_s if self.cameras else time_s
        self.cameras.append(K)
        writer.write_frame(
            index,
            color=color_path,
            depth=depth_path,
            camera_to_world=self._world.apply(pose),
            time_s=time_s - self._start_s,
        )
        return None

    def _color_path(self, stem: str) -> Path:
        suffix = ".png" if dataset_of(self._job.folder) == "arkitscenes" else ".jpg"
        return self.folders["color"] / f"{stem}{suffix}"

    def finish(self, writer: SceneWriter) -> None:
        """Write what belongs to the whole scene."""
        cameras = np.array(self.cameras)
        K = np.median(cameras, axis=0)
        color, depth = self._sizes or ((1, 1), (1, 1))
        scale = np.diag([color[0] / depth[0], color[1] / depth[1], 1.0])
        writer.write_intrinsics(scale @ K, K)
        facts: dict[str, Any] = {
            "depth_scale": 1000.0 / self._world.scale,
            "dataset": dataset_of(self._job.folder),
            "split": self._job.split,
            "axis_align": self._world.align_source,
            "axis_align_matrix": self._world.align.tolist(),
            "global_scale": self._world.scale,
            "global_scale_source": self._world.scale_source,
            "intrinsics": "of the scene" if self._shared is not None else "median of the frames",
            "intrinsics_spread_px": round(float(np.abs(cameras - K).max()), 4),
        }
        writer.write_labels((), provenance=PROVENANCE, up=(0, 0, 1), facts=facts)
