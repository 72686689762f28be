"""Triton kernels for the two passes of `kernels/head_scores.py` over a tile of logits.

One program per token reads its row of the tile, BLOCK logits at a time, with everything that is
known of the row in registers. Rows are contiguous; the last block of a row is masked.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from scenerl.kernels.head_scores import Rows, Running

BLOCK = 1024
"""Logits per step of a program."""


@triton.jit
def _take_tile_kernel(
    logits,
    ids,
    maximum,
    total,
    weighted,
    chosen,
    best,
    start,
    width,
    inverse_t,
    keep: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    first_m, b = tl.load(maximum + row), tl.load(best + row)
    m = first_m
    s = tl.zeros((block,), tl.float32)  # sums of every block-th logit: added up once, at the end
    t = tl.zeros((block,), tl.float32)
    for first in range(0, width, block):
        column = first + tl.arange(0, block)
        used = column < width
        z = tl.load(logits + row * width + column, mask=used, other=float("-inf")).to(tl.float32)
        z = z * inverse_t
        top = tl.max(z, axis=0)
        if top > m:
            best_column = tl.min(tl.where(z == top, column, width), axis=0)  # the first of equals
            b = (start + best_column).to(tl.int64)
        new = tl.maximum(m, top)
        shrink = tl.exp(m - new)
        p = tl.exp(z - new)
        s = s * shrink + p
        t = t * shrink + tl.where(used, p * z, 0.0)
        m = new
    shrink = tl.exp(first_m - m)
    tl.store(maximum + row, m)
    tl.store(total + row, tl.load(total + row) * shrink + tl.sum(s, axis=0))
    tl.store(weighted + row, tl.load(weighted + row) * shrink + tl.sum(t, axis=0))
    tl.store(best + row, b)
    own = tl.load(ids + row) - start
    inside = (own >= 0) & (own < width)
    own_z = tl.load(logits + row * width + own, mask=inside, other=0.0).to(tl.float32)
    tl.store(chosen + row, own_z * inverse_t, mask=inside)
    if keep:
        tl.debug_barrier()  # all have read the chosen logit
        for begin in range(0, width, block):
            place = begin + tl.arange(0, block)
            there = place < width
            logit = tl.load(logits + row * width + place, mask=there, other=0.0).to(tl.float32)
            kept = tl.where(place == own, 0.0, tl.exp(logit * inverse_t - m))
            tl.store(logits + row * width + place, kept, mask=there)


@triton.jit
def _tile_gradient_kernel(
    logits, ids, log_normalizer, entropy, grad_logprob, grad_entropy,
    start, width, inverse_t, block: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    used = column < width
    z = tl.load(logits + row * width + column, mask=used, other=0.0).to(tl.float32) * inverse_t
    log_p = z - tl.load(log_normalizer + row)
    g, e = tl.load(grad_logprob + row), tl.load(grad_entropy + row)
    grad = -tl.exp(log_p) * (g + e * (log_p + tl.load(entropy + row)))
    grad += tl.where(column == tl.load(ids + row) - start, g, 0.0)
    tl.store(logits + row * width + column, grad * inverse_t, mask=used)


def take_tile(
    running: Running, logits: Tensor, ids: Tensor, start: int, temperature: float, *, keep: bool
) -> Tensor | None:
    """Add a tile to what is known; see `head_scores.take_tile`. What is kept is written over it."""
    logits = logits.contiguous()
    tokens, width = logits.shape
    _take_tile_kernel[(tokens,)](
        logits, ids, running.maximum, running.total, running.weighted, running.chosen,
        running.best, start, width, 1.0 / temperature, keep=keep, block=BLOCK,
    )  # fmt: skip
    return logits if keep else None


def tile_gradient(
    logits: Tensor, ids: Tensor, start: int, temperature: float, rows: Rows
) -> Tensor:
    """Return d logits of a tile, written over it; see `head_scores.tile_gradient`."""
    logits = logits.contiguous()
    tokens, width = logits.shape
    grid = (tokens, triton.cdiv(width, BLOCK))
    log_normalizer, entropy, grad_logprob, grad_entropy = rows
    _tile_gradient_kernel[grid](
        logits, ids, log_normalizer, entropy, grad_logprob,
        torch.zeros_like(entropy) if grad_entropy is None else grad_entropy,
        start, width, 1.0 / temperature, block=BLOCK,
    )  # fmt: skip
    return logits
