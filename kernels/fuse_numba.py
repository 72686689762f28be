"""The lift in one compiled pass per mask: pixels go straight into voxels, no list of points.

For each marked pixel with usable depth: unproject, transform, find the cell in a hash table, add.
What is added are whole numbers (the offset inside the cell in units of 2^-32 m), so that neither
the order of frames nor the number of threads changes a digit. The torch twins are in
`kernels/fuse.py`. Everything releases the GIL; compiled code is kept beside this file.
"""

from typing import NamedTuple

import numba
import numpy as np

from scenerl.kernels.cells_numba import EMPTY, OFFSET, cell_key, first_place

BLOCK = 512
"""Points that are projected before any pixel is looked up."""
UNIT = 2.0**32
"""Steps per metre of the summed offsets: a voxel of 1 m holds 2^31 pixels without overflow."""


class Pinhole(NamedTuple):
    """K and pose of one frame, as plain numbers."""

    fx: float
    fy: float
    cx: float
    cy: float
    rotation: np.ndarray  # float64 [3, 3], camera to world
    centre: np.ndarray  # float64 [3]


class Cut(NamedTuple):
    """A patch: mask inside its bounding box."""

    mask: np.ndarray  # uint8 [rows, columns]
    top: int
    left: int


class Limits(NamedTuple):
    """Usable depth and the voxel grid."""

    near: np.float32
    far: np.float32
    jump: np.float32  # 0 keeps flying pixels
    voxel: float
    origin: np.ndarray  # float64 [3]
    base: np.ndarray  # int64 [3]: cell that keys count from


class Colors(NamedTuple):
    """A colour image and where the pixels of depth lie in it."""

    image: np.ndarray  # uint8 [height, width, 3], no rows for none
    row: np.ndarray  # int64 [depth height]
    column: np.ndarray  # int64 [depth width]


class Table(NamedTuple):
    """An open-addressing hash table of voxels; a voxel's key and sums share a cache line."""

    rows: np.ndarray  # int64 [power of 2, 8]: key or EMPTY, offset x, y, z, colour r, g, b, pixels
    views: np.ndarray  # uint64 [power of 2, words]


def new_table(words: int) -> Table:
    """Return a table without room; see `make_room`."""
    return Table(np.full((1, 8), EMPTY, np.int64), np.zeros((1, words), np.uint64))


def make_room(table: Table, used: int, more: int) -> Table:
    """Return the table with room for `more` voxels beyond the `used` ones."""
    size = len(table.rows)
    if used + more <= 0.7 * size:
        return table
    while used + more > 0.7 * size:
        size *= 2
    larger = Table(np.zeros((size, 8), np.int64), np.zeros((size, table.views.shape[1]), np.uint64))
    larger.rows[:, 0] = EMPTY
    add_table(larger, 0, table)
    return larger


@numba.njit(cache=True, nogil=True, inline="always")
def place_of(rows, key):
    """Return the row of a key, or the empty one where it belongs."""
    place = first_place(key, len(rows))
    while rows[place, 0] != key and rows[place, 0] != EMPTY:
        place = (place + 1) & (len(rows) - 1)
    return place


@numba.njit(cache=True, nogil=True)
def add_table(table, used, other):
    """Add all voxels of another table, for which there is room; returns the number of voxels."""
    rows, views, from_rows, from_views = table.rows, table.views, other.rows, other.views
    for k in range(len(from_rows)):
        key = from_rows[k, 0]
        if key == EMPTY:
            continue
        place = place_of(rows, key)
        used += rows[place, 0] == EMPTY
        rows[place, 0] = key
        for column in range(1, 8):
            rows[place, column] += from_rows[k, column]
        for word in range(views.shape[1]):
            views[place, word] |= from_views[k, word]
    return used


@numba.njit(cache=True, nogil=True)
def _row_bounds(mask, i):
    """Return (first, end) of the marked pixels of a row; (0, 0) for none."""
    first, end = 0, mask.shape[1]
    while first < end and not mask[i, first]:
        first += 1
    while end > first and not mask[i, end - 1]:
        end -= 1
    return (first, end) if end > first else (0, 0)


@numba.njit(cache=True, nogil=True)
def mask_bounds(mask):
    """Return (top, bottom, left, right) of the entries that are not 0, ends exclusive."""
    rows, columns = mask.shape
    top, bottom, left, right = rows, 0, columns, 0
    for i in range(rows):
        first, end = _row_bounds(mask, i)
        if end > first:
            top, bottom = min(top, i), i + 1
            left, right = min(left, first), max(right, end)
    return (top, bottom, left, right) if bottom else (0, 0, 0, 0)


@numba.njit(cache=True, nogil=True)
def _nearest_around(depth, v, left, limits, above, out):
    """Write the nearest usable depth of the 3 x 3 pixels around each pixel of a row."""
    height, width = depth.shape
    near, far, inf = limits.near, limits.far, np.float32(np.inf)
    first, last = max(left - 1, 0), min(left + len(out) + 1, width)
    above[:] = inf
    for row in range(max(v - 1, 0), min(v + 2, height)):
        for u in range(first, last):
            z = depth[row, u]
            above[u - left + 1] = min(above[u - left + 1], z if near <= z <= far and z > 0 else inf)
    for j in range(len(out)):
        out[j] = min(above[j], min(above[j + 1], above[j + 2]))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fuse_cut(depth, cut, camera, limits, colors, table, used, view):
    """Add the pixels of one patch to the voxels; returns the number of voxels, -1 when too far.

    Neighbouring pixels mostly share a voxel: the table is asked only where the cell changes.
    Arrays are taken out of the tuples here: inside the loop each would be counted, atomically.
    """
    r, t, o, voxel = camera.rotation, camera.centre, limits.origin, limits.voxel
    mask, image, color_row, color_column = cut.mask, colors.image, colors.row, colors.column
    rows, views = table.rows, table.views
    near, far, jump, base = limits.near, limits.far, limits.jump, limits.base
    word, bit, columns = view >> 6, np.uint64(1) << np.uint64(view & 63), mask.shape[1]
    above, nearest = np.empty(columns + 2, np.float32), np.empty(columns, np.float32)
    place, kx, ky, kz = EMPTY, 0, 0, 0
    for i in range(mask.shape[0]):
        v = cut.top + i
        ray_y = (v - camera.cy) / camera.fy
        first, end = _row_bounds(mask, i)
        if jump > 0 and end > first:
            _nearest_around(depth, v, cut.left + first, limits, above, nearest[first:end])
        for j in range(first, end):
            u = cut.left + j
            z32 = depth[v, u]
            if not (mask[i, j] and z32 >= near and z32 <= far and z32 > 0 and z32 < np.inf):
                continue
            if jump > 0 and nearest[j] < z32 - jump:
                continue
            z = np.float64(z32)
            x, y = (u - camera.cx) / camera.fx * z, ray_y * z
            px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]
            py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]
            pz = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2]
            ix = np.int64(np.floor((px - o[0]) / voxel))
            iy = np.int64(np.floor((py - o[1]) / voxel))
            iz = np.int64(np.floor((pz - o[2]) / voxel))
            if place == EMPTY or ix != kx or iy != ky or iz != kz:
                kx, ky, kz = ix, iy, iz
                dx, dy, dz = ix - base[0], iy - base[1], iz - base[2]
                if max(abs(dx), abs(dy), abs(dz)) >= OFFSET:
                    return -1
                key = cell_key(dx, dy, dz)
                place = place_of(rows, key)
                used += rows[place, 0] == EMPTY
                rows[place, 0] = key
                views[place, word] |= bit
            rows[place, 1] += np.int64(np.rint((px - (o[0] + ix * voxel)) * UNIT))
            rows[place, 2] += np.int64(np.rint((py - (o[1] + iy * voxel)) * UNIT))
            rows[place, 3] += np.int64(np.rint((pz - (o[2] + iz * voxel)) * UNIT))
            if len(image):
                for k in range(3):
                    rows[place, 4 + k] += image[color_row[v], color_column[u], k]
            rows[place, 7] += 1
    return used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def lowest_cut(depth, cut, camera, limits, lowest):
    """Lower `lowest` to the smallest coordinates of a patch's points."""
    r, t, mask = camera.rotation, camera.centre, cut.mask
    near, far = limits.near, limits.far
    for i in range(mask.shape[0]):
        ray_y = (cut.top + i - camera.cy) / camera.fy
        first, end = _row_bounds(mask, i)
        for j in range(first, end):
            z32 = depth[cut.top + i, cut.left + j]
            if mask[i, j] and z32 >= near and z32 <= far and z32 > 0 and z32 < np.inf:
                z = np.float64(z32)
                x, y = (cut.left + j - camera.cx) / camera.fx * z, ray_y * z
                for k in range(3):
                    point = r[k, 0] * x + r[k, 1] * y + r[k, 2] * z + t[k]
                    lowest[k] = min(lowest[k], point)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def vote_cut(depth, cut, camera, limits, points, tolerance, could_see, marks):
    """Add to each point whether this frame could see it, and whether it marks it.

    Args as elsewhere, and points float64 [3, n]. A first loop without branches projects a block of
    points, several at once in the processor's wide registers; a second one looks pixels up.
    """
    height, width = depth.shape
    r, fx, fy, u0, v0 = camera.rotation, camera.fx, camera.fy, camera.cx, camera.cy
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, cx, cy, cz = (
        r[2, 0],
        r[2, 1],
        r[2, 2],
        camera.centre[0],
        camera.centre[1],
        camera.centre[2],
    )
    mask = cut.mask
    near, far, rows, columns = limits.near, limits.far, mask.shape[0], mask.shape[1]
    us, vs, zs = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for begin in range(0, points.shape[1], BLOCK):
        count = min(BLOCK, points.shape[1] - begin)
        px, py = points[0, begin : begin + count], points[1, begin : begin + count]
        pz = points[2, begin : begin + count]
        for k in range(count):
            x, y, z = px[k] - cx, py[k] - cy, pz[k] - cz
            ahead = x * r02 + y * r12 + z * r22
            over = ahead if ahead > 1e-9 else np.nan
            zs[k] = ahead
            us[k] = (x * r00 + y * r10 + z * r20) / over * fx + u0 + 0.5
            vs[k] = (x * r01 + y * r11 + z * r21) / over * fy + v0 + 0.5
        for k in range(count):
            if not (us[k] >= 0 and us[k] < width and vs[k] >= 0 and vs[k] < height):
                continue
            row, column, ahead = np.int64(vs[k]), np.int64(us[k]), zs[k]
            surface = depth[row, column]
            if not (surface >= near and surface <= far and surface > 0 and surface < np.inf):
                continue
            if ahead > surface + tolerance:
                continue
            could_see[begin + k] += 1
            row, column = row - cut.top, column - cut.left
            if ahead >= surface - tolerance and 0 <= row < rows and 0 <= column < columns:
                marks[begin + k] += mask[row, column]
