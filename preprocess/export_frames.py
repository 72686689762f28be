"""Frames of a ScanNet scan from a folder of its official exporters, behind the face of a `.sens`.

color/0.jpg  depth/0.png  pose/0.txt  intrinsic/intrinsic_color.txt   SensReader/python
frame-000000.color.jpg  .depth.pgm  .pose.txt  _info.txt              SensReader/c++
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene_files import Problem, find_files, read_intrinsics, read_matrix
from scenerl.preprocess.sens import ColorFormat, SensError, SensFile, SensHeader


class FrameStore(Protocol):
    """What a conversion needs of a recording; `SensFile` describes each."""

    header: SensHeader
    damage: SensError | None
    problems: tuple[Problem, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """Frames that can be reached, increasing."""
        ...

    def camera_to_world(self, index: int) -> np.ndarray:
        """Return the pose of a frame, float64 [4, 4]; not finite where it was not tracked."""
        ...

    def color_us(self, index: int) -> int:
        """Return the time stamp of a colour frame in microseconds."""
        ...

    def color_bytes(self, index: int) -> bytes:
        """Return the stored colour image."""
        ...

    def depth_bytes(self, index: int) -> bytes:
        """Return the stored depth image."""
        ...

    def color_offset(self, index: int) -> int:
        """Return the byte where the colour image begins."""
        ...

    def depth_offset(self, index: int) -> int:
        """Return the byte where the depth image begins."""
        ...

    def error(self, code: str, offset: int, text: str) -> SensError:
        """Return an error about the recording."""
        ...

    def __enter__(self) -> "FrameStore":
        """Return the store."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        ...


def open_store(path: Path) -> FrameStore:
    """Return the frames of a `.sens` file or of an exported folder.

    Raises:
        DataError: If it is neither, or cannot be used.
    """
    return ExportedFrames(path) if path.is_dir() else SensFile(path)


def is_export(folder: Path) -> bool:
    """Return whether a folder holds what one of the exporters writes."""
    return (folder / "color").is_dir() or any(folder.glob("frame-*.color.*"))


def export_sha256(folder: Path) -> str:
    """Return a hash of the names and sizes of an exported folder's frames."""
    files = find_files(folder)
    paths: Iterable[Path] = (*files.color.values(), *files.depth.values(), *files.pose.values())
    rows = sorted(f"{path.relative_to(folder)}\0{path.stat().st_size}\n" for path in paths)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


class ExportedFrames:
    """The frames of an exported folder; images are read when asked for."""

    def __init__(self, folder: Path) -> None:
        """List the files and read the cameras.

        Raises:
            DataError: If there are no frames, no intrinsics, or no readable image.
        """
        self._folder = folder
        self._files = find_files(folder)
        self.damage: SensError | None = None
        self.problems: tuple[Problem, ...] = self._files.problems
        suffixes = {path.suffix.lower() for path in self._files.color.values()}
        kind: ColorFormat = "png" if suffixes == {".png"} else "jpeg"
        self.header = SensHeader(
            sensor_name="exported",
            intrinsic_color=_intrinsic(folder, "color"),
            intrinsic_depth=_intrinsic(folder, "depth"),
            extrinsic_color=_extrinsic(folder, "color"),
            extrinsic_depth=_extrinsic(folder, "depth"),
            color_format=kind,
            depth_format="raw",
            color_size=_first_size(folder, self._files.color),
            depth_size=_first_size(folder, self._files.depth),
            num_frames=len(self.indices),
        )

    def __enter__(self) -> "ExportedFrames":
        """Return the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing; no file is kept open."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Frames that any file names, increasing."""
        files = self._files
        return tuple(sorted(files.color.keys() | files.depth.keys() | files.pose.keys()))

    def error(self, code: str, offset: int, text: str) -> SensError:
        """Return an error about this folder."""
        return SensError(self._folder, code, offset, text)

    def camera_to_world(self, index: int) -> np.ndarray:
        """Return the pose of a frame.

        Raises:
            SensError: If there is none that can be read.
        """
        path = self._path(self._files.pose, index, "pose")
        try:
            return read_matrix(path)
        except (DataError, OSError) as error:
            raise self.error("pose_unreadable", 0, str(error)) from error

    def color_us(self, index: int) -> int:
        """Return 0: the exporters write no times."""
        return 0

    def color_bytes(self, index: int) -> bytes:
        """Return the colour file of a frame.

        Raises:
            SensError: If there is none that can be read.
        """
        path = self._path(self._files.color, index, "color")
        try:
            return path.read_bytes()
        except OSError as error:
            raise self.error("color_unreadable", 0, f"{path.name}: {error.strerror}") from error

    def depth_bytes(self, index: int) -> bytes:
        """Return the pixels of a depth image, 16-bit little endian.

        Raises:
            SensError: If there is none, it is not a 16-bit image, or it differs in size.
        """
        from PIL import Image

        path = self._path(self._files.depth, index, "depth")
        try:
            with Image.open(path) as image:
                if image.size != self.header.depth_size:
                    text = f"{path.name} is {image.size}, the others {self.header.depth_size}"
                    raise self.error("depth_size", 0, text)
                pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, SensError):
                raise
            text = f"{path.name} cannot be decoded: {error}"
            raise self.error("depth_unreadable", 0, text) from error
        if pixels.ndim != 2 or pixels.dtype == np.uint8:
            text = f"{path.name} is {pixels.dtype} {pixels.shape}, expected 16-bit greyscale"
            raise self.error("depth_unreadable", 0, text)
        return pixels.astype("<u2").tobytes()

    def color_offset(self, index: int) -> int:
        """Return 0."""
        return 0

    def depth_offset(self, index: int) -> int:
        """Return 0."""
        return 0

    def _path(self, paths: dict[int, Path], index: int, what: str) -> Path:
        if index not in paths:
            raise self.error(f"{what}_missing", 0, f"frame {index} has no {what} file")
        return paths[index]


def _intrinsic(folder: Path, camera: str) -> np.ndarray:
    matrix = read_intrinsics(folder, camera)
    if matrix is None:
        raise DataError(
            f"{folder} has no intrinsics of the {camera} camera; expected "
            f"intrinsic/intrinsic_{camera}.txt or _info.txt, as the exporters write"
        )
    square = np.eye(4, dtype=np.float32)
    square[:3, :3] = matrix
    return square


def _extrinsic(folder: Path, camera: str) -> np.ndarray:
    path = folder / "intrinsic" / f"extrinsic_{camera}.txt"
    return read_matrix(path) if path.is_file() else np.eye(4)


def _first_size(folder: Path, paths: dict[int, Path]) -> tuple[int, int]:
    """Return the size of the first image whose header can be read."""
    from PIL import Image

    for index in sorted(paths):
        try:
            with Image.open(paths[index]) as image:
                return image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    raise DataError(f"{folder}: none of {len(paths)} images can be read; export the scan again")
