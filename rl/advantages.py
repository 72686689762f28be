"""Advantages: how much better a rollout is than its siblings."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def reward_spread(rewards: Float[Tensor, "*prompts group"]) -> Float[Tensor, "*prompts"]:
    """Return the standard deviation (divisor n - 1) of the last axis, NaN left out.

    Fewer than two numbers give NaN.
    """
    scored = ~rewards.isnan()
    count = scored.sum(-1)
    mean = rewards.nanmean(-1, keepdim=True)
    squares = (rewards - mean).square().nansum(-1)
    return torch.where(count > 1, squares / (count - 1), torch.nan).sqrt()


def group_advantages(
    rewards: Float[Tensor, "prompts group"],
    scale: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
) -> Float[Tensor, "prompts group"]:
    """Score each rollout against its siblings: A = (r - mean(r)) / (std + eps).

    Args:
        rewards: Scalar reward of every rollout; a row holds the rollouts of one prompt, NaN marks
            a rollout without a score.
        scale: "group" divides by the standard deviation of the row (GRPO, arXiv:2402.03300);
            "batch" by that of all rewards (arXiv:2508.08221); "none" only centres (Dr. GRPO,
            arXiv:2503.20783).
        eps: Added to the standard deviation.

    Returns:
        Advantages; NaN where the reward is, zero for every row whose rewards are all equal.

    Raises:
        ValueError: If a group has fewer than two rollouts.
    """
    if rewards.shape[1] < 2:
        raise ValueError(
            f"group size is {rewards.shape[1]}, but a group-relative advantage needs at "
            "least 2 rollouts per prompt; set rollout.group_size >= 2"
        )
    centred = rewards - rewards.nanmean(1, keepdim=True)
    if scale == "none":
        return centred
    std = reward_spread(rewards)[:, None] if scale == "group" else reward_spread(rewards.flatten())
    return centred / (std + eps)
