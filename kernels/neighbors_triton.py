"""Neighbour searches on GPUs: points are sorted along x, so that most blocks are passed over.

All arithmetic is float64 and without fused multiply-add, as in the twins of `kernels/neighbors.py`
and `kernels/clean.py`. Memory: points float64 [3, n], ascending in x. Runs under TRITON_INTERPRET=1
too.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512
"""Candidates that are looked at together by one warp for one point."""
ROWS, COLUMNS = 32, 64
"""Points and candidates that are compared at once where components are joined."""


@triton.jit
def _take_block(points, count, block, x, y, z, best, BLOCK: tl.constexpr, KEEP: tl.constexpr):
    """Let the squared distances of a block replace the largest kept ones while they are smaller."""
    slot, kept = tl.arange(0, BLOCK), tl.arange(0, KEEP)
    other = block * BLOCK + slot
    there = other < count
    dx = x - tl.load(points + other, mask=there, other=0.0)
    dy = y - tl.load(points + count + other, mask=there, other=0.0)
    dz = z - tl.load(points + 2 * count + other, mask=there, other=0.0)
    gap = tl.where(there, dx * dx + dy * dy + dz * dz, float("inf"))
    nearest, farthest = tl.min(gap, axis=0), tl.max(best, axis=0)
    while nearest < farthest:
        best = tl.where(kept == tl.argmax(best, axis=0), nearest, best)
        gap = tl.where(slot == tl.argmin(gap, axis=0), float("inf"), gap)
        nearest, farthest = tl.min(gap, axis=0), tl.max(best, axis=0)
    return best


@triton.jit
def _nearest_kernel(points, out, count, wanted, BLOCK: tl.constexpr, KEEP: tl.constexpr):
    """Write the squared distances to the nearest points, in any order: float64 [count, wanted]."""
    index = tl.program_id(0)
    x, y = tl.load(points + index), tl.load(points + count + index)
    z, kept = tl.load(points + 2 * count + index), tl.arange(0, KEEP)
    best = tl.where(kept < wanted, float("inf"), -1.0).to(tl.float64)
    block, last = index // BLOCK, tl.cdiv(count, BLOCK) - 1
    best = _take_block(points, count, block, x, y, z, best, BLOCK, KEEP)
    after = block + 1
    gap = tl.load(points + tl.minimum(after * BLOCK, count - 1)) - x
    while (after <= last) & (gap * gap < tl.max(best, axis=0)):
        best = _take_block(points, count, after, x, y, z, best, BLOCK, KEEP)
        after += 1
        gap = tl.load(points + tl.minimum(after * BLOCK, count - 1)) - x
    before = block - 1
    gap = x - tl.load(points + tl.maximum(block * BLOCK - 1, 0))
    while (before >= 0) & (gap * gap < tl.max(best, axis=0)):
        best = _take_block(points, count, before, x, y, z, best, BLOCK, KEEP)
        before -= 1
        gap = x - tl.load(points + tl.maximum(before * BLOCK + BLOCK - 1, 0))
    tl.store(out + index.to(tl.int64) * wanted + kept, best, mask=kept < wanted)


@triton.jit
def _join_kernel(
    points, label, changed, numbers, count,
    CLOSED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Lower the label of each point, and of the point it names, to the lowest one near by."""
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = index < count
    x = tl.load(points + index, mask=exists, other=float("inf"))
    y = tl.load(points + count + index, mask=exists, other=0.0)
    z = tl.load(points + 2 * count + index, mask=exists, other=0.0)
    mine = tl.load(label + index, mask=exists, other=0)
    radius, limit = tl.load(numbers), tl.load(numbers + 1)
    lowest = mine
    # Candidates: from the first block that reaches x - radius to the last that begins before
    # x + radius. Points after this block look back at it, and it looks back at those before.
    low = tl.min(x, axis=0) - radius
    block = tl.program_id(0) * ROWS // COLUMNS
    reaches = tl.full([], True, tl.int1)
    while reaches:
        other = block * COLUMNS + tl.arange(0, COLUMNS)
        there = other < count
        other_x = tl.load(points + other, mask=there, other=float("-inf"))
        dx = x[:, None] - other_x[None, :]
        dy = y[:, None] - tl.load(points + count + other, mask=there, other=0.0)[None, :]
        dz = z[:, None] - tl.load(points + 2 * count + other, mask=there, other=0.0)[None, :]
        gap = dx * dx + dy * dy + dz * dz
        near = (gap <= limit) if CLOSED else (gap < limit)
        near = near & exists[:, None] & there[None, :]
        theirs = tl.load(label + other, mask=there, other=0)
        best = tl.min(tl.where(near, theirs[None, :], 2147483647), axis=1)
        lowest = tl.minimum(lowest, best)
        # Both sides of a pair learn from it.
        down = tl.min(tl.where(near, lowest[:, None], 2147483647), axis=0)
        lower = there & (down < theirs)
        if tl.max(lower.to(tl.int32), axis=0) > 0:
            tl.atomic_min(label + other, down, mask=lower, sem="relaxed")
            tl.atomic_min(label + theirs, down, mask=lower, sem="relaxed")
            tl.atomic_max(changed, 1, sem="relaxed")
        begin = tl.load(points + block * COLUMNS)
        reaches = (block > 0) & (begin >= low)
        block -= 1
    lower = exists & (lowest < mine)
    if tl.max(lower.to(tl.int32), axis=0) > 0:
        tl.atomic_min(label + index, lowest, mask=lower, sem="relaxed")
        tl.atomic_min(label + mine, lowest, mask=lower, sem="relaxed")
        tl.atomic_max(changed, 1, sem="relaxed")


@triton.jit
def _follow_kernel(label, count, BLOCK: tl.constexpr):
    """Let each label name a point a few steps down its chain."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = index < count
    name = tl.load(label + index, mask=exists, other=0)
    for _ in tl.static_range(6):
        name = tl.load(label + name, mask=exists, other=0)
    tl.store(label + index, name, mask=exists)


def nearest_distances_triton(points: Tensor, count: int) -> Tensor:
    """Return the distances to the `count` nearest points; see `kernels/neighbors.py`."""
    ordered, order = _along_x(points)
    out = torch.empty(len(points), count, dtype=torch.float64, device=points.device)
    _nearest_kernel[(len(points),)](
        ordered, out, len(points), count, BLOCK=BLOCK, KEEP=triton.next_power_of_2(count),
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    result = torch.empty_like(out)
    result[order] = out.sqrt().sort(dim=1).values
    return result.to(points.dtype)


def components_triton(points: Tensor, radius_m: float, closed: bool) -> Tensor:
    """Return the smallest index of a point in each point's component; see `kernels/clean.py`."""
    (ordered, order), count = _along_x(points), len(points)
    label = torch.arange(count, dtype=torch.int32, device=points.device)
    numbers = torch.tensor([radius_m, radius_m**2], dtype=torch.float64).to(points.device)
    changed = torch.ones(1, dtype=torch.int32, device=points.device)
    while int(changed):
        changed.zero_()
        _join_kernel[(triton.cdiv(count, ROWS),)](
            ordered, label, changed, numbers, count, CLOSED=closed, ROWS=ROWS, COLUMNS=COLUMNS,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        _follow_kernel[(triton.cdiv(count, BLOCK),)](label, count, BLOCK=BLOCK, num_warps=4)
    root = label.long()
    first = torch.full((count,), count, device=points.device).scatter_reduce(0, root, order, "amin")
    result = torch.empty_like(order)
    result[order] = first[root]
    return result


def _along_x(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points as float64 [3, n], ascending in x, and their indices."""
    order = points[:, 0].argsort()
    return points.double()[order].T.contiguous(), order
