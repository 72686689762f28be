"""Generation with the stock transformers model: no vLLM needed, the same protocol.

A prompt and its media go through the model once; its key-value cache is copied for the
completions, which are then decoded together with those of other prompts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scenerl.rollout.checkpoints import checkpoint_shapes
from scenerl.rollout.encode import Encoder, check_encoded
from scenerl.rollout.engine import EngineError, EngineSpec
from scenerl.rollout.positions import completion_positions
from scenerl.rollout.probe import fingerprint, make_probe
from scenerl.rollout.records import Completion, EncodedPrompt
from scenerl.rollout.sampling import Sampling, sample_tokens
from scenerl.rollout.weights import Sync, assign_hub_weights, check_followed


@dataclass(slots=True, eq=False)
class _Row:
    """One completion in the making."""

    place: int
    """Position in the order of results."""
    generator: torch.Generator
    start: int
    """mRoPE position of its first token."""
    limit: int
    """Most tokens it may have."""
    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class _Prefill:
    """A prompt after its one pass."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values per layer, [1, heads, prompt, head_dim]."""
    logits: Tensor
    """float32 [vocab] of the last token."""


class TransformersEngine:
    """Generates with transformers. See `rollout.engine.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Load the checkpoint."""
        from transformers import AutoModelForImageTextToText

        self._rollout = spec.rollout
        self._encoder = Encoder(spec.model_dir)
        self._tokens = self._encoder.tokens
        self._shapes = checkpoint_shapes(spec.model_dir)
        attention = spec.model.attn_implementation
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            str(spec.model_dir),
            dtype=getattr(torch, spec.model.dtype),
            attn_implementation="sdpa" if attention == "flash_attention_2" else attention,
            trust_remote_code=spec.model.trust_remote_code,
        )
        self._model.to(spec.device).eval()
        self._device = torch.device(spec.device)
        text = self._model.config.get_text_config()
        self._max_length = min(
            spec.rollout.max_prompt_length + spec.rollout.max_completion_length,
            int(text.max_position_embeddings),
        )
        self._probe = make_probe(self._tokens, int(text.vocab_size))
        self._sync: Sync | None = None
        self.policy_version = spec.policy_version

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Make ``len(seeds[i])`` completions of prompt i, `max_num_seqs` rows at a time."""
        sampling = Sampling(
            temperature=self._rollout.temperature if temperature is None else temperature,
            top_p=self._rollout.top_p,
            top_k=self._rollout.top_k,
            banned_ids=self._tokens.banned_ids,
            logprob_temperature=self._rollout.temperature,
        )
        jobs = [
            (encoded, seed) for encoded, group in zip(prompts, seeds, strict=True) for seed in group
        ]
        done: list[Completion] = []
        for first in range(0, len(jobs), self._rollout.max_num_seqs):
            done += self._decode(jobs[first : first + self._rollout.max_num_seqs], sampling)
        results = iter(done)
        return [[next(results) for _ in group] for group in seeds]

    @torch.no_grad()
    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Tensor]
    ) -> list[list[float]]:
        """Return the log-probs of given completions, one sequence after the other."""
        scores = []
        for encoded, ids in zip(prompts, completions, strict=True):
            check_encoded(encoded)
            logits = self._forward(encoded, ids)[0]
            logprobs = torch.log_softmax(logits[-len(ids) - 1 : -1].float(), dim=-1)
            own = logprobs.gather(1, ids.to(self._device)[:, None])[:, 0]
            scores.append(own.tolist())
        return scores

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> str:
        """Replace all weights in place."""
        digest = assign_hub_weights(self._model, weights, self._shapes)
        after = Sync(digest=digest, checksum=self.checksum())
        check_followed(self._sync, after)
        self._sync = after
        self.policy_version = policy_version
        return after.checksum

    def checksum(self) -> str:
        """Return a fingerprint of the engine's log-probs on the probe."""
        encoded, ids = self._probe
        return fingerprint(self.score([encoded], [ids])[0])

    def sleep(self) -> bool:
        """Keep the memory: there is nothing that could be given back without loading again."""
        return False

    def wake(self) -> None:
        """Nothing was given back."""

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    def _decode(
        self, jobs: Sequence[tuple[EncodedPrompt, int]], sampling: Sampling
    ) -> list[Completion]:
        """Decode rows until each has ended; ended rows leave the batch."""
        rows, cache, padding, logits = self._begin(jobs)
        finished: dict[int, Completion] = {}
        active, length = rows, int(padding.shape[1])
        while active:
            ids, logprobs = sample_tokens(logits, [row.generator for row in active], sampling)
            for row, token, logprob in zip(active, ids.tolist(), logprobs.tolist(), strict=True):
                row.ids.append(token)
                row.logprobs.append(logprob)
            going = [at for at, row in enumerate(active) if not self._ended(row)]
            for row in active:
                if self._ended(row):
                    finished[row.place] = self._completion(row)
            if not going:
                break
            if len(going) < len(active):
                keep = torch.tensor(going, device=self._device)
                cache.batch_select_indices(keep)
                padding, ids = padding[keep], ids[keep]
                active = [active[at] for at in going]
            length += 1
            logits = self._step(active, ids, cache, padding, length)
        return [finished[place] for place in range(len(jobs))]

    def _begin(
        self, jobs: Sequence[tuple[EncodedPrompt, int]]
    ) -> tuple[list[_Row], Any, Tensor, Tensor]:
        """Prefill every prompt once and lay its cache out for its rows, padded on the left."""
        from transformers import DynamicCache

        prefills: dict[str, _Prefill] = {}
        rows, parts, logits = [], [], []
        longest = max(len(encoded.prompt_ids) for encoded, _ in jobs)
        padding = torch.zeros(len(jobs), longest, dtype=torch.bool, device=self._device)
        for place, (encoded, seed) in enumerate(jobs):
            if encoded.content_hash not in prefills:
                check_encoded(encoded)
                prefills[encoded.content_hash] = self._prefill(encoded)
            prefill = prefills[encoded.content_hash]
            rows.append(self._row(place, encoded, seed))
            parts.append(prefill.layers)
            logits.append(prefill.logits)
            padding[place, : longest - len(encoded.prompt_ids)] = True
        cache = DynamicCache()
        for layer in range(len(parts[0])):
            keys, values = (
                torch.cat([_pad_left(part[layer][which], longest) for part in parts])
                for which in (0, 1)
            )
            cache.update(keys, values, layer)
        return rows, cache, padding, torch.stack(logits)

    def _row(self, place: int, encoded: EncodedPrompt, seed: int) -> _Row:
        room = self._max_length - len(encoded.prompt_ids)
        if room < 1:
            raise EngineError(
                f"prompt {encoded.prompt.prompt_id} has {len(encoded.prompt_ids)} tokens and "
                f"leaves no room in {self._max_length}; raise rollout.max_prompt_length"
            )
        return _Row(
            place=place,
            generator=torch.Generator(self._device).manual_seed(seed),
            start=int(completion_positions(encoded, 1)[0, 0]),
            limit=min(self._rollout.max_completion_length, room),
            ids=[],
            logprobs=[],
        )

    def _ended(self, row: _Row) -> bool:
        return row.ids[-1] in self._encoder.eos_ids or len(row.ids) >= row.limit

    def _completion(self, row: _Row) -> Completion:
        return Completion(
            completion_ids=tuple(row.ids),
            rollout_logprobs=tuple(row.logprobs),
            text=self._encoder.decode(row.ids),
            finish_reason="stop" if row.ids[-1] in self._encoder.eos_ids else "length",
            policy_version=self.policy_version,
        )

    def _prefill(self, encoded: EncodedPrompt) -> _Prefill:
        logits, cache = self._forward(encoded, None)
        return _Prefill(layers=list(_layers(cache)), logits=logits[-1].float())

    def _forward(self, encoded: EncodedPrompt, completion_ids: Tensor | None) -> tuple[Tensor, Any]:
        """Run one sequence; return its logits [tokens, vocab] and its cache.

        Without a completion only the last token's logits are computed.
        """
        from transformers import DynamicCache

        ids, positions = encoded.prompt_ids, encoded.position_ids
        if completion_ids is not None:
            ids = torch.cat([ids, completion_ids])
            more = completion_positions(encoded, len(completion_ids))
            positions = torch.cat([positions, more], dim=1)
        ids = ids.to(self._device)
        embeds = self._model.get_input_embeddings()(ids)[None]
        extras: dict[str, Any] = {}
        if encoded.pixel_values is not None and encoded.grid_thw is not None:
            embeds, extras = self._with_media(encoded, ids, embeds)
        cache = DynamicCache()
        hidden = self._model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions.to(self._device)[:, None],
            past_key_values=cache,
            use_cache=True,
            **extras,
        ).last_hidden_state[0]
        kept = hidden if completion_ids is not None else hidden[-1:]
        return self._model.lm_head(kept), cache

    def _with_media(
        self, encoded: EncodedPrompt, ids: Tensor, embeds: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        assert encoded.pixel_values is not None
        assert encoded.grid_thw is not None
        outputs = self._model.model.get_image_features(
            encoded.pixel_values.to(self._device),
            encoded.grid_thw.to(self._device),
            return_dict=True,
        )
        features = torch.cat(list(outputs.pooler_output)).to(embeds.dtype)
        is_media = ((ids == self._tokens.image_id) | (ids == self._tokens.video_id))[None]
        embeds = embeds.masked_scatter(is_media[..., None], features)
        deepstack = getattr(outputs, "deepstack_features", None)
        if not deepstack:
            return embeds, {}
        layers = [torch.cat(list(layer)) for layer in deepstack]
        return embeds, {"visual_pos_masks": is_media, "deepstack_visual_embeds": layers}

    def _step(
        self, active: Sequence[_Row], ids: Tensor, cache: Any, padding: Tensor, length: int
    ) -> Tensor:
        """Feed one token per row; return float32 logits [rows, vocab]."""
        embeds = self._model.get_input_embeddings()(ids[:, None])
        positions = torch.tensor([row.start + len(row.ids) - 1 for row in active])
        visible = torch.ones(len(active), length, dtype=torch.bool, device=self._device)
        visible[:, : padding.shape[1]] = ~padding
        mask: Tensor = visible[:, None, None]  # [rows, 1, 1, length]
        if self._model.config.get_text_config()._attn_implementation != "sdpa":
            lowest = torch.finfo(embeds.dtype).min
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, lowest)
        hidden = self._model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions.to(self._device)[None, :, None].expand(3, -1, -1),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits: Tensor = self._model.lm_head(hidden).float()
        return logits


def _layers(cache: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for layer in cache.layers:
        yield layer.keys, layer.values


def _pad_left(tensor: Tensor, length: int) -> Tensor:
    """Pad [1, heads, tokens, head_dim] with zeros in front to `length` tokens."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[2], 0))
