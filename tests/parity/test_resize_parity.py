"""Sizes and frame choice against transformers and qwen-vl-utils."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.preprocess.resize import count_frames, fit_video, sample_frame_indices, smart_resize

sides = st.integers(1, 4000)


@settings(deadline=None)
@given(sides, sides, st.sampled_from([28, 32]), st.integers(1, 64), st.integers(64, 16384))
def test_smart_resize_is_that_of_transformers(
    height: int, width: int, factor: int, low: int, high: int
) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
        smart_resize as smart_resize_of_transformers,
    )

    limits = {
        "factor": factor,
        "min_pixels": low * factor * factor,
        "max_pixels": high * factor * factor,
    }
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(ValueError, match="aspect ratio"):
            smart_resize(height, width, **limits)
        return
    expected = smart_resize_of_transformers(height, width, **limits)
    assert smart_resize(height, width, **limits) == expected


@settings(deadline=None)
@given(st.integers(4, 5000), st.floats(1.0, 60.0), st.floats(0.5, 4.0))
def test_frame_count_is_that_of_qwen_vl_utils(total: int, video_fps: float, fps: float) -> None:
    from qwen_vl_utils.vision_process import smart_nframes

    assert count_frames(total, video_fps, fps=fps) == smart_nframes({"fps": fps}, total, video_fps)


@settings(deadline=None)
@given(st.integers(4, 2000), st.data())
def test_frame_choice_is_that_of_qwen_vl_utils(total: int, data: st.DataObject) -> None:
    import torch

    count = data.draw(st.integers(2, total))
    expected = torch.linspace(0, total - 1, count, dtype=torch.float64).round().long().tolist()
    ours = sample_frame_indices(total, count)
    # An exact half may fall to either side after the division.
    step = (total - 1) / (count - 1)
    for number, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        half = math.isclose(number * step % 1, 0.5, abs_tol=1e-9)
        assert mine == theirs or (half and abs(mine - theirs) == 1)


@settings(deadline=None)
@given(st.integers(1, 384), st.integers(60, 2000), st.integers(60, 2000))
def test_video_size_is_that_of_qwen_vl_utils(pairs: int, height: int, width: int) -> None:
    from qwen_vl_utils.vision_process import smart_resize as smart_resize_of_qwen

    frames, factor, total = 2 * pairs, 28, 3584 * 784
    low, high = 128 * factor**2, 768 * factor**2
    budget = max(min(high, total / frames * 2), int(low * 1.05))
    expected = smart_resize_of_qwen(height, width, factor=factor, min_pixels=low, max_pixels=budget)
    ours = fit_video(
        frames, (height, width), factor=factor, min_pixels=low, max_pixels=high, total_pixels=total
    )
    assert ours == expected
