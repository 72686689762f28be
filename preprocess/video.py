"""Decode video files: decord, and PyAV where decord fails."""

import functools
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
        decoder: "auto" tries decord, then PyAV.

    Raises:
        DataError: If no decoder can open it.
    """
    return _probe(str(path), decoder)


@functools.lru_cache(maxsize=1024)
def _probe(path: str, decoder: Decoder) -> VideoInfo:
    result: VideoInfo = _with_fallback(path, decoder, _probe_decord, _probe_pyav)
    return result


def read_frames(
    path: str | Path, indices: Sequence[int], *, decoder: Decoder = "auto"
) -> np.ndarray:
    """Decode chosen frames.

    Args:
        path: Video file.
        indices: Frames, in any order, repeats allowed.
        decoder: "auto" tries decord, then PyAV; both give the same frames.

    Returns:
        uint8 RGB [n, H, W, 3], in the order of `indices`.

    Raises:
        DataError: If no decoder can read it, or a frame is not there.
    """
    chosen = [int(index) for index in indices]
    info = probe(path, decoder=decoder)
    outside = [index for index in chosen if not 0 <= index < info.num_frames]
    if outside:
        raise DataError(f"{path} has {info.num_frames} frames; there is no frame {outside[0]}")
    if not chosen:
        return np.zeros((0, info.height, info.width, 3), np.uint8)
    # In order and each once: going back costs a seek to the key frame before, seconds in all.
    ordered = sorted(set(chosen))
    frames: np.ndarray = _with_fallback(
        str(path), decoder, lambda p: _read_decord(p, ordered), lambda p: _read_pyav(p, ordered)
    )
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


def _with_fallback(path: str, decoder: Decoder, first: Any, second: Any) -> Any:
    if not Path(path).is_file():
        raise DataError(f"video {path} does not exist")
    if decoder != "pyav":
        try:
            return first(path)
        except _decord_errors() as error:
            if decoder == "decord":
                raise DataError(f"decord cannot read {path}: {error}") from error
            _log_fallback(first_line(error))
    import av

    try:
        return second(path)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be decoded as a video: {error}") from error


def first_line(error: Exception) -> str:
    """Return the first line of what a decoder says, without the time of day of decord's."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^\[[\d:]+\] ", "", first)[:200]


@functools.cache
def _log_fallback(reason: str) -> None:
    logger.warning("decord fails (%s); PyAV decodes instead", reason)


def _decord_errors() -> tuple[type[Exception], ...]:
    try:
        import decord
    except (ImportError, OSError):
        return (ImportError, OSError)
    return (decord.DECORDError, RuntimeError, OSError, IndexError)


def open_decord(path: str) -> Any:
    """Return decord's reader of a file, with one thread."""
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)


def _probe_decord(path: str) -> VideoInfo:
    reader = open_decord(path)
    height, width = reader[0].shape[:2]
    starts = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(float)
    return _info(starts.tolist(), float(reader.get_avg_fps()), width, height)


def _read_decord(path: str, indices: list[int]) -> np.ndarray:
    frames = open_decord(path).get_batch(indices).asnumpy()
    return np.asarray(frames, np.uint8)


def _probe_pyav(path: str) -> VideoInfo:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        starts, size = [], (0, 0)
        for frame in container.decode(stream):
            starts.append(float(frame.time or 0.0))
            size = (frame.width, frame.height)
        rate = float(stream.average_rate or 0.0)
    return _info(starts, rate, *size)


def _read_pyav(path: str, indices: list[int]) -> np.ndarray:
    import av

    wanted, found = set(indices), {}
    with av.open(path) as container:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if len(found) == len(wanted):
                break
    return np.stack([found[index] for index in indices])


def _info(starts: list[float], fps: float, width: int, height: int) -> VideoInfo:
    if not starts:
        raise ValueError("no frame in it")
    if fps <= 0 and len(starts) > 1:
        fps = (len(starts) - 1) / (starts[-1] - starts[0])
    return VideoInfo(
        num_frames=len(starts),
        fps=fps,
        width=int(width),
        height=int(height),
        times_s=tuple(round(start - starts[0], 6) for start in starts),
    )
