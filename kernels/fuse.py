"""Masks of many objects in many frames to voxels, and how many frames agree on each of them.

    p = R [(u - cx) z / fx, (v - cy) z / fy, z] + t,  cell = floor((p - origin) / voxel)
    voxel = mean of the marked pixels in a cell

One pass over the marked pixels, then one over (voxel, frame) pairs. On CPUs a compiled pass adds
pixels straight into a hash table (`kernels/fuse_numba.py`), on GPUs Triton does
(`kernels/fuse_triton.py`); the torch twin (`kernels/fuse_torch.py`) is the reference of both. All
three sum offsets inside a cell as whole numbers and give the same voxels to the last digit.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from scenerl.kernels.backend import Backend, choose_backend
from scenerl.kernels.threads import share_out
from scenerl.kernels.views import Camera, FuseSettings, Patch, View, Voxels

Objects: TypeAlias = Sequence[Sequence[Patch]]


def fuse_objects(
    views: Sequence[View],
    objects: Objects,
    camera: Camera,
    settings: FuseSettings,
    device: str = "cpu",
    backend: Backend = "auto",
) -> list[Voxels]:
    """Fuse the masks of every object and count the views that could see and that mark each voxel.

    A view could see a voxel that falls on a pixel with usable depth d at z <= d + tolerance; it
    marks it when the pixel is in the object's patch and |z - d| <= tolerance. A view that looks
    through a voxel could see it and does not mark it: free space is carved. Only views with a patch
    of the object are asked; a patch without rows says that the object is not seen there.

    Args:
        views: Frames, shared by all objects.
        objects: For each object its patches, at most one per view.
        camera: Shared by all views.
        settings: Range, flying pixels, grid and tolerance.
        device: Torch device of the arithmetic.
        backend: "auto" takes numba on "cpu" and Triton elsewhere, and the torch twin where these
            are missing.

    Returns:
        The voxels of each object.

    Raises:
        ValueError: If points lie farther than 2^20 voxels from the first camera.
    """
    chosen = choose_backend(device) if backend == "auto" else backend
    if chosen == "numba":
        from scenerl.kernels.fuse_cpu import fuse_objects_numba

        return fuse_objects_numba(views, objects, camera, settings)
    from scenerl.kernels.fuse_torch import dense_views, fuse_object_torch

    dense = dense_views(views, camera, settings, device)
    if chosen == "triton":
        from scenerl.kernels.fuse_triton import fuse_object_triton

        return [fuse_object_triton(dense, patches, camera, settings) for patches in objects]
    return [fuse_object_torch(dense, patches, camera, settings) for patches in objects]


def lowest_corner(
    views: Sequence[View],
    patches: Sequence[Patch],
    camera: Camera,
    settings: FuseSettings,
    backend: Backend = "auto",
) -> tuple[float, float, float]:
    """Return the smallest coordinates among the points of an object's marked pixels.

    Open3D's voxel grids begin half a voxel below it. Flying pixels count. The answer is (inf, inf,
    inf) where no pixel has depth.
    """
    if (choose_backend("cpu") if backend == "auto" else backend) == "numba":
        from scenerl.kernels.fuse_cpu import lowest_corner_numba

        low = lowest_corner_numba(views, patches, camera, settings)
    else:
        from scenerl.kernels.fuse_torch import dense_views, lowest_corner_torch

        low = lowest_corner_torch(dense_views(views, camera, settings, "cpu"), patches)
    return float(low[0]), float(low[1]), float(low[2])


def cut_patches(
    masks: Mapping[int, np.ndarray], camera: Camera, backend: Backend = "auto"
) -> list[Patch]:
    """Cut the masks of one object, view -> bool [color height, color width], in order of views."""

    def cut(drawn: Iterator[int]) -> list[Patch]:
        return [cut_patch(masks[view], view, camera, backend) for view in drawn]

    patches = itertools.chain.from_iterable(share_out(cut, sorted(masks)))
    return sorted(patches, key=lambda patch: patch.view)


def cut_patch(mask: np.ndarray, view: int, camera: Camera, backend: Backend = "auto") -> Patch:
    """Cut a mask in the size of the colour frames to a box around it on the grid of the depth.

    Args:
        mask: bool [color height, color width], of any memory layout.
        view: Position of its frame among the views.
        camera: Maps depth pixels to colour pixels.
        backend: "torch" does it without numba.
    """
    full = np.ascontiguousarray(mask, bool).view(np.uint8)
    if (choose_backend("cpu") if backend == "auto" else backend) == "numba":
        from scenerl.kernels.fuse_cpu import cut_mask_numba

        return cut_mask_numba(full, view, camera)
    rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    left, right = (int(columns[0]), int(columns[-1]) + 1) if len(rows) else (0, 0)
    v0, v1 = _inside(camera.color_row, top, bottom)
    u0, u1 = _inside(camera.color_column, left, right)
    part = full[camera.color_row[v0:v1]][:, camera.color_column[u0:u1]]
    return Patch(view=view, top=v0, left=u0, mask=np.ascontiguousarray(part))


def _inside(places: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Return the range of depth rows (or columns) that fall into [low, high) of the colour image.

    The map is monotonic and -1 outside, so the range has no holes.
    """
    found = np.flatnonzero((places >= low) & (places < high))
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
