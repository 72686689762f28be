"""Write `.sens` recordings, byte for byte as ScanNet's own writer lays them out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scenerl.preprocess.sens import (
    CAMERAS_DTYPE,
    COLOR_FORMATS,
    DEPTH_FORMATS,
    FRAME_DTYPE,
    IMU_DTYPE,
    SensHeader,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SensFrame:
    """One frame to write; its images are bytes in the formats of the header."""

    camera_to_world: np.ndarray
    """float32 [4, 4]; all -inf where the camera was not tracked."""
    color: bytes
    depth: bytes
    color_us: int = 0
    """Time in microseconds."""
    depth_us: int = 0


def zlib_depth(depth: np.ndarray, *, level: int = 6) -> bytes:
    """Return a depth image, uint16 [H, W], as the zlib bytes of a frame."""
    import zlib

    return zlib.compress(np.ascontiguousarray(depth, "<u2").tobytes(), level)


def write_sens(
    path: str | Path, header: SensHeader, frames: Iterable[SensFrame], imu: np.ndarray | None = None
) -> int:
    """Write a recording; the file appears under its name only when it is complete.

    Args:
        path: The file.
        header: Everything but the number of frames, which is counted.
        frames: Taken one after another; only one is held in memory.
        imu: `IMU_DTYPE` [n]; version 4 only.

    Returns:
        The number of frames.

    Raises:
        ValueError: If there are IMU frames and the version has no place for them.
    """
    if imu is not None and header.version < 4:
        raise ValueError(f"version {header.version} has no IMU frames; write version 4")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            count = _write(file, header, frames)
            if header.version >= 4:
                tail = np.zeros(0, IMU_DTYPE) if imu is None else imu.astype(IMU_DTYPE)
                file.write(len(tail).to_bytes(8, "little") + tail.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write(file: BinaryIO, header: SensHeader, frames: Iterable[SensFrame]) -> int:
    name = header.sensor_name.encode("latin-1")
    file.write(header.version.to_bytes(4, "little") + len(name).to_bytes(8, "little") + name)
    fields = np.zeros(1, CAMERAS_DTYPE)
    for key in ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth"):
        fields[key] = getattr(header, key)
    fields["color_format"] = {text: number for number, text in COLOR_FORMATS.items()}[
        header.color_format
    ]
    fields["depth_format"] = {text: number for number, text in DEPTH_FORMATS.items()}[
        header.depth_format
    ]
    fields["color_size"], fields["depth_size"] = header.color_size, header.depth_size
    fields["depth_shift"] = header.depth_shift
    start, count = file.tell(), 0
    file.write(fields.tobytes())
    for frame in frames:
        row = np.zeros(1, FRAME_DTYPE)
        row["camera_to_world"] = frame.camera_to_world
        row["color_us"], row["depth_us"] = frame.color_us, frame.depth_us
        row["color_bytes"], row["depth_bytes"] = len(frame.color), len(frame.depth)
        file.write(row.tobytes() + frame.color + frame.depth)
        count += 1
    end = file.tell()
    file.seek(start + CAMERAS_DTYPE.fields["num_frames"][1])  # type: ignore[index]
    file.write(count.to_bytes(8, "little"))
    file.seek(end)
    return count
