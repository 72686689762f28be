"""Attention over one block of keys, with what is needed to join it to attention over others.

Softmax attention over keys that are split into blocks A and B is

    out = (exp(lse_A) out_A + exp(lse_B) out_B) / exp(lse),   lse = log(exp(lse_A) + exp(lse_B))

with lse_X the log-sum-exp of the scaled scores in block X. Backward, each block alone gives its
share when it is told the joined `out` and `lse`: p_ij = exp(s_ij - lse_i) is then already the
probability over all keys (the same identity carries ring attention, arXiv:2310.01889).
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

Grads = tuple[Tensor, Tensor, Tensor]


def attend(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    value: Float[Tensor, "batch kv_heads keys dim"],
    *,
    scale: float,
    causal: bool,
) -> tuple[Float[Tensor, "batch heads queries dim"], Float[Tensor, "batch heads queries"]]:
    """Attend to a block of keys, without gradient.

    Uses torch's flash kernels on a CPU and, in half precision, on a GPU; neither holds the scores.

    Args:
        query: Queries.
        key: Keys; every head of theirs serves heads / kv_heads heads of the queries.
        value: Values.
        scale: Factor of the scores.
        causal: Query i sees keys 0 to i; there are then as many keys as queries.

    Returns:
        The output, and float32 log-sum-exp of the scaled scores.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
            query, key, value, 0.0, causal, scale=scale
        )
    if _has_flash(query):
        key, value = (_for_every_head(x, query.shape[1]) for x in (key, value))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, scale=scale
        )
        return out, lse
    return attend_plain(query, key, value, scale=scale, causal=causal)


def attend_backward(
    grad: Tensor, inputs: Grads, out: Tensor, lse: Tensor, *, scale: float, causal: bool
) -> Grads:
    """Return a block's share of the gradients of query, key and value.

    Args:
        grad: Of the joined output.
        inputs: Query, key and value of the block.
        out: The joined output.
        lse: The joined log-sum-exp.
        scale: As in `attend`.
        causal: As in `attend`.
    """
    query, key, value = inputs
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(  # type: ignore[no-any-return]
            grad, query, key, value, out, lse, 0.0, causal, scale=scale
        )
    if _has_flash(query):
        return _flash_backward(grad, inputs, out, lse, scale=scale, causal=causal)
    return attend_plain_backward(grad, inputs, out, lse, scale=scale, causal=causal)


def attend_plain(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return what `attend` does by its formula, holding all scores."""
    scores = _scores(query, key, scale, causal)
    lse = torch.logsumexp(scores, dim=-1)  # [batch, heads, queries]
    value = _for_every_head(value, query.shape[1])
    out = (scores - lse[..., None]).exp() @ value.float()
    return out.to(query.dtype), lse


def attend_plain_backward(
    grad: Tensor, inputs: Grads, out: Tensor, lse: Tensor, *, scale: float, causal: bool
) -> Grads:
    """Return what `attend_backward` does by its formula: ds = p (dp - sum_j out_j grad_j)."""
    query, key, value = inputs
    heads, kv_heads = query.shape[1], key.shape[1]
    grad, wide_value = grad.float(), _for_every_head(value, heads).float()
    p = (_scores(query, key, scale, causal) - lse[..., None]).exp()
    delta = (grad * out.float()).sum(-1, keepdim=True)
    grad_scores = p * (grad @ wide_value.transpose(2, 3) - delta) * scale
    grad_query = grad_scores @ _for_every_head(key, heads).float()
    grad_key = grad_scores.transpose(2, 3) @ query.float()
    grad_value = p.transpose(2, 3) @ grad
    return (
        grad_query.to(query.dtype),
        _sum_heads(grad_key, kv_heads).to(key.dtype),
        _sum_heads(grad_value, kv_heads).to(value.dtype),
    )


def _flash_backward(
    grad: Tensor, inputs: Grads, out: Tensor, lse: Tensor, *, scale: float, causal: bool
) -> Grads:
    query, key, value = inputs
    heads, kv_heads = query.shape[1], key.shape[1]
    seed, offset = _no_dropout(query.device)
    grad_query, grad_key, grad_value = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad, query, _for_every_head(key, heads), _for_every_head(value, heads), out, lse,
        None, None, query.shape[2], key.shape[2], 0.0, causal, seed, offset, scale=scale,
    )  # fmt: skip
    return grad_query, _sum_heads(grad_key, kv_heads), _sum_heads(grad_value, kv_heads)


@cache
def _no_dropout(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the random state that a flash forward without dropout hands to its backward."""
    some = torch.zeros(1, 1, 8, 64, dtype=torch.bfloat16, device=device)
    made = torch.ops.aten._scaled_dot_product_flash_attention(some, some, some)
    return made[6], made[7]


def _has_flash(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _scores(query: Tensor, key: Tensor, scale: float, causal: bool) -> Tensor:
    key = _for_every_head(key, query.shape[1])
    scores = query.float() @ key.float().transpose(2, 3) * scale
    if not causal:
        return scores
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(hidden, float("-inf"))


def _for_every_head(tensor: Tensor, heads: int) -> Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _sum_heads(tensor: Tensor, kv_heads: int) -> Tensor:
    """Add up the heads of the queries that share a head of the keys."""
    batch, heads, tokens, dim = tensor.shape
    return tensor.reshape(batch, kv_heads, heads // kv_heads, tokens, dim).sum(2)
