"""The case `decode` of `launch bench`: frames of a long-GOP H.264 file, by access pattern."""

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from scenerl.launch.measure import BenchSettings, Comparison, Entry

PACKAGES = ("decord", "av", "torchcodec", "opencv-python-headless")


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield one comparison per access pattern: opening the file and reading its frames."""
    from scenerl.preprocess.media import open_media

    frames, size = (60, (160, 120)) if settings.quick else (400, (640, 480))
    some = min(32, frames // 2)
    patterns = {
        f"{some} uniform": [round(k * (frames - 1) / (some - 1)) for k in range(some)],
        f"{some} random": random.Random(0).sample(range(frames), some),
        f"clip of {some}": list(range(frames // 2, frames // 2 + some)),
        f"all {frames}": list(range(frames)),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, frames, size)
        readers, left_out = _peers(path)
        for name, indices in patterns.items():
            yield Comparison(
                case=f"{name} of {frames} frames {size[0]}x{size[1]}",
                ours=(
                    Entry(name="scenerl", run=partial(_ours, path, indices)),
                    Entry(name="scenerl, own process", run=partial(_apart, path, indices)),
                ),
                peers=tuple(Entry(name=n, run=partial(r, indices)) for n, r in readers.items()),
                left_out=left_out,
            )
        scene = Path(folder) / "scene"
        write_recording(scene, some, size)
        yield Comparison(
            case=f"{some} JPEG frames {size[0]}x{size[1]} of a recording",
            ours=(
                Entry(name="scenerl", run=lambda: open_media(scene).read(range(some))),
                Entry(name="scenerl, own process", run=partial(_apart, scene, list(range(some)))),
            ),
        )


def write_recording(folder: Path, frames: int, size: tuple[int, int]) -> None:
    """Write a recording of smooth noise, in the layout of docs/data.md."""
    import numpy as np
    from PIL import Image

    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    dice = np.random.default_rng(0)
    for number in range(frames):
        coarse = dice.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / "color" / f"{number}.jpg", quality=90)
        depth = np.full((size[1], size[0]), 2000, np.uint16)
        Image.fromarray(depth).save(folder / "depth" / f"{number}.png")
        (folder / "pose" / f"{number}.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    focal, x, y = size[0], size[0] / 2, size[1] / 2
    (folder / "intrinsic.txt").write_text(f"{focal} 0 {x}\n0 {focal} {y}\n0 0 1\n")


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Write a moving pattern as H.264 with a key frame every 250 frames.

    A frame is one slice, as x264's own program and cameras write it; PyAV asks for several.
    """
    import av
    import numpy as np

    width, height = size
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        options = {"g": "250", "crf": "23", "x264-params": "sliced-threads=0"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            wave = 90 + 60 * np.sin((columns + 3 * number) / 40) * np.cos((rows - number) / 30)
            image = wave[..., None].astype(np.uint8) + np.roll(noise, 2 * number, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _ours(path: Path, indices: list[int]) -> object:
    from scenerl.preprocess.video import read_frames

    path.touch()  # or it would be known from the round before; the others open it anew
    return read_frames(path, indices)


def _apart(path: Path, indices: list[int]) -> object:
    from scenerl.preprocess.decoding import decoder

    return decoder().frames(path, indices)


def _peers(path: Path) -> tuple[dict[str, Callable[[list[int]], object]], tuple[str, ...]]:
    """Return name -> reader of what is installed, and why the others are left out."""
    from scenerl.preprocess.video import first_line

    readers: dict[str, Callable[[list[int]], object]] = {
        "decord": partial(_read_decord_plainly, path),
        "PyAV": partial(_read_pyav_plainly, path),
        "OpenCV": partial(_read_opencv, path),
        "torchcodec": partial(_read_torchcodec, path),
    }
    found, left_out = {}, []
    for name, reader in readers.items():
        try:
            reader([0])
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            left_out.append(f"{name}: {first_line(error)}")
        else:
            found[name] = reader
    return found, tuple(left_out)


def _read_decord_plainly(path: Path, indices: list[int]) -> object:
    """Ask decord for frames in the given order, as its users do."""
    from scenerl.preprocess.video import open_decord

    return open_decord(str(path)).get_batch(indices).asnumpy()


def _read_pyav_plainly(path: Path, indices: list[int]) -> object:
    """Decode in one pass with PyAV and keep the frames, as its users do."""
    import av
    import numpy as np

    wanted, found = set(indices), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if len(found) == len(wanted):
                break
    return np.stack([found[index] for index in indices])


def _read_torchcodec(path: Path, indices: list[int]) -> object:
    """Ask torchcodec, which needs FFmpeg's libraries of the system."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), dimension_order="NHWC").get_frames_at(indices).data.numpy()


def _read_opencv(path: Path, indices: list[int]) -> object:
    import cv2
    import numpy as np

    capture = cv2.VideoCapture(str(path))
    frames, expected = [], 0
    for index in indices:
        if index != expected:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, image = capture.read()
        if not good:
            raise ValueError(f"OpenCV cannot read frame {index} of {path}")
        frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        expected = index + 1
    capture.release()
    return np.stack(frames)
