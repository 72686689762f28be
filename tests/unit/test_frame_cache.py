import numpy as np

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
