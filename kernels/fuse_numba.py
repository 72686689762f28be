"""The lift in one compiled pass per mask: pixels go straight into voxels, no list of points.

For each marked pixel with usable depth: unproject, transform, find the cell in a hash table, add.
What is added are whole numbers (the offset inside the cell in units of 2^-32 m), so that neither
the order of frames nor the number of threads changes a digit. The torch twins are in
`kernels/fuse.py`. Everything releases the GIL; compiled code is kept beside this file.

A row of pixels goes through short loops, one step each: loops without branches become wide
instructions, and reads that do not wait for each other are under way at once.
"""

from typing import NamedTuple

import numba
import numpy as np

from scenerl.kernels.cells_numba import EMPTY, OFFSET, mix_bits
from scenerl.kernels.masks_numba import row_bounds

SUMS = 8
"""Numbers of a voxel before its words of views."""
UNIT = 2.0**32
"""Steps per metre of the summed offsets: a voxel of 1 m holds 2^31 pixels without overflow."""
_SHIFT = 1.5 * 2.0**52
"""A whole number below 2^51 added to this stands, as it is, in the low bits of the float64."""
_SHIFT_BITS = int(np.float64(_SHIFT).view(np.int64))
_AXIS = (1 << 21) - 1
"""The bits of one axis in a key."""
_BLOCK_AXIS = _AXIS & ~3
_BLOCK_BITS = (_BLOCK_AXIS << 42) | (_BLOCK_AXIS << 21) | _BLOCK_AXIS
_PROBE = 65
MOST_COLUMNS = 8192
"""Of a depth image."""
_COLOR_BITS = 21
_COLOR = (1 << _COLOR_BITS) - 1


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


class Table(NamedTuple):
    """An open-addressing hash table of voxels, which are numbered as they come, from 1."""

    places: np.ndarray  # int32 [power of 2]: number of the voxel at each place, 0 for none
    rows: np.ndarray
    """int64 [room, SUMS + words]: key, offset x, y, z, colour r, g, b, pixels; then bits of views.
    Row 0 is of no voxel."""


def new_table(words: int) -> Table:
    """Return a table without room, for views in so many words of 64; see `make_room`."""
    line = (SUMS + words + 7) // 8 * 8  # a voxel begins with a line of the cache
    return Table(np.zeros(64, np.int32), np.full((1, line), EMPTY, np.int64))


def make_room(table: Table, used: int, more: int) -> Table:
    """Return the table with room for `more` voxels beyond the `used` ones."""
    places, rows = table
    if 1 + used + more > len(rows):
        rows = np.zeros((max(2 * len(rows), 1 + used + more), rows.shape[1]), np.int64)
        rows[: 1 + used] = table.rows[: 1 + used]
    size = len(places)
    while used + more > size / 2:
        size *= 2
    if size > len(places):
        places = np.zeros(size, np.int32)
        place_rows(places, rows, used)
    return Table(places, rows)


@numba.njit(cache=True, nogil=True, inline="always")
def _first_place(key, size):
    """Return where the search of a key begins: cells of 4 x 4 x 4 lie together."""
    inside = ((key >> 38) & 48) | ((key >> 19) & 12) | (key & 3)
    return (mix_bits(key & _BLOCK_BITS) ^ inside) & (size - 1)


@numba.njit(cache=True, nogil=True)
def _place_of(places, rows, key):
    """Return the place of a key, or the empty one where it belongs."""
    place = _first_place(key, len(places))
    while places[place] != 0 and rows[places[place], 0] != key:
        place = (place + _PROBE) & (len(places) - 1)  # odd: it comes to every place
    return place


@numba.njit(cache=True, nogil=True)
def place_rows(places, rows, used):
    """Enter the first `used` voxels into an empty table of places."""
    for voxel in range(1, used + 1):
        places[_place_of(places, rows, rows[voxel, 0])] = voxel


@numba.njit(cache=True, nogil=True)
def add_table(table, used, other, other_used):
    """Add the voxels of another table, for which there is room; returns the number of voxels."""
    places, rows = table
    for k in range(1, other_used + 1):
        row = other.rows[k]
        place = _place_of(places, rows, row[0])
        if places[place] == 0:
            used += 1
            places[place] = used
            rows[used] = row
            continue
        mine = rows[places[place]]
        for column in range(1, SUMS):
            mine[column] += row[column]
        for column in range(SUMS, len(row)):
            mine[column] |= row[column]
    return used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def write_voxels(rows, order, limits, points, colors, counts, views):
    """Write the means of voxels in an order, and the views with a pixel in each."""
    o, b, voxel = limits.origin, limits.base, limits.voxel
    for k in range(len(order)):
        row = rows[order[k]]
        count, key = np.float64(row[7]), row[0]
        for axis in range(3):
            cell = ((key >> (42 - 21 * axis)) & _AXIS) - OFFSET
            points[k, axis] = o[axis] + (cell + b[axis]) * voxel + row[1 + axis] / UNIT / count
            colors[k, axis] = row[4 + axis] / count
        counts[k] = row[7]
        for word in range(views.shape[1]):
            views[k, word] = np.uint64(row[SUMS + word])


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


@numba.njit(cache=True, nogil=True)
def _usable_pixels(line, marked, nearest, limits, z, left_out):
    """Write depth, 1 for pixels that do not count, and which these are, as 0 or -1.

    What counts is marked, usable, and not behind a nearer neighbour.
    """
    near, far, jump = limits.near, limits.far, limits.jump
    for j in range(len(line)):
        d = line[j]
        usable = (d >= near) & (d <= far) & (d > 0) & (d < np.float32(np.inf))
        good = usable & (marked[j] != 0) & (nearest[j] >= d - jump)
        z[j] = np.float64(d if good else np.float32(1))
        left_out[j] = np.int64(0) if good else np.int64(-1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _place_pixels(z, ray_x, ray_y, camera, limits, out):
    """Write cell, plus _SHIFT (rows 0 to 2), and offset in it, in whole steps (rows 3 to 5).

    One array for all six: the compiler has to know that they do not overlap, or it takes one pixel
    at a time.
    """
    r, t, o, voxel, b = camera.rotation, camera.centre, limits.origin, limits.voxel, limits.base
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, t0, t1, t2 = r[2, 0], r[2, 1], r[2, 2], t[0], t[1], t[2]
    o0, o1, o2, b0, b1, b2 = o[0], o[1], o[2], OFFSET - b[0], OFFSET - b[1], OFFSET - b[2]
    for j in range(len(z)):
        x, y = ray_x[j] * z[j], ray_y * z[j]
        px = r00 * x + r01 * y + r02 * z[j] + t0
        py = r10 * x + r11 * y + r12 * z[j] + t1
        pz = r20 * x + r21 * y + r22 * z[j] + t2
        cx, cy = np.floor((px - o0) / voxel), np.floor((py - o1) / voxel)
        cz = np.floor((pz - o2) / voxel)
        out[0, j], out[1, j], out[2, j] = cx + b0 + _SHIFT, cy + b1 + _SHIFT, cz + b2 + _SHIFT
        out[3, j] = np.rint((px - (o0 + cx * voxel)) * UNIT)
        out[4, j] = np.rint((py - (o1 + cy * voxel)) * UNIT)
        out[5, j] = np.rint((pz - (o2 + cz * voxel)) * UNIT)


@numba.njit(cache=True, nogil=True)
def _make_keys(bits, left_out, keys):
    """Write the key of each pixel's cell, -1 for pixels left out; tells whether all have one."""
    far = np.int64(0)
    for j in range(len(keys)):
        x, y, z = bits[0, j] ^ _SHIFT_BITS, bits[1, j] ^ _SHIFT_BITS, bits[2, j] ^ _SHIFT_BITS
        far |= ((x | y | z) & ~_AXIS) & ~left_out[j]
        keys[j] = ((x & _AXIS) << 42) | ((y & _AXIS) << 21) | (z & _AXIS) | left_out[j]
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
def _sum_offsets(placed, x_until, y_until, z_until):
    """Write, at j + 1, the sums over the first j + 1 pixels: whole numbers below 2^53, exact."""
    px, py, pz, x, y, z = placed[3], placed[4], placed[5], 0.0, 0.0, 0.0
    to_x, to_y, to_z = x_until[1:], y_until[1:], z_until[1:]
    for j in range(len(px)):
        x, y, z = x + px[j], y + py[j], z + pz[j]
        to_x[j], to_y[j], to_z[j] = x, y, z


@numba.njit(cache=True, nogil=True)
def _sum_colors(image_row, image_columns, until):
    """Write, at j + 1, the sums over the first j + 1 pixels, the three colours in one number.

    Each takes _COLOR_BITS, which is room for MOST_COLUMNS pixels.
    """
    total, to = np.int64(0), until[1:]
    for j in range(len(image_columns)):
        u = image_columns[j]
        red, green, blue = image_row[u, 0], image_row[u, 1], image_row[u, 2]
        green_blue = (np.int64(green) << _COLOR_BITS) | (np.int64(blue) << (2 * _COLOR_BITS))
        total += np.int64(red) | green_blue
        to[j] = total


@numba.njit(cache=True, nogil=True)
def _find_voxels(table, used, keys, first, missed, voxels):
    """Write the voxel of each run, new ones included; returns the number of voxels.

    Nearly all are at the first place that is looked at. The others are listed and searched after.
    """
    places, rows = table
    for run in range(len(first)):
        voxels[run] = places[_first_place(keys[first[run]], len(places))]
    count = 0
    for run in range(len(first)):
        missed[count] = run
        count += rows[voxels[run], 0] != keys[first[run]]
    for k in range(count):
        key = keys[first[missed[k]]]
        place = _place_of(places, rows, key)
        if places[place] == 0:
            used += 1
            places[place], rows[used, 0] = used, key
        voxels[missed[k]] = places[place]
    return used


@numba.njit(cache=True, nogil=True)
def _add_runs(rows, voxels, first, end, x_until, y_until, z_until, colors, view):
    """Add the sums of runs of pixels to their voxels; `colors` has no rows for none."""
    word, bit = SUMS + (view >> 6), np.int64(1) << np.int64(view & 63)
    for run in range(len(first)):
        row, a, b = rows[voxels[run]], first[run], end[run]
        row[1] += np.int64(x_until[b] - x_until[a])
        row[2] += np.int64(y_until[b] - y_until[a])
        row[3] += np.int64(z_until[b] - z_until[a])
        if len(colors):
            color = colors[b] - colors[a]
            row[4] += color & _COLOR
            row[5] += (color >> _COLOR_BITS) & _COLOR
            row[6] += color >> (2 * _COLOR_BITS)
        row[7] += b - a
        row[word] |= bit


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
    z, left_out, placed = np.empty(columns), np.empty(columns, np.int64), np.empty((6, columns))
    bits, keys, room = placed.view(np.int64), np.empty(columns, np.int64), columns + 1
    first, end = np.empty(room, np.int64), np.empty(room, np.int64)
    voxels, missed = np.empty(room, np.int64), np.empty(room, np.int64)
    sum_x, sum_y, sum_z = np.zeros(room), np.zeros(room), np.zeros(room)
    sum_color = np.zeros(room if len(image) else 0, np.int64)
    for i in range(mask.shape[0]):
        begin, stop = row_bounds(mask, i)
        count, v, left = stop - begin, cut.top + i, cut.left + begin
        if count == 0:
            continue
        if limits.jump > 0:
            _nearest_around(depth, v, left, limits, above[: count + 2], nearest[:count])
        line, z_now, out_now = depth[v, left : left + count], z[:count], left_out[:count]
        _usable_pixels(line, mask[i, begin:stop], nearest[:count], limits, z_now, out_now)
        ray_y = (v - camera.cy) / camera.fy
        _place_pixels(z_now, ray_x[begin:stop], ray_y, camera, limits, placed)
        if not _make_keys(bits, out_now, keys[:count]):
            return -1
        runs = _find_runs(keys[:count], first, end)
        _sum_offsets(placed[:, :count], sum_x, sum_y, sum_z)
        if len(image):
            columns_now = colors.column[left : left + count]
            _sum_colors(image[colors.row[v]], columns_now, sum_color)
        used = _find_voxels(table, used, keys, first[:runs], missed, voxels)
        _add_runs(
            table.rows, voxels, first[:runs], end[:runs], sum_x, sum_y, sum_z, sum_color, view
        )
    return used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _lower_to(z, left_out, ray_x, ray_y, camera, lowest):
    """Lower the coordinates in each column of a patch to those of a row's points."""
    r, t = camera.rotation, camera.centre
    for k in range(3):
        rx, ry, rz, tk, low = r[k, 0], r[k, 1], r[k, 2], t[k], lowest[k]
        for j in range(len(z)):
            point = rx * (ray_x[j] * z[j]) + ry * (ray_y * z[j]) + rz * z[j] + tk
            point = point if left_out[j] == 0 else np.inf
            low[j] = point if point < low[j] else low[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def lowest_cut(depth, cut, camera, limits, lowest):
    """Lower `lowest` to the smallest coordinates of a patch's points."""
    mask, columns, ray_x = cut.mask, cut.mask.shape[1], _rays(cut, camera)
    nearest, low = np.full(columns, np.inf, np.float32), np.full((3, columns), np.inf)
    z, left_out = np.empty(columns), np.empty(columns, np.int64)
    for i in range(mask.shape[0]):
        begin, stop = row_bounds(mask, i)
        count, left = stop - begin, cut.left + begin
        line, z_now, out_now = depth[cut.top + i, left : left + count], z[:count], left_out[:count]
        _usable_pixels(line, mask[i, begin:stop], nearest[:count], limits, z_now, out_now)
        ray_y = (cut.top + i - camera.cy) / camera.fy
        _lower_to(z_now, out_now, ray_x[begin:stop], ray_y, camera, low[:, begin:stop])
    for k in range(3):
        for j in range(columns):
            lowest[k] = min(lowest[k], low[k, j])
