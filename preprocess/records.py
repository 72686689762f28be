"""Records that leave preprocessing: where the pixels are, what is asked, what is true.

Records carry paths, frame indices and numbers, never pixels.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Box2D: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of a stated grid; x1 and y1 are exclusive edges."""

Box3D: TypeAlias = tuple[float, float, float, float, float, float]
"""(xmin, ymin, zmin, xmax, ymax, zmax) in metres, world axes."""

Span: TypeAlias = tuple[float, float]
"""(start, end) in seconds since the first frame of the video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One annotated object of a scene."""

    object_id: int
    """Value of the object's pixels in the instance images; positive."""
    label: str
    box_world: Box3D | None
    attributes: dict[str, str] = field(default_factory=dict)
    """For example {"color": "red"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """What the policy looks at: a video or images, by reference."""

    kind: Literal["video", "image"]
    scene: str | None = None
    """Scene folder, relative to the data root."""
    video: str | None = None
    """Video or image file, relative to the data root; used when there is no scene folder."""
    frame_indices: tuple[int, ...] | None = None
    """Frames to use; None leaves the choice to the env."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is true about a sample. A field is None when the data set does not say."""

    spans_s: tuple[Span, ...] | None = None
    """When the thing asked about can be seen."""
    boxes_px: dict[int, Box2D] | None = None
    """Frame index -> box in pixels of the native colour frame."""
    box_world: Box3D | None = None
    object_id: int | None = None
    object_ids: tuple[int, ...] | None = None
    """All objects that are meant; empty when none in the scene is."""
    boxes_world: tuple[Box3D, ...] | None = None
    """The boxes of all of them, where each has one."""
    label: str | None = None
    answers: tuple[str, ...] | None = None
    completion: str | None = None
    """A reply to be trained on as it is, thoughts and all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One dataset row."""

    sample_id: str
    dataset: str
    split: str
    question: str
    """A referring expression ("the red chair") for grounding, a question for question answering."""
    media: Media
    target: Target
    scene_id: str | None = None
    kind: str = ""
    """How the query was made: attribute, relation, count, human, ..."""
    provenance: str = ""
    """Where the supervision comes from, for example projected_from_3d_mask; where the signals
    differ, "answers=human; boxes_px=projected_from_3d_mask"."""
    item_id: str = ""
    """The benchmark's id of the item, which predictions and scores share."""
    situation: str = ""
    """Where the one who asks stands, in words."""
    options: tuple[str, ...] | None = None
    """The answers to choose from, with their letters ("A. table")."""


class DataError(ValueError):
    """Data that cannot be used: says what was found, what is expected and what to do."""
