"""Sizes and frames that a Qwen-VL policy sees, by the rules its own processors follow."""

import math


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the size nearest to the given one whose sides are multiples of `factor`.

    The rule of transformers' Qwen2-VL image processor (round half to even; shrink with floor when
    above `max_pixels`, grow with ceil when below `min_pixels`). qwen-vl-utils differs for sides
    shorter than about one factor only.

    Args:
        height: Pixels.
        width: Pixels.
        factor: Patch size times merge size: 28 for Qwen2-VL and 2.5-VL, 32 for 3-VL.
        min_pixels: Fewest pixels of the result.
        max_pixels: Most pixels of the result.

    Returns:
        (height, width).

    Raises:
        ValueError: If a side is not positive, or one is over 200 times the other.
    """
    if height < 1 or width < 1:
        raise ValueError(f"found size {width}x{height}; expected positive sides")
    if max(height, width) / min(height, width) > 200:
        raise ValueError(
            f"aspect ratio of {width}x{height} is above 200; crop the image before resizing"
        )
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def fit_video(
    num_frames: int,
    size: tuple[int, int],
    *,
    factor: int,
    min_pixels: int,
    max_pixels: int,
    total_pixels: int,
) -> tuple[int, int]:
    """Return the size of each frame of a video under a budget for all of them together.

    The rule of qwen-vl-utils: two frames share one temporal patch, so a frame may use
    2 x total / frames pixels, at most `max_pixels` and at least 1.05 x `min_pixels`.

    Args:
        num_frames: Frames that the policy sees.
        size: (height, width) of the stored frames.
        factor: Patch size times merge size.
        min_pixels: Fewest pixels of a frame.
        max_pixels: Most pixels of a frame (Qwen: 768 x factor squared).
        total_pixels: Budget over all frames (Qwen: 115200 x factor squared).

    Returns:
        (height, width) of each resized frame.
    """
    budget = max(min(max_pixels, total_pixels / num_frames * 2), int(min_pixels * 1.05))
    return smart_resize(
        size[0], size[1], factor=factor, min_pixels=min_pixels, max_pixels=int(budget)
    )


def count_frames(
    total_frames: int,
    video_fps: float,
    *,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 768,
) -> int:
    """Return how many frames Qwen-VL takes from a video: `fps` a second, bounded and even.

    Raises:
        ValueError: If the video has fewer than two frames.
    """
    lowest = math.ceil(min_frames / 2) * 2
    highest = math.floor(min(max_frames, total_frames) / 2) * 2
    count = min(max(total_frames / video_fps * fps, lowest), highest, total_frames)
    even = math.floor(count / 2) * 2
    if even < 2:
        raise ValueError(f"found a video of {total_frames} frames; expected at least 2")
    return even


def sample_frame_indices(total_frames: int, count: int) -> tuple[int, ...]:
    """Return `count` frames spread evenly over a video, first and last included.

    Args:
        total_frames: Frames of the video.
        count: How many to take; at most `total_frames`.
    """
    if not 1 <= count <= total_frames:
        raise ValueError(f"found count {count}; expected 1 to {total_frames}, the frames there are")
    if count == 1:
        return (0,)
    step = (total_frames - 1) / (count - 1)
    return tuple(round(number * step) for number in range(count))
