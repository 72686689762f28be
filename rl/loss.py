"""The policy loss: GRPO and its relatives, normalised over a whole optimizer step.

Every function returns a sum divided by a number that is known before the first forward pass, so
the losses and gradients of micro-batches and of data-parallel ranks simply add up to those of the
whole batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "gspo"]
Correction = Literal["none", "token_truncate", "sequence_truncate"]


SUM_NAMES = (
    "tokens",
    "entropy",
    "kl",
    "clip_low",
    "clip_high",
    "importance_ratio",
    "logprob_diff",
)
MAXIMUM_NAMES = ("importance_ratio", "logprob_diff")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """Settings of the loss; the names and meanings are TRL's."""

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    """Upper clip of the ratio is 1 + epsilon_high; for cispo it is the cap of the ratio itself."""
    beta: float
    correction: Correction
    correction_cap: float
    entropy_coef: float
    max_completion_length: int
    """Divisor of dr_grpo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalizers:
    """Counts over the whole optimizer step: all micro-batches, all ranks."""

    sequences: int
    tokens: int
    """Trained tokens."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossInputs:
    """Per-token tensors of some completions, padded on the right."""

    logprobs: Float[Tensor, "batch seq"]
    entropy: Float[Tensor, "batch seq"]
    old_logprobs: Float[Tensor, "batch seq"]
    rollout_logprobs: Float[Tensor, "batch seq"]
    reference_logprobs: Float[Tensor, "batch seq"] | None
    completion_mask: Bool[Tensor, "batch seq"]
    advantages: Float[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossOutput:
    """The loss of some completions and what is logged about them."""

    loss: Tensor
    """Their share of the step's loss, with gradient."""
    sums: dict[str, Tensor]
    """SUM_NAMES over trained tokens; they add up over micro-batches and ranks."""
    maxima: dict[str, Tensor]
    """MAXIMUM_NAMES over trained tokens."""


def policy_loss(inputs: LossInputs, settings: LossSettings, normalizers: Normalizers) -> LossOutput:
    r"""Compute the share of the loss that some completions contribute.

    With r = exp(logprobs - old_logprobs), A the advantage and w the truncated importance weight
    between learner and engine, the loss of a token is

        grpo, dr_grpo, dapo, bnpo:  -w min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)
        gspo:   the same with r = exp(mean_t(logprobs - old_logprobs)), one per completion
        cispo:  -w stop_gradient(min(r, epsilon_high)) A logprobs

    plus beta KL, KL = exp(d) - d - 1 with d = reference_logprobs - logprobs. Tokens are averaged

        grpo, gspo:         over each completion, then over completions
        dapo, bnpo, cispo:  over all trained tokens of the step
        dr_grpo:            summed, divided by completions x max_completion_length

    and entropy_coef times the mean entropy per trained token is subtracted. Sources:
    arXiv:2402.03300, 2503.20783 (dr_grpo), 2503.14476 (dapo, clip-higher), 2506.13585 (cispo),
    2507.18071 (gspo). bnpo differs from dapo only where a trainer normalises each micro-batch by
    itself; here the step is one batch, so they are equal.

    Args:
        inputs: Padded tensors; what stands on masked positions does not matter.
        settings: Which loss.
        normalizers: Counts over the whole step.

    Returns:
        Loss and sums for the log.
    """
    mask = inputs.completion_mask
    logprobs = inputs.logprobs.masked_fill(~mask, 0.0)
    old_logprobs = inputs.old_logprobs.masked_fill(~mask, 0.0)
    advantages = inputs.advantages[:, None]  # [batch, 1]
    ratio = _ratio(logprobs, old_logprobs, mask, settings.loss_type)  # [batch, seq or 1]
    if settings.loss_type == "cispo":
        capped = ratio.clamp(max=settings.epsilon_high).detach()
        per_token = -capped * advantages * logprobs
    else:
        clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon_high)
        per_token = -torch.minimum(ratio * advantages, clipped * advantages)
    mismatch = (old_logprobs - inputs.rollout_logprobs).masked_fill(~mask, 0.0)
    per_token = per_token * correction_weights(mismatch, settings)
    kl = torch.zeros_like(logprobs)
    if inputs.reference_logprobs is not None:
        difference = inputs.reference_logprobs.masked_fill(~mask, 0.0) - logprobs
        kl = difference.exp() - difference - 1
        per_token = per_token + settings.beta * kl
    loss = _aggregate(per_token.expand_as(logprobs) * mask, mask, settings, normalizers)
    entropy_sum = inputs.entropy.masked_fill(~mask, 0.0).sum()
    if settings.entropy_coef:
        loss = loss - settings.entropy_coef * entropy_sum / max(normalizers.tokens, 1)
    low, high = _clipped(ratio, advantages, settings)
    sums = {
        "tokens": mask.sum(),
        "entropy": entropy_sum,
        "kl": (kl * mask).sum(),
        "clip_low": (low & mask).sum(),
        "clip_high": (high & mask).sum(),
        "importance_ratio": (mismatch.exp() * mask).sum(),
        "logprob_diff": mismatch.abs().sum(),
    }
    maxima = {
        "importance_ratio": (mismatch.exp() * mask).max(),
        "logprob_diff": mismatch.abs().max(),
    }
    return LossOutput(
        loss=loss,
        sums={name: value.detach().float() for name, value in sums.items()},
        maxima={name: value.detach().float() for name, value in maxima.items()},
    )


def correction_weights(
    mismatch: Float[Tensor, "batch seq"], settings: LossSettings
) -> Float[Tensor, "batch _"]:
    """Return the truncated importance weights w = min(exp(old - rollout), cap).

    Args:
        mismatch: old_logprobs - rollout_logprobs, 0 on masked positions.
        settings: "token_truncate" weighs each token, "sequence_truncate" each completion by the
            product over its tokens, "none" gives 1.
    """
    if settings.correction == "none":
        return torch.ones_like(mismatch[:, :1])
    if settings.correction == "sequence_truncate":
        mismatch = mismatch.sum(-1, keepdim=True)
    return mismatch.exp().clamp(max=settings.correction_cap).detach()


def loss_metrics(sums: dict[str, float], maxima: dict[str, float]) -> dict[str, float]:
    """Turn sums over a whole step into the policy/... entries of metrics.jsonl."""
    tokens = max(sums["tokens"], 1.0)
    return {
        "policy/kl": sums["kl"] / tokens,
        "policy/entropy": sums["entropy"] / tokens,
        "policy/clip_fraction": (sums["clip_low"] + sums["clip_high"]) / tokens,
        "policy/clip_fraction_low": sums["clip_low"] / tokens,
        "policy/clip_fraction_high": sums["clip_high"] / tokens,
        "policy/importance_ratio_mean": sums["importance_ratio"] / tokens,
        "policy/importance_ratio_max": maxima["importance_ratio"],
        "policy/logprob_diff_mean": sums["logprob_diff"] / tokens,
        "policy/logprob_diff_max": maxima["logprob_diff"],
    }


def _ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, loss_type: LossType) -> Tensor:
    log_ratio = logprobs - old_logprobs  # [batch, seq], 0 where masked
    if loss_type == "gspo":
        log_ratio = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return log_ratio.exp()


def _aggregate(
    per_token: Tensor, mask: Tensor, settings: LossSettings, normalizers: Normalizers
) -> Tensor:
    if settings.loss_type in ("grpo", "gspo"):
        per_sequence = per_token.sum(-1) / mask.sum(-1).clamp(min=1)  # [batch]
        return per_sequence.sum() / max(normalizers.sequences, 1)
    if settings.loss_type == "dr_grpo":
        return per_token.sum() / max(normalizers.sequences * settings.max_completion_length, 1)
    return per_token.sum() / max(normalizers.tokens, 1)


def _clipped(ratio: Tensor, advantages: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Say which tokens the lower and the upper clip cut the gradient of."""
    if settings.loss_type == "cispo":
        return torch.zeros_like(ratio, dtype=torch.bool), (
            (ratio > settings.epsilon_high) & (advantages > 0)
        )
    low = (ratio < 1 - settings.epsilon) & (advantages < 0)
    high = (ratio > 1 + settings.epsilon_high) & (advantages > 0)
    return low, high
