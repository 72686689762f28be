"""A fixed question to the policy whose log-probs tell which weights an engine runs."""

import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from scenerl.envs.records import Prompt
from scenerl.preprocess.records import Media, Sample, Target
from scenerl.rollout.encode import content_hash
from scenerl.rollout.positions import VisionTokens, mrope_positions, placeholder_runs
from scenerl.rollout.records import EncodedPrompt

PROBE_TOKENS = 16


def make_probe(tokens: VisionTokens, vocab_size: int) -> tuple[EncodedPrompt, Tensor]:
    """Return a prompt with a small noise image and a completion, the same on every machine.

    Vision tower, projector, text model and head all contribute to the completion's log-probs.

    Args:
        tokens: Of the checkpoint.
        vocab_size: Ids are drawn below it and are no vision tokens.

    Returns:
        The prompt and int64 [completion].
    """
    generator = torch.Generator().manual_seed(0)
    allowed = torch.tensor([i for i in range(min(vocab_size, 4096)) if i not in tokens.banned_ids])
    words = allowed[torch.randint(len(allowed), (2 * PROBE_TOKENS,), generator=generator)]
    side = 4 * tokens.merge_size
    grid = torch.tensor([[1, side, side]])
    patch_dim = 3 * tokens.temporal_patch_size * tokens.patch_size**2
    pixels = torch.randn(side * side, patch_dim, generator=generator)
    media_ids = [tokens.vision_start_id, *[tokens.image_id] * 16, tokens.vision_end_id]
    ids = torch.cat([words[:4], torch.tensor(media_ids), words[4:PROBE_TOKENS]])
    runs = placeholder_runs(ids, ("image",), grid, tokens)
    parts = {
        "prompt": _named_prompt(),
        "prompt_ids": ids,
        "position_ids": mrope_positions(len(ids), runs, (0.0,), tokens.tokens_per_second),
        "pixel_values": pixels,
        "grid_thw": grid,
        "media_kinds": ("image",),
        "second_per_grid_s": (0.0,),
        "num_media_tokens": 16,
    }
    encoded = EncodedPrompt(**parts, content_hash="")  # type: ignore[arg-type]
    encoded = EncodedPrompt(**parts, content_hash=content_hash(encoded))  # type: ignore[arg-type]
    return encoded, words[PROBE_TOKENS:]


def fingerprint(logprobs: Sequence[float]) -> str:
    """Return a short hash of the exact float32 values."""
    data = struct.pack(f"<{len(logprobs)}f", *logprobs)
    return hashlib.sha256(data).hexdigest()[:16]


def _named_prompt() -> Prompt:
    sample = Sample(
        sample_id="probe",
        dataset="probe",
        split="probe",
        question="",
        media=Media(kind="image"),
        target=Target(),
    )
    return Prompt(prompt_id="probe", sample=sample, messages=(), media=())
