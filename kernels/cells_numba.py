"""Compiled neighbour searches through a hash grid: the fast side of `kernels/neighbors.py`.

Points are sorted by grid cell; a hash table finds a cell's run of points. All arithmetic is float64
and in the order of the torch twins, so both give the same answers. Everything releases the GIL: the
callers split the points over threads. Compiled code is kept beside this file (`cache=True`).
"""

from typing import NamedTuple

import numba
import numpy as np

EMPTY = -1
RINGS = 2
"""Cells looked at around a point's own, in each direction."""
_TRIES = 4
"""To find a limit that few more values than are wanted are below."""
OFFSET = 1 << 20
"""Cells are counted from -OFFSET to OFFSET - 1 along each axis, 21 bits of a key."""


class Grid(NamedTuple):
    """Points sorted by cell."""

    points: np.ndarray  # float64 [n, 3], sorted by cell
    order: np.ndarray  # int64 [n]: index of each sorted point in the input
    cells: np.ndarray  # int64 [cells, 3]
    start: np.ndarray  # int64 [cells + 1]: first sorted point of each cell
    table: np.ndarray  # int64 [power of 2]: cell of each place of the hash table, or EMPTY
    edge: float  # metres
    lower: np.ndarray  # float64 [3]: corner of the cell (0, 0, 0)


@numba.njit(cache=True, nogil=True, inline="always")
def cell_key(x, y, z):
    """Pack a cell into one number; lexicographic order stays."""
    return ((x + OFFSET) << 42) | ((y + OFFSET) << 21) | (z + OFFSET)


@numba.njit(cache=True, nogil=True, inline="always")
def mix_bits(key):
    """Return a number whose low bits depend on all bits of a key."""
    mixed = key * np.int64(-7046029254386353131)  # 2^64 / golden ratio
    # Low bits of a product know nothing of the high bits of the key, which hold x: fold them in.
    mixed = (mixed ^ (mixed >> 32)) * np.int64(-7046029254386353131)
    return mixed >> 32


@numba.njit(cache=True, nogil=True, inline="always")
def first_place(key, size):
    """Return where the search of a key begins in a table of `size` places."""
    return mix_bits(key) & (size - 1)


@numba.njit(cache=True, nogil=True)
def make_table(keys, size):
    """Place unique keys into an open-addressing table of `size` places."""
    table = np.full(size, EMPTY, np.int64)
    for index in range(len(keys)):
        place = first_place(keys[index], size)
        while table[place] != EMPTY:
            place = (place + 1) & (size - 1)
        table[place] = index
    return table


@numba.njit(cache=True, nogil=True)
def point_keys(points, lower, edge):
    """Return the key of each point's cell."""
    keys = np.empty(len(points), np.int64)
    for i in range(len(points)):
        x = np.int64(np.floor((points[i, 0] - lower[0]) / edge))
        y = np.int64(np.floor((points[i, 1] - lower[1]) / edge))
        z = np.int64(np.floor((points[i, 2] - lower[2]) / edge))
        keys[i] = cell_key(x, y, z)
    return keys


def key_cells(keys: np.ndarray) -> np.ndarray:
    """Return the cells, int64 [n, 3], of keys."""
    low = (1 << 21) - 1
    return np.stack([keys >> 42, (keys >> 21) & low, keys & low], axis=1) - OFFSET


def build_grid(points: np.ndarray, edge: float) -> Grid:
    """Sort points into cells.

    Args:
        points: float64 [n, 3], n > 0.
        edge: Edge of a cell in metres.

    Raises:
        ValueError: If the cloud spans more cells than a key can name.
    """
    lower = np.array([axis.min() for axis in points.T])  # min(axis=0) takes ten times as long
    span = np.array([axis.max() for axis in points.T]) - lower
    if not (span / edge < OFFSET - 8).all():
        raise ValueError(
            f"the cloud spans {span.max():.3g} m, more than {OFFSET} cells of "
            f"{edge:.3g} m (or is not finite); crop it, or take a larger radius"
        )
    keys = point_keys(points, lower, edge)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    unique = ordered[first]
    size = 1 << int(2 * len(unique)).bit_length()
    return Grid(
        points=np.ascontiguousarray(points[order]),
        order=order,
        cells=key_cells(unique),
        start=np.r_[first, len(points)],
        table=make_table(unique, size),
        edge=float(edge),
        lower=lower,
    )


@numba.njit(cache=True, nogil=True, inline="always")
def find_cell(table, cells, x, y, z):
    """Return the number of a cell, EMPTY when no point lies in it."""
    place = first_place(cell_key(x, y, z), len(table))
    while True:
        cell = table[place]
        if cell == EMPTY or (cells[cell, 0] == x and cells[cell, 1] == y and cells[cell, 2] == z):
            return cell
        place = (place + 1) & (len(table) - 1)


@numba.njit(cache=True, nogil=True, inline="always")
def squared_gap(points, i, j):
    """Return the squared distance of two sorted points."""
    dx = points[i, 0] - points[j, 0]
    dy = points[i, 1] - points[j, 1]
    dz = points[i, 2] - points[j, 2]
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True, nogil=True, inline="always")
def _insert(best, count, value):
    """Keep the `count` smallest values in ascending order."""
    k = count - 1
    if value < best[k]:
        while k > 0 and best[k - 1] > value:
            best[k] = best[k - 1]
            k -= 1
        best[k] = value


@numba.njit(cache=True, nogil=True)
def _gather(points, runs, first, last, near, count):
    """Copy the points of runs behind the `count` ones in float64 [5, room]; returns both."""
    total = count
    for run in range(first, last):
        total += runs[run, 1] - runs[run, 0]
    if total > near.shape[1]:
        larger = np.empty((5, 2 * total), np.float64)
        larger[:, :count] = near[:, :count]
        near = larger
    for run in range(first, last):
        for j in range(runs[run, 0], runs[run, 1]):
            near[0, count], near[1, count], near[2, count] = points[j]
            count += 1
    return near, count


@numba.njit(cache=True, nogil=True)
def _count_below(values, limit):
    """Return how many values are below a limit."""
    count = np.int64(0)
    for j in range(len(values)):
        count += np.int64(1) if values[j] < limit else np.int64(0)
    return count


@numba.njit(cache=True, nogil=True)
def _select(near, total, x, y, z, guess, best):
    """Write the smallest squared distances to the gathered points in ascending order.

    A limit with few more values below it than are wanted is found first, from a guess: only these
    have to be put in order.
    """
    px, py, pz, gap, count = near[0, :total], near[1, :total], near[2, :total], near[3], len(best)
    for j in range(len(px)):
        dx, dy, dz = x - px[j], y - py[j], z - pz[j]
        gap[j] = dx * dx + dy * dy + dz * dz
    limit, enough = guess, np.inf
    for _ in range(_TRIES):
        below = _count_below(gap[:total], limit)
        if below >= count:
            enough = limit
            if below <= 1.5 * count:
                break
        limit = limit * (1.2 * count) / max(below, 1)  # on a surface the count grows like that
    found, few = 0, near[4]
    for j in range(total):
        few[found] = gap[j]
        found += gap[j] < enough
    best[:] = np.inf
    if found > 4 * count:  # many are as far away as each other
        for k in range(found):
            _insert(best, count, few[k])
        return
    for k in range(found):
        rank = _count_below(few[:found], few[k])
        if rank < count:
            best[rank] = few[k]
    for k in range(1, min(found, count)):  # of equal ones only the first has been written
        best[k] = best[k] if best[k] < np.inf else best[k - 1]


@numba.njit(cache=True, nogil=True)
def reach_of(points, chosen, count):
    """Return the distance to the `count`-th nearest point of each chosen one, itself included."""
    runs, best, reach = np.zeros((1, 2), np.int64), np.empty(count), np.empty(len(chosen))
    runs[0, 1] = len(points)
    near, total = _gather(points, runs, 0, 1, np.empty((5, len(points))), 0)
    guess = 0.0
    for k in range(len(chosen)):
        x, y, z = points[chosen[k], 0], points[chosen[k], 1], points[chosen[k], 2]
        _select(near, total, x, y, z, guess, best)
        guess = best[count - 1]
        reach[k] = np.sqrt(guess)
    return reach


@numba.njit(cache=True, nogil=True)
def nearest(grid, count, todo, first, last, out):
    """Write the distances to the `count` nearest points where RINGS of cells settle them.

    Looks at points that `todo` marks in the sorted cells [first, last). What is settled is
    unmarked.
    """
    points, order, cells, start, edge = grid.points, grid.order, grid.cells, grid.start, grid.edge
    best, runs = np.empty(count, np.float64), np.empty(((2 * RINGS + 1) ** 3, 2), np.int64)
    table, lower, near, guess = grid.table, grid.lower, np.empty((5, 1024)), edge * edge
    gathered = np.zeros(RINGS + 1, np.int64)
    for cell in range(first, last):
        known = 0
        for i in range(start[cell], start[cell + 1]):
            if not todo[order[i]]:
                continue
            to_side = edge
            for axis in range(3):
                inside = points[i, axis] - lower[axis] - cells[cell, axis] * edge
                to_side = min(to_side, min(inside, edge - inside))
            for ring in range(1, RINGS + 1):
                if known < ring:
                    known = ring
                    begin = _ring(cells, start, table, cell, 0, runs, 0) if ring == 1 else 0
                    end = _ring(cells, start, table, cell, ring, runs, begin)
                    near, gathered[ring] = _gather(points, runs, 0, end, near, gathered[ring - 1])
                x, y, z = points[i, 0], points[i, 1], points[i, 2]
                _select(near, gathered[ring], x, y, z, guess, best)
                reach = (ring * edge + to_side) * (1 - 1e-9)
                if best[count - 1] <= reach * reach:
                    todo[order[i]], guess = False, max(best[count - 1], 1e-6 * edge * edge)
                    for k in range(count):
                        out[order[i], k] = np.sqrt(best[k])
                    break


@numba.njit(cache=True, nogil=True)
def _ring(cells, start, table, cell, ring, runs, found):
    """Add the runs of sorted points, and the steps to them, of the cells `ring` steps away."""
    for dx in range(-ring, ring + 1):
        for dy in range(-ring, ring + 1):
            stride = 1 if max(abs(dx), abs(dy)) == ring else 2 * ring
            for dz in range(-ring, ring + 1, stride):
                x, y, z = cells[cell, 0] + dx, cells[cell, 1] + dy, cells[cell, 2] + dz
                other = find_cell(table, cells, x, y, z)
                if other != EMPTY:
                    runs[found, 0], runs[found, 1] = start[other], start[other + 1]
                    found += 1
    return found


@numba.njit(cache=True, nogil=True)
def nearest_of_all(points, count, todo, out):
    """Write the distances to the `count` nearest points for those that `todo` marks."""
    best = np.empty(count, np.float64)
    for i in range(len(points)):
        if todo[i]:
            best[:] = np.inf
            for j in range(len(points)):
                _insert(best, count, squared_gap(points, i, j))
            for k in range(count):
                out[i, k] = np.sqrt(best[k])


@numba.njit(cache=True, nogil=True)
def _runs_around(cells, start, table, cell, runs):
    """Write the runs of sorted points in a cell and the 26 around it; returns how many."""
    found = _ring(cells, start, table, cell, 0, runs, 0)
    return _ring(cells, start, table, cell, 1, runs, found)


@numba.njit(cache=True, nogil=True)
def count_within(grid, radius, enough, first, last, out):
    """Write how many points, itself included, lie nearer than `radius`; edge >= radius.

    Counting ends with the run of points that brings it to `enough`.
    """
    points, order, cells, start, table = grid.points, grid.order, grid.cells, grid.start, grid.table
    limit, runs = radius * radius, np.empty((27, 2), np.int64)
    for cell in range(first, last):
        found = _runs_around(cells, start, table, cell, runs)
        for i in range(start[cell], start[cell + 1]):
            near = 0
            for run in range(found):
                for j in range(runs[run, 0], runs[run, 1]):
                    near += squared_gap(points, i, j) < limit
                if near >= enough:
                    break
            out[order[i]] = near


@numba.njit(cache=True, nogil=True, inline="always")
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def _touch(points, one, two, limit, closed):
    """Tell whether a point of each of two runs lie within the limit of each other."""
    for i in range(one[0], one[1]):
        for j in range(two[0], two[1]):
            gap = squared_gap(points, i, j)
            if gap < limit or (closed and gap == limit):
                return True
    return False


@numba.njit(cache=True, nogil=True)
def join_cells(grid, radius, closed):
    """Return, for each point, the smallest index of a point that steps of `radius` lead to.

    The grid's diagonal is less than `radius`: points of one cell belong together, and of two cells
    at most two apart only one pair that is near enough has to be found.
    """
    points, order, cells, start = grid.points, grid.order, grid.cells, grid.start
    parent, limit, keys = np.arange(len(cells)), radius * radius, np.empty(len(cells), np.int64)
    for cell in range(len(cells)):
        keys[cell] = cell_key(cells[cell, 0], cells[cell, 1], cells[cell, 2])
    for step in range(12, 25):  # columns of cells along z: this one and those that follow, 5 x 5
        offset = cell_key(step // 5 - 2, step % 5 - 2, 0) - cell_key(0, 0, 0)
        low = 0
        for cell in range(len(cells)):
            while low < len(keys) and keys[low] < keys[cell] + offset - 2:
                low += 1
            other = max(low, cell + 1)
            while other < len(keys) and keys[other] <= keys[cell] + offset + 2:
                one, two = _root(parent, cell), _root(parent, other)
                if one != two:
                    here, there = (start[cell], start[cell + 1]), (start[other], start[other + 1])
                    if _touch(points, here, there, limit, closed):
                        parent[max(one, two)] = min(one, two)
                other += 1
    lowest = np.full(len(cells), len(points))
    label = np.empty(len(points), np.int64)
    for turn in range(2):
        for cell in range(len(cells)):
            root = _root(parent, cell)
            for i in range(start[cell], start[cell + 1]):
                if turn == 0:
                    lowest[root] = min(lowest[root], order[i])
                else:
                    label[order[i]] = lowest[root]
    return label


@numba.njit(cache=True, nogil=True)
def border_labels(grid, radius, core, first, last, label):
    """Give points that are not core the smallest label of a core point nearer than `radius`."""
    points, order, cells, start, table = grid.points, grid.order, grid.cells, grid.start, grid.table
    limit, runs = radius * radius, np.empty((27, 2), np.int64)
    for cell in range(first, last):
        found = EMPTY
        for i in range(start[cell], start[cell + 1]):
            index, best = order[i], EMPTY
            if core[index]:
                continue
            if found == EMPTY:
                found = _runs_around(cells, start, table, cell, runs)
            for run in range(found):
                for j in range(runs[run, 0], runs[run, 1]):
                    near = order[j]
                    better = core[near] and (best == EMPTY or label[near] < best)
                    if better and squared_gap(points, i, j) < limit:
                        best = label[near]
            label[index] = best
