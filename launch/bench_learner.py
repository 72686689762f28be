"""The case `learner` of `launch bench`: a group forward and backward, against a padded batch."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from scenerl.launch.measure import BenchSettings, Comparison, Entry, matmul_speed

PACKAGES = ("transformers", "trl")
IMAGE, VIDEO, VISION_START, VISION_END = 4, 5, 6, 7
FIRST_TEXT = 8
SHAPES = ((1024, 128, 16), (4096, 256, 8))
"""Prompt tokens, completion tokens, group size."""
FLOOR = (
    "floor: the products of each, forward and backward, at the card's measured {:.0f} TFLOP/s, "
    "without those that gradient checkpointing repeats"
)


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield one comparison per shape of a group, on a randomly initialised Qwen2.5-VL."""
    import torch

    from scenerl.rl.forward import Pack, PackedPolicy

    on_gpu = torch.cuda.is_available()
    model = random_model(large=on_gpu and not settings.quick, on_gpu=on_gpu)
    packed = PackedPolicy(model)
    peak = matmul_speed("cuda", torch.bfloat16) if on_gpu else None
    for prompt, completion, size in ((160, 12, 4),) if settings.quick else SHAPES:
        case = f"prompt {prompt}, completions {completion}, group of {size}"
        if settings.only not in case:
            continue
        encoded = image_prompt(model.config, prompt)
        generator = torch.Generator().manual_seed(1)
        vocabulary = int(model.config.text_config.vocab_size)
        ids = torch.randint(FIRST_TEXT, vocabulary, (size, completion), generator=generator)
        pack = Pack(encoded=encoded, completion_ids=tuple(ids))
        padded = PaddedBatch(model, encoded, ids)
        ours, theirs = _Step(model, packed, pack), _Step(model, padded, None)
        difference = _check(packed, pack, padded, atol=0.5 if on_gpu else 1e-3)
        least = [peak and 1000 * count / peak for count in group_flops(model.config, pack)]
        tokens = (size * (prompt + completion), pack.num_tokens)
        yield Comparison(
            case=f"{case}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights "
            f"(tokens: {tokens[0]} against {tokens[1]}, {tokens[0] / tokens[1]:.2f} times fewer)",
            ours=(Entry(name="scenerl, packed group", run=ours, floor_ms=least[0]),),
            peers=(Entry(name="TRL, padded batch", run=theirs, floor_ms=least[1]),),
            notes=(difference, *([] if peak is None else [FLOOR.format(peak / 1e12)])),
        )


def group_flops(config: Any, pack: Any) -> tuple[float, float]:
    """Return the operations of forward and backward of a group: packed, and one by one.

    A multiplication and an addition for each weight and token and for each pair of the attention,
    three times (the backward pass makes two products for each of the forward's).

    Args:
        config: Of the model.
        pack: A prompt of one image and its completions.
    """
    text, vision = config.text_config, config.vision_config
    prompt, lengths = len(pack.encoded.prompt_ids), [len(ids) for ids in pack.completion_ids]
    head_dim = text.hidden_size // text.num_attention_heads
    layer = text.hidden_size * (
        2 * text.hidden_size + 2 * text.num_key_value_heads * head_dim + 3 * text.intermediate_size
    )
    pair = 2 * text.hidden_size

    def text_work(tokens: float, pairs: float) -> float:
        return float(text.num_hidden_layers * (tokens * layer + pairs * pair))

    patches = int(pack.encoded.grid_thw.prod())
    blocks, whole = vision.depth, len(vision.fullatt_block_indexes)
    window = (vision.window_size // vision.patch_size) ** 2
    tower = blocks * patches * vision.hidden_size * (
        4 * vision.hidden_size + 3 * vision.intermediate_size
    ) + 2 * vision.hidden_size * patches * (whole * patches + (blocks - whole) * window)
    head = sum(lengths) * text.hidden_size * text.vocab_size
    own = sum(n * prompt + n * n / 2 for n in lengths)
    packed = text_work(prompt + sum(lengths), prompt**2 / 2 + own)
    padded = text_work(len(lengths) * prompt + sum(lengths), len(lengths) * prompt**2 / 2 + own)
    return 6 * (packed + head + tower), 6 * (padded + head + len(lengths) * tower)


def random_model(*, large: bool, on_gpu: bool) -> Any:
    """Make a Qwen2.5-VL: as large as the 3B, or one layer of it at an eighth of the width.

    The small one's vision tower attends in windows only, as 28 of the 3B's 32 layers do.

    Args:
        large: The 3B, which recomputes its activations in the backward pass.
        on_gpu: Make it there, in bfloat16; else in float32.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 1376,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12],
        },
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 160, "intermediate_size": 432, "num_heads": 4,
        "out_hidden_size": 256, "fullatt_block_indexes": [],
    }  # fmt: skip
    if large:
        text |= {
            "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
            },
        }  # fmt: skip
        vision = {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048,
        }  # fmt: skip
    names = {
        "image_token_id": IMAGE, "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=large, **names
    )
    with torch.device("cuda" if on_gpu else "cpu"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16 if on_gpu else torch.float32
        ).train()
    if large:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def image_prompt(config: Any, tokens: int) -> Any:
    """Make a prompt of one random image that fills nine tenths of it, and random text."""
    import torch

    from scenerl.envs.records import Prompt
    from scenerl.preprocess.records import Media, Sample, Target
    from scenerl.rollout.positions import PlaceholderRun, mrope_positions
    from scenerl.rollout.records import EncodedPrompt

    height = 16 if tokens >= 1024 else 4
    width = int(tokens * 0.9) // height
    count, before = height * width, 3
    vision = config.vision_config
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(FIRST_TEXT, 1000, (tokens,), generator=generator).tolist()
    ids = [*text[:before], VISION_START, *[IMAGE] * count, VISION_END, *text[before:]][:tokens]
    run = PlaceholderRun(medium=0, start=before + 1, grid=(1, height, width))
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    sample = Sample(
        sample_id="random", dataset="random", split="train", question="where",
        media=Media(kind="image"), target=Target(),
    )  # fmt: skip
    return EncodedPrompt(
        prompt=Prompt(prompt_id="random", sample=sample, messages=(), media=()),
        prompt_ids=torch.tensor(ids),
        position_ids=mrope_positions(tokens, [run], [0.0], None),
        pixel_values=torch.randn(4 * count, patch, generator=generator),
        grid_thw=torch.tensor([[1, 2 * height, 2 * width]]),
        media_kinds=("image",),
        second_per_grid_s=(0.0,),
        content_hash="",
        num_media_tokens=count,
    )


class PaddedBatch:
    """The group as TRL's GRPOTrainer scores it: prompt and media repeated for each completion."""

    def __init__(self, model: Any, encoded: Any, completion_ids: Any) -> None:
        """Lay the batch out; TRL's head is added to the model, whose other calls stay the same."""
        import torch
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        size, self._completion = completion_ids.shape
        prompt = encoded.prompt_ids.expand(size, -1)
        device, dtype = model.device, model.dtype
        ids = torch.cat([prompt, completion_ids], dim=1).to(device)
        self._model, self._trainer = (
            model,
            SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext)),
        )
        self._arguments = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "logits_to_keep": self._completion,
            "compute_entropy": True,
            "pixel_values": encoded.pixel_values.repeat(size, 1).to(device, dtype),
            "image_grid_thw": encoded.grid_thw.repeat(size, 1).to(device),
            "num_images": [1] * size,
            "mm_token_type_ids": (ids == IMAGE).int(),
        }

    def __call__(self, packs: Sequence[Any]) -> tuple[Any, Any]:
        """Return log-probs and entropies, one completion after the other."""
        from trl import GRPOTrainer

        score = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__  # without its profiler
        logprobs, entropies, _ = score(self._trainer, self._model, **self._arguments)
        return logprobs.flatten(), entropies.flatten()


class _Step:
    """Forward and backward of the mean log-prob, in one way."""

    def __init__(self, model: Any, policy: Any, pack: Any) -> None:
        self._model, self._policy, self._pack = model, policy, pack
        self._vision = "sdpa" if pack is None else model.model.visual.config._attn_implementation

    def __call__(self) -> None:
        self._model.model.visual.config._attn_implementation = self._vision
        logprobs, _ = self._policy([self._pack])
        logprobs.mean().backward()
        self._model.zero_grad(set_to_none=True)


def _check(packed: Any, pack: Any, padded: Any, *, atol: float) -> str:
    """Compare the numbers of both ways before their times, and say how far they are apart."""
    import torch

    with torch.no_grad():
        (mine, _), (theirs, _) = packed([pack]), padded([pack])
        apart = (mine - theirs).abs()
    worst = float(apart.max())
    if not worst <= atol:
        raise ValueError(
            f"packed and padded log-probs differ by {worst}, allowed are {atol}; their times would "
            "mean nothing"
        )
    return f"log-probs differ by {float(apart.mean()):.2g} on average, {worst:.2g} at most"
