"""The lift on CPUs: patches to the compiled kernels, thread by thread, and the tables joined."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from scenerl.kernels.cells_numba import EMPTY, OFFSET
from scenerl.kernels.fuse_numba import (
    MOST_COLUMNS,
    Colors,
    Cut,
    Limits,
    Pinhole,
    fuse_cut,
    lowest_cut,
)
from scenerl.kernels.masks_numba import cut_mask
from scenerl.kernels.threads import even_parts, map_threads, share_out
from scenerl.kernels.views import Camera, FuseSettings, Patch, View, Voxels
from scenerl.kernels.votes_numba import vote_cut
from scenerl.kernels.voxels_numba import Table, make_room, new_table, write_voxels

logger = logging.getLogger(__name__)

Job: TypeAlias = tuple[int, Patch]
"""Number of an object, and one of its patches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """Views and patches in the form that the kernels take."""

    jobs: list[Job]  # in the order of the views
    depths: list[np.ndarray]  # float32 [height, width], one per view
    colors: list[Colors]
    holes: list[Pinhole]
    limits: Limits
    words: int  # of 64 views each

    def arguments(self, patch: Patch) -> tuple[np.ndarray, Cut, Pinhole, Limits]:
        """Return what every kernel is told first."""
        k = patch.view
        return self.depths[k], Cut(patch.mask, patch.top, patch.left), self.holes[k], self.limits


def fuse_objects_numba(
    views: Sequence[View],
    objects: Sequence[Sequence[Patch]],
    camera: Camera,
    settings: FuseSettings,
) -> list[Voxels]:
    """Fuse and count votes; see `kernels/fuse.py: fuse_objects`."""
    compile_kernels()
    return _fuse_objects(views, objects, camera, settings)


def lowest_corner_numba(
    views: Sequence[View], patches: Sequence[Patch], camera: Camera, settings: FuseSettings
) -> np.ndarray:
    """Return the smallest coordinates of the points of an object; see `kernels/fuse.py`."""
    compile_kernels()
    work = _prepare(views, [patches], camera, settings)

    def lowest_of(jobs: Iterator[Job]) -> np.ndarray:
        lowest = np.full(3, np.inf)
        for _, patch in jobs:
            lowest_cut(*work.arguments(patch), lowest)
        return lowest

    lows = [np.full(3, np.inf), *share_out(lowest_of, work.jobs)]
    return np.asarray(np.min(lows, axis=0))


@functools.cache
def compile_kernels() -> None:
    """Compile on the first call on a machine (or load what an earlier one kept) and say so."""
    view = View(
        depth_m=np.ones((2, 2), np.float32),
        camera_to_world=np.eye(4),
        color=np.zeros((2, 2, 3), np.uint8),
    )
    patch = Patch(view=0, top=0, left=0, mask=np.ones((2, 2), np.uint8))
    begin = time.perf_counter()
    camera = Camera.of((2, 2), np.eye(3))
    for width in (8, 9):
        cut_mask_numba(np.ones((2, width), np.uint8), 0, camera)
    _fuse_objects([view], [[patch]], camera, FuseSettings(voxel_m=1.0))
    seconds = time.perf_counter() - begin
    if seconds > 2:
        logger.info("compiled the lift in %.0f s; later starts load it from the cache", seconds)


def cut_mask_numba(mask: np.ndarray, view: int, camera: Camera) -> Patch:
    """Cut a mask, uint8 [color height, color width]; see `kernels/fuse.py: cut_patch`."""
    words = mask if mask.shape[1] % 8 else mask.view(np.uint64)
    patch, top, left = cut_mask(words, mask, camera.color_row, camera.color_column)
    return Patch(view=view, top=top, left=left, mask=patch)


def _prepare(
    views: Sequence[View],
    objects: Sequence[Sequence[Patch]],
    camera: Camera,
    settings: FuseSettings,
) -> _Work:
    if camera.size[0] > MOST_COLUMNS:
        raise ValueError(
            f"depth images are {camera.size[0]} pixels wide; the compiled lift takes at most "
            f"{MOST_COLUMNS}: make them smaller, or take backend torch"
        )
    return _Work(
        jobs=_jobs(objects),
        depths=[np.ascontiguousarray(view.depth_m, np.float32) for view in views],
        colors=[_colors(view, camera) for view in views],
        holes=_pinholes(views, camera),
        limits=_limits(views, settings),
        words=(len(views) + 63) // 64,
    )


def _jobs(objects: Sequence[Sequence[Patch]]) -> list[Job]:
    jobs = [(number, patch) for number, patches in enumerate(objects) for patch in patches]
    return sorted(jobs, key=lambda job: job[1].view)


def _fuse_objects(
    views: Sequence[View],
    objects: Sequence[Sequence[Patch]],
    camera: Camera,
    settings: FuseSettings,
) -> list[Voxels]:
    work = _prepare(views, objects, camera, settings)
    shares = share_out(functools.partial(_fuse_jobs, work), work.jobs)
    clouds = [
        _join([share[number] for share in shares if number in share], work)
        for number in range(len(objects))
    ]
    work = replace(work, jobs=_jobs([settings.voters(patches) for patches in objects]))
    if settings.tolerance_m is not None:
        columns = [np.ascontiguousarray(cloud.points.T) for cloud in clouds]  # [3, voxels]
        vote_jobs = functools.partial(_vote_jobs, work, columns, settings.tolerance_m)
        for votes in share_out(vote_jobs, work.jobs):
            for number, (could_see, marks) in votes.items():
                clouds[number].could_see[:] += could_see
                clouds[number].marks[:] += marks
    return clouds


def _fuse_jobs(work: _Work, jobs: Iterator[Job]) -> dict[int, tuple[Table, int]]:
    """Fuse patches into tables of this thread, one per object."""
    tables: dict[int, tuple[Table, int]] = {}
    for number, patch in jobs:
        table, used = tables.get(number, (new_table(work.words), 0))
        table = make_room(table, used, int(np.count_nonzero(patch.mask)))
        colors = work.colors[patch.view]
        used = fuse_cut(*work.arguments(patch), colors, table, used, patch.view)
        if used < 0:
            reach = OFFSET * work.limits.voxel
            raise ValueError(
                f"points of view {patch.view} lie more than {reach:.0f} m from the first camera; "
                "check the poses and the depth, or take larger voxels"
            )
        tables[number] = (table, used)
    return tables


def _vote_jobs(
    work: _Work, columns: Sequence[np.ndarray], tolerance_m: float, jobs: Iterator[Job]
) -> dict[int, np.ndarray]:
    """Count the votes of views: object -> int32 [could see or marks, voxels]."""
    votes: dict[int, np.ndarray] = {}
    for number, patch in jobs:
        if number not in votes:
            votes[number] = np.zeros((2, columns[number].shape[1]), np.int32)
        vote_cut(*work.arguments(patch), columns[number], tolerance_m, votes[number])
    return votes


def _limits(views: Sequence[View], settings: FuseSettings) -> Limits:
    origin = np.array(settings.origin, np.float64)
    centre = views[0].camera_to_world[:3, 3] if len(views) else origin
    return Limits(
        near=np.float32(settings.min_depth_m),
        far=np.float32(settings.max_depth_m),
        jump=np.float32(settings.edge_jump_m),
        voxel=float(settings.voxel_m),
        origin=origin,
        base=np.floor((centre - origin) / settings.voxel_m),
    )


def _pinholes(views: Sequence[View], camera: Camera) -> list[Pinhole]:
    K = camera.intrinsics
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    poses = np.array([view.camera_to_world for view in views], np.float64).reshape(-1, 4, 4)
    rotations, centres = poses[:, :3, :3].copy(), poses[:, :3, 3].copy()
    return [Pinhole(fx, fy, cx, cy, *one) for one in zip(rotations, centres, strict=True)]


def _colors(view: View, camera: Camera) -> Colors:
    image = np.zeros((0, 0, 3), np.uint8) if view.color is None else view.color
    return Colors(np.ascontiguousarray(image), camera.color_row, camera.color_column)


def _join(shares: Sequence[tuple[Table, int]], work: _Work) -> Voxels:
    """Put the tables of all threads together, in the order of the cells."""
    parts = [table.rows[1 : 1 + used] for table, used in shares or [(new_table(work.words), 0)]]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    keys = rows[:, 0].copy()
    order = np.argsort(keys)
    is_new = np.diff(keys[order], prepend=EMPTY) != 0
    until = np.append(np.flatnonzero(is_new), len(rows))
    count = len(until) - 1
    voxels = Voxels(
        points=np.empty((count, 3)),
        colors=np.empty((count, 3)),
        counts=np.empty(count, np.int64),
        could_see=np.zeros(count, np.int64),
        marks=np.zeros(count, np.int64),
        views=np.empty((count, work.words), np.uint64),
    )
    into = (voxels.points, voxels.colors, voxels.counts, voxels.views)

    def write(part: tuple[int, int]) -> None:
        begin, end = part
        chosen = (array[begin:end] for array in into)
        write_voxels(rows, order, until[begin : end + 1], work.limits, *chosen)

    map_threads(write, even_parts(count, least=4096))
    return voxels
