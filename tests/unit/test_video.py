import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from scenerl.preprocess import video
from scenerl.preprocess.media import open_media
from scenerl.preprocess.records import DataError
from scenerl.preprocess.video import probe, read_frames


def write_video(path: Path, codec: str = "mpeg4", num_frames: int = 20) -> np.ndarray:
    """Write a moving gradient whose brightness tells the frame number."""
    import av

    frames = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(num_frames):
            image = np.zeros((64, 96, 3), np.uint8)
            image[..., 0] = np.linspace(0, 255, 96)
            image[..., 1] = 12 * number
            image[..., 2] = np.linspace(0, 255, 64)[:, None]
            frames.append(image)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return np.stack(frames)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return path, write_video(path)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_video_is_probed(clip: tuple[Path, np.ndarray], decoder: video.Decoder) -> None:
    info = probe(clip[0], decoder=decoder)
    assert (info.num_frames, info.width, info.height) == (20, 96, 64)
    assert info.fps == pytest.approx(10)
    assert info.times_s == pytest.approx([n / 10 for n in range(20)])


def test_both_decoders_give_the_same_right_frames(clip: tuple[Path, np.ndarray]) -> None:
    path, written = clip
    indices = [7, 0, 19, 7, 12]
    one = read_frames(path, indices, decoder="decord")
    two = read_frames(path, indices, decoder="pyav")
    np.testing.assert_array_equal(one, two)
    # Lossy compression keeps colours within a few levels on average; a neighbour is 12 away.
    np.testing.assert_allclose(
        one[..., 1].mean((1, 2)), written[indices][..., 1].mean((1, 2)), atol=4
    )
    np.testing.assert_array_equal(one[0], one[3])


@pytest.mark.parametrize(
    "indices", [range(20), [0, 6, 13, 19], [17, 3, 11, 3], range(8, 14)], ids=str
)
def test_every_access_pattern_gives_the_frames_of_a_plain_read(
    clip: tuple[Path, np.ndarray], indices: list[int]
) -> None:
    every = read_frames(clip[0], range(20), decoder="pyav")
    for decoder in ("auto", "decord", "pyav"):
        np.testing.assert_array_equal(
            read_frames(clip[0], indices, decoder=decoder), every[indices]
        )


def test_decord_takes_over_where_pyav_cannot_be_had(
    clip: tuple[Path, np.ndarray], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = read_frames(clip[0], range(20))
    with monkeypatch.context() as context, caplog.at_level(logging.WARNING):
        context.setitem(sys.modules, "av", None)
        video._log_fallback.cache_clear()
        video._open_once.cache_clear()
        np.testing.assert_array_equal(read_frames(clip[0], [0, 5]), every[[0, 5]])
        read_frames(clip[0], [1])
        with pytest.raises(DataError, match=r"cannot be decoded as a video; PyAV: import of av"):
            probe(clip[0], decoder="pyav")
    video._open_once.cache_clear()
    assert len([r for r in caplog.records if "decord decodes instead" in r.message]) == 1


def test_pyav_opens_what_decord_cannot(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    written = write_video(path, codec="libsvtav1", num_frames=6)
    with pytest.raises(DataError, match=r"cannot be decoded as a video; decord: [^\[]"):
        probe(path, decoder="decord")
    frames = read_frames(path, [0, 5])
    np.testing.assert_allclose(
        frames[..., 1].mean((1, 2)), written[[0, 5]][..., 1].mean((1, 2)), atol=4
    )


def test_a_file_that_changes_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path)
    before = read_frames(path, [7])
    write_video(path, num_frames=9)
    assert probe(path).num_frames == 9
    np.testing.assert_array_equal(read_frames(path, [7]), before)


def test_what_is_no_video_is_refused(tmp_path: Path, clip: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(DataError, match="does not exist"):
        probe(tmp_path / "none.mp4")
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(DataError, match="cannot be decoded"):
        probe(tmp_path / "junk.mp4")
    with pytest.raises(DataError, match="there is no frame 20"):
        read_frames(clip[0], [20])


def test_a_video_file_is_a_frame_source(clip: tuple[Path, np.ndarray]) -> None:
    source = open_media(clip[0])
    assert source.frame_indices == tuple(range(20))
    assert source.native_size == (96, 64)
    assert source.times_s(5) == pytest.approx(0.5)
    assert source.read([3]).shape == (1, 64, 96, 3)
