"""Records of the benchmarks that ask for boxes: what is true, what was answered."""

from dataclasses import dataclass

from scenerl.preprocess.records import Box3D


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxAnswer:
    """What was predicted for a description."""

    boxes: tuple[Box3D, ...] = ()
    """Where one box is asked for, the first counts."""
    object_id: str | None = None
    """The chosen object, where objects are given."""
    unique: bool | None = None
    """What the prediction file says about the description, as ScanRefer's pred.json does."""
    others: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueBox:
    """The object that a ScanRefer description means."""

    box: Box3D
    unique: bool | None = None
    """Whether it is the only described object of its class in the scene; None when not known."""
    others: bool | None = None
    """Whether its class is none of the 17 named ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferTarget:
    """The object that an utterance of Nr3D or Sr3D means."""

    scene_id: str
    object_id: str
    easy: bool
    """At most one other object of the class."""
    view_dependent: bool
    box: Box3D | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTarget:
    """The objects that a Multi3DRefer description means."""

    boxes: tuple[Box3D, ...]
    eval_type: str
    """One of zt_w_d, zt_wo_d, st_w_d, st_wo_d, mt."""
