import numpy as np

from scenerl.preprocess import frame_cache
from scenerl.preprocess.frame_cache import FrameCache


def reader(calls):
    def read(indices):
        calls.append(list(indices))
        return np.stack([np.full((3, 2, 2), index, dtype=np.uint8) for index in indices])

    return read


def test_a_frame_is_decoded_once_and_comes_in_the_order_asked(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    cache, calls = FrameCache(10_000), []
    cache.frames(video, [4, 2], (2, 2), reader(calls))
    frames = cache.frames(video, [2, 3, 2, 4], (2, 2), reader(calls))
    assert calls == [[4, 2], [3]]
    assert frames[:, 0, 0, 0].tolist() == [2, 3, 2, 4]
    assert (cache.counts.decoded, cache.counts.reused, cache.counts.evicted) == (3, 3, 0)


def test_a_changed_file_and_another_size_are_decoded_again(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    cache, calls = FrameCache(10_000), []
    cache.frames(video, [0], (2, 2), reader(calls))
    cache.frames(video, [0], (4, 4), reader(calls))
    video.write_bytes(b"12")
    cache.frames(video, [0], (2, 2), reader(calls))
    assert calls == [[0], [0], [0]]


def test_a_copy_under_another_name_is_not_decoded_again(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"the same")
    cache, calls = FrameCache(10_000), []
    cache.frames(tmp_path / "a.mp4", [1, 2], (2, 2), reader(calls))
    frames = cache.frames(tmp_path / "b.mp4", [2, 3], (2, 2), reader(calls))
    assert calls == [[1, 2], [3]]
    assert frames[:, 0, 0, 0].tolist() == [2, 3]


def test_a_frame_that_is_overwritten_in_its_scene_is_decoded_again_alone(tmp_path):
    (tmp_path / "color").mkdir()
    for index in range(3):
        (tmp_path / "color" / f"{index:05d}.jpg").write_bytes(b"%d" % index)
    cache, calls = FrameCache(10_000), []
    cache.frames(tmp_path, [0, 1, 2], (2, 2), reader(calls))
    (tmp_path / "color" / "00001.jpg").write_bytes(b"x")  # the folder does not change
    cache.frames(tmp_path, [0, 1, 2], (2, 2), reader(calls))
    assert calls == [[0, 1, 2], [1]]
    (tmp_path / "color" / "00003.jpg").write_bytes(b"2")  # the very picture of frame 2
    assert cache.frames(tmp_path, [3, 0], (2, 2), reader(calls))[:, 0, 0, 0].tolist() == [2, 0]
    assert calls == [[0, 1, 2], [1]]


def test_what_is_not_there_is_left_to_the_reader(tmp_path):
    (tmp_path / "color").mkdir()
    (tmp_path / "color" / "0.jpg").write_bytes(b"0")
    cache, calls = FrameCache(10_000), []
    cache.frames(tmp_path, [7], (2, 2), reader(calls))
    cache.frames(tmp_path / "none.mp4", [1], (2, 2), reader(calls))
    assert calls == [[7], [1]]


def test_of_a_large_file_some_blocks_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "WHOLE_BYTES", 1 << 21)
    video = tmp_path / "a.mp4"
    video.write_bytes(bytes(3 << 20))
    cache, calls = FrameCache(10_000), []
    for _ in range(2):
        cache.frames(video, [0], (2, 2), reader(calls))
    with video.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"1")
    cache.frames(video, [0], (2, 2), reader(calls))
    assert calls == [[0], [0]]


def test_the_frame_unused_for_longest_makes_room_and_is_counted(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    cache, calls = FrameCache(2 * 12), []  # two frames of 12 bytes
    for index in (0, 1, 0, 2, 0, 1):
        cache.frames(video, [index], (2, 2), reader(calls))
    assert calls == [[0], [1], [2], [1]]
    assert cache.counts.evicted == 2


def test_no_memory_keeps_nothing(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    cache, calls = FrameCache(0), []
    for _ in range(2):
        cache.frames(video, [0], (2, 2), reader(calls))
    assert len(calls) == 2
    assert cache.counts.evicted == 0
