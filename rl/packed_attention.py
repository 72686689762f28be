"""Attention of a packed group in two parts: no mask of all tokens by all tokens.

The prompt attends to itself, causally. Each completion token attends to the whole prompt and, by
itself, to the earlier tokens of its own completion; the two are joined by their log-sum-exp. Work
and memory are those of the pairs that see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scenerl.kernels.attention import attend, attend_backward

NAME = "scenerl_packed"
"""The attention's name in transformers' registry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """How one sequence of a batch is made up; what is left of it is padding."""

    prompt: int
    """Tokens."""
    completions: tuple[int, ...]
    """Tokens of each; may be 0."""


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Sequence[PackedRow], *, scale: float
) -> Tensor:
    """Let every token see earlier tokens of the prompt and of its own completion.

    Args:
        query: [batch, heads, tokens, dim].
        key: [batch, kv_heads, tokens, dim].
        value: [batch, kv_heads, tokens, dim].
        rows: One per sequence of the batch.
        scale: Factor of the scores.

    Returns:
        [batch, heads, tokens, dim], zero on padding.
    """
    outputs = []
    for place, row in enumerate(rows):
        mine = [tensor[place : place + 1] for tensor in (query, key, value)]
        prompt_query, *prompt = (tensor[:, :, : row.prompt] for tensor in mine)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                prompt_query, prompt[0], prompt[1], is_causal=True, scale=scale, enable_gqa=True
            )
        ]
        end = row.prompt + sum(row.completions)
        if end > row.prompt:
            own = [tensor[:, :, row.prompt : end] for tensor in mine]
            lengths = tuple(length for length in row.completions if length)
            parts.append(
                _Completions.apply(*own, *prompt, lengths, scale)  # type: ignore[no-untyped-call]
            )
        if end < query.shape[2]:
            parts.append(torch.zeros_like(query[:1, :, end:]))
        outputs.append(torch.cat(parts, dim=2))
    return torch.cat(outputs)


class _Completions(torch.autograd.Function):
    """Completion tokens over the prompt and over themselves, joined."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        lengths: tuple[int, ...],
        scale: float,
    ) -> Tensor:
        cut = _ragged(lengths, query.device)
        seen, seen_lse = attend(query, prompt_key, prompt_value, scale=scale, causal=False)
        own, own_lse = (
            cut.join(part)
            for part in attend(
                *(cut.split(tensor) for tensor in (query, key, value)), scale=scale, causal=True
            )
        )
        lse = torch.logaddexp(seen_lse, own_lse)  # [1, heads, tokens], float32
        out = seen * (seen_lse - lse).exp()[..., None] + own * (own_lse - lse).exp()[..., None]
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, lse)
        ctx.cut, ctx.scale = cut, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prompt_key, prompt_value, out, lse = ctx.saved_tensors
        cut, scale = ctx.cut, ctx.scale
        grad = grads[0].contiguous()
        grad_query, grad_prompt_key, grad_prompt_value = attend_backward(
            grad, (query, prompt_key, prompt_value), out, lse, scale=scale, causal=False
        )
        own = attend_backward(
            cut.split(grad),
            (cut.split(query), cut.split(key), cut.split(value)),
            cut.split(out),
            cut.split(lse),
            scale=scale,
            causal=True,
        )
        more, grad_key, grad_value = (cut.join(tensor) for tensor in own)
        return (
            grad_query + more, grad_key, grad_value,
            grad_prompt_key, grad_prompt_value, None, None,
        )  # fmt: skip


class _Ragged:
    """Turns [1, heads, tokens, ...] of all completions into [completions, heads, longest, ...]."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        counts = torch.tensor(lengths)
        places = torch.arange(int(counts.max())).expand(len(lengths), -1)
        used = places < counts[:, None]  # [completions, longest]
        starts = (counts.cumsum(0) - counts)[:, None]
        self._unused = None if used.all() else (~used).to(device)
        self._source = torch.where(used, starts + places, 0).to(device)
        self._target = used.flatten().nonzero()[:, 0].to(device)

    def split(self, tensor: Tensor) -> Tensor:
        """Cut, and pad on the right with zeros: padding is seen by nobody and has no gradient."""
        rows = tensor[0].transpose(0, 1)[self._source]  # [completions, longest, heads, ...]
        if self._unused is not None:
            unused = self._unused.reshape(*self._unused.shape, *[1] * (rows.ndim - 2))
            rows = rows.masked_fill(unused, 0)
        return rows.transpose(1, 2).contiguous()

    def join(self, tensor: Tensor) -> Tensor:
        """Undo `split`."""
        rows = tensor.transpose(1, 2).flatten(0, 1)[self._target]  # [tokens, heads, ...]
        return rows.transpose(0, 1)[None].contiguous()


@lru_cache(maxsize=64)
def _ragged(lengths: tuple[int, ...], device: torch.device) -> _Ragged:
    """Keep the places of a group: all layers, forward and backward, use the same."""
    return _Ragged(lengths, device)


def use_packed_attention(model: Any) -> None:
    """Give the text model this attention; calls without rows stay as they were (sdpa)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config.text_config._attn_implementation = NAME


def _attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Take transformers' call: [batch, heads, tokens, dim] in, [batch, tokens, heads, dim] out."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows = arguments.pop("packed_rows", None)
    if rows is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **arguments
        )
        return output
    if arguments.get("dropout"):
        raise ValueError(
            f"attention_dropout is {arguments['dropout']}, but a packed group is scored without "
            "it; set attention_dropout to 0 in the model's config.json"
        )
    out = packed_attention(query, key, value, rows, scale=arguments["scaling"])
    return out.transpose(1, 2).contiguous(), None
