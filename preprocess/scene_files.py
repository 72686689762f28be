"""Find the files of an RGB-D recording, in any of the layouts that Scene opens.

color/0.jpg  depth/0.png  pose/0.txt  intrinsic/intrinsic_color.txt     ScanNet's Python exporter
frame-000000.color.jpg  .depth.png|pgm  .pose.txt  _info.txt            ScanNet's C++ exporter
color/  depth/  pose/  intrinsic.txt                                    minimal layout
"""

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.records import DataError

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
DEPTH_SUFFIXES = (".png", ".pgm")
INSTANCE_FOLDERS = ("instance", "instance-filt", "masks")
DEFAULT_FPS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something wrong with a scene: one of its frames, or all of it."""

    frame_index: int | None
    """None concerns the whole scene."""
    code: str
    """Short and countable, for example "pose_not_rigid"."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFiles:
    """The files of a recording by frame index."""

    root: Path
    color: dict[int, Path]
    depth: dict[int, Path]
    pose: dict[int, Path]
    instance: dict[int, Path] | None
    """None when the recording has no instance images at all."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Content of scene.json."""
    problems: tuple[Problem, ...] = ()


def _by_index(
    paths: Iterable[Path], suffixes: tuple[str, ...], what: str
) -> tuple[dict[int, Path], list[Problem]]:
    found: dict[int, Path] = {}
    problems = []
    for path in sorted(paths):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        number = re.search(r"\d+", path.name)
        if number is None:
            if what != "pose":
                reason = f"{path.name} has no frame number in its name and is not used"
                problems.append(Problem(frame_index=None, code="unnumbered_file", reason=reason))
            continue
        index = int(number.group())
        if index in found:
            reason = f"{what} files {found[index].name} and {path.name} are the same frame"
            problems.append(Problem(frame_index=index, code="duplicate_frame", reason=reason))
        found.setdefault(index, path)
    return found, problems


def find_files(root: Path) -> SceneFiles:
    """List the frames of a recording folder.

    Raises:
        DataError: If the folder is in none of the known layouts.
    """
    if not root.is_dir():
        raise DataError(f"scene folder {root} does not exist; give a folder with color/ and pose/")
    if (root / "color").is_dir():
        groups = {
            name: list((root / name).iterdir()) if (root / name).is_dir() else []
            for name in ("color", "depth", "pose")
        }
    else:
        groups = {name: list(root.glob(f"*.{name}.*")) for name in ("color", "depth", "pose")}
    if not groups["color"]:
        raise DataError(
            f"{root} has neither color/ nor frame-000000.color.jpg; expected color/, depth/, pose/ "
            "and intrinsic.txt (docs/data.md shows the layouts)"
        )
    color, problems = _by_index(groups["color"], COLOR_SUFFIXES, "color")
    depth, more = _by_index(groups["depth"], DEPTH_SUFFIXES, "depth")
    pose, most = _by_index(groups["pose"], (".txt",), "pose")
    folder = next((root / n for n in INSTANCE_FOLDERS if (root / n).is_dir()), None)
    instance, last = (
        (None, []) if folder is None else _by_index(folder.iterdir(), (".png",), folder.name)
    )
    return SceneFiles(
        root=root,
        color=color,
        depth=depth,
        pose=pose,
        instance=instance,
        facts=_read_facts(root / "scene.json"),
        problems=tuple(problems + more + most + last),
    )


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path} holds {type(facts).__name__}; expected an object with depth_scale")
    for key in ("depth_scale", "fps"):
        value = facts.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise DataError(f"{path}: {key} is {value!r}; expected a number above 0")
    return facts


def read_matrix(path: Path) -> np.ndarray:
    """Return the numbers of a text file, float64 [rows, columns].

    Raises:
        DataError: If it is not a matrix of numbers.
    """
    try:
        rows = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
        return np.array([[float(value) for value in row] for row in rows if row], np.float64)
    except ValueError as error:
        raise DataError(f"{path} is not a matrix of numbers: {error}") from error


def pose_problem(matrix: np.ndarray) -> tuple[str, str] | None:
    """Return (code, reason) when a matrix is not a finite, rigid camera-to-world transform."""
    if matrix.shape != (4, 4):
        return "pose_shape", f"pose has shape {matrix.shape}; expected 4x4"
    if not np.isfinite(matrix).all():
        return (
            "pose_not_finite",
            "pose holds inf or nan (ScanNet writes these where tracking fails)",
        )
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > 1e-2 or np.linalg.det(rotation) < 0:
        sign = "a mirror image" if np.linalg.det(rotation) < 0 else f"off by {error:.3g}"
        return "pose_not_rigid", f"rotation part of the pose is not a rotation ({sign})"
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        return "pose_not_rigid", f"last row of the pose is {matrix[3].tolist()}; expected 0 0 0 1"
    return None


def _info_matrix(path: Path, key: str) -> np.ndarray | None:
    for line in path.read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() == key:
            return np.array([float(v) for v in value.split()], np.float64).reshape(4, 4)
    return None


def read_intrinsics(root: Path, camera: str) -> np.ndarray | None:
    """Return the intrinsics of "color" or "depth", float64 [3, 3]; None when no file says.

    Raises:
        DataError: If a file is there but holds no pinhole matrix.
    """
    names = [f"intrinsic/intrinsic_{camera}.txt", f"intrinsic_{camera}.txt"]
    names += [f"{camera}/intrinsic_{camera}.txt"]
    names += ["intrinsic.txt"] if camera == "color" else ["depth_intrinsic.txt"]
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is not None:
        matrix = read_matrix(path)
    elif (root / "_info.txt").is_file():
        path = root / "_info.txt"
        found = _info_matrix(path, f"m_calibration{camera.capitalize()}Intrinsic")
        if found is None:
            return None
        matrix = found
    else:
        return None
    if matrix.shape not in ((3, 3), (4, 4)):
        raise DataError(f"{path}: intrinsics have shape {matrix.shape}; expected 3x3 or 4x4")
    matrix = matrix[:3, :3]
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise DataError(f"{path}: focal lengths must be above 0, found {np.diag(matrix)[:2]}")
    return matrix


def read_times(root: Path, indices: list[int], fps: float | None) -> dict[int, float]:
    """Return the time of every frame in seconds since the first one.

    From times.json (written by us), times.txt (one time a line, or "index time"), or the frame
    index over `fps` (30 when nothing says).

    Raises:
        DataError: If a time is missing, or times do not increase.
    """
    if (root / "times.json").is_file():
        stored = json.loads((root / "times.json").read_text())["times_s"]
        times = {int(index): float(value) for index, value in stored.items()}
        source = root / "times.json"
    elif (root / "times.txt").is_file():
        source = root / "times.txt"
        table = read_matrix(source)
        if table.shape[1] == 1 and len(table) == len(indices):
            times = dict(zip(indices, table[:, 0].tolist(), strict=True))
        elif table.shape[1] == 2:
            times = {int(index): float(value) for index, value in table}
        else:
            raise DataError(
                f"{source} has {len(table)} lines of {table.shape[1]} numbers; expected one time "
                f"for each of the {len(indices)} color frames, or lines of 'index time'"
            )
    else:
        rate = fps or DEFAULT_FPS
        return {index: (index - indices[0]) / rate for index in indices}
    missing = [index for index in indices if index not in times]
    if missing:
        raise DataError(
            f"{source} gives no time for frame {missing[0]} and {len(missing) - 1} more"
        )
    values = [times[index] for index in indices]
    if any(after <= before for before, after in itertools.pairwise(values)):
        raise DataError(f"{source}: times must increase with the frame index")
    return {index: times[index] - values[0] for index in indices}
