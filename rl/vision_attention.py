"""Attention of a vision tower's windows and frames: one call for all of the same length.

A tower attends within segments of its sequence: windows, images or frames. The stock loop calls the
attention once for each of them; hundreds of windows of 64 patches then cost more in calls than in
arithmetic.
"""

from typing import Any

import torch
from torch import Tensor

NAME = "scenerl_flash_segments"
"""The attention's name in transformers' registry. Towers hand the bounds of the segments to an
attention with "flash" in its name, and cut the sequence themselves for every other."""


def use_segment_attention(model: Any) -> None:
    """Give the vision tower of a Qwen-VL model this attention, where it has sdpa."""
    from transformers import AttentionInterface

    config = model.model.visual.config
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attention_forward)
        config._attn_implementation = NAME


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, scale: float
) -> Tensor:
    """Attend within each segment, without a mask.

    Args:
        query: [1, heads, tokens, dim], as are key and value.
        key: Keys.
        value: Values.
        lengths: Of the segments; they add up to the tokens.
        scale: Factor of the scores.

    Returns:
        [tokens, heads, dim].
    """
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [tokens, heads, dim]
    counts = torch.tensor(lengths)
    starts = counts.cumsum(0) - counts
    outputs, sources = [], []
    for length in sorted(set(lengths)):
        source = (starts[counts == length, None] + torch.arange(length)).flatten()
        whole = len(source) == query.shape[2]  # every segment has this length, in order
        place = source.to(query.device)
        batch = [
            torch.unflatten(row if whole else row[place], 0, (-1, length)).transpose(1, 2)
            for row in rows
        ]  # [segments, heads, length, dim]
        out = torch.nn.functional.scaled_dot_product_attention(
            batch[0], batch[1], batch[2], scale=scale
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
        sources.append(source)
    if len(outputs) == 1:
        return outputs[0]
    back = torch.cat(sources).argsort().to(query.device)
    return torch.cat(outputs)[back]


def _attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Take transformers' call: [1, heads, tokens, dim] in, [1, tokens, heads, dim] out."""
    lengths = arguments["cu_seq_lens_q"].diff().tolist()
    out = segment_attention(query, key, value, lengths, scale=arguments["scaling"])
    return out[None], None
