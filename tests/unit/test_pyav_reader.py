"""Every way to a frame gives the frame that plain decoding from the start gives."""

import logging
import random
import struct
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scenerl.preprocess.pyav_reader import index_frames, read_indexed, stretches
from scenerl.preprocess.records import DataError
from scenerl.preprocess.video import probe, read_frames

ENCODES: dict[str, tuple[str, str, dict[str, str]]] = {
    "camera": ("libx264", "mp4", {"g": "30", "x264-params": "sliced-threads=0"}),
    "one_key": ("libx264", "mp4", {"g": "1000"}),
    "no_reordering": ("libx264", "mp4", {"g": "12", "bf": "0"}),
    "sixteen_b": ("libx264", "mp4", {"g": "40", "bf": "16", "x264-params": "b-adapt=0"}),
    "pyramid": ("libx264", "mkv", {"g": "40", "bf": "8", "x264-params": "b-pyramid=normal"}),
    "open_gop": ("libx264", "mp4", {"g": "15", "bf": "4", "x264-params": "open-gop=1"}),
    "intra_refresh": ("libx264", "mp4", {"g": "15", "x264-params": "intra-refresh=1"}),
    "interlaced": ("libx264", "ts", {"g": "15", "x264-params": "interlaced=1"}),
    "all_keys": ("libx264", "mp4", {"g": "1"}),
    "ts": ("libx264", "ts", {"g": "15"}),
    "flv": ("libx264", "flv", {"g": "15"}),
    "avi": ("libx264", "avi", {"g": "15"}),
    "raw": ("libx264", "h264", {"g": "15"}),
    "hevc": ("libx265", "mp4", {"g": "15", "x265-params": "log-level=none"}),
    "hevc_open": ("libx265", "mkv", {"x265-params": "log-level=none:keyint=15:open-gop=1"}),
    "hevc_ts": ("libx265", "ts", {"x265-params": "log-level=none:keyint=15"}),
    "vp8": ("libvpx", "webm", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    "av1": ("libsvtav1", "mp4", {"g": "15", "preset": "10"}),
    "mpeg4": ("mpeg4", "mp4", {"g": "12", "bf": "2"}),
    "mpeg4_avi": ("mpeg4", "avi", {"g": "12", "bf": "2"}),
    "mpeg2": ("mpeg2video", "ts", {"g": "12", "bf": "2"}),
    "mpeg1": ("mpeg1video", "mpg", {"g": "12", "bf": "2"}),
    "mpeg2_ps": ("mpeg2video", "mpg", {"g": "12", "bf": "2"}),
    "mjpeg": ("mjpeg", "avi", {}),
    "prores": ("prores_ks", "mov", {}),
    "ffv1": ("ffv1", "mkv", {}),
    "gif": ("gif", "gif", {}),
}
"""Name -> (codec, container, options)."""
FRAMES = 70
SEEKS = {"camera", "sixteen_b", "pyramid", "open_gop", "ts", "flv", "hevc", "av1", "vp9", "mpeg4"}
"""Encodes whose frames are found by their time stamps, by more than one key frame."""


def encode(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    size: tuple[int, int] = (96, 64),
    irregular: bool = False,
) -> None:
    """Write noise that moves and gets brighter, so that no two frames look alike."""
    import av

    dice = np.random.default_rng(0)
    noise = dice.integers(0, 120, (*size[::-1], 3), dtype=np.uint8)
    pixels = {"mjpeg": "yuvj420p", "gif": "rgb8", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {"g": "15"})
        assert isinstance(stream, av.VideoStream)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        time = 0
        for number in range(FRAMES):
            image = np.roll(noise, 3 * number, axis=1) + np.uint8(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts = time
            time += int(dice.integers(1, 6)) if irregular else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_plainly(path: Path) -> np.ndarray:
    """Decode everything, from the first packet on, with one thread."""
    return np.stack([image for _, image in decode_each(path)])


def decode_each(path: Path) -> Iterator[tuple[int | None, np.ndarray]]:
    """Yield (time stamp, image) of all that comes."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:
                with suppress(av.error.InvalidDataError):
                    for frame in packet.decode():
                        deep = frame.format.components[0].bits > 8
                        way = {"interpolation": "POINT"} if deep else {}
                        yield frame.pts, frame.to_ndarray(format="rgb24", **way)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    folder = tmp_path_factory.mktemp("encoded")
    paths = {name: folder / f"{name}.{suffix}" for name, (_, suffix, _) in ENCODES.items()}
    for name, (codec, _, options) in ENCODES.items():
        encode(paths[name], codec, options)
    return {name: (path, decode_plainly(path)) for name, path in paths.items()}


def patterns(frames: int) -> list[list[int]]:
    dice = random.Random(0)
    return [
        list(range(frames)),
        list(range(0, frames, 9)),
        list(range(frames // 2, frames // 2 + 8)),
        [frames - 1],
        *([number] for number in range(0, frames, 4)),
        *(sorted(dice.sample(range(frames), 5)) for _ in range(6)),
    ]


@pytest.mark.parametrize("name", ENCODES)
def test_every_way_gives_the_frames_of_a_plain_read(
    name: str, encoded: dict[str, tuple[Path, np.ndarray]]
) -> None:
    path, every = encoded[name]
    index = index_frames(str(path))
    assert len(index.times_s) == len(every)
    assert list(index.times_s) == sorted(set(index.times_s))
    assert index.times_s[0] == 0
    for numbers in patterns(len(every)):
        np.testing.assert_array_equal(read_indexed(str(path), index, numbers), every[numbers])


@pytest.mark.parametrize("name", sorted(SEEKS))
def test_frames_are_found_by_a_seek(
    name: str, encoded: dict[str, tuple[Path, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, every = encoded[name]
    index = index_frames(str(path))
    assert len(index.entries) > 1
    with monkeypatch.context() as context:
        context.setattr("scenerl.preprocess.pyav_reader._from_start", lambda *_: iter(()))
        for numbers in patterns(len(every)):
            np.testing.assert_array_equal(read_indexed(str(path), index, numbers), every[numbers])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    gop=st.integers(1, 50),
    between=st.integers(0, 5),
    irregular=st.booleans(),
    numbers=st.sets(st.integers(0, FRAMES - 1), min_size=1),
)
@example(gop=5, between=3, irregular=True, numbers={0, 4, 5, 69})
def test_frames_of_any_group_and_pace(
    gop: int, between: int, irregular: bool, numbers: set[int], tmp_path: Path
) -> None:
    path, wanted = tmp_path / "clip.mp4", sorted(numbers)
    encode(path, options={"g": str(gop), "bf": str(between)}, irregular=irregular)
    index, every = index_frames(str(path)), decode_plainly(path)
    assert len(index.times_s) == len(every) == FRAMES
    np.testing.assert_array_equal(read_indexed(str(path), index, wanted), every[wanted])
    np.testing.assert_array_equal(read_frames(path, wanted, decoder="decord"), every[wanted])
    assert probe(path, decoder="decord").times_s == pytest.approx(index.times_s, abs=1e-4)


@given(
    keys=st.sets(st.integers(1, 200)).map(lambda found: (0, *sorted(found))),
    numbers=st.sets(st.integers(0, 250), min_size=1).map(sorted),
)
def test_stretches_hold_each_frame_once_behind_a_key(
    keys: tuple[int, ...], numbers: list[int]
) -> None:
    found = stretches(keys, numbers)
    assert [number for _, wanted in found for number in wanted] == numbers
    for key, wanted in found:
        assert key in keys
        assert not [other for other in keys if key < other <= wanted[0]]


@pytest.mark.parametrize("turns", range(4))
def test_frames_are_upright(turns: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode(path)
    lying, content = decode_plainly(path), path.read_bytes()
    one, zero = 0x10000, 0
    matrices = [(one, zero, zero, one), (zero, -one, one, zero)]
    matrices += [(-one, zero, zero, -one), (zero, one, -one, zero)]
    stored = [struct.pack(">iiiii", a, b, 0, c, d) for a, b, c, d in matrices]
    place = content.index(stored[0], content.index(b"tkhd"))
    path.write_bytes(content[:place] + stored[turns] + content[place + 20 :])
    info, upright = probe(path), np.rot90(lying, turns, (1, 2))
    assert (info.width, info.height) == ((96, 64), (64, 96))[turns % 2]
    for decoder in ("pyav", "decord"):
        frames = read_frames(path, range(0, FRAMES, 9), decoder=decoder)
        np.testing.assert_array_equal(frames, upright[::9])


def test_frames_of_another_size_come_in_that_of_the_first(tmp_path: Path) -> None:
    for name, size in (("one", (96, 64)), ("two", (192, 128))):
        encode(tmp_path / f"{name}.h264", size=size)
    both = tmp_path / "both.h264"
    both.write_bytes((tmp_path / "one.h264").read_bytes() + (tmp_path / "two.h264").read_bytes())
    assert probe(both).num_frames == 2 * FRAMES
    frames = read_frames(both, [0, FRAMES + 7])
    large = decode_plainly(tmp_path / "two.h264").astype(float)
    small = large.reshape(FRAMES, 64, 2, 96, 2, 3).mean((2, 4))
    distances = np.abs(small - frames[1]).mean((1, 2, 3))
    assert distances.argmin() == 7
    assert distances[7] < 8


DAMAGED = ("camera", "sixteen_b", "open_gop", "ts", "hevc", "vp9", "mpeg4", "mpeg2", "mpeg4_avi")


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_gives_the_frames_of_a_plain_read_or_says_so(
    name: str, encoded: dict[str, tuple[Path, np.ndarray]], tmp_path: Path
) -> None:
    path, _ = encoded[name]
    bad, dice, outcomes = tmp_path / path.name, random.Random(0), Counter[str]()
    for trial in range(4):
        content = bytearray(path.read_bytes())
        place, length = dice.randrange(len(content) // 5, len(content) - 900), (1, 20, 400, 800)
        content[place : place + length[trial]] = dice.randbytes(length[trial])
        bad.write_bytes(content)
        index, every = index_frames(str(bad)), dict[int, np.ndarray]()
        for count, (stamp, image) in enumerate(decode_each(bad)):
            if index.stamps is None:
                every[count] = image
            elif stamp in index.stamps:
                every.setdefault(index.stamps.index(stamp), image)
        for numbers in patterns(len(index.times_s))[4:]:
            try:
                frames = read_indexed(str(bad), index, numbers)
            except ValueError as error:
                lost = int(str(error).split()[1])
                assert lost not in every
                outcomes["lost"] += 1
                continue
            for number, frame in zip(numbers, frames, strict=True):
                np.testing.assert_array_equal(frame, every[number])
                outcomes["read"] += 1
    assert outcomes["read"] > 50


def test_what_damage_costs_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clip.mp4"
    encode(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    with caplog.at_level(logging.WARNING):
        left = probe(path).num_frames
        assert f"{path} holds {left} of the {FRAMES} frames it announces" in caplog.text
        with pytest.raises(DataError, match=f"has {left} frames; there is no frame {left}"):
            read_frames(path, [left])
        damaged = bytearray(content)
        place = len(content) // 2
        damaged[place : place + 2000] = bytes(2000)
        path.write_bytes(damaged)
        assert probe(path).num_frames == FRAMES
        with pytest.raises(DataError, match=r"frame \d+ \([\d.]+ s\) cannot be decoded"):
            read_frames(path, range(FRAMES))
        assert f"{path} is damaged" in caplog.text


def test_a_file_without_a_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(DataError, match="no frame in it can be decoded"):
        probe(path)


def test_a_file_without_a_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(DataError, match="as a video; PyAV: there is no video in it; decord: "):
        probe(path)
