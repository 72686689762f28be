"""The `.sens` reader and writer: what is stored, and what is said about damage."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenerl.preprocess.depth_png import encode_png16
from scenerl.preprocess.records import DataError
from scenerl.preprocess.sens import (
    FRAME_DTYPE,
    IMU_DTYPE,
    SensError,
    SensFile,
    SensHeader,
    read_header,
)
from scenerl.preprocess.sens_images import check_color, read_color, read_depth
from scenerl.preprocess.sens_writer import SensFrame, write_sens, zlib_depth

HEAD = 12 + 15 + 292
"""Bytes before the first frame: StructureSensor has 15 letters."""


def small_header() -> SensHeader:
    intrinsics = np.eye(4, dtype=np.float32)
    intrinsics[:2, :3] = [[20, 0, 7.5], [0, 21, 5.5]]
    return SensHeader(
        intrinsic_color=intrinsics,
        intrinsic_depth=intrinsics / 2,
        extrinsic_color=np.eye(4, dtype=np.float32),
        extrinsic_depth=2 * np.eye(4, dtype=np.float32),
        color_size=(16, 12),
        depth_size=(8, 6),
        depth_shift=1000.0,
    )


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def depth_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (6, 8), dtype=np.uint16)


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def small_frames(count: int = 3) -> list[SensFrame]:
    return [
        SensFrame(
            camera_to_world=np.arange(16, dtype=np.float32).reshape(4, 4) + n,
            color=encoded(picture(n), "jpeg"),
            depth=zlib_depth(depth_of(n)),
            color_us=1000 * n,
            depth_us=1000 * n + 7,
        )
        for n in range(count)
    ]


def written(
    folder: Path, header: SensHeader | None = None, frames: list[SensFrame] | None = None
) -> Path:
    path = folder / "a.sens"
    write_sens(path, header or small_header(), small_frames() if frames is None else frames)
    return path


def patched(path: Path, offset: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))
    return path


def test_every_byte_of_the_layout_stands_where_the_format_says(tmp_path: Path) -> None:
    frame = small_frames(2)[1]
    imu = np.zeros(1, IMU_DTYPE)
    imu["gravity"], imu["time_us"] = [0, 0, -9.81], 12345
    path = tmp_path / "a.sens"
    write_sens(path, small_header(), [frame], imu)
    header = small_header()
    expected = struct.pack("<IQ15s", 4, 15, b"StructureSensor")
    expected += struct.pack("<16f", *header.intrinsic_color.reshape(-1))
    expected += struct.pack("<16f", *np.eye(4).reshape(-1))
    expected += struct.pack("<16f", *header.intrinsic_depth.reshape(-1))
    expected += struct.pack("<16f", *(2 * np.eye(4)).reshape(-1))
    expected += struct.pack("<ii4IfQ", 2, 1, 16, 12, 8, 6, 1000.0, 1)
    expected += struct.pack("<16f", *np.arange(1, 17))
    expected += struct.pack("<4Q", 1000, 1007, len(frame.color), len(frame.depth))
    expected += frame.color + frame.depth
    expected += struct.pack("<Q15dQ", 1, *[0.0] * 14, -9.81, 12345)
    assert path.read_bytes() == expected


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    frames = small_frames()
    with SensFile(written(tmp_path)) as sens:
        assert len(sens) == 3
        assert sens.damage is None
        assert sens.header.sensor_name == "StructureSensor"
        assert sens.header.color_size == (16, 12)
        assert sens.header.depth_size == (8, 6)
        np.testing.assert_array_equal(sens.header.extrinsic_depth, 2 * np.eye(4))
        assert sens.offset(0) == HEAD
        for index, frame in enumerate(frames):
            assert sens.color_bytes(index) == frame.color
            np.testing.assert_array_equal(read_depth(sens, index), depth_of(index))
            pose = sens.frames[index]["camera_to_world"]
            np.testing.assert_array_equal(pose, frame.camera_to_world)
            assert sens.frames[index]["color_us"] == frame.color_us
            assert sens.frames[index]["depth_us"] == frame.depth_us


@pytest.mark.parametrize("kind", ["raw", "png", "jpeg"])
@pytest.mark.parametrize("depth_kind", ["raw", "zlib"])
def test_every_image_format_decodes(tmp_path: Path, kind: str, depth_kind: str) -> None:
    header = replace(small_header(), color_format=kind, depth_format=depth_kind)  # type: ignore[arg-type]
    color = picture(0).tobytes() if kind == "raw" else encoded(picture(0), kind)
    depth = depth_of(0).tobytes() if depth_kind == "raw" else zlib_depth(depth_of(0))
    frame = SensFrame(camera_to_world=np.eye(4), color=color, depth=depth)
    with SensFile(written(tmp_path, header, [frame])) as sens:
        found = np.asarray(read_color(sens, 0))
        expected = np.asarray(Image.open(io.BytesIO(color))) if kind == "jpeg" else picture(0)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read_depth(sens, 0), depth_of(0))


def test_version_3_has_no_imu_part(tmp_path: Path) -> None:
    path = written(tmp_path, replace(small_header(), version=3))
    assert path.stat().st_size == HEAD + sum(
        FRAME_DTYPE.itemsize + len(f.color) + len(f.depth) for f in small_frames()
    )
    with SensFile(path) as sens:
        assert (len(sens), sens.num_imu, sens.damage) == (3, 0, None)
    with pytest.raises(ValueError, match="version 3 has no IMU"):
        write_sens(path, replace(small_header(), version=3), [], np.zeros(1, IMU_DTYPE))


def test_imu_frames_are_read(tmp_path: Path) -> None:
    imu = np.zeros(4, IMU_DTYPE)
    imu["time_us"], imu["attitude"] = [1, 2, 3, 4], np.arange(12).reshape(4, 3)
    path = tmp_path / "a.sens"
    write_sens(path, small_header(), small_frames(), imu)
    with SensFile(path) as sens:
        assert sens.num_imu == 4
        np.testing.assert_array_equal(sens.imu(), imu)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> list[SensFrame]:
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        write_sens(tmp_path / "a.sens", small_header(), (frame for frame in failing()))
    with pytest.raises(RuntimeError, match="unplugged"):
        write_sens(tmp_path / "a.sens", small_header(), (failing() for _ in range(1)))  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


HEADER_FAULTS: list[tuple[int, bytes, str, int]] = [
    (0, struct.pack("<I", 7), "sens_version", 0),
    (0, b"RIFF", "sens_version", 0),
    (4, struct.pack("<Q", 1 << 60), "sens_header", 4),
    (27 + 256, struct.pack("<i", -1), "sens_format", 27 + 256),
    (27 + 256, struct.pack("<i", 3), "sens_format", 27 + 256),
    (27 + 260, struct.pack("<i", 9), "sens_format", 27 + 260),
    (27 + 264, struct.pack("<I", 0), "sens_size", 27 + 264),
    (27 + 264, struct.pack("<I", 100_000), "sens_size", 27 + 264),
    (27 + 276, struct.pack("<I", 0), "sens_size", 27 + 272),
    (27 + 272, struct.pack("<2I", 16384, 16384), "sens_size", 27 + 272),
    (27 + 280, struct.pack("<f", 0.0), "sens_header", 27 + 280),
    (27 + 280, struct.pack("<f", float("nan")), "sens_header", 27 + 280),
]


@pytest.mark.parametrize(("at", "content", "code", "offset"), HEADER_FAULTS)
def test_a_wrong_header_is_named_with_its_place(
    tmp_path: Path, at: int, content: bytes, code: str, offset: int
) -> None:
    path = patched(written(tmp_path), at, content)
    with pytest.raises(SensError, match=rf"byte {offset}: .*(expected|damaged)") as caught:
        SensFile(path)
    assert (caught.value.code, caught.value.offset) == (code, offset)
    with pytest.raises(SensError):
        read_header(path)


@pytest.mark.parametrize("size", [0, 3, 11, 12, 30, HEAD - 1])
def test_a_file_that_ends_in_its_header_is_refused(tmp_path: Path, size: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SensError, match="ends inside the header") as caught:
        SensFile(path)
    assert (caught.value.code, caught.value.offset) == ("sens_header", size)


def test_frames_before_the_end_of_a_cut_file_are_usable(tmp_path: Path) -> None:
    path = written(tmp_path)
    with SensFile(path) as sens:
        third = sens.offset(2)
    for size, at in ((third + 10, third + 10), (third + 96 + 5, third + 80)):
        path = written(tmp_path)
        path.write_bytes(path.read_bytes()[:size])
        with SensFile(path) as sens:
            assert len(sens) == 2
            assert sens.damage is not None
            assert (sens.damage.code, sens.damage.offset) == ("sens_truncated", at)
            assert "frame 2 of 3" in str(sens.damage)
            np.testing.assert_array_equal(read_depth(sens, 1), depth_of(1))


def test_more_frames_than_the_file_holds_are_not_believed(tmp_path: Path) -> None:
    path = patched(written(tmp_path), HEAD - 8, struct.pack("<Q", 1 << 62))
    with SensFile(path) as sens:
        # After the frames stand 8 bytes, the number of IMU frames.
        assert len(sens) == 3
        assert sens.damage is not None
        assert sens.damage.code == "sens_truncated"


@pytest.mark.parametrize("claim", [1 << 63, 10_000_000])
@pytest.mark.parametrize("field", [80, 88])
def test_byte_counts_past_the_end_hide_only_what_follows(
    tmp_path: Path, claim: int, field: int
) -> None:
    path = written(tmp_path)
    with SensFile(path) as sens:
        second = sens.offset(1)
    patched(path, second + field, struct.pack("<Q", claim))
    with SensFile(path) as sens:
        assert len(sens) == 1
        assert sens.damage is not None
        assert (sens.damage.code, sens.damage.offset) == ("sens_truncated", second + 80)
        assert str(claim) in str(sens.damage)


@pytest.mark.parametrize(
    "tail", [b"", b"\x01\x00", struct.pack("<Q", 2), struct.pack("<Q", 1 << 60)]
)
def test_a_damaged_imu_part_leaves_all_frames(tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-8] + tail)
    with SensFile(path) as sens:
        assert (len(sens), sens.num_imu) == (3, 0)
        assert sens.damage is not None
        assert sens.damage.code == "imu_truncated"
        assert len(sens.imu()) == 0


def truncated_jpeg() -> bytes:
    return encoded(picture(0), "jpeg")[:-40]


IMAGE_FAULTS: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("depth", lambda: zlib.compress(bytes(50_000_000)), "depth_size", "more than 96"),
    ("depth", lambda: zlib.compress(bytes(94)), "depth_size", "holds 94 bytes, expected 96"),
    ("depth", lambda: zlib.compress(bytes(96))[:-5], "depth_unreadable", "cut off"),
    ("depth", lambda: b"not zlib at all", "depth_unreadable", "cannot be inflated"),
    ("depth", lambda: b"", "depth_missing", "no depth image"),
    ("depth", lambda: bytes(200_000), "depth_bytes", "200000 bytes of depth"),
    ("color", lambda: b"", "color_missing", "no color image"),
    ("color", lambda: bytes(200_000), "color_bytes", "200000 bytes of color"),
    ("color", lambda: b"no image", "color_unreadable", "not a jpeg image"),
    ("color", lambda: encoded(picture(0), "png"), "color_unreadable", "not a jpeg image"),
    ("color", lambda: encoded(picture(0)[:8], "jpeg"), "color_size", "16x8 pixels"),
    ("color", truncated_jpeg, "color_unreadable", "without an end"),
]


@pytest.mark.parametrize(("image", "content", "code", "words"), IMAGE_FAULTS)
def test_a_wrong_image_spoils_only_its_frame(
    tmp_path: Path, image: str, content: Callable[[], bytes], code: str, words: str
) -> None:
    frames = small_frames()
    frames[1] = replace(frames[1], **{image: content()})  # type: ignore[arg-type]
    with SensFile(written(tmp_path, frames=frames)) as sens:
        assert sens.damage is None
        expected = sens.color_offset(1) if image == "color" else sens.depth_offset(1)
        with pytest.raises(SensError, match=words) as caught:
            check_images(sens, 1)
        assert (caught.value.code, caught.value.offset) == (code, expected)
        for index in (0, 2):
            check_images(sens, index)


def check_images(sens: SensFile, index: int) -> None:
    read_depth(sens, index)
    check_color(sens, index, sens.color_bytes(index))


def test_an_inflating_bomb_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    bomb = zlib.compress(bytes(1 << 26), 9)  # 64 MiB in 64 KiB
    frames = [replace(small_frames(1)[0], depth=bomb)]
    with SensFile(written(tmp_path, frames=frames)) as sens:
        tracemalloc.start()
        with pytest.raises(SensError, match="holds more than 96 bytes"):
            read_depth(sens, 0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


def test_occi_depth_is_refused_with_the_way_out(tmp_path: Path) -> None:
    header = replace(small_header(), depth_format="occi")
    with (
        SensFile(written(tmp_path, header)) as sens,
        pytest.raises(SensError, match=r"occi.*convert") as caught,
    ):
        read_depth(sens, 0)
    assert caught.value.code == "depth_format"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        SensFile(tmp_path / "missing.sens")
    with pytest.raises(DataError, match="not a regular file"):
        SensFile(tmp_path)


def test_a_depth_png_has_the_same_pixels() -> None:
    for shape in ((1, 1), (1, 7), (5, 1), (480, 640)):
        image = np.random.default_rng(shape[1]).integers(0, 65536, shape, dtype=np.uint16)
        with Image.open(io.BytesIO(encode_png16(image))) as opened:
            assert opened.mode == "I;16"
            np.testing.assert_array_equal(np.asarray(opened), image)
