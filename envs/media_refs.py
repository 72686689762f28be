"""From a sample's media to the frames that a prompt shows, still by reference."""

import functools
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.records import MediaRef
from scenerl.preprocess.decoding import decoder
from scenerl.preprocess.records import DataError, Media, Span
from scenerl.preprocess.resize import count_frames, fit_video, sample_frame_indices, smart_resize

_MAX_FRAME_TOKENS = 768
"""Largest video frame that Qwen-VL takes, in merged patches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaFacts:
    """What a prompt needs to know of a video without reading its pixels."""

    path: str
    frame_indices: tuple[int, ...]
    """Usable frames, in time order."""
    times_s: tuple[float, ...]
    """Seconds since the first frame of the video, one per usable frame."""
    native_size: tuple[int, int]
    """(width, height)."""

    @property
    def duration_s(self) -> float:
        """Time of the last frame plus the usual interval between frames."""
        return self.times_s[-1] + self.interval_s

    @property
    def interval_s(self) -> float:
        """Median time between neighbouring frames; 0 for a single frame."""
        steps = [after - before for before, after in itertools.pairwise(self.times_s)]
        return statistics.median(steps) if steps else 0.0


def media_facts(media: Media, data_root: str | Path) -> MediaFacts:
    """Look up the usable frames of a sample's media; remembered per video.

    Args:
        media: The sample's media.
        data_root: Folder that the media's paths are relative to.

    Returns:
        The facts, cut to `media.frame_indices` when the sample names its frames.

    Raises:
        DataError: When the media names no file, or a frame that the video does not have.
    """
    name = media.scene if media.scene is not None else media.video
    if name is None:
        raise DataError("a sample's media names neither a scene nor a video; give one of the two")
    facts = _facts(str(Path(data_root) / name))
    if media.frame_indices is None:
        return facts
    position = {index: at for at, index in enumerate(facts.frame_indices)}
    missing = [index for index in media.frame_indices if index not in position]
    if missing:
        raise DataError(
            f"{facts.path} has no usable frame {missing[0]} ({len(facts.frame_indices)} usable "
            f"frames, {facts.frame_indices[0]}..{facts.frame_indices[-1]}); correct the sample's "
            "frame_indices"
        )
    return MediaFacts(
        path=facts.path,
        frame_indices=media.frame_indices,
        times_s=tuple(facts.times_s[position[index]] for index in media.frame_indices),
        native_size=facts.native_size,
    )


@functools.lru_cache(maxsize=4096)
def _facts(path: str) -> MediaFacts:
    found = decoder().facts(path)
    if not found.frame_indices:
        raise DataError(f"{path} has no usable frame; `launch preprocess` says why")
    return MediaFacts(
        path=path,
        frame_indices=found.frame_indices,
        times_s=found.times_s,
        native_size=found.native_size,
    )


def video_ref(facts: MediaFacts, config: EnvConfig, family: ModelFamily) -> MediaRef:
    """Choose the frames of a video prompt and their size.

    The frames are spread evenly from the first to the last usable one: `num_frames` of them, or
    as many as `fps` asks for. Their true times travel along. The size follows Qwen's rule for
    `video_min_pixels` per frame and `video_total_pixels` over all of them.
    """
    chosen = _video_frames(facts, config)
    width, height = facts.native_size
    new_height, new_width = fit_video(
        len(chosen),
        (height, width),
        factor=family.factor,
        min_pixels=config.video_min_pixels,
        max_pixels=_MAX_FRAME_TOKENS * family.factor**2,
        total_pixels=config.video_total_pixels,
    )
    return MediaRef(
        kind="video",
        path=facts.path,
        frame_indices=tuple(facts.frame_indices[at] for at in chosen),
        times_s=tuple(facts.times_s[at] for at in chosen),
        native_size=facts.native_size,
        size=(new_width, new_height),
        duration_s=facts.duration_s,
    )


def _video_frames(facts: MediaFacts, config: EnvConfig) -> tuple[int, ...]:
    """Positions of the frames to show; `fps` gives an even number, for patches of two frames."""
    available = len(facts.frame_indices)
    if config.num_frames is not None:
        count = min(config.num_frames, available)
    elif available < 2 or facts.duration_s <= 0:
        count = available
    else:
        video_fps = available / facts.duration_s
        count = count_frames(available, video_fps, fps=config.fps, max_frames=config.max_frames)
    return sample_frame_indices(available, count)


def image_ref(facts: MediaFacts, at: int, config: EnvConfig, family: ModelFamily) -> MediaRef:
    """Make the reference of one frame, resized within the image limits of the config."""
    width, height = facts.native_size
    new_height, new_width = smart_resize(
        height,
        width,
        factor=family.factor,
        min_pixels=config.image_min_pixels,
        max_pixels=config.image_max_pixels,
    )
    return MediaRef(
        kind="image",
        path=facts.path,
        frame_indices=(facts.frame_indices[at],),
        times_s=(facts.times_s[at],),
        native_size=facts.native_size,
        size=(new_width, new_height),
        duration_s=facts.duration_s,
    )


def frames_in_spans(facts: MediaFacts, spans_s: Sequence[Span]) -> list[int]:
    """Return the positions of the usable frames inside any of the spans, ends included.

    A span between two frames gets the frame nearest to its middle, so that a short span, or one
    past the end, still has a frame to look at.
    """
    inside = [
        at
        for at, time_s in enumerate(facts.times_s)
        if any(start <= time_s <= end for start, end in spans_s)
    ]
    if inside or not spans_s:
        return inside
    middle = sum(spans_s[0]) / 2
    return [min(range(len(facts.times_s)), key=lambda at: abs(facts.times_s[at] - middle))]


def spread(candidates: Sequence[int], count: int, offsets: Sequence[float]) -> list[int]:
    """Pick `count` of the candidates, one from each of `count` equal parts of their range.

    Args:
        candidates: What to pick from, in order.
        count: How many; all candidates when there are no more than that.
        offsets: Where in each part, in [0, 1): 0.5 is the middle.
    """
    if len(candidates) <= count:
        return list(candidates)
    width = len(candidates) / count
    return [candidates[int((part + offsets[part]) * width)] for part in range(count)]
