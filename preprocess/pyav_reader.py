"""Read chosen frames of a video with PyAV: seek to key frames and decode no more than they need.

Which frames there are is read from the packets once, without decoding them. A frame is then known
by its time stamp, never by counting what comes after a seek, so a seek that lands elsewhere cannot
give another frame. Frames of H.264 that no other frame refers to are not decoded unless they are
wanted. What cannot be had that way (a stream that needs more than its key frame, a damaged one) is
decoded from the first frame on, which defines what is right.
"""

import functools
import itertools
import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

_CODECS = frozenset(
    ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "prores", "ffv1")
)
"""Each packet of them gives a frame; VP8, for one, has packets that show nothing."""
_FORMATS = frozenset(("mp4", "matroska", "mpegts", "mpeg", "flv"))
"""Containers whose time stamps are those of showing; AVI has them in the order of decoding."""
_SEARCHED_BY_DTS = frozenset(("mpegts", "mpeg"))
"""Containers in which FFmpeg seeks by the time of decoding."""
_MAX_REORDER = 32
"""Frames between decoding and showing one; H.264 and HEVC allow 16."""
_MAX_THREADS = 4
"""Each keeps frames of its own, and encoders beside this one want the other cores."""
_CHEAPER_THAN_A_SEEK = 8
"""Frames that are decoded in vain rather than left out by another seek."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameIndex:
    """Where the frames of a file are."""

    times_s: tuple[float, ...]
    """Since the first frame, in the order of showing."""
    stamps: tuple[int, ...] | None
    """Time stamps in the stream's units, increasing; None where the packets do not tell them, and
    frames are counted as they are decoded."""
    entries: dict[int, int]
    """Frames at which decoding can begin, increasing, the first one among them, and the time stamp
    to seek to for each."""
    size: tuple[int, int]
    """(width, height), upright."""
    turns: int
    """Quarter turns, counterclockwise, that bring a stored frame upright."""
    fps: float
    """Average as the file says it, 0 where it does not."""


def index_frames(path: str) -> FrameIndex:
    """Find the frames of a file: reads all its packets and decodes the first frame.

    Raises:
        ValueError: If there is no video in it, or no frame can be decoded.
        av.FFmpegError: If it cannot be opened or breaks off at once.
    """
    with _opened(path, sound=False) as (container, stream):
        packets, first = _scan(container, stream)
        if first is None:
            raise ValueError("no frame in it can be decoded")
        fps, unit = float(stream.average_rate or 0.0), float(stream.time_base)
        announced, formats = int(stream.frames), {*container.format.name.split(",")}
        stamps = None
        if stream.codec.canonical_name in _CODECS and formats & _FORMATS:
            stamps = _in_order([packet.pts for packet in packets], first.pts)
    if announced > len(packets):
        logger.warning("%s holds %d of the %d frames it announces", path, len(packets), announced)
    if stamps is None:
        times, entries = _count(path, fps), {0: 0}
    else:
        times = [stamp * unit for stamp in stamps]
        numbers = {stamp: number for number, stamp in enumerate(stamps)}
        entries = {0: stamps[0]}
        by_dts = bool(formats & _SEARCHED_BY_DTS)
        for pts, dts, is_key in packets:
            entry = dts if by_dts else pts
            if is_key and pts in numbers and entry is not None:
                entries[numbers[pts]] = entry
    turns = round(first.rotation / 90) % 4
    return FrameIndex(
        times_s=tuple(round(time_s - times[0], 6) for time_s in times),
        stamps=stamps,
        entries=dict(sorted(entries.items())),
        size=_turned((first.width, first.height), turns),
        turns=turns,
        fps=fps,
    )


def read_indexed(path: str, index: FrameIndex, numbers: Sequence[int]) -> np.ndarray:
    """Decode frames, uint8 RGB [n, H, W, 3].

    Args:
        path: The file.
        index: What `index_frames` said of it.
        numbers: Frames, increasing.

    Raises:
        ValueError: If one of them cannot be decoded.
        av.FFmpegError: If the file cannot be opened.
    """
    images = np.empty((len(numbers), *index.size[::-1], 3), np.uint8)
    rows = {number: row for row, number in enumerate(numbers)}
    missing = set(numbers)
    convert = _Converter(_turned(index.size, index.turns), index.turns)

    def take(frames: Iterator[tuple[int, Any]]) -> None:
        found = set()
        try:
            for number, frame in frames:
                if number not in found:  # two fields may come apart
                    convert(frame, images[rows[number]])
                    found.add(number)
        except _DamageError:
            _log_damage(path)
        else:
            missing.difference_update(found)

    if index.stamps:
        with _opened(path, sound=True) as (container, stream):
            for key, wanted in stretches(tuple(index.entries), numbers):
                take(_from_key(container, stream, index, key, wanted))
    for sound in (True, False):
        if missing:
            with _opened(path, sound=sound) as (container, stream):
                take(_from_start(container, stream, index, missing, sound))
    if missing:
        number = min(missing)
        raise ValueError(f"frame {number} ({index.times_s[number]:g} s) cannot be decoded")
    return images


class _Converter:
    """Writes frames as upright RGB; one for many frames, since making it costs more than a use."""

    def __init__(self, size: tuple[int, int], turns: int = 0) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._size = size
        self._turns = turns

    def __call__(self, frame: Any, image: np.ndarray) -> None:
        """Write a frame of PyAV's into uint8 [H, W, 3]."""
        # A colour for 2x2 pixels is taken for the four, as FFmpeg does it in 8-bit frames; PyAV
        # cannot say where it lies, and smoother ways are further off.
        same = (frame.width, frame.height) == self._size
        way = "POINT" if same else "BICUBIC"
        rgb = self._reformatter.reformat(frame, *self._size, "rgb24", interpolation=way, threads=1)
        image[:] = np.rot90(rgb.to_ndarray(), self._turns)


def stretches(keys: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return what to decode in one go: a key frame and the wanted frames from it on.

    Args:
        keys: Key frames, increasing, the first one 0.
        numbers: Wanted frames, increasing.
    """
    found: list[tuple[int, list[int]]] = []
    for number in numbers:
        key = keys[bisect_right(keys, number) - 1]
        if found and key - found[-1][1][-1] <= _CHEAPER_THAN_A_SEEK:
            found[-1][1].append(number)
        else:
            found.append((key, [number]))
    return found


class _DamageError(Exception):
    """A packet gives no frame, or one that is guessed in parts."""


@functools.lru_cache(maxsize=1024)
def _log_damage(path: str) -> None:
    logger.warning(
        "%s is damaged: frames after the damage are decoded from the first one on, which is slow, "
        "and may look wrong",
        path,
    )


@contextmanager
def _opened(path: str, *, sound: bool) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first video stream.

    Args:
        path: The file.
        sound: Decode with a few threads, and let the decoder report damage rather than guess what
            was there, which depends on the pace of threads.
    """
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("there is no video in it")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if sound:
            codec.thread_type = "AUTO"
            codec.thread_count = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
            codec.options = {"err_detect": "explode"}
        else:
            codec.thread_type, codec.thread_count = "NONE", 1
        yield container, stream


def _turned(size: tuple[int, int], turns: int) -> tuple[int, int]:
    return size[::-1] if turns % 2 else size


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield what is not empty, up to where the file ends or breaks off."""
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        logger.warning("%s breaks off: %s", container.name, error)


def _decoded(stream: Any, packet: Any, *, sound: bool) -> list[Any]:
    """Return what a packet brings out of the decoder, or None, the end, all that is left in it.

    Raises:
        _DamageError: If `sound` and there is damage. Else what a broken packet loses is missed by
            who wants it.
    """
    import av

    try:
        frames: list[Any] = stream.codec_context.decode(packet)
    except av.error.InvalidDataError as error:
        if sound:
            raise _DamageError from error
        return []
    if sound and any(frame.is_corrupt for frame in frames):
        raise _DamageError
    return frames


def _frames(packets: Iterable[Any], stream: Any, *, sound: bool) -> Iterator[Any]:
    """Yield all frames that packets give."""
    for packet in itertools.chain(packets, (None,)):
        yield from _decoded(stream, packet, sound=sound)


class _Packet(NamedTuple):
    pts: int | None
    """Time stamp of showing."""
    dts: int | None
    """Time stamp of decoding."""
    is_key: bool


def _scan(container: Any, stream: Any) -> tuple[list[_Packet], Any]:
    """Return all packets that are shown, and the first frame."""
    packets, first = [], None
    for packet in _packets(container, stream):
        if first is None:
            first = next(iter(_decoded(stream, packet, sound=False)), None)
        if not packet.is_discard:
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe))
    return packets, first or next(iter(_decoded(stream, None, sound=False)), None)


def _in_order(stamps: Sequence[int | None], first: int | None) -> tuple[int, ...] | None:
    """Return time stamps in the order of showing, from that of the first frame on that decodes.

    None if some are not known, twice there, or so mixed that they are of no one count of time.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    shown = {stamp: place for place, stamp in enumerate(sorted(known))}
    if first is None or first not in shown or len(shown) < len(stamps):
        return None
    if max(abs(shown[stamp] - place) for place, stamp in enumerate(known)) > _MAX_REORDER:
        return None
    return tuple(shown)[shown[first] :]


def _count(path: str, fps: float) -> list[float]:
    """Return the time of every frame of a file, seconds, decoding all."""
    try:
        unit, stamps = _stamps(path, sound=True)
    except _DamageError:
        unit, stamps = _stamps(path, sound=False)
    known = [stamp for stamp in stamps if stamp is not None]
    if len(set(known)) == len(stamps):
        return [stamp * unit for stamp in sorted(known)]  # the order of decoding, in some files
    return [number / (fps or 1.0) for number in range(len(stamps))]


def _stamps(path: str, *, sound: bool) -> tuple[float, list[int | None]]:
    with _opened(path, sound=sound) as (container, stream):
        frames = _frames(_packets(container, stream), stream, sound=sound)
        return float(stream.time_base), [frame.pts for frame in frames]


def _from_key(
    container: Any, stream: Any, index: FrameIndex, key: int, numbers: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) of the wanted frames, decoding from a key frame on.

    Raises:
        _DamageError: At damage.
    """
    assert index.stamps is not None
    wanted = {index.stamps[number]: number for number in numbers}
    packets = _needed(container, stream, index.entries[key], index.stamps[key], wanted.keys())
    try:
        for frame in _frames(packets, stream, sound=True):
            if frame.pts in wanted:
                yield wanted[frame.pts], frame
    finally:
        stream.codec_context.flush_buffers()


def _needed(container: Any, stream: Any, entry: int, start: int, wanted: Set[int]) -> Iterator[Any]:
    """Yield packets, from that with the time stamp `start` to the last wanted one.

    None if a seek to `entry` does not come before it. The decoder is told what it may leave out.
    """
    import av

    codec, waiting, begun = stream.codec_context, set(wanted), False
    try:
        container.seek(entry, stream=stream)
    except av.FFmpegError as error:
        logger.warning("%s cannot be searched: %s", container.name, error)
        return
    for packet in _packets(container, stream):
        begun = begun or packet.pts == start
        if not begun:
            if packet.is_keyframe and packet.pts is not None and packet.pts > start:
                return
            continue
        if stream.codec.canonical_name == "h264":  # HEVC's may be referred to by higher layers
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield packet
        waiting.discard(packet.pts)
        if not waiting:
            return


def _from_start(
    container: Any, stream: Any, index: FrameIndex, numbers: Set[int], sound: bool
) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) of the wanted frames, decoding all from the first one on.

    Raises:
        _DamageError: If `sound` and there is damage.
    """
    places = {stamp: number for number, stamp in enumerate(index.stamps or ())}
    waiting = set(numbers)
    packets = _packets(container, stream)
    for count, frame in enumerate(_frames(packets, stream, sound=sound)):
        number = places.get(frame.pts) if index.stamps else count
        if number in waiting:
            waiting.discard(number)
            yield number, frame
        if not waiting:
            break
