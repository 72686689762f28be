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
    """A hash table of voxels and their sums; rows of all but the first two are voxels."""

    key: np.ndarray  # int64 [power of 2]
    slot: np.ndarray  # int64 [power of 2]: voxel of each key
    cells: np.ndarray  # int64 [room, 3]
    sums: np.ndarray  # int64 [room, 7]: offset x, y, z, colour r, g, b, pixels
    views: np.ndarray  # uint64 [room, words]


def new_table(words: int) -> Table:
    """Return an empty table without room; see `make_room`."""
    return Table(
        key=np.full(1, EMPTY, np.int64),
        slot=np.zeros(1, np.int64),
        cells=np.zeros((0, 3), np.int64),
        sums=np.zeros((0, 7), np.int64),
        views=np.zeros((0, words), np.uint64),
    )


def make_room(table: Table, used: int, more: int) -> Table:
    """Return the table with room for `more` voxels beyond the `used` ones."""
    if used + more <= len(table.cells):
        return table
    room = max(1024, 2 * (used + more))
    size = 1 << int(2 * room - 1).bit_length()
    cells = np.empty((room, 3), np.int64)
    cells[:used] = table.cells[:used]
    sums = np.zeros((room, 7), np.int64)
    sums[:used] = table.sums[:used]
    views = np.zeros((room, table.views.shape[1]), np.uint64)
    views[:used] = table.views[:used]
    key, slot = np.full(size, EMPTY, np.int64), np.zeros(size, np.int64)
    rehash(table.key, table.slot, key, slot)
    return Table(key=key, slot=slot, cells=cells, sums=sums, views=views)


@numba.njit(cache=True, nogil=True, inline="always")
def place_of(keys, key):
    """Return the place of a key, or the empty place where it belongs."""
    place = first_place(key, len(keys))
    while keys[place] != key and keys[place] != EMPTY:
        place = (place + 1) & (len(keys) - 1)
    return place


@numba.njit(cache=True, nogil=True)
def rehash(key, slot, new_key, new_slot):
    """Copy all keys into a larger table."""
    for old in range(len(key)):
        if key[old] != EMPTY:
            place = place_of(new_key, key[old])
            new_key[place], new_slot[place] = key[old], slot[old]


@numba.njit(cache=True, nogil=True)
def mask_bounds(mask):
    """Return (top, bottom, left, right) of the marked pixels, ends exclusive; zeros for none."""
    rows, columns = mask.shape
    top, bottom, left, right = rows, 0, columns, 0
    for i in range(rows):
        found = np.uint8(0)
        for j in range(columns):
            found |= mask[i, j]
        if not found:
            continue
        top, bottom = min(top, i), i + 1
        for j in range(left):
            if mask[i, j]:
                left = j
                break
        for j in range(columns - 1, right - 1, -1):
            if mask[i, j]:
                right = j + 1
                break
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


@numba.njit(cache=True, nogil=True)
def fuse_cut(depth, cut, camera, limits, colors, table, used, view):
    """Add the pixels of one patch to the voxels; returns the number of voxels, -1 when too far.

    Neighbouring pixels mostly share a voxel: the table is asked only where the cell changes.
    Arrays are taken out of the tuples here: inside the loop each would be counted, atomically.
    """
    r, t, o, voxel = camera.rotation, camera.centre, limits.origin, limits.voxel
    mask, image, color_row, color_column = cut.mask, colors.image, colors.row, colors.column
    keys, slots, cells, sums, bits = table.key, table.slot, table.cells, table.sums, table.views
    near, far, jump, base = limits.near, limits.far, limits.jump, limits.base
    word, bit, columns = view >> 6, np.uint64(1) << np.uint64(view & 63), mask.shape[1]
    above, nearest = np.empty(columns + 2, np.float32), np.empty(columns, np.float32)
    slot, kx, ky, kz = EMPTY, 0, 0, 0
    for i in range(mask.shape[0]):
        v = cut.top + i
        ray_y = (v - camera.cy) / camera.fy
        if jump > 0:
            _nearest_around(depth, v, cut.left, limits, above, nearest)
        for j in range(columns):
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
            if slot == EMPTY or ix != kx or iy != ky or iz != kz:
                kx, ky, kz = ix, iy, iz
                dx, dy, dz = ix - base[0], iy - base[1], iz - base[2]
                if max(abs(dx), abs(dy), abs(dz)) >= OFFSET:
                    return -1
                place = place_of(keys, cell_key(dx, dy, dz))
                if keys[place] == EMPTY:
                    keys[place], slots[place] = cell_key(dx, dy, dz), used
                    cells[used, 0], cells[used, 1], cells[used, 2] = ix, iy, iz
                    used += 1
                slot = slots[place]
                bits[slot, word] |= bit
            sums[slot, 0] += np.int64(np.rint((px - (o[0] + ix * voxel)) * UNIT))
            sums[slot, 1] += np.int64(np.rint((py - (o[1] + iy * voxel)) * UNIT))
            sums[slot, 2] += np.int64(np.rint((pz - (o[2] + iz * voxel)) * UNIT))
            if len(image):
                for k in range(3):
                    sums[slot, 3 + k] += image[color_row[v], color_column[u], k]
            sums[slot, 6] += 1
    return used


@numba.njit(cache=True, nogil=True)
def lowest_cut(depth, cut, camera, limits, lowest):
    """Lower `lowest` to the smallest coordinates of a patch's points."""
    r, t, mask = camera.rotation, camera.centre, cut.mask
    near, far = limits.near, limits.far
    for i in range(mask.shape[0]):
        ray_y = (cut.top + i - camera.cy) / camera.fy
        for j in range(mask.shape[1]):
            z32 = depth[cut.top + i, cut.left + j]
            if mask[i, j] and z32 >= near and z32 <= far and z32 > 0 and z32 < np.inf:
                z = np.float64(z32)
                x, y = (cut.left + j - camera.cx) / camera.fx * z, ray_y * z
                for k in range(3):
                    point = r[k, 0] * x + r[k, 1] * y + r[k, 2] * z + t[k]
                    lowest[k] = min(lowest[k], point)


@numba.njit(cache=True, nogil=True)
def merge(table, used, other, other_used, base):
    """Add all voxels of another table with enough room here; returns the number of voxels."""
    keys, slots, cells, sums, bits = table.key, table.slot, table.cells, table.sums, table.views
    from_cells, from_sums, from_bits = other.cells, other.sums, other.views
    for row in range(other_used):
        x, y, z = from_cells[row]
        key = cell_key(x - base[0], y - base[1], z - base[2])
        place = place_of(keys, key)
        if keys[place] == EMPTY:
            keys[place], slots[place] = key, used
            cells[used] = from_cells[row]
            used += 1
        sums[slots[place]] += from_sums[row]
        bits[slots[place]] |= from_bits[row]
    return used


@numba.njit(cache=True, nogil=True)
def vote_cut(depth, cut, camera, limits, points, tolerance, could_see, marks):
    """Add to each point whether this frame could see it, and whether it marks it."""
    height, width = depth.shape
    rotation, centre, mask = camera.rotation, camera.centre, cut.mask
    near, far, rows, columns = limits.near, limits.far, mask.shape[0], mask.shape[1]
    for n in range(len(points)):
        x, y, z = points[n, 0] - centre[0], points[n, 1] - centre[1], points[n, 2] - centre[2]
        ahead = x * rotation[0, 2] + y * rotation[1, 2] + z * rotation[2, 2]
        if not ahead > 1e-9:
            continue
        right = x * rotation[0, 0] + y * rotation[1, 0] + z * rotation[2, 0]
        u = np.floor(right / ahead * camera.fx + camera.cx + 0.5)
        if not 0 <= u < width:
            continue
        down = x * rotation[0, 1] + y * rotation[1, 1] + z * rotation[2, 1]
        v = np.floor(down / ahead * camera.fy + camera.cy + 0.5)
        if not 0 <= v < height:
            continue
        row, column = np.int64(v), np.int64(u)
        surface = depth[row, column]
        if not (near <= surface <= far and 0 < surface < np.inf):
            continue
        if ahead > surface + tolerance:
            continue
        could_see[n] += 1
        row, column = row - cut.top, column - cut.left
        if ahead >= surface - tolerance and 0 <= row < rows and 0 <= column < columns:
            marks[n] += mask[row, column]
