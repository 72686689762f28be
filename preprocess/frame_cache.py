"""Decoded frames that are kept, so that a video is not decoded again for its next prompt."""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenerl.preprocess.scene_files import find_files

Key = tuple[bytes, int, tuple[int, int]]
"""SHA-256 of the file, frame in it (0 for an image), (width, height)."""
Read = Callable[[Sequence[int]], np.ndarray]
"""Returns uint8 [frames, ...] of some frame indices."""
WHOLE_BYTES = 1 << 30
"""Of a larger file only some blocks, its size and its time of change are hashed."""
_BLOCKS, _BLOCK_BYTES = 64, 1 << 20


@dataclass(kw_only=True, slots=True)
class FrameCounts:
    """Frames since the start."""

    decoded: int = 0
    reused: int = 0
    evicted: int = 0
    """Dropped to stay within the size; wanted again, such a frame is decoded again."""


class FrameCache:
    """Frames in memory up to a size; the one that was not used for longest goes first.

    A frame is named by the content of its file and what it is resized to: a copy under another path
    is the same frame, and a file that changes holds other ones. A file is read once for that, and
    again when its size or time of change is another one.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start empty; 0 bytes keep nothing."""
        self._max_bytes, self._bytes = max_bytes, 0
        self._frames: OrderedDict[Key, np.ndarray] = OrderedDict()
        self.counts = FrameCounts()

    def frames(
        self, path: str | Path, indices: Sequence[int], size: tuple[int, int], read: Read
    ) -> np.ndarray:
        """Return frames, from memory or by one call of `read` for those that are missing.

        Args:
            path: Video file or scene folder.
            indices: Which frames; may repeat.
            size: (width, height) of what `read` returns.
            read: Decodes and resizes frames, each independent of the others.
        """
        try:
            keys = [(*name, size) for name in self._names(Path(path), indices)]
        except (OSError, LookupError):
            return read(indices)  # which says what is wrong
        where = dict(zip(keys, indices, strict=True))
        found = {key: self._frames[key] for key in where if key in self._frames}
        missing = [key for key in where if key not in found]
        if missing:
            made = read([where[key] for key in missing])
            found |= {key: frame.copy() for key, frame in zip(missing, made, strict=True)}
        self.counts.decoded += len(missing)
        self.counts.reused += len(keys) - len(missing)
        for key in found:
            self._keep(key, found[key])
        return np.stack([found[key] for key in keys])

    def _names(self, place: Path, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """Name frames of a video, an image or a scene folder by what is in their files."""
        if self._max_bytes == 0:  # nothing is kept, so nothing has to be found again
            return [(b"", int(index)) for index in indices]
        if not place.is_dir():
            digest = _digest_of(place)
            return [(digest, int(index)) for index in indices]
        inside = place / "color"
        listing = inside if inside.is_dir() else place
        files = _colors(str(place), listing.stat().st_mtime_ns)
        return [(_digest_of(files[int(index)]), 0) for index in indices]

    def _keep(self, key: Key, frame: np.ndarray) -> None:
        if frame.nbytes > self._max_bytes:
            return
        if key not in self._frames:
            self._bytes += frame.nbytes
        self._frames[key] = frame
        self._frames.move_to_end(key)
        while self._bytes > self._max_bytes:
            _, dropped = self._frames.popitem(last=False)
            self._bytes -= dropped.nbytes
            self.counts.evicted += 1


@functools.lru_cache(maxsize=256)
def _colors(scene: str, _changed_ns: int) -> Mapping[int, Path]:
    """Return the colour frames of a scene folder, listed anew when files came or went."""
    return find_files(Path(scene)).color


def _digest_of(path: Path) -> bytes:
    facts = path.stat()
    return _digest(str(path), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _digest(path: str, size: int, changed_ns: int) -> bytes:
    with Path(path).open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(f"{size} {changed_ns}".encode())
        for block in range(_BLOCKS):
            file.seek(block * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
        return digest.digest()
