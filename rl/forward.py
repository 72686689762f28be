"""The shared-prefix forward: a prompt and its media go through the policy once for all completions.

A group is packed as one sequence [prompt, c1, ..., cG] without the completions' last tokens, which
predict nothing. Each completion attends to the prompt and to itself, and its mRoPE positions start
behind the prompt's, so every token sees exactly what it would see in a sequence of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from scenerl.rl.packed_attention import NAME as PACKED_ATTENTION
from scenerl.rl.packed_attention import PackedRow, use_packed_attention
from scenerl.rl.policy import stock_model
from scenerl.rl.token_scores import score_hidden, use_fused_head
from scenerl.rl.vision_attention import use_segment_attention
from scenerl.rl.vision_cache import Seen, VisionCache
from scenerl.rollout.records import EncodedPrompt

VISION_CACHE_BYTES = 1 << 30
"""Features of a frozen vision tower that are kept."""
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """A prompt and the completions that are scored behind it in one sequence."""

    encoded: EncodedPrompt
    completion_ids: tuple[Tensor, ...]
    """int64 [completion] each; never empty."""

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the policy."""
        return len(self.encoded.prompt_ids) + sum(len(ids) - 1 for ids in self.completion_ids)


def split_pack(pack: Pack, max_tokens: int) -> list[Pack]:
    """Split a group into packs of at most `max_tokens` tokens, each with the whole prompt.

    A pack holds at least one completion, so a prompt that alone exceeds the budget still goes
    through. Scores do not depend on the split: no completion sees another.
    """
    packs: list[Pack] = []
    taken: list[Tensor] = []
    tokens = len(pack.encoded.prompt_ids)
    for ids in pack.completion_ids:
        if taken and tokens + len(ids) - 1 > max_tokens:
            packs.append(Pack(encoded=pack.encoded, completion_ids=tuple(taken)))
            taken, tokens = [], len(pack.encoded.prompt_ids)
        taken.append(ids)
        tokens += len(ids) - 1
    packs.append(Pack(encoded=pack.encoded, completion_ids=tuple(taken)))
    return packs


def packed_blocks(pack: Pack) -> Int[Tensor, " tokens"]:
    """Number the parts of the packed sequence: 0 for the prompt, k for the k-th completion."""
    lengths = [len(pack.encoded.prompt_ids)] + [len(ids) - 1 for ids in pack.completion_ids]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def packed_mask(blocks: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """Say who attends to whom: earlier tokens of the prompt and of one's own completion.

    Args:
        blocks: `packed_blocks` of each sequence, padded on the right with -1. Padding attends to
            the prompt and to earlier padding, so that no row is empty; nobody attends to it.
    """
    query, key = blocks[:, :, None], blocks[:, None, :]
    tokens = blocks.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=blocks.device).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


def packed_position_ids(pack: Pack) -> Int[Tensor, "3 tokens"]:
    """Give the prompt its mRoPE positions and count on from their maximum in each completion."""
    start = int(pack.encoded.position_ids.max()) + 1
    parts = [pack.encoded.position_ids]
    for ids in pack.completion_ids:
        parts.append((torch.arange(len(ids) - 1) + start).expand(3, -1))
    return torch.cat(parts, dim=1)


def predicting_positions(pack: Pack) -> Int[Tensor, " scored"]:
    """Find, for every completion token in order, the packed position whose output predicts it."""
    prompt = len(pack.encoded.prompt_ids)
    parts, start = [], prompt
    for ids in pack.completion_ids:
        parts.append(torch.tensor([prompt - 1]))
        parts.append(torch.arange(start, start + len(ids) - 1))
        start += len(ids) - 1
    return torch.cat(parts)


class PackedPolicy(nn.Module):
    """A stock Qwen-VL model that scores packs.

    It is a module of its own so that wrappers which hook the outermost forward (DeepSpeed) see
    vision tower, text model and head as one pass.
    """

    def __init__(self, policy: nn.Module, *, temperature: float = 1.0) -> None:
        """Wrap `policy`, a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model, bare or in a PEFT wrapper.

        Raises:
            ValueError: If the model is of another family, or has sliding-window layers.
        """
        super().__init__()
        self.policy = policy
        self.temperature = temperature
        self._cache = VisionCache(VISION_CACHE_BYTES)
        config = self.stock.config
        if config.model_type not in FAMILIES:
            raise ValueError(
                f"the policy is a {config.model_type!r} model, but the shared-prefix forward knows "
                f"only {', '.join(FAMILIES)}; set model.path to one of these"
            )
        if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
            raise ValueError(
                "the policy has sliding-window layers, which a packed sequence would cut in the "
                "wrong places; set use_sliding_window to false in the model's config.json"
            )
        if config.text_config._attn_implementation == "sdpa":
            use_packed_attention(self.stock)
        use_segment_attention(self.stock)
        use_fused_head(self.stock.lm_head)

    @property
    def stock(self) -> Any:
        """The transformers model, out of its PEFT wrapper when there is one."""
        return stock_model(self.policy)

    def forward(
        self, packs: Sequence[Pack], *, run_vision: bool | None = None
    ) -> tuple[Float[Tensor, " scored"], Float[Tensor, " scored"]]:
        """Score every completion token of every pack.

        Args:
            packs: One sequence each; they are padded to the longest.
            run_vision: True runs the vision tower (on a blank patch) even when no pack has media,
                which keeps the collectives of several ranks in step; None runs it when needed.

        Returns:
            Log-probabilities and entropies, float32, in the order of packs, completions, tokens.
        """
        device = self.stock.device
        input_ids = self._pad([_packed_ids(pack) for pack in packs]).to(device)
        blocks = self._pad([packed_blocks(pack) for pack in packs], value=-1).to(device)
        positions = self._pad([packed_position_ids(pack).T for pack in packs]).to(device)
        inputs_embeds = self.stock.get_input_embeddings()(input_ids)
        extras: dict[str, Any] = {}
        media = [pack.encoded for pack in packs if pack.encoded.pixel_values is not None]
        if media:
            # ranks in step must all run the tower, so they never skip it
            kept = not run_vision and self._vision_is_frozen()
            features, deepstack = (self._see_once if kept else self._see)(media, device)
            is_media = self._media_mask(packs, input_ids, blocks, len(features))
            inputs_embeds = inputs_embeds.masked_scatter(
                is_media[..., None], features.to(inputs_embeds.dtype)
            )
            if deepstack:
                extras = {"visual_pos_masks": is_media, "deepstack_visual_embeds": deepstack}
        elif run_vision:
            inputs_embeds = inputs_embeds + self._see_nothing(device).to(inputs_embeds.dtype)
        hidden = self.stock.model.language_model(
            inputs_embeds=inputs_embeds,
            position_ids=positions.permute(2, 0, 1),
            use_cache=False,
            **self._attention(packs, blocks, inputs_embeds.dtype),
            **extras,
        ).last_hidden_state  # [batch, tokens, hidden]
        rows = [predicting_positions(pack) for pack in packs]
        batch = torch.arange(len(packs)).repeat_interleave(torch.tensor([len(r) for r in rows]))
        predicting = hidden[batch.to(device), torch.cat(rows).to(device)]  # [scored, hidden]
        ids = torch.cat([ids for pack in packs for ids in pack.completion_ids]).to(device)
        return score_hidden(self.stock.lm_head, predicting, ids, self.temperature)

    @staticmethod
    def _pad(sequences: list[Tensor], value: int = 0) -> Tensor:
        return pad_sequence(sequences, batch_first=True, padding_value=value)

    def _see(self, media: Sequence[EncodedPrompt], device: torch.device) -> tuple[Tensor, Any]:
        pixel_values = torch.cat([m.pixel_values for m in media if m.pixel_values is not None])
        grid_thw = torch.cat([m.grid_thw for m in media if m.grid_thw is not None])
        outputs = self.stock.model.get_image_features(
            pixel_values.to(device), grid_thw.to(device), return_dict=True
        )
        deepstack = getattr(outputs, "deepstack_features", None)
        if deepstack:
            deepstack = [torch.cat(list(features)) for features in deepstack]
        return torch.cat(list(outputs.pooler_output)), deepstack

    def _vision_is_frozen(self) -> bool:
        return not any(p.requires_grad for p in self.stock.model.visual.parameters())

    def _see_once(self, media: Sequence[EncodedPrompt], device: torch.device) -> tuple[Tensor, Any]:
        """Return what `_see` does, from the cache for prompts that were seen before.

        Each prompt goes through the tower alone, so that its features are the same bits whatever
        the cache holds and whoever shares its batch.
        """
        seen: list[Seen] = []
        for encoded in media:
            found = self._cache.get(encoded.content_hash)
            if found is None:
                with torch.no_grad():
                    features, deepstack = self._see([encoded], device)
                found = Seen(features=features, deepstack=tuple(deepstack or ()))
                self._cache.put(encoded.content_hash, found)
            seen.append(found)
        layers = zip(*(each.deepstack for each in seen), strict=True)
        return (
            torch.cat([each.features.to(device) for each in seen]),
            [torch.cat([part.to(device) for part in layer]) for layer in layers],
        )

    def _see_nothing(self, device: torch.device) -> Tensor:
        """Run the vision tower on one blank merged patch and return zero, attached to its graph."""
        vision = self.stock.config.vision_config
        side = vision.spatial_merge_size
        channels = getattr(vision, "in_channels", 3)
        patch_dim = channels * vision.temporal_patch_size * vision.patch_size**2
        outputs = self.stock.model.get_image_features(
            torch.zeros(side * side, patch_dim, device=device),
            torch.tensor([[1, side, side]], device=device),
            return_dict=True,
        )
        features = list(outputs.pooler_output)
        for layer in getattr(outputs, "deepstack_features", None) or ():
            features.extend(layer)
        return torch.stack([feature.sum() for feature in features]).sum() * 0.0

    def _media_mask(
        self, packs: Sequence[Pack], input_ids: Tensor, blocks: Tensor, num_features: int
    ) -> Tensor:
        config = self.stock.config
        is_media: Tensor = input_ids == config.image_token_id
        is_media = (is_media | (input_ids == config.video_token_id)) & (blocks == 0)
        counts = is_media.sum(1).tolist()
        for pack, count in zip(packs, counts, strict=True):
            if count != pack.encoded.num_media_tokens:
                raise ValueError(
                    f"prompt {pack.encoded.prompt.prompt_id} has {count} media placeholders in its "
                    f"ids, but its encoding counted {pack.encoded.num_media_tokens}; encode the "
                    "prompt with the processor of the model that is trained"
                )
        if sum(counts) != num_features:
            raise ValueError(
                f"the vision tower made {num_features} tokens for {sum(counts)} placeholders; "
                "the grids do not belong to these prompts: encode them again"
            )
        return is_media

    def _attention(
        self, packs: Sequence[Pack], blocks: Tensor, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the arguments that tell the text model who attends to whom."""
        if all(len(pack.completion_ids) == 1 for pack in packs):
            return {}  # plain causal attention; padding stands on the right
        implementation = self.stock.config.text_config._attn_implementation
        if implementation == PACKED_ATTENTION:
            return {"packed_rows": [_packed_row(pack) for pack in packs]}
        mask = packed_mask(blocks)
        if implementation == "sdpa":
            return {"attention_mask": mask}
        lowest = torch.finfo(dtype).min
        return {"attention_mask": torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest)}


def _packed_row(pack: Pack) -> PackedRow:
    return PackedRow(
        prompt=len(pack.encoded.prompt_ids),
        completions=tuple(len(ids) - 1 for ids in pack.completion_ids),
    )


def _packed_ids(pack: Pack) -> Tensor:
    return torch.cat([pack.encoded.prompt_ids, *(ids[:-1] for ids in pack.completion_ids)])
