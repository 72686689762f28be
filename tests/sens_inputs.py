"""A small `.sens` for tests of damage, and a reader that asks for all of it."""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from scenerl.preprocess.sens import IMU_DTYPE, SensError, SensFile, SensHeader
from scenerl.preprocess.sens_images import read_color, read_depth
from scenerl.preprocess.sens_writer import SensFrame, write_sens, zlib_depth


def small_sens() -> bytes:
    """Return a whole recording of three frames, 16x12 JPEG and 8x6 zlib depth, with IMU frames."""
    rng = np.random.default_rng(0)
    eye = np.eye(4, dtype=np.float32)
    header = SensHeader(
        intrinsic_color=eye,
        intrinsic_depth=eye,
        extrinsic_color=eye,
        extrinsic_depth=eye,
        color_size=(16, 12),
        depth_size=(8, 6),
    )
    frames = []
    for number in range(3):
        buffer = io.BytesIO()
        color = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(color).save(buffer, "jpeg")
        depth = zlib_depth(rng.integers(500, 4000, (6, 8), dtype=np.uint16))
        frames.append(
            SensFrame(
                camera_to_world=eye, color=buffer.getvalue(), depth=depth, color_us=number * 33333
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        write_sens(Path(folder) / "a.sens", header, frames, np.zeros(2, IMU_DTYPE))
        return (Path(folder) / "a.sens").read_bytes()


def read_everything(path: Path) -> str:
    """Read all of a file; return "read", or "damaged" when something of it could not be.

    Raises:
        DataError: If nothing of it can be read.
    """
    with SensFile(path) as sens:
        damaged = sens.damage is not None
        assert len(sens.imu()) == sens.num_imu
        width, height = sens.header.depth_size
        for index in range(len(sens)):
            for read in (read_depth, read_color):
                try:
                    image = read(sens, index)
                except SensError as error:
                    damaged = True
                    _check_place(error, path)
                    continue
                if read is read_depth:
                    assert image.shape == (height, width)
                else:
                    assert image.size == sens.header.color_size
    return "damaged" if damaged else "read"


def _check_place(error: SensError, path: Path) -> None:
    assert error.code
    assert 0 <= error.offset <= path.stat().st_size
