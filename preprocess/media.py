"""Scene folders, video files and single images behind one face."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import Scene, image_size, read_image
from scenerl.preprocess.video import VideoInfo, probe, read_frames

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class FrameSource(Protocol):
    """Colour frames with times, whatever they are stored in."""

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Usable frames, in time order."""
        ...

    @property
    def native_size(self) -> tuple[int, int]:
        """(width, height) of the stored frames."""
        ...

    def times_s(self, index: int) -> float:
        """Return the time of a frame, seconds since the first one."""
        ...

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames, uint8 RGB [n, H, W, 3]."""
        ...


class SceneFrames:
    """The colour frames of a scene folder."""

    def __init__(self, scene: Scene) -> None:
        """Wrap an open scene."""
        self._scene = scene

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Usable frames, in time order."""
        return self._scene.frame_indices

    @property
    def native_size(self) -> tuple[int, int]:
        """(width, height) of the colour frames."""
        return self._scene.color_size

    def times_s(self, index: int) -> float:
        """Return the time of a frame, seconds since the first one."""
        return self._scene.times_s(index)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames, uint8 RGB [n, H, W, 3]."""
        return np.stack([self._scene.color(index) for index in indices])


class VideoFrames:
    """The frames of a video file."""

    def __init__(self, path: Path) -> None:
        """Probe the file."""
        self._path = path
        self._info: VideoInfo = probe(path)

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(self._info.num_frames))

    @property
    def native_size(self) -> tuple[int, int]:
        """(width, height)."""
        return (self._info.width, self._info.height)

    def times_s(self, index: int) -> float:
        """Return the time of a frame, seconds since the first one."""
        return self._info.times_s[index]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames, uint8 RGB [n, H, W, 3]."""
        return read_frames(self._path, indices)


class StillImage:
    """An image file, a video of one frame."""

    frame_indices: tuple[int, ...] = (0,)

    def __init__(self, path: Path) -> None:
        """Read the image's header."""
        self._path = path
        self.native_size = image_size(path)

    def times_s(self, index: int) -> float:
        """Return 0."""
        return 0.0

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the image for every index, uint8 RGB [n, H, W, 3]."""
        pixels = read_image(self._path, "RGB")
        return np.stack([pixels for _ in indices])


def open_media(path: str | Path) -> FrameSource:
    """Open a scene folder, a video file or an image file.

    Raises:
        DataError: If there is nothing at the path, or it cannot be opened.
    """
    place = Path(path)
    if place.is_dir():
        return SceneFrames(Scene.open(place, check="files"))
    if place.is_file() and place.suffix.lower() in IMAGE_SUFFIXES:
        return StillImage(place)
    if place.is_file():
        return VideoFrames(place)
    raise DataError(f"{place} does not exist; expected a scene folder, a video or an image file")
