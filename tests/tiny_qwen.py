"""Randomly initialised Qwen-VL models of about 0.2 M parameters, and prompts for them."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from scenerl.envs.records import ParseError, Prompt
from scenerl.preprocess.records import Media, Sample, Target
from scenerl.rl.metrics import WALL_CLOCK
from scenerl.rl.records import SftExample, TrainBatch, TrainGroup
from scenerl.rollout.encode import content_hash
from scenerl.rollout.records import Completion, EncodedPrompt, Group, Rollout

VOCAB, IMAGE, VIDEO, VISION_START, VISION_END, EOS = 128, 120, 121, 122, 123, 124
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def tiny_config(family: str):
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
    }
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    if family == "qwen2_vl":
        from transformers import Qwen2VLConfig

        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 48,
    }
    if family == "qwen2_5_vl":
        from transformers import Qwen2_5_VLConfig

        vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    from transformers import Qwen3VLConfig

    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=text | {"head_dim": 16}, vision_config=vision, **ids)


def tiny_model(family: str = "qwen2_5_vl", *, seed: int = 0):
    """Make a model whose outputs depend clearly on every input (weights larger than default)."""
    import transformers

    name = {
        "qwen2_vl": "Qwen2VLForConditionalGeneration",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
    }[family]
    torch.manual_seed(seed)
    model = getattr(transformers, name)(tiny_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def encoded_prompt(
    family: str = "qwen2_5_vl",
    *,
    media: Sequence[tuple[str, tuple[int, int, int]]] = (),
    num_text: int = 6,
    seed: int = 0,
) -> EncodedPrompt:
    """Make a prompt of random text and pixels; media are (kind, grid in patches)."""
    generator = torch.Generator().manual_seed(seed)
    config = tiny_config(family).vision_config
    patch_dim = 3 * config.temporal_patch_size * config.patch_size**2
    ids: list[int] = torch.randint(5, 100, (num_text,), generator=generator).tolist()
    positions = [torch.arange(num_text).expand(3, -1)]
    pixels, start = [], num_text
    for kind, (t, h, w) in media:
        tokens = t * h * w // 4
        ids += [VISION_START, *[IMAGE if kind == "image" else VIDEO] * tokens, VISION_END]
        grid = torch.stack(
            torch.meshgrid(
                torch.arange(t) * 2, torch.arange(h // 2), torch.arange(w // 2), indexing="ij"
            )
        ).reshape(3, -1)
        positions += [torch.full((3, 1), start), grid + start + 1]
        end = int(positions[-1].max()) + 1
        positions.append(torch.full((3, 1), end))
        start = end + 1
        pixels.append(torch.randn(t * h * w, patch_dim, generator=generator))
    tail = torch.randint(5, 100, (3,), generator=generator).tolist()
    ids += tail
    positions.append((torch.arange(3) + start).expand(3, -1))
    name = f"prompt-{seed}"
    grids = torch.tensor([grid for _, grid in media]) if media else None
    pixel_values = torch.cat(pixels) if pixels else None
    prompt_ids = torch.tensor(ids)
    encoded = EncodedPrompt(
        prompt=Prompt(
            prompt_id=name,
            sample=Sample(
                sample_id=name,
                dataset="tiny",
                split="train",
                question="where",
                media=Media(kind="image"),
                target=Target(),
            ),
            messages=(),
            media=(),
        ),
        prompt_ids=prompt_ids,
        position_ids=torch.cat(positions, dim=1),
        pixel_values=pixel_values,
        grid_thw=grids,
        media_kinds=tuple(kind for kind, _ in media),
        second_per_grid_s=tuple(1.0 if kind == "video" else 0.0 for kind, _ in media),
        content_hash="",
        num_media_tokens=sum(t * h * w // 4 for _, (t, h, w) in media),
    )
    return dataclasses.replace(encoded, content_hash=content_hash(encoded))


def random_completions(lengths: Sequence[int], *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return tuple(torch.randint(5, 100, (length,), generator=generator) for length in lengths)


MEDIA = {
    "text": (),
    "image": (("image", (1, 4, 6)),),
    "video": (("video", (3, 4, 4)),),
    "two media": (("image", (1, 4, 4)), ("video", (2, 6, 4))),
}


def tiny_folder(folder, family: str = "qwen2_5_vl"):
    """Write a tiny checkpoint and return its path."""
    tiny_model(family).save_pretrained(folder)
    return str(folder)


def train_group(
    kind: str = "text", lengths: Sequence[int] = (4, 2, 6), *, family="qwen2_5_vl", seed: int = 0
) -> TrainGroup:
    """Make a group with random completions, advantages and engine log-probs."""
    generator = torch.Generator().manual_seed(2000 + seed)
    completions = random_completions(lengths, seed=seed)
    advantages = torch.randn(len(lengths), generator=generator)
    return TrainGroup(
        group_id=f"group-{seed}",
        encoded=encoded_prompt(family, media=MEDIA[kind], num_text=4 + seed, seed=seed),
        completion_ids=completions,
        completion_masks=tuple(torch.ones(n, dtype=torch.bool) for n in lengths),
        advantages=advantages - advantages.mean(),
        rollout_logprobs=tuple(-3 + torch.randn(n, generator=generator) for n in lengths),
    )


def rollout_group(group):
    """Turn a group of the loss back into what the engine returned."""
    return Group(
        group_id=group.group_id,
        encoded=group.encoded,
        rollouts=tuple(
            Rollout(
                index=index,
                completion=Completion(
                    completion_ids=tuple(ids.tolist()),
                    rollout_logprobs=tuple(logprobs.tolist()),
                    text="",
                    finish_reason="stop",
                    policy_version=0,
                ),
                answer=ParseError(reason="none", text=""),
            )
            for index, (ids, logprobs) in enumerate(
                zip(group.completion_ids, group.rollout_logprobs, strict=True)
            )
        ),
    )


def zero_batch() -> TrainBatch:
    """Make five groups, so that two ranks have an unequal share; one is masked in part."""
    groups = [
        train_group("text", (4, 2, 6), seed=0),
        train_group("image", (3, 5), seed=1),
        train_group("video", (1, 7, 2, 2), seed=2),
        train_group("text", (2, 2), seed=3),
        train_group("image", (8, 3, 3), seed=4),
    ]
    masks = (torch.zeros(3, dtype=torch.bool), *groups[1].completion_masks[1:])
    groups[1] = dataclasses.replace(groups[1], completion_masks=masks)
    return TrainBatch(groups=tuple(groups))


def sft_examples() -> list[SftExample]:
    """Make one supervised example per kind of media."""
    return [
        SftExample(
            encoded=encoded_prompt(media=MEDIA[kind], seed=seed),
            completion_ids=random_completions((5 + seed,), seed=seed)[0],
        )
        for seed, kind in enumerate(["text", "image", "video"])
    ]


def numbers_of(metrics):
    """Leave out what a clock measured."""
    return {name: value for name, value in metrics.items() if not name.startswith(WALL_CLOCK)}
