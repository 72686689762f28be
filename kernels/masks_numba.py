"""Where a mask marks anything, compiled: eight or thirty-two pixels are looked at together."""

import numba
import numpy as np

_WIDE = 32
"""Bytes that are looked at together."""


@numba.njit(cache=True, nogil=True)
def _any_marked(line):
    """Tell whether any entry of a line is not 0."""
    found = line[0] ^ line[0]  # a zero of this type; the loop becomes wide instructions
    for k in range(len(line)):
        found |= line[k]
    return found != 0


@numba.njit(cache=True, nogil=True)
def row_bounds(mask, i):
    """Return (first, end) of the marked pixels of a row; (0, 0) for none."""
    line, first, end = mask[i], 0, mask.shape[1]
    while first + _WIDE <= end and not _any_marked(line[first : first + _WIDE]):
        first += _WIDE
    while first < end and not line[first]:
        first += 1
    while end - _WIDE >= first and not _any_marked(line[end - _WIDE : end]):
        end -= _WIDE
    while end > first and not line[end - 1]:
        end -= 1
    return (first, end) if end > first else (0, 0)


@numba.njit(cache=True, nogil=True)
def _mask_bounds(words):
    """Return (top, bottom, left, right) of the entries that are not 0, ends exclusive."""
    top, bottom, seen = len(words), 0, np.zeros_like(words[0])
    for i in range(len(words)):
        line = words[i]
        if _any_marked(line):
            top, bottom = min(top, i), i + 1
            for j in range(len(line)):
                seen[j] |= line[j]
    left, right = 0, len(seen) if bottom else 0
    while left < right and not seen[left]:
        left += 1
    while left < right and not seen[right - 1]:
        right -= 1
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)
def _inside(places, low, high):
    """Return the range of depth rows (or columns) that fall into [low, high) of the colour image.

    The map is monotonic and -1 outside, so the range has no holes.
    """
    first = 0
    while first < len(places) and not low <= places[first] < high:
        first += 1
    last = first
    while last < len(places) and low <= places[last] < high:
        last += 1
    return (first, last) if last > first else (0, 0)


@numba.njit(cache=True, nogil=True)
def cut_mask(words, mask, color_row, color_column):
    """Cut a mask to a box around what it marks, on the grid of the depth.

    Args:
        words: The mask, or the same memory as uint64, so that 8 pixels are looked at once; left and
            right are then multiples of 8 colour pixels.
        mask: uint8 [color height, color width], 1 or 0.
        color_row: int64 [height]: row of the mask at each row of depth.
        color_column: int64 [width].

    Returns:
        (patch, uint8 [rows, columns], top, left).
    """
    top, bottom, left, right = _mask_bounds(words)
    step = mask.shape[1] // words.shape[1]
    v0, v1 = _inside(color_row, top, bottom)
    u0, u1 = _inside(color_column, step * left, step * right)
    patch = np.empty((v1 - v0, u1 - u0), np.uint8)
    for i in range(len(patch)):
        line, columns, out = mask[color_row[v0 + i]], color_column[u0:u1], patch[i]
        if columns[-1] - columns[0] == len(columns) - 1:  # copied an order of magnitude faster
            out[:] = line[columns[0] : columns[-1] + 1]
        else:
            for j in range(len(out)):
                out[j] = line[columns[j]]
    return patch, v0, u0
