"""The hash table of voxels that the compiled lift adds pixels to, and what it becomes.

A place of the table holds the number of a voxel; voxels are numbered as they come, and a row of
numbers belongs to each. The rows of neighbouring cells are found by neighbouring reads.
"""

from typing import NamedTuple

import numba
import numpy as np

from scenerl.kernels.cells_numba import EMPTY, OFFSET, mix_bits

SUMS = 8
"""Numbers of a voxel before its words of views."""
UNIT = 2.0**32
"""Steps per metre of the summed offsets: a voxel of 1 m holds 2^31 pixels without overflow."""
AXIS = (1 << 21) - 1
"""The bits of one axis in a key."""
_BLOCK_AXIS = AXIS & ~3
_BLOCK_BITS = (_BLOCK_AXIS << 42) | (_BLOCK_AXIS << 21) | _BLOCK_AXIS
_PROBE = 65
COLOR_BITS = 21
"""Of a number that holds the sums of three colours."""
COLOR = (1 << COLOR_BITS) - 1
"""Enough for a run of 8,224 pixels."""


class Table(NamedTuple):
    """An open-addressing hash table of voxels, which are numbered as they come, from 1."""

    places: np.ndarray  # int32 [power of 2]: number of the voxel at each place, 0 for none
    rows: np.ndarray
    """int64 [room, SUMS + words]: key, offset x, y, z, colour r, g, b, pixels; then bits of views.
    Row 0 is of no voxel; rows behind the last voxel's hold anything."""


def new_table(words: int) -> Table:
    """Return a table without room, for views in so many words of 64; see `make_room`."""
    line = (SUMS + words + 7) // 8 * 8  # a voxel begins with a line of the cache
    return Table(np.zeros(64, np.int32), np.full((1, line), EMPTY, np.int64))


def make_room(table: Table, used: int, more: int) -> Table:
    """Return the table with room for `more` voxels beyond the `used` ones."""
    places, rows = table
    if 1 + used + more > len(rows):
        # not zeroed: memory that no voxel needs is never touched
        rows = np.empty((max(4 * len(rows), 1 + used + more), rows.shape[1]), np.int64)
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
def find_voxels(table, used, keys, first, missed, voxels):
    """Write the voxel of each run of pixels, new ones included; returns the number of voxels.

    Nearly all are at the first place that is looked at. The others are listed and searched after.

    Args:
        table: Has room for all of them.
        used: Number of voxels.
        keys: int64 [pixels]: key of each pixel's cell.
        first: uint32 [runs]: first pixel of each run.
        missed: uint32 [runs + 1], overwritten.
        voxels: uint32 [runs], written.
    """
    places, rows = table
    for run in range(len(first)):
        voxels[run] = places[np.uint64(_first_place(keys[first[run]], len(places)))]
    count = 0
    for run in range(len(first)):
        missed[count] = run
        count += rows[voxels[run], 0] != keys[first[run]]
    for k in range(count):
        key = keys[first[missed[k]]]
        place = _place_of(places, rows, key)
        if places[place] == 0:
            used += 1
            rows[used] = 0
            places[place], rows[used, 0] = used, key
        voxels[missed[k]] = places[place]
    return used


@numba.njit(cache=True, nogil=True)
def add_runs(rows, voxels, first, end, until, view):
    """Add runs of pixels to their voxels, and the view to those that these have been seen in.

    Args:
        rows: Of the table.
        voxels: uint32 [runs]. Numbers without a sign need no care for negative ones: so the row is
            read, added to and written as a whole.
        first: uint32 [runs]: first pixel of each run.
        end: uint32 [runs]: the pixel behind it.
        until: int64 [4, pixels + 1]: sums over the pixels before each one, of the offsets x, y, z
            and of the colours, three in a number.
        view: Where the pixels are from.
    """
    word, bit = np.uint64(SUMS + (view >> 6)), np.int64(1) << np.int64(view & 63)
    x_until, y_until, z_until, color_until = until[0], until[1], until[2], until[3]
    for run in range(len(first)):
        voxel, a, b = voxels[run], first[run], end[run]
        color, count = color_until[b] - color_until[a], np.int64(b) - np.int64(a)
        red, green = color & COLOR, (color >> COLOR_BITS) & COLOR
        x = rows[voxel, 1] + (x_until[b] - x_until[a])
        y = rows[voxel, 2] + (y_until[b] - y_until[a])
        z = rows[voxel, 3] + (z_until[b] - z_until[a])
        red, green = rows[voxel, 4] + red, rows[voxel, 5] + green
        blue, count = rows[voxel, 6] + (color >> (2 * COLOR_BITS)), rows[voxel, 7] + count
        rows[voxel, 1], rows[voxel, 2], rows[voxel, 3], rows[voxel, 4] = x, y, z, red
        rows[voxel, 5], rows[voxel, 6], rows[voxel, 7] = green, blue, count
        rows[voxel, word] |= bit


@numba.njit(cache=True, nogil=True, error_model="numpy")
def write_voxels(rows, order, until, limits, points, colors, counts, views):
    """Write the means of voxels, and the views with a pixel in each.

    Args:
        rows: Of one or several tables.
        order: int64: the rows, those of a voxel one after another.
        until: int64 [n + 1]: where the rows of each voxel begin in `order`, and where the last end.
        limits: The grid.
        points: float64 [n, 3], written.
        colors: float64 [n, 3], written.
        counts: int64 [n], written.
        views: uint64 [n, words], written.
    """
    o, b, voxel, sums = limits.origin, limits.base, limits.voxel, np.empty(SUMS, np.int64)
    for k in range(len(points)):
        key = rows[order[until[k]], 0]
        sums[:], views[k] = 0, 0
        for place in range(until[k], until[k + 1]):
            row = rows[order[place]]
            for column in range(1, SUMS):
                sums[column] += row[column]
            for word in range(views.shape[1]):
                views[k, word] |= np.uint64(row[SUMS + word])
        count = np.float64(sums[7])
        for axis in range(3):
            cell = ((key >> (42 - 21 * axis)) & AXIS) - OFFSET
            points[k, axis] = o[axis] + (cell + b[axis]) * voxel + sums[1 + axis] / UNIT / count
            colors[k, axis] = sums[4 + axis] / count
        counts[k] = sums[7]
