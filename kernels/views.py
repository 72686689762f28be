"""Records of the lift: what a frame shows, where an object is marked, what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """One frame: depth, pose and, when colours are wanted, the colour image."""

    depth_m: np.ndarray
    """float32 [height, width]; 0 or less, or not finite, means none."""
    camera_to_world: np.ndarray
    """float64 [4, 4]."""
    color: np.ndarray | None = None
    """uint8 [color height, color width, 3]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Camera:
    """What the frames of a recording share."""

    intrinsics: np.ndarray
    """float64 [3, 3] of the depth images."""
    size: tuple[int, int]
    """(width, height) of the depth images."""
    color_row: np.ndarray
    """int64 [height]: row of the colour image at each row of depth, -1 outside."""
    color_column: np.ndarray
    """int64 [width]: column of the colour image at each column of depth, -1 outside."""

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        intrinsics: np.ndarray,
        color_size: tuple[int, int] | None = None,
        color_intrinsics: np.ndarray | None = None,
    ) -> Self:
        """Return the camera, with the map to colour images of another size or K.

        Depth and colour share the optical centre, so the map does not depend on depth:
        u' = floor(fx' (u - cx) / fx + cx' + 1/2), and alike for v.
        """
        K = np.asarray(intrinsics, np.float64)
        to = K if color_intrinsics is None else np.asarray(color_intrinsics, np.float64)
        maps = []
        for axis in (1, 0):
            limit = (size if color_size is None else color_size)[axis]
            place = (np.arange(size[axis]) - K[axis, 2]) / K[axis, axis] * to[axis, axis]
            place = np.floor(place + to[axis, 2] + 0.5).astype(np.int64)
            maps.append(np.where((place >= 0) & (place < limit), place, -1))
        return cls(intrinsics=K, size=size, color_row=maps[0], color_column=maps[1])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patch:
    """A mask inside its bounding box, on the grid of the depth images."""

    view: int
    """Position of its frame among the views."""
    top: int
    left: int
    mask: np.ndarray
    """uint8 [rows, columns], 1 where the object is; no rows when it is nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseSettings:
    """Which pixels count, and how coarse the voxels are."""

    voxel_m: float
    min_depth_m: float = 0.0
    max_depth_m: float = float("inf")
    edge_jump_m: float = 0.0
    """A pixel with one of its 8 neighbours nearer by more than this is left out; 0 keeps all."""
    tolerance_m: float | None = 0.05
    """Depth error under which a view still sees a voxel on its surface; None counts no votes."""
    max_vote_views: int | None = None
    """Ask at most so many views of an object, evenly chosen, for their votes; None asks all."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """A corner of the voxel grid in world coordinates."""

    def __post_init__(self) -> None:
        """Refuse a grid without cells."""
        if not self.voxel_m > 0:
            raise ValueError(f"voxel_m is {self.voxel_m}, expected a positive edge in metres")

    def voters(self, patches: Sequence[Patch]) -> list[Patch]:
        """Return the patches of an object whose views are asked for their votes."""
        ordered = sorted(patches, key=lambda patch: patch.view)
        return [] if self.tolerance_m is None else self.spread(ordered)

    def spread(self, ordered: Sequence[T]) -> list[T]:
        """Return at most `max_vote_views` of the items, evenly chosen."""
        most = len(ordered) if self.max_vote_views is None else self.max_vote_views
        if len(ordered) <= most:
            return list(ordered)
        return [ordered[(2 * k + 1) * len(ordered) // (2 * most)] for k in range(most)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Voxels:
    """An object as the means of its pixels in cells of a world grid, in the order of the cells."""

    points: np.ndarray
    """float64 [n, 3], metres."""
    colors: np.ndarray
    """float64 [n, 3]; zeros where no colour was given."""
    counts: np.ndarray
    """int64 [n]: pixels in each voxel."""
    could_see: np.ndarray
    """int64 [n]: views that could see each voxel: in view, and not behind the surface there."""
    marks: np.ndarray
    """int64 [n]: views of these in which the voxel lies on the surface and in the mask."""
    views: np.ndarray
    """uint64 [n, words]: bit `view % 64` of word `view // 64` says that a pixel of `view` is in."""

    def seen_by(self, keep: np.ndarray) -> list[int]:
        """Return the views with a pixel in any of the voxels that bool [n] `keep` marks."""
        words: Any = np.bitwise_or.reduce(self.views[keep], axis=0)
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
        return [int(view) for view in np.flatnonzero(bits)]
