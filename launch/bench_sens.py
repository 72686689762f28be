"""The case `sens` of `launch bench`: a ScanNet recording to a scene folder.

Against a plain loop that does what ScanNet's own Python export does: decode and encode every JPEG,
inflate every depth image, write it as PNG, write the pose as text.
"""

import io
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scenerl.launch.measure import BenchSettings, Comparison, Entry

PACKAGES = ("isal", "pillow")
COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)
DIFFERENT = 8
"""Frames that differ; a longer recording repeats them."""


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield one comparison: every frame of a recording, by one process and by two."""
    frames = 16 if settings.quick else 200
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = write_recording(root / "scene0000_00.sens", frames)
        floor_ms = frames * inflate_ms(path)
        yield Comparison(
            case=f"{frames} frames, {COLOR_SIZE[0]}x{COLOR_SIZE[1]} JPEG, "
            f"{DEPTH_SIZE[0]}x{DEPTH_SIZE[1]} zlib depth",
            ours=tuple(
                Entry(
                    name="scenerl" if workers == 1 else f"scenerl, {workers} processes",
                    run=partial(convert, path, root / f"out{workers}", workers),
                    floor_ms=floor_ms / workers,
                )
                for workers in (1, 2)
            ),
            peers=(Entry(name="decode and encode", run=partial(reencode, path, root / "peer")),),
        )


def write_recording(path: Path, frames: int) -> Path:
    """Write a recording whose images are as large as ScanNet's: 0.3 MB of colour, 0.4 of depth."""
    import numpy as np

    from scenerl.preprocess.sens import SensHeader
    from scenerl.preprocess.sens_writer import SensFrame, write_sens

    color_camera, depth_camera = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    color_camera[:2, :3] = [[1170, 0, 647.5], [0, 1170, 483.5]]
    depth_camera[:2, :3] = [[577, 0, 319.5], [0, 577, 239.5]]
    header = SensHeader(
        intrinsic_color=color_camera,
        intrinsic_depth=depth_camera,
        extrinsic_color=np.eye(4, dtype=np.float32),
        extrinsic_depth=np.eye(4, dtype=np.float32),
        color_size=COLOR_SIZE,
        depth_size=DEPTH_SIZE,
    )
    images = [(_jpeg(n), _depth(n)) for n in range(min(DIFFERENT, frames))]
    write_sens(
        path,
        header,
        (
            SensFrame(
                camera_to_world=np.eye(4),
                color=images[n % DIFFERENT][0],
                depth=images[n % DIFFERENT][1],
                color_us=n * 33_333,
            )
            for n in range(frames)
        ),
    )
    return path


def _jpeg(seed: int) -> bytes:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    width, height = COLOR_SIZE
    coarse = rng.integers(0, 256, (height // 22, width // 24, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(COLOR_SIZE), np.int16)
    noisy = smooth + rng.normal(0, 7, smooth.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=85)
    return buffer.getvalue()


def _depth(seed: int) -> bytes:
    """Return surfaces at 1 to 3.5 m whose noise grows with the square of the depth."""
    import numpy as np

    rng = np.random.default_rng(seed)
    width, height = DEPTH_SIZE
    y, x = np.mgrid[:height, :width]
    depth = 1500 + 800 * np.sin((x + 20 * seed) / 90) + 500 * np.cos(y / 70)
    depth += ((x // 120 + y // 100 + seed) % 3) * 300
    depth += rng.normal(0, 2.5, depth.shape) * (depth / 1000) ** 2
    depth[rng.random(depth.shape) < 0.02] = 0
    return zlib.compress(depth.astype("<u2").tobytes(), 8)


def inflate_ms(path: Path) -> float:
    """Return the median time of inflating one depth image with ISA-L, which has to be done."""
    from scenerl.preprocess.sens import SensFile
    from scenerl.preprocess.sens_images import read_depth

    times = []
    with SensFile(path) as sens:
        for _ in range(3):
            for index in range(min(DIFFERENT, len(sens))):
                begin = time.perf_counter()
                read_depth(sens, index)
                times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def convert(path: Path, output: Path, workers: int) -> None:
    """Prepare the recording, from nothing."""
    import shutil

    from scenerl.preprocess.scannet import prepare_scans
    from scenerl.preprocess.scannet_settings import ScannetConfig

    shutil.rmtree(output, ignore_errors=True)
    prepare_scans([path], output, ScannetConfig(every=1, workers=workers))


def reencode(path: Path, output: Path, most: int | None = None) -> int:
    """Write colour, depth and poses of a recording as ScanNet's Python export does.

    All frames are read into memory first, as there.

    Args:
        path: The recording.
        output: Folder to write.
        most: Frames to export; None exports all.

    Returns:
        The number of frames.
    """
    import numpy as np
    from PIL import Image

    from scenerl.preprocess.sens import SensFile

    for name in ("color", "depth", "pose"):
        (output / name).mkdir(parents=True, exist_ok=True)
    with SensFile(path) as sens:
        count = len(sens) if most is None else min(most, len(sens))
        shape = sens.header.depth_size[::-1]
        stored = [(sens.color_bytes(n), sens.depth_bytes(n)) for n in range(count)]
        poses = sens.frames["camera_to_world"]
    for number, (_, depth) in enumerate(stored):
        pixels = np.frombuffer(zlib.decompress(depth), np.uint16).reshape(shape)
        Image.fromarray(pixels).save(output / "depth" / f"{number}.png")
    for number, (color, _) in enumerate(stored):
        with Image.open(io.BytesIO(color)) as image:
            image.convert("RGB").save(output / "color" / f"{number}.jpg")
    for number in range(count):
        np.savetxt(output / "pose" / f"{number}.txt", poses[number], fmt="%f")
    return count
