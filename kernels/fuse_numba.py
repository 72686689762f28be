"""The lift in one compiled pass per mask: pixels go straight into voxels, no list of points.

For each marked pixel with usable depth: unproject, transform, find the cell in a hash table, add.
What is added are whole numbers (the offset inside the cell in units of 2^-32 m), so that neither
the order of frames nor the number of threads changes a digit. The torch twins are in
`kernels/fuse.py`. Everything releases the GIL; compiled code is kept beside this file.

Rows of pixels are collected into batches, which go through short loops, one step each: loops
without branches become wide instructions, reads that do not wait for each other are under way at
once, and the rows that come next are asked for ahead of time.
"""

from typing import NamedTuple

import numba
import numpy as np

from scenerl.kernels.cells_numba import OFFSET
from scenerl.kernels.masks_numba import row_bounds
from scenerl.kernels.prefetch_numba import ask_for_row
from scenerl.kernels.voxels_numba import AXIS, COLOR_BITS, UNIT, add_runs, find_voxels

_SHIFT = 1.5 * 2.0**52
"""A whole number below 2^51 added to this stands, as it is, in the low bits of the float64; what is
added to it is rounded to a whole number."""
_SHIFT_BITS = int(np.float64(_SHIFT).view(np.int64))
MOST_COLUMNS = 8192
"""Of a depth image: no run is longer than a batch, and its colours have to have room."""
_BATCH = 512
"""Pixels, unless a row has more: what is computed for them stays in the second cache."""
_WIDE = 32
"""Pixels that the compiler computes together; what is left over takes one step each."""
_AHEAD = 2
"""Rows between the one that is computed and the one that is asked for."""


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
    base: np.ndarray  # float64 [3]: cell that keys count from


class Colors(NamedTuple):
    """A colour image and where the pixels of depth lie in it."""

    image: np.ndarray  # uint8 [height, width, 3], no rows for none
    row: np.ndarray  # int64 [depth height]
    column: np.ndarray  # int64 [depth width]


@numba.njit(cache=True, nogil=True)
def _nearest_around(depth, v, left, limits, above, out):
    """Write the nearest usable depth of the 3 x 3 pixels around each pixel of a row."""
    height, width = depth.shape
    near, far, inf = limits.near, limits.far, np.float32(np.inf)
    first, last = max(left - 1, 0), min(left + len(out) + 1, width)
    above[0], above[len(out) + 1] = inf, inf
    part, before = above[first - left + 1 : last - left + 1], depth[max(v - 1, 0), first:last]
    here, after = depth[v, first:last], depth[min(v + 1, height - 1), first:last]
    for k in range(len(part)):
        a, b, c = before[k], here[k], after[k]
        a = a if (near <= a) & (a <= far) & (a > 0) else inf
        b = b if (near <= b) & (b <= far) & (b > 0) else inf
        c = c if (near <= c) & (c <= far) & (c > 0) else inf
        a = a if a < b else b
        part[k] = a if a < c else c
    for j in range(len(out)):
        a, b, c = above[j], above[j + 1], above[j + 2]
        a = a if a < b else b
        out[j] = a if a < c else c


class Batch(NamedTuple):
    """Room for the pixels of some rows, and for what is computed of them."""

    capacity: int
    x: np.ndarray  # float64 [room]: points before the camera
    y: np.ndarray
    z: np.ndarray
    left_out: np.ndarray  # int64 [room]: 0 or -1
    cell: np.ndarray  # float64 [6, room]: cell, plus _SHIFT, and steps within it, plus _SHIFT
    keys: np.ndarray  # int64 [room]
    first: np.ndarray  # uint32 [room]: of a run of pixels in one cell
    end: np.ndarray  # uint32 [room]
    voxels: np.ndarray  # uint32 [room]
    missed: np.ndarray  # uint32 [room]
    until: np.ndarray  # int64 [4, room]: sums over the pixels before


@numba.njit(cache=True, nogil=True)
def _widened(count):
    """Return the next number of pixels that leaves nothing over."""
    return (count + _WIDE - 1) // _WIDE * _WIDE


@numba.njit(cache=True, nogil=True)
def _new_batch(columns):
    """Return an empty batch for rows of at most so many pixels."""
    capacity = max(_BATCH, columns)
    room = capacity + _WIDE
    return Batch(
        capacity,
        np.empty(room),
        np.empty(room),
        np.empty(room),
        np.empty(room, np.int64),
        np.empty((6, room)),
        np.empty(room, np.int64),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.zeros((4, room), np.int64),
    )


@numba.njit(cache=True, nogil=True)
def _place_pixels(line, marked, nearest, limits, ray_x, ray_y, x, y, z, left_out):
    """Write where pixels lie before the camera, and which do not count, as 0 or -1.

    What counts is marked, usable, and not behind a nearer neighbour; the others are 1 m away.
    """
    near, far, jump = limits.near, limits.far, limits.jump
    for j in range(len(line)):
        d = line[j]
        usable = (d >= near) & (d <= far) & (d > 0) & (d < np.float32(np.inf))
        good = usable & (marked[j] != 0) & (nearest[j] >= d - jump)
        ahead = np.float64(d if good else np.float32(1))
        x[j], y[j], z[j] = ray_x[j] * ahead, ray_y * ahead, ahead
        left_out[j] = np.int64(0) if good else np.int64(-1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _find_cells(x, y, z, camera, limits, out):
    """Write cell (rows 0 to 2) and steps of 1 / UNIT in it (rows 3 to 5), each plus _SHIFT.

    One array for all six: the compiler has to know that they do not overlap, or it takes one pixel
    at a time.
    """
    r, t, o, voxel, b = camera.rotation, camera.centre, limits.origin, limits.voxel, limits.base
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, t0, t1, t2 = r[2, 0], r[2, 1], r[2, 2], t[0], t[1], t[2]
    o0, o1, o2, b0, b1, b2 = o[0], o[1], o[2], OFFSET - b[0], OFFSET - b[1], OFFSET - b[2]
    for j in range(len(z)):
        px = r00 * x[j] + r01 * y[j] + r02 * z[j] + t0
        py = r10 * x[j] + r11 * y[j] + r12 * z[j] + t1
        pz = r20 * x[j] + r21 * y[j] + r22 * z[j] + t2
        cx, cy = np.floor((px - o0) / voxel), np.floor((py - o1) / voxel)
        cz = np.floor((pz - o2) / voxel)
        out[0, j], out[1, j], out[2, j] = cx + b0 + _SHIFT, cy + b1 + _SHIFT, cz + b2 + _SHIFT
        out[3, j] = (px - (o0 + cx * voxel)) * UNIT + _SHIFT
        out[4, j] = (py - (o1 + cy * voxel)) * UNIT + _SHIFT
        out[5, j] = (pz - (o2 + cz * voxel)) * UNIT + _SHIFT


@numba.njit(cache=True, nogil=True)
def _make_keys(bits, left_out, keys):
    """Write the key of each pixel's cell, -1 for pixels left out; tells whether all have one."""
    far = np.int64(0)
    for j in range(len(keys)):
        x, y, z = bits[0, j] ^ _SHIFT_BITS, bits[1, j] ^ _SHIFT_BITS, bits[2, j] ^ _SHIFT_BITS
        far |= ((x | y | z) & ~AXIS) & ~left_out[j]
        keys[j] = ((x & AXIS) << 42) | ((y & AXIS) << 21) | (z & AXIS) | left_out[j]
    return far == 0


@numba.njit(cache=True, nogil=True)
def _find_runs(keys, first, end):
    """Write where runs of pixels in one cell begin and end; returns how many there are."""
    begun, ended, last = 0, 0, np.int64(-1)
    for j in range(len(keys)):
        key = keys[j]
        first[begun], end[ended] = j, j
        begun += (key != last) & (key >= 0)
        ended += (key != last) & (last >= 0)
        last = key
    if ended < begun:
        end[ended] = len(keys)
    return begun


@numba.njit(cache=True, nogil=True)
def _sum_steps(bits, count, until):
    """Write, at j + 1, the sums of the steps of the first j + 1 pixels."""
    of_x, of_y, of_z, x, y, z = bits[3], bits[4], bits[5], np.int64(0), np.int64(0), np.int64(0)
    to_x, to_y, to_z = until[0, 1:], until[1, 1:], until[2, 1:]
    for j in range(count):
        x += of_x[j] - _SHIFT_BITS
        y += of_y[j] - _SHIFT_BITS
        z += of_z[j] - _SHIFT_BITS
        to_x[j], to_y[j], to_z[j] = x, y, z


@numba.njit(cache=True, nogil=True)
def _sum_colors(image_row, image_columns, total, to):
    """Write the sums over the pixels up to each one of a row, the three colours in one number.

    Each takes COLOR_BITS, which is room for the difference of two sums a batch apart.
    """
    for j in range(len(image_columns)):
        u = np.uint64(image_columns[j])
        red, green, blue = image_row[u, 0], image_row[u, 1], image_row[u, 2]
        green_blue = (np.int64(green) << COLOR_BITS) | (np.int64(blue) << (2 * COLOR_BITS))
        total += np.int64(red) | green_blue
        to[j] = total
    return total


@numba.njit(cache=True, nogil=True)
def _add_batch(batch, count, camera, limits, table, used, view):
    """Add the first pixels of a batch to the voxels; returns their number, -1 when too far."""
    whole = _widened(count)
    batch.left_out[count:whole] = -1
    _find_cells(batch.x[:whole], batch.y[:whole], batch.z[:whole], camera, limits, batch.cell)
    bits = batch.cell.view(np.int64)
    if not _make_keys(bits, batch.left_out[:whole], batch.keys[:whole]):
        return -1
    runs = _find_runs(batch.keys[:count], batch.first, batch.end)
    first, voxels = batch.first[:runs], batch.voxels[:runs]
    _sum_steps(bits, count, batch.until)
    used = find_voxels(table, used, batch.keys, first, batch.missed, voxels)
    add_runs(table.rows, voxels, first, batch.end[:runs], batch.until, view)
    return used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _rays(cut, camera):
    """Return x / z of the columns of a patch."""
    ray_x = np.empty(cut.mask.shape[1])
    for j in range(len(ray_x)):
        ray_x[j] = (cut.left + j - camera.cx) / camera.fx
    return ray_x


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fuse_cut(depth, cut, camera, limits, colors, table, used, view):
    """Add the pixels of one patch to the voxels; returns the number of voxels, -1 when too far.

    Between the first and the last marked pixel of a row all are computed.
    """
    mask, image, columns, ray_x = cut.mask, colors.image, cut.mask.shape[1], _rays(cut, camera)
    above, nearest = np.empty(columns + 2, np.float32), np.full(columns, np.inf, np.float32)
    batch, filled, total = _new_batch(columns), 0, np.int64(0)
    for i in range(mask.shape[0]):
        begin, stop = row_bounds(mask, i)
        count, v, left = stop - begin, cut.top + i, cut.left + begin
        if count == 0:
            continue
        if filled + count > batch.capacity:
            used, filled, total = _add_batch(batch, filled, camera, limits, table, used, view), 0, 0
            if used < 0:
                return used
        ask_for_row(depth, v + 1 + _AHEAD, left, left + count)
        # More pixels than are marked, where there are, and overwritten by those of the next row.
        wide = min(_widened(count), columns - begin)
        if limits.jump > 0:
            _nearest_around(depth, v, left, limits, above[: wide + 2], nearest[:wide])
        _place_pixels(
            depth[v, left : left + wide],
            mask[i, begin : begin + wide],
            nearest[:wide],
            limits,
            ray_x[begin : begin + wide],
            (v - camera.cy) / camera.fy,
            batch.x[filled : filled + wide],
            batch.y[filled : filled + wide],
            batch.z[filled : filled + wide],
            batch.left_out[filled : filled + wide],
        )
        if len(image):
            at, to = colors.column[left : left + count], batch.until[3, filled + 1 :]
            ahead = colors.row[min(v + _AHEAD, len(colors.row) - 1)]
            ask_for_row(image, ahead, at[0], at[-1] + 1)
            total = _sum_colors(image[colors.row[v]], at, total, to)
        filled += count
    return _add_batch(batch, filled, camera, limits, table, used, view) if filled else used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _lower_to(x, y, z, left_out, camera, lowest):
    """Lower the coordinates in each column of a patch to those of a row's points."""
    r, t = camera.rotation, camera.centre
    for k in range(3):
        rx, ry, rz, tk, low = r[k, 0], r[k, 1], r[k, 2], t[k], lowest[k]
        for j in range(len(z)):
            point = rx * x[j] + ry * y[j] + rz * z[j] + tk
            point = point if left_out[j] == 0 else np.inf
            low[j] = point if point < low[j] else low[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def lowest_cut(depth, cut, camera, limits, lowest):
    """Lower `lowest` to the smallest coordinates of a patch's points."""
    mask, columns, ray_x = cut.mask, cut.mask.shape[1], _rays(cut, camera)
    nearest, low = np.full(columns, np.inf, np.float32), np.full((3, columns), np.inf)
    x, y, z = np.empty(columns), np.empty(columns), np.empty(columns)
    left_out = np.empty(columns, np.int64)
    for i in range(mask.shape[0]):
        begin, stop = row_bounds(mask, i)
        stop = min(begin + _widened(stop - begin), columns)
        count, v, left = stop - begin, cut.top + i, cut.left + begin
        ask_for_row(depth, v + _AHEAD, left, left + count)
        line, marked, rays = depth[v, left : left + count], mask[i, begin:stop], ray_x[begin:stop]
        xs, ys, zs, out = x[:count], y[:count], z[:count], left_out[:count]
        ray_y = (v - camera.cy) / camera.fy
        _place_pixels(line, marked, nearest[:count], limits, rays, ray_y, xs, ys, zs, out)
        _lower_to(xs, ys, zs, out, camera, low[:, begin:stop])
    for k in range(3):
        for j in range(columns):
            lowest[k] = min(lowest[k], low[k, j])
