"""Log-probability and entropy of chosen tokens, without their logits where the head is plain.

A head that PEFT wraps gives its logits, of which no float32 copy is kept.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenerl.kernels.head_scores import head_scores

CHUNK_ELEMENTS = 1 << 24
"""Logits that are widened to float32 at a time (64 MiB)."""


class _TokenScores(torch.autograd.Function):
    """Recomputes the softmax chunk by chunk in the backward pass instead of saving it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(ids), dtype=torch.float32, device=logits.device)
        entropy = torch.empty_like(logprobs)
        log_normalizer = torch.empty_like(logprobs)
        for rows in _chunks(logits):
            scaled = logits[rows].float() / temperature  # [rows, vocab]
            log_normalizer[rows] = torch.logsumexp(scaled, dim=-1)
            chosen = scaled.gather(-1, ids[rows, None])[:, 0]
            logprobs[rows] = chosen - log_normalizer[rows]
            probabilities = torch.softmax(scaled, dim=-1)
            entropy[rows] = log_normalizer[rows] - (probabilities * scaled).sum(-1)
        ctx.save_for_backward(logits, ids, log_normalizer, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        grad_logprobs, grad_entropy = grads
        logits, ids, log_normalizer, entropy = ctx.saved_tensors
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None
        grad_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            log_p = logits[rows].float() / ctx.temperature - log_normalizer[rows, None]
            p = log_p.exp()  # [rows, vocab]
            grad = torch.zeros_like(p)
            if grad_logprobs is not None:
                grad -= p * grad_logprobs[rows, None]
                grad.scatter_add_(-1, ids[rows, None], grad_logprobs[rows, None])
            if grad_entropy is not None:
                grad -= p * (log_p + entropy[rows, None]) * grad_entropy[rows, None]
            grad_logits[rows] = (grad / ctx.temperature).to(logits.dtype)
        return grad_logits, None, None


def _chunks(logits: Tensor) -> list[slice]:
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def token_scores(
    logits: Float[Tensor, "tokens vocab"], ids: Int[Tensor, " tokens"], temperature: float = 1.0
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Score chosen tokens: log p(id) = z_id - logsumexp(z), entropy = -sum p log p, z = logits / T.

    Computed in float32 whatever the dtype of the logits. Differentiable in the logits:
    d log p(id) / d z = onehot(id) - p, d entropy / d z = -p (log p + entropy).

    Args:
        logits: Unscaled scores.
        ids: The token of each row.
        temperature: T, positive.

    Returns:
        Log-probabilities and entropies in nats, float32.
    """
    logprobs, entropy = _TokenScores.apply(logits, ids, temperature)  # type: ignore[no-untyped-call]
    return logprobs, entropy


def use_fused_head(head: nn.Module) -> None:
    """Let a plain head also score: ``head(hidden, ids, temperature)``; ``head(hidden)`` stays.

    The score is made inside the head's own forward, so that whatever gathers its weight for a call
    (ZeRO-3) does so here too.
    """
    if type(head) is not nn.Linear or head.bias is not None or hasattr(head, "gives_scores"):
        return
    plain_forward = head.forward

    def forward(
        hidden: Tensor, ids: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if ids is None:
            return plain_forward(hidden)
        return head_scores(hidden, head.weight, ids, temperature)

    head.forward = forward
    head.gives_scores = True


def score_hidden(
    head: nn.Module, hidden: Tensor, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return `token_scores` of what the head makes of hidden states, [tokens, hidden]."""
    if not hasattr(head, "gives_scores"):
        return token_scores(head(hidden), ids, temperature)
    logprobs, entropy, _ = head(hidden, ids, temperature)
    return logprobs, entropy
