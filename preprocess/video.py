"""Read video files: PyAV with seeks, the fastest of what was measured, and decord where it fails.

A file is read by the decoder that opened it and by no other, so that a frame's number means one
frame (`launch bench decode` compares them; `preprocess/pyav_reader.py` says how it is fast).
"""

import contextlib
import functools
import importlib
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from scenerl.preprocess.pyav_reader import index_frames, read_indexed
from scenerl.preprocess.records import DataError

logger = logging.getLogger(__name__)

Decoder = Literal["auto", "decord", "pyav"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """Facts about a video file."""

    num_frames: int
    fps: float
    """Average."""
    width: int
    height: int
    times_s: tuple[float, ...]
    """True time of each frame, seconds since the first one."""


def probe(path: str | Path, *, decoder: Decoder = "auto") -> VideoInfo:
    """Return the facts of a video without keeping its frames.

    Args:
        path: Video file.
        decoder: "auto" tries PyAV, then decord.

    Raises:
        DataError: If no decoder can open it.
    """
    return _open(path, decoder).info


def read_frames(
    path: str | Path, indices: Sequence[int], *, decoder: Decoder = "auto"
) -> np.ndarray:
    """Decode chosen frames.

    Args:
        path: Video file.
        indices: Frames, in any order, repeats allowed.
        decoder: "auto" tries PyAV, then decord; both give the same frames.

    Returns:
        uint8 RGB [n, H, W, 3], in the order of `indices`.

    Raises:
        DataError: If no decoder can read it, or a frame is not there.
    """
    chosen = [int(index) for index in indices]
    file = _open(path, decoder)
    outside = [index for index in chosen if not 0 <= index < file.info.num_frames]
    if outside:
        raise DataError(f"{path} has {file.info.num_frames} frames; there is no frame {outside[0]}")
    if not chosen:
        return np.zeros((0, file.info.height, file.info.width, 3), np.uint8)
    # In order and each once: going back costs a seek to the key frame before, seconds in all.
    ordered = sorted(set(chosen))
    try:
        frames = file.read(ordered)
    except _errors() as error:
        raise DataError(f"{path} cannot be decoded as a video: {first_line(error)}") from error
    return frames if chosen == ordered else frames[np.searchsorted(ordered, chosen)]


def count_packets(path: str | Path) -> int:
    """Return how many frames a video file holds by its packets, without decoding.

    Raises:
        DataError: If it cannot be opened as a video, or breaks off.
    """
    import av

    if not Path(path).is_file():
        raise DataError(f"video {path} does not exist")
    try:
        with av.open(str(path)) as container:
            return sum(1 for packet in container.demux(video=0) if packet.size)
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a video: {error}") from error


def stream_frames(
    path: str | Path, indices: Sequence[int], *, max_pixels: int = 1 << 26
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yield (index, uint8 RGB [H, W, 3]) of chosen frames, with one of them in memory.

    Frames are counted as they are decoded, from 0. Decoding stops after the last chosen one. A
    frame that cannot be reached, because the file breaks off or ends, comes with None.

    Args:
        path: Video file.
        indices: Frames, increasing.
        max_pixels: Most pixels of a frame.

    Raises:
        DataError: If the file cannot be opened as a video, or its frames are too large.
    """
    import av

    if not Path(path).is_file():
        raise DataError(f"video {path} does not exist")
    wanted = deque(indices)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            size = (stream.codec_context.width, stream.codec_context.height)
            if size[0] * size[1] > max_pixels:
                raise DataError(
                    f"{path} has frames of {size[0]}x{size[1]}; most is {max_pixels} pixels"
                )
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if not wanted:
                    break
                if number == wanted[0]:
                    yield wanted.popleft(), frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        if len(wanted) == len(indices):
            raise DataError(f"{path} cannot be decoded as a video: {error}") from error
        logger.warning("%s breaks off before frame %d: %s", path, wanted[0], error)
    for index in wanted:
        yield index, None


class _File(Protocol):
    """A file that a decoder can open."""

    info: VideoInfo

    def read(self, indices: list[int]) -> np.ndarray:
        """Return frames, increasing, uint8 RGB [n, H, W, 3]."""
        ...


def _open(path: str | Path, decoder: Decoder) -> _File:
    if not Path(path).is_file():
        raise DataError(f"video {path} does not exist")
    facts = Path(path).stat()
    return _open_once(str(path), facts.st_size, facts.st_mtime_ns, decoder)


@functools.lru_cache(maxsize=256)
def _open_once(path: str, size: int, mtime_ns: int, decoder: Decoder) -> _File:
    """Open a file as it is now."""
    failed = []
    for name, open_it in (("PyAV", _PyavFile), ("decord", _DecordFile)):
        if decoder not in ("auto", name.lower()):
            continue
        try:
            file = open_it(path)
        except _errors() as error:
            failed.append(f"{name}: {first_line(error)}")
        else:
            if failed:
                _log_fallback(failed[0])
            return file
    raise DataError(f"{path} cannot be decoded as a video; {'; '.join(failed)}")


def first_line(error: Exception) -> str:
    """Return the first line of what a decoder says, without the time of day of decord's."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\[[\d:]+\] ", "", first)[:200]


@functools.cache
def _log_fallback(reason: str) -> None:
    logger.warning("%s; decord decodes instead", reason)


def _errors() -> tuple[type[Exception], ...]:
    """What decoders raise at a file, or for want of themselves."""
    found: tuple[type[Exception], ...]
    found = (ImportError, OSError, ValueError, IndexError, RuntimeError)
    for package, name in (("av", "FFmpegError"), ("decord", "DECORDError")):
        with contextlib.suppress(ImportError, OSError):
            found += (getattr(importlib.import_module(package), name),)
    return found


class _PyavFile:
    def __init__(self, path: str) -> None:
        self._path = path
        self._index = index_frames(path)
        self.info = _info(self._index.times_s, self._index.fps, self._index.size)

    def read(self, indices: list[int]) -> np.ndarray:
        return read_indexed(self._path, self._index, indices)


class _DecordFile:
    def __init__(self, path: str) -> None:
        self._path = path
        reader = open_decord(path)
        height, width = reader[0].shape[:2]
        starts = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(float)
        times = tuple((starts - starts[0]).round(6).tolist())
        self.info = _info(times, float(reader.get_avg_fps()), (width, height))

    def read(self, indices: list[int]) -> np.ndarray:
        return np.asarray(open_decord(self._path).get_batch(indices).asnumpy(), np.uint8)


def open_decord(path: str) -> Any:
    """Return decord's reader of a file, with one thread."""
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)


def _info(times_s: tuple[float, ...], fps: float, size: tuple[int, int]) -> VideoInfo:
    if fps <= 0 and times_s[-1] > 0:
        fps = (len(times_s) - 1) / times_s[-1]
    return VideoInfo(
        num_frames=len(times_s), fps=fps, width=size[0], height=size[1], times_s=times_s
    )
