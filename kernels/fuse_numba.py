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
VIEW_SHIFT, MOST_PIXELS = 40, (1 << 40) - 1
"""The last word of a row: pixels, and above them the view (from 1) that was added last."""
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
        for column in range(1, 7):
            rows[place, column] += from_rows[k, column]
        rows[place, 7] += from_rows[k, 7] & MOST_PIXELS
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
    top, bottom, seen = rows, 0, np.zeros_like(mask[:1])
    for i in range(rows):
        line = mask[i]
        found = line[0] ^ line[0]  # a zero of this type; the loop becomes wide instructions
        for j in range(columns):
            found |= line[j]
        if found:
            top, bottom = min(top, i), i + 1
            for j in range(columns):
                seen[0, j] |= line[j]
    if bottom == 0:
        return 0, 0, 0, 0
    left, right = _row_bounds(seen, 0)
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)
def _nearest_around(depth, v, left, limits, above, out):
    """Write the nearest usable depth of the 3 x 3 pixels around each pixel of a row."""
    height, width = depth.shape
    near, far, inf = limits.near, limits.far, np.float32(np.inf)
    first, last = max(left - 1, 0), min(left + len(out) + 1, width)
    above[:] = inf
    part = above[first - left + 1 : last - left + 1]
    for row in range(max(v - 1, 0), min(v + 2, height)):
        line = depth[row, first:last]
        for k in range(len(part)):
            z = line[k]
            z = z if (near <= z) & (z <= far) & (z > 0) else inf
            part[k] = min(part[k], z)
    for j in range(len(out)):
        out[j] = min(above[j], min(above[j + 1], above[j + 2]))


@numba.njit(cache=True, nogil=True)
def _good_pixels(line, marked, nearest, limits, good):
    """Write which pixels of a row count: marked, usable, and not behind a nearer neighbour."""
    near, far, jump = limits.near, limits.far, limits.jump
    for j in range(len(good)):
        z = line[j]
        usable = (z >= near) & (z <= far) & (z > 0) & (z < np.float32(np.inf))
        good[j] = usable & (marked[j] != 0) & (nearest[j] >= z - jump)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _place_pixels(line, ray_x, ray_y, camera, limits, out):
    """Write cell (rows 0 to 2) and offset in it, in whole steps (rows 3 to 5), of each pixel.

    One array for all six: the compiler has to know that they do not overlap, or it takes one pixel
    at a time. What is not usable comes out as anything.
    """
    r, t, o, voxel = camera.rotation, camera.centre, limits.origin, limits.voxel
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, t0, t1, t2 = r[2, 0], r[2, 1], r[2, 2], t[0], t[1], t[2]
    o0, o1, o2 = o[0], o[1], o[2]
    for j in range(len(line)):
        z = np.float64(line[j])
        x, y = ray_x[j] * z, ray_y * z
        px = r00 * x + r01 * y + r02 * z + t0
        py = r10 * x + r11 * y + r12 * z + t1
        pz = r20 * x + r21 * y + r22 * z + t2
        out[0, j] = np.floor((px - o0) / voxel)
        out[1, j] = np.floor((py - o1) / voxel)
        out[2, j] = np.floor((pz - o2) / voxel)
        out[3, j] = np.rint((px - (o0 + out[0, j] * voxel)) * UNIT)
        out[4, j] = np.rint((py - (o1 + out[1, j] * voxel)) * UNIT)
        out[5, j] = np.rint((pz - (o2 + out[2, j] * voxel)) * UNIT)


@numba.njit(cache=True, nogil=True)
def _add_row(good, placed, base, image_row, image_columns, table, used, view):
    """Add the pixels of a row, run by run of one voxel; returns the number of voxels, -1 too far.

    A run's sums are whole numbers below 2^53, exact in float64.
    """
    rows, views, word, bit = (
        table.rows,
        table.views,
        view >> 6,
        np.uint64(1) << np.uint64(view & 63),
    )
    cx, cy, cz, sx, sy, sz = placed[0], placed[1], placed[2], placed[3], placed[4], placed[5]
    colored, count, j = len(image_row) > 0, len(good), 0
    while j < count:
        if not good[j]:
            j += 1
            continue
        first, x, y, z, red, green, blue = j, 0.0, 0.0, 0.0, 0, 0, 0
        kx, ky, kz = cx[j], cy[j], cz[j]
        while j < count and good[j] and cx[j] == kx and cy[j] == ky and cz[j] == kz:
            x, y, z = x + sx[j], y + sy[j], z + sz[j]
            if colored:
                u = image_columns[j]
                red += image_row[u, 0]
                green += image_row[u, 1]
                blue += image_row[u, 2]
            j += 1
        dx, dy, dz = np.int64(kx) - base[0], np.int64(ky) - base[1], np.int64(kz) - base[2]
        if max(abs(dx), abs(dy), abs(dz)) >= OFFSET:
            return -1
        key = cell_key(dx, dy, dz)
        place = place_of(rows, key)
        row = rows[place]
        if row[0] != key:
            row[0], used = key, used + 1
        if row[7] >> VIEW_SHIFT != view + 1:
            row[7] = (row[7] & MOST_PIXELS) | ((view + 1) << VIEW_SHIFT)
            views[place, word] |= bit
        row[1] += np.int64(x)
        row[2] += np.int64(y)
        row[3] += np.int64(z)
        row[4] += red
        row[5] += green
        row[6] += blue
        row[7] += j - first
    return used


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fuse_cut(depth, cut, camera, limits, colors, table, used, view):
    """Add the pixels of one patch to the voxels; returns the number of voxels, -1 when too far.

    Row by row: loops without branches find good pixels, cells and offsets, several at once in the
    processor's wide registers; then runs of pixels in one voxel are added. Between the first and
    the last marked pixel of a row all are computed.
    """
    mask, image, columns = cut.mask, colors.image, cut.mask.shape[1]
    above, nearest = np.empty(columns + 2, np.float32), np.full(columns, np.inf, np.float32)
    good, placed, ray_x = np.empty(columns, np.bool_), np.empty((6, columns)), np.empty(columns)
    for j in range(columns):
        ray_x[j] = (cut.left + j - camera.cx) / camera.fx
    no_color, base, jump = np.empty((0, 3), np.uint8), limits.base, limits.jump
    color_row, color_column = colors.row, colors.column
    for i in range(mask.shape[0]):
        first, end = _row_bounds(mask, i)
        if end <= first:
            continue
        v, left, right = cut.top + i, cut.left + first, cut.left + end
        line, found, around = depth[v, left:right], good[: end - first], nearest[: end - first]
        if jump > 0:
            _nearest_around(depth, v, left, limits, above[: end - first + 2], around)
        _good_pixels(line, mask[i, first:end], around, limits, found)
        ray_y = (v - camera.cy) / camera.fy
        _place_pixels(line, ray_x[first:end], ray_y, camera, limits, placed)
        image_row = image[color_row[v]] if len(image) else no_color
        image_columns = color_column[left:right]
        used = _add_row(found, placed, base, image_row, image_columns, table, used, view)
        if used < 0:
            return -1
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
def _find_pixels(px, py, pz, camera, cut, size, ahead, places):
    """Project a block of points without branches.

    Writes depth along z (infinite where a point falls on no pixel), the place of its pixel in the
    depth image (0 for none), and its place in the patch (-1 for none).
    """
    r, t = camera.rotation, camera.centre
    r00, r01, r02, r10, r11, r12 = r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2]
    r20, r21, r22, t0, t1, t2 = r[2, 0], r[2, 1], r[2, 2], t[0], t[1], t[2]
    fx, fy, u0, v0 = camera.fx, camera.fy, camera.cx, camera.cy
    height, width, top, left = float(size[0]), float(size[1]), float(cut.top), float(cut.left)
    bottom, right = top + cut.mask.shape[0], left + cut.mask.shape[1]
    line, cut_line = np.int32(size[1]), np.int32(cut.mask.shape[1])
    for k in range(len(px)):
        x, y, z = px[k] - t0, py[k] - t1, pz[k] - t2
        depth = x * r02 + y * r12 + z * r22
        front = depth > 1e-9
        over = depth if front else 1.0
        u = np.floor((x * r00 + y * r10 + z * r20) / over * fx + u0 + 0.5)
        v = np.floor((x * r01 + y * r11 + z * r21) / over * fy + v0 + 0.5)
        seen = front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v = (u if seen else 0.0), (v if seen else 0.0)
        ahead[k] = depth if seen else np.inf
        places[0, k] = np.int32(v) * line + np.int32(u)
        cut_in = seen & (u >= left) & (u < right) & (v >= top) & (v < bottom)
        u, v = (u - left if cut_in else 0.0), (v - top if cut_in else 0.0)
        place = np.int32(v) * cut_line + np.int32(u)
        places[1, k] = place if cut_in else np.int32(-1)


@numba.njit(cache=True, nogil=True)
def _look_up(values, places, out):
    """Read values at places: nothing waits for anything, so that many reads are under way."""
    for k in range(len(out)):
        out[k] = values[places[k]]


@numba.njit(cache=True, nogil=True)
def _judge(surface, ahead, limits, tolerance, could_see, agrees):
    """Count the points that could be seen, and write which of them lie on the surface."""
    near, far = limits.near, limits.far
    for k in range(len(surface)):
        s, z = surface[k], ahead[k]
        usable = (s >= near) & (s <= far) & (s > 0) & (s < np.float32(np.inf))
        seen = usable & (z <= np.float64(s) + tolerance)
        could_see[k] += np.int64(1) if seen else np.int64(0)
        on_surface = seen & (z >= np.float64(s) - tolerance)
        agrees[k] = np.int64(1) if on_surface else np.int64(0)


@numba.njit(cache=True, nogil=True)
def vote_cut(depth, cut, camera, limits, points, tolerance, could_see, marks):
    """Add to each point, float64 [3, n], whether this frame could see it, and whether it marks it.

    In blocks that stay in the first cache, a loop for each step.
    """
    flat, mask = depth.reshape(-1), cut.mask.reshape(-1)
    ahead, places = np.empty(BLOCK), np.empty((2, BLOCK), np.int32)
    px, py, pz = points[0], points[1], points[2]
    surface, agrees = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int64)
    for begin in range(0, points.shape[1], BLOCK):
        end = min(begin + BLOCK, points.shape[1])
        x, y, z, seen = px[begin:end], py[begin:end], pz[begin:end], could_see[begin:end]
        _find_pixels(x, y, z, camera, cut, depth.shape, ahead, places)
        _look_up(flat, places[0], surface[: end - begin])
        _judge(surface[: end - begin], ahead, limits, tolerance, seen, agrees)
        marked, place = marks[begin:end], places[1]
        for k in range(end - begin):
            if place[k] >= 0:
                marked[k] += agrees[k] & mask[place[k]]
