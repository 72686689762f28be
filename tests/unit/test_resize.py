import pytest

from scenerl.preprocess.resize import count_frames, fit_video, sample_frame_indices, smart_resize


def test_sizes_worked_by_hand() -> None:
    limits = {"min_pixels": 4 * 28 * 28, "max_pixels": 1280 * 28 * 28}
    assert smart_resize(168, 224, factor=28, **limits) == (168, 224)
    assert smart_resize(360, 540, factor=28, **limits) == (364, 532)
    assert smart_resize(100, 100, factor=32, min_pixels=1, max_pixels=10**6) == (96, 96)
    # 42 / 28 = 1.5 rounds to the even 2, 70 / 28 = 2.5 rounds to the even 2.
    assert smart_resize(42, 70, factor=28, min_pixels=1, max_pixels=10**6) == (56, 56)


def test_shrinking_floors_and_growing_ceils() -> None:
    assert smart_resize(280, 280, factor=28, min_pixels=1, max_pixels=100 * 100) == (84, 84)
    assert smart_resize(28, 28, factor=28, min_pixels=2 * 28 * 28, max_pixels=10**6) == (56, 56)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(1, 300, factor=28, min_pixels=1, max_pixels=10**6)
    with pytest.raises(ValueError, match="positive sides"):
        smart_resize(0, 300, factor=28, min_pixels=1, max_pixels=10**6)


def test_a_long_video_gets_smaller_frames() -> None:
    budget = {"factor": 28, "min_pixels": 16 * 784, "max_pixels": 768 * 784}
    short = fit_video(8, (720, 1280), total_pixels=3584 * 784, **budget)
    long = fit_video(128, (720, 1280), total_pixels=3584 * 784, **budget)
    assert short[0] * short[1] <= 768 * 784
    assert long[0] * long[1] <= 3584 * 784 / 128 * 2
    assert long < short


def test_frame_counts_are_even_and_bounded() -> None:
    assert count_frames(300, 30.0) == 20
    assert count_frames(315, 30.0) == 20
    assert count_frames(30, 30.0) == 4
    assert count_frames(3, 30.0) == 2
    assert count_frames(100_000, 10.0) == 768
    with pytest.raises(ValueError, match="at least 2"):
        count_frames(1, 30.0)


def test_indices_include_both_ends() -> None:
    assert sample_frame_indices(10, 4) == (0, 3, 6, 9)
    assert sample_frame_indices(32, 32) == tuple(range(32))
    assert sample_frame_indices(5, 1) == (0,)
    with pytest.raises(ValueError, match="expected 1 to 5"):
        sample_frame_indices(5, 6)
