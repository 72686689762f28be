"""Log-prob, entropy and argmax of chosen tokens from hidden states, without their logits.

The logits z = hidden weight^T / T are made for a tile of the vocabulary at a time. Forward keeps,
for each token, the running maximum m, s = sum exp(z - m) and t = sum exp(z - m) z, so that

    log p(id) = z_id - m - log s        entropy = m + log s - t / s

Where the weight is frozen, forward also keeps a = sum over the other tokens of exp(z - m) w, and
with it the gradient of the log-prob, ((1 - p(id)) w_id - a / s) / T: backward only scales it.

Otherwise backward makes each tile again, turns it in place into d z and multiplies it into the
gradients of hidden states and weight; each row of the weight's gradient is made once.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rows = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Per token: log-sum-exp, entropy, gradient of the log-prob, gradient of the entropy if any."""
CPU_TILE, GPU_TILE = 1 << 20, 1 << 27
"""Logits of one tile, which memory holds once or twice: 4 MiB of float32 on a CPU, where larger
ones were no faster, and 256 MiB of bfloat16 on a GPU."""


def head_scores(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    ids: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    *,
    plain: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Score chosen tokens under softmax(hidden weight^T / temperature).

    Products are of the inputs' dtype, everything else is float32. On a GPU the passes over a tile
    are Triton kernels (`kernels/head_scores_triton.py`).

    Args:
        hidden: Outputs of the last layer.
        weight: Of the language-model head, without bias.
        ids: The chosen tokens.
        temperature: Positive.
        plain: Keep to torch's passes on a GPU too.

    Returns:
        Log-probs and entropies in nats, float32, differentiable in hidden states and weight; and
        the most likely tokens.
    """
    ahead = torch.is_grad_enabled() and hidden.requires_grad and not weight.requires_grad
    scores: tuple[Tensor, Tensor, Tensor] = _HeadScores.apply(  # type: ignore[no-untyped-call]
        hidden, weight, ids, temperature, plain, ahead
    )
    return scores


class Running:
    """What is known of each token's softmax after some tiles."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        """Begin with no tile."""
        self.maximum = torch.full((tokens,), float("-inf"), device=device)
        self.total = torch.zeros(tokens, device=device)
        """s = sum exp(z - m)."""
        self.weighted = torch.zeros(tokens, device=device)
        """t = sum exp(z - m) z."""
        self.chosen = torch.zeros(tokens, device=device)
        """z of the chosen token."""
        self.best = torch.zeros(tokens, dtype=torch.int64, device=device)
        """The most likely token, the first of equals."""


def take_tile(
    running: Running, logits: Tensor, ids: Tensor, start: int, temperature: float, *, keep: bool
) -> Tensor | None:
    """Add a tile to what is known.

    Args:
        running: Changed.
        logits: [tokens, tile], not divided by the temperature; may be overwritten.
        ids: The chosen tokens.
        start: First token of the tile.
        temperature: Positive.
        keep: Also return exp(z - m), 0 for the chosen tokens, in the dtype of the logits.
    """
    z = logits.float()
    z = z if temperature == 1.0 else z.div_(temperature)
    top = z.amax(-1)
    (better,) = (top > running.maximum).nonzero(as_tuple=True)
    if len(better) > 0:  # seldom after the first tiles
        rows = z if len(better) == len(z) else z[better]
        running.best[better] = rows.argmax(-1) + start
    inside, column = _columns(ids, start, z.shape[1])
    found = z.gather(1, column[:, None])[:, 0]
    running.chosen = torch.where(inside, found, running.chosen)
    maximum = torch.maximum(running.maximum, top)
    shrink = (running.maximum - maximum).exp()
    p = (z - maximum[:, None]).exp_()
    running.total = running.total * shrink + p.sum(-1)
    running.weighted = running.weighted * shrink + torch.linalg.vecdot(p, z)
    running.maximum = maximum
    if not keep:
        return None
    p[inside, column[inside]] = 0.0
    return p.to(logits.dtype)


def tile_gradient(
    logits: Tensor, ids: Tensor, start: int, temperature: float, rows: Rows
) -> Tensor:
    """Return d logits of a tile: ((onehot - p) g_logprob - p (log p + entropy) g_entropy) / T.

    Args:
        logits: [tokens, tile]; may be overwritten.
        ids: The chosen tokens.
        start: First token of the tile.
        temperature: T.
        rows: What belongs to each token.
    """
    log_normalizer, entropy, grad_logprob, grad_entropy = rows
    z = logits.float()
    z = z if temperature == 1.0 else z.div_(temperature)
    log_p = z.sub_(log_normalizer[:, None])
    factor = grad_logprob[:, None] / temperature
    if grad_entropy is None:
        grad = log_p.exp_().mul_(-factor)
    else:
        p = log_p.exp()
        grad = log_p.add_(entropy[:, None]).mul_(-grad_entropy[:, None] / temperature)
        grad = grad.sub_(factor).mul_(p)
    inside, column = _columns(ids, start, logits.shape[1])
    grad.scatter_add_(1, column[:, None], inside[:, None] * factor)
    return grad.to(logits.dtype)


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        temperature: float,
        plain: bool,
        ahead: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        take, _ = _tile_passes(hidden, plain)
        running = Running(len(hidden), hidden.device)
        pulls = torch.zeros_like(hidden, dtype=torch.float32) if ahead else None
        room = _room(hidden, weight)
        for tile in tiles(hidden, weight):
            maximum = running.maximum.clone()
            logits = _logits(hidden, weight[tile], room)
            p = take(running, logits, ids, tile.start, temperature, keep=ahead)
            if pulls is not None:
                pulls.mul_((maximum - running.maximum).exp_()[:, None])
                _add_product(pulls, p, weight[tile])
        del room
        log_normalizer = running.maximum + running.total.log()
        entropy = log_normalizer - running.weighted / running.total
        logprobs = running.chosen - log_normalizer
        direction = None
        if pulls is not None:  # -expm1: 1 - p(id), exact where it is small
            own = weight[ids].float().mul_(-logprobs.expm1()[:, None])
            direction = own.sub_(pulls.div_(running.total[:, None])).div_(temperature)
        ctx.save_for_backward(hidden, weight, ids, log_normalizer, entropy, direction)
        ctx.temperature, ctx.plain = temperature, plain
        ctx.mark_non_differentiable(running.best)
        ctx.set_materialize_grads(False)
        return logprobs, entropy, running.best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, log_normalizer, entropy, direction = ctx.saved_tensors
        grad_logprob, grad_entropy = grads[:2]
        none = (None, None, None, None)
        if grad_logprob is None and grad_entropy is None:
            return None, None, *none
        if direction is not None and grad_logprob is not None and grad_entropy is None:
            return (direction * grad_logprob[:, None]).to(hidden.dtype), None, *none
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(entropy)
        if grad_entropy is not None:
            grad_entropy = grad_entropy.contiguous()
        rows = (log_normalizer, entropy, grad_logprob.contiguous(), grad_entropy)
        return *_tile_by_tile(ctx, hidden, weight, ids, rows), *none


def _tile_by_tile(
    ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, rows: Rows
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of hidden states and weight from tiles that are made again."""
    _, gradient = _tile_passes(hidden, ctx.plain)
    wants_hidden, wants_weight = ctx.needs_input_grad[:2]
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
    grad_weight = torch.empty_like(weight) if wants_weight else None
    room = _room(hidden, weight)
    for tile in tiles(hidden, weight):
        part = weight[tile]
        logits = _logits(hidden, part, room)
        grad = gradient(logits, ids, tile.start, ctx.temperature, rows)
        if grad_hidden is not None:
            _add_product(grad_hidden, grad, part)
        if grad_weight is not None:
            torch.mm(grad.T, hidden, out=grad_weight[tile])
    return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight


def tiles(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Cut the vocabulary into tiles of a size that suits the device."""
    budget = CPU_TILE if hidden.device.type == "cpu" else GPU_TILE
    step = min(max(64, budget // max(len(hidden), 1)), len(weight))
    return [slice(at, min(at + step, len(weight))) for at in range(0, len(weight), step)]


def _room(hidden: Tensor, weight: Tensor) -> Tensor:
    """Make room for the largest tile, which all of them share."""
    widest = tiles(hidden, weight)[0]
    return hidden.new_empty(len(hidden) * (widest.stop - widest.start))


def _logits(hidden: Tensor, part: Tensor, room: Tensor) -> Tensor:
    """Make a tile of the logits in the room for it."""
    tile = room[: len(hidden) * len(part)].view(len(hidden), len(part))
    return torch.mm(hidden, part.T, out=tile)


def _tile_passes(hidden: Tensor, plain: bool) -> tuple[Any, Any]:
    """Return the two passes over a tile: Triton on a GPU, plain torch elsewhere."""
    if plain or not hidden.is_cuda:
        return take_tile, tile_gradient
    from scenerl.kernels import head_scores_triton

    return head_scores_triton.take_tile, head_scores_triton.tile_gradient


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add in float32 without rounding the product to the inputs' dtype first, where torch can."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.add_(left @ right)


def _columns(ids: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Say which ids stand in a tile, and where; 0 for the others."""
    column = ids - start
    inside = (column >= 0) & (column < width)
    return inside, torch.where(inside, column, 0)
