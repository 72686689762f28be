"""Read ScanNet's `.sens` recordings: one frame at a time, whatever the file claims about itself.

Little endian, packed (ScanNet/ScanNet, SensReader/c++/src/sensorData.h):

    u32 version          4; 3 has no IMU part
    u64 n, char[n]       sensor name
    f32[16] x 4          color intrinsic, color extrinsic, depth intrinsic, depth extrinsic
    i32 i32              color format (0 raw, 1 png, 2 jpeg), depth format (0 raw, 1 zlib, 2 occi)
    u32 x 4              color width, color height, depth width, depth height
    f32 u64              depth shift (units per metre), number of frames
    per frame            f32[16] camera to world; u64 color time, depth time (microseconds),
                         color bytes, depth bytes; then that many bytes of each
    u64                  number of IMU frames
    per IMU frame        f64[3] rotation rate, acceleration, magnetic field, attitude, gravity;
                         u64 time (microseconds)
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import numpy as np

from scenerl.preprocess.records import DataError

T = TypeVar("T")
ColorFormat = Literal["raw", "png", "jpeg"]
DepthFormat = Literal["raw", "zlib", "occi"]
COLOR_FORMATS: dict[int, ColorFormat] = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_FORMATS: dict[int, DepthFormat] = {0: "raw", 1: "zlib", 2: "occi"}

FRAME_DTYPE = np.dtype(
    [
        ("camera_to_world", "<f4", (4, 4)),
        ("color_us", "<u8"),
        ("depth_us", "<u8"),
        ("color_bytes", "<u8"),
        ("depth_bytes", "<u8"),
    ]
)
"""What stands before the images of a frame, 96 bytes."""
IMU_DTYPE = np.dtype(
    [
        ("rotation_rate", "<f8", 3),
        ("acceleration", "<f8", 3),
        ("magnetic_field", "<f8", 3),
        ("attitude", "<f8", 3),
        ("gravity", "<f8", 3),
        ("time_us", "<u8"),
    ]
)
"""One IMU frame, 128 bytes."""
CAMERAS_DTYPE = np.dtype(
    [
        ("intrinsic_color", "<f4", (4, 4)),
        ("extrinsic_color", "<f4", (4, 4)),
        ("intrinsic_depth", "<f4", (4, 4)),
        ("extrinsic_depth", "<f4", (4, 4)),
        ("color_format", "<i4"),
        ("depth_format", "<i4"),
        ("color_size", "<u4", 2),
        ("depth_size", "<u4", 2),
        ("depth_shift", "<f4"),
        ("num_frames", "<u8"),
    ]
)
"""The header after the sensor's name, 292 bytes."""
MAX_NAME_BYTES = 4096
MAX_SIDE = 16384
MAX_PIXELS = 1 << 26
SLACK_BYTES = 1 << 16
"""A compressed image may be larger than its pixels by this much."""


class SensError(DataError):
    """Something wrong in a `.sens` file.

    Attributes:
        code: Short and countable: sens_version, sens_header, sens_size, sens_format,
            sens_truncated, imu_truncated, color_missing, color_bytes, color_unreadable, color_size,
            depth_missing, depth_bytes, depth_unreadable, depth_size or depth_format.
        offset: Byte of the file where it stands.
    """

    def __init__(self, path: Path, code: str, offset: int, text: str) -> None:
        """Say where and what."""
        super().__init__(f"{path}: byte {offset}: {text}")
        self.code = code
        self.offset = offset


@dataclass(frozen=True, kw_only=True, slots=True)
class SensHeader:
    """What a `.sens` file says about all of its frames."""

    version: int = 4
    sensor_name: str = "StructureSensor"
    intrinsic_color: np.ndarray
    """float32 [4, 4], as the other three."""
    intrinsic_depth: np.ndarray
    extrinsic_color: np.ndarray
    extrinsic_depth: np.ndarray
    color_format: ColorFormat = "jpeg"
    depth_format: DepthFormat = "zlib"
    color_size: tuple[int, int]
    """(width, height)."""
    depth_size: tuple[int, int]
    depth_shift: float = 1000.0
    """Depth units per metre."""
    num_frames: int = 0
    """As the header claims; a damaged file holds fewer."""


class SensFile:
    """An open `.sens` file: its header, the table of its frames, and their images on demand.

    Opening reads 96 bytes a frame; after that memory holds one frame at a time. Where the file is
    damaged in a way that hides the following frames, those before stay usable and `damage` says
    where and why.

    Attributes:
        path: The file.
        header: Its header.
        frames: `FRAME_DTYPE` [n], the frames that can be reached.
        damage: Why there are fewer frames than the header claims, or no IMU part; None if all is
            there.
        num_imu: IMU frames at the end of the file.
    """

    def __init__(self, path: str | Path, *, find_frames: bool = True) -> None:
        """Read the header and find the frames.

        Args:
            path: The file.
            find_frames: False leaves the table of frames empty.

        Raises:
            SensError: If the header cannot be used.
            DataError: If there is no such file.
        """
        self.path = Path(path)
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            status = os.fstat(self._file)
        except OSError as error:
            self.close()
            raise DataError(f"{self.path} cannot be opened: {error.strerror}") from error
        try:
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{self.path} is not a regular file; expected a .sens recording")
            self._size = status.st_size
            self.header, start = self._read_header()
            self.damage: SensError | None = None
            count = self.header.num_frames if find_frames else 0
            self.frames, self._offsets, end = self._find_frames(start, count)
            self.num_imu, self._imu_offset = self._find_imu(end) if find_frames else (0, end)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SensFile":
        """Return the file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; its images cannot be read any more."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __len__(self) -> int:
        """Return the number of frames that can be reached."""
        return len(self.frames)

    def error(self, code: str, offset: int, text: str) -> SensError:
        """Return an error about this file."""
        return SensError(self.path, code, offset, text)

    def offset(self, index: int) -> int:
        """Return the byte where a frame begins."""
        return int(self._offsets[index])

    def _read(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes; fewer only where the file ends."""
        parts = []
        while count > 0:
            part = os.pread(self._file, count, offset)
            if not part:
                break
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_header(self) -> tuple[SensHeader, int]:
        """Return the header and the byte where the first frame begins."""
        start = self._read(0, 12)
        if len(start) >= 4:
            version = int.from_bytes(start[:4], "little")
            if version not in (3, 4):
                raise self.error(
                    "sens_version",
                    0,
                    f"found version {version}, expected 4 (or 3); is this a .sens file?",
                )
        name_bytes = int.from_bytes(start[4:12], "little")
        if len(start) == 12 and name_bytes > MAX_NAME_BYTES:
            raise self.error(
                "sens_header",
                4,
                f"the sensor's name claims {name_bytes} bytes, expected at most {MAX_NAME_BYTES}; "
                "the header is damaged, copy the file again",
            )
        rest = self._read(12, name_bytes + CAMERAS_DTYPE.itemsize)
        if len(start) < 12 or len(rest) < name_bytes + CAMERAS_DTYPE.itemsize:
            raise self.error(
                "sens_header", self._size, "the file ends inside the header; copy it again"
            )
        fields = np.frombuffer(rest, CAMERAS_DTYPE, count=1, offset=name_bytes)[0]
        at = 12 + name_bytes
        header = SensHeader(
            version=version,
            sensor_name=rest[:name_bytes].decode("latin-1"),
            intrinsic_color=fields["intrinsic_color"],
            extrinsic_color=fields["extrinsic_color"],
            intrinsic_depth=fields["intrinsic_depth"],
            extrinsic_depth=fields["extrinsic_depth"],
            color_format=self._format(COLOR_FORMATS, int(fields["color_format"]), at + 256),
            depth_format=self._format(DEPTH_FORMATS, int(fields["depth_format"]), at + 260),
            color_size=self._image_size(fields["color_size"], "color", at + 264),
            depth_size=self._image_size(fields["depth_size"], "depth", at + 272),
            depth_shift=float(fields["depth_shift"]),
            num_frames=int(fields["num_frames"]),
        )
        if not 0 < header.depth_shift < float("inf"):
            text = f"depth shift is {header.depth_shift}, expected units per metre such as 1000"
            raise self.error("sens_header", at + 280, text)
        return header, at + CAMERAS_DTYPE.itemsize

    def _format(self, known: dict[int, T], number: int, offset: int) -> T:
        if number not in known:
            text = f"found image format {number}, expected one of {known}; the header is damaged"
            raise self.error("sens_format", offset, text)
        return known[number]

    def _image_size(self, sides: np.ndarray, what: str, offset: int) -> tuple[int, int]:
        width, height = int(sides[0]), int(sides[1])
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
            raise self.error(
                "sens_size",
                offset,
                f"{what} frames claim {width}x{height} pixels, expected sides of 1 to {MAX_SIDE} "
                f"and at most {MAX_PIXELS} pixels",
            )
        return width, height

    def _find_frames(self, offset: int, count: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the frames' headers, where each begins, and where the last one ends."""
        found, offsets = bytearray(), []
        for index in range(count):
            where = f"frame {index} of {count}"
            content = self._read(offset, FRAME_DTYPE.itemsize)
            if len(content) < FRAME_DTYPE.itemsize:
                text = f"the file ends at the header of {where}; copy it again"
                self.damage = self.error("sens_truncated", self._size, text)
                break
            color_bytes = int.from_bytes(content[80:88], "little")
            depth_bytes = int.from_bytes(content[88:96], "little")
            end = offset + FRAME_DTYPE.itemsize + color_bytes + depth_bytes
            if end > self._size:
                text = (
                    f"{where} claims {color_bytes} bytes of color and {depth_bytes} of depth, but "
                    f"only {self._size - offset - FRAME_DTYPE.itemsize} are left; copy the file "
                    "again"
                )
                self.damage = self.error("sens_truncated", offset + 80, text)
                break
            found += content
            offsets.append(offset)
            offset = end
        return np.frombuffer(bytes(found), FRAME_DTYPE), np.array(offsets, np.int64), offset

    def _find_imu(self, offset: int) -> tuple[int, int]:
        """Return the number of IMU frames and where they begin."""
        if self.header.version < 4 or self.damage is not None:
            return 0, offset
        content = self._read(offset, 8)
        count = int.from_bytes(content, "little")
        if len(content) < 8 or offset + 8 + count * IMU_DTYPE.itemsize > self._size:
            text = f"the file claims {count} IMU frames but ends before; its images are complete"
            self.damage = self.error("imu_truncated", offset, text)
            return 0, offset
        return count, offset + 8

    def imu(self) -> np.ndarray:
        """Return the IMU frames, `IMU_DTYPE` [num_imu]."""
        content = self._read(self._imu_offset, self.num_imu * IMU_DTYPE.itemsize)
        return np.frombuffer(content, IMU_DTYPE)

    def color_offset(self, index: int) -> int:
        """Return the byte where the colour image of a frame begins."""
        return self.offset(index) + FRAME_DTYPE.itemsize

    def depth_offset(self, index: int) -> int:
        """Return the byte where the depth image of a frame begins."""
        return self.color_offset(index) + int(self.frames[index]["color_bytes"])

    def color_bytes(self, index: int) -> bytes:
        """Return the colour image of a frame as stored.

        Raises:
            SensError: If there is none, or it claims more bytes than such an image can have.
        """
        return self._image_bytes(index, "color", 3)

    def depth_bytes(self, index: int) -> bytes:
        """Return the depth image of a frame as stored; raises as `color_bytes`."""
        return self._image_bytes(index, "depth", 2)

    def _image_bytes(self, index: int, what: str, pixel_bytes: int) -> bytes:
        count = int(self.frames[index][f"{what}_bytes"])
        at = self.color_offset(index) if what == "color" else self.depth_offset(index)
        width, height = self.header.color_size if what == "color" else self.header.depth_size
        if count == 0:
            raise self.error(f"{what}_missing", at, f"frame {index} has no {what} image")
        most = width * height * pixel_bytes * 5 // 4 + SLACK_BYTES
        if count > most:
            text = (
                f"frame {index} has {count} bytes of {what}, expected at most {most} for "
                f"{width}x{height} pixels"
            )
            raise self.error(f"{what}_bytes", at, text)
        content = self._read(at, count)
        if len(content) < count:
            text = f"the file ends inside the {what} image of frame {index}; did it change?"
            raise self.error("sens_truncated", at, text)
        return content


def read_header(path: str | Path) -> SensHeader:
    """Return the header of a `.sens` file, without looking for its frames; raises as `SensFile`."""
    sens = SensFile(path, find_frames=False)
    sens.close()
    return sens.header
