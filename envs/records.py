"""Records of the tasks: what is asked, what a reply means, what an answer becomes in 3D."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from scenerl.preprocess.records import Box2D, Box3D, Sample, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRef:
    """One image or video of a prompt, already sampled in time and sized, still by reference."""

    kind: Literal["video", "image"]
    path: str
    """Scene folder or video file, absolute or relative to the working directory."""
    frame_indices: tuple[int, ...]
    times_s: tuple[float, ...]
    """True time of each frame, seconds since the first frame of the video."""
    native_size: tuple[int, int]
    """(width, height) of the stored frames."""
    size: tuple[int, int]
    """(width, height) that the policy sees; multiples of patch size x merge size."""
    duration_s: float | None = None
    """Length of the whole video: time of its last frame plus one frame interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What the policy is asked about one sample."""

    prompt_id: str
    """Unique in a run: sample id plus what was chosen (the frame, for image grounding)."""
    sample: Sample
    messages: tuple[dict[str, Any], ...]
    """Chat messages; a content part is {"type": "text", "text": ...}, {"type": "image"} or
    {"type": "video"}."""
    media: tuple[MediaRef, ...]
    """One per image or video part, in order."""
    task: Literal["temporal_grounding", "image_grounding", "video_qa"] = "temporal_grounding"
    """The env that made it, and that parses and scores the replies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanAnswer:
    """Temporal grounding: when."""

    span_s: Span


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxAnswer:
    """Image grounding: where, in pixels of the native frame."""

    box_px: Box2D
    label: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextAnswer:
    """Question answering: what."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseError:
    """A reply that has no usable answer. It is data, not an exception."""

    reason: str
    """Short and countable: "no <answer> block", "start after end", ..."""
    text: str


Answer: TypeAlias = SpanAnswer | BoxAnswer | TextAnswer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiftedObject:
    """An object in metres, from masks through depth and poses."""

    label: str
    points_world: np.ndarray
    """float32 [n, 3], metres."""
    colors: np.ndarray
    """uint8 [n, 3]."""
    box_world: Box3D | None
    """None when no point survived."""
    frame_indices: tuple[int, ...]
    """Frames that contributed points."""
