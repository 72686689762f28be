"""Decoded frames that are kept, so that a video is not decoded again for its next prompt."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Key = tuple[str, int, int, int, tuple[int, int]]
"""Path, bytes, time of change, frame, (width, height)."""
Read = Callable[[Sequence[int]], np.ndarray]
"""Returns uint8 [frames, ...] of some frame indices."""


@dataclass(kw_only=True, slots=True)
class FrameCounts:
    """Frames since the start."""

    decoded: int = 0
    reused: int = 0
    evicted: int = 0
    """Dropped to stay within the size; wanted again, such a frame is decoded again."""


class FrameCache:
    """Frames in memory up to a size; the one that was not used for longest goes first.

    A frame is named by its file and what it is resized to. A file that changes has other frames.
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
        place = Path(path)
        if not place.exists():
            return read(indices)
        facts = place.stat()
        keys = [(str(place), facts.st_size, facts.st_mtime_ns, int(i), size) for i in indices]
        found = {key: self._frames[key] for key in dict.fromkeys(keys) if key in self._frames}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            made = read([key[3] for key in missing])
            found |= {key: frame.copy() for key, frame in zip(missing, made, strict=True)}
        self.counts.decoded += len(missing)
        self.counts.reused += len(keys) - len(missing)
        for key in found:
            self._keep(key, found[key])
        return np.stack([found[key] for key in keys])

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
