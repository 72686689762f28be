"""Sampling of one token per row, each with its own random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn and which log-probs are reported."""

    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    banned_ids: tuple[int, ...] = ()
    logprob_temperature: float = 1.0
    """Log-probs are those of softmax(logits / this), with nothing banned or cut off."""


def sample_tokens(
    logits: Float[Tensor, "rows vocab"],
    generators: Sequence[torch.Generator],
    sampling: Sampling,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw a token per row by the exponential race argmax(p / e), e ~ Exp(1).

    A row's noise comes from its own generator, so its token does not depend on the other rows.

    Args:
        logits: float32.
        generators: One per row; unused when greedy.
        sampling: How.

    Returns:
        Token ids and their log-probs.
    """
    allowed = logits.clone()
    allowed[:, list(sampling.banned_ids)] = -torch.inf
    if sampling.temperature <= 0:
        ids = allowed.argmax(dim=-1)
    else:
        probs = _cut(allowed / sampling.temperature, sampling).softmax(dim=-1)
        noise = torch.empty_like(probs)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        ids = (probs / noise).argmax(dim=-1)
    logprobs = torch.log_softmax(logits / (sampling.logprob_temperature or 1.0), dim=-1)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]


def _cut(logits: Tensor, sampling: Sampling) -> Tensor:
    """Remove what lies outside the top k and outside the nucleus of mass top_p."""
    if sampling.top_k <= 0 and sampling.top_p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    if sampling.top_k > 0:
        ordered[:, sampling.top_k :] = -torch.inf
    probs = ordered.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # mass of more likely tokens; 0 for the first
    ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(1, order, ordered)
