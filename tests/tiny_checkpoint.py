"""Random checkpoints with tokenizer and processor, in sizes that vLLM's CPU kernels take."""

import json
from pathlib import Path

import numpy as np
import torch

from scenerl.envs.records import MediaRef, Prompt
from scenerl.preprocess.records import Media, Sample, Target

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLASSES = {
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
}


def tiny_checkpoint(
    folder: Path, family: str = "qwen2_5_vl", *, seed: int = 0, tied: bool = False
) -> Path:
    """Write a checkpoint folder of about 0.3 M random weights."""
    import transformers

    config_class, model_class, processor_class = CLASSES[family]
    tokenizer = byte_tokenizer()
    values = tiny_config(family, tokenizer)
    values["text_config"]["tie_word_embeddings"] = tied
    config = getattr(transformers, config_class)(**values, tie_word_embeddings=tied)
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # outputs that depend clearly on every input
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    image, video = _media_processors(family)
    processor = getattr(transformers, processor_class)(
        image_processor=image, video_processor=video, tokenizer=tokenizer, chat_template=TEMPLATE
    )
    processor.save_pretrained(folder)
    eos = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder


def byte_tokenizer():
    """Make a byte-level tokenizer without merges: 256 bytes and Qwen's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return tokenizer


def tiny_config(family: str, tokenizer) -> dict:
    """Sizes with a text head of 32, which vLLM's CPU attention has."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
    }
    vision = {"depth": 2, "hidden_size": 64, "out_hidden_size": 64, "num_heads": 2}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    elif family == "qwen2_5_vl":
        vision |= {"intermediate_size": 96, "patch_size": 14, "window_size": 56}
        vision |= {"fullatt_block_indexes": [1], "tokens_per_second": 2}
    else:
        text |= {"head_dim": 32}
        vision |= {"intermediate_size": 96, "patch_size": 16, "num_position_embeddings": 64}
        vision |= {"deepstack_visual_indexes": [0, 1]}
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {
        key: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for key, name in zip(keys, names, strict=True)
    }
    return {"text_config": text, "vision_config": vision, **ids}


def _media_processors(family: str):
    import transformers

    if family == "qwen3_vl":
        image = transformers.Qwen2VLImageProcessor(patch_size=16)
        return image, transformers.Qwen3VLVideoProcessor()
    return transformers.Qwen2VLImageProcessor(), transformers.Qwen2VLVideoProcessor()


def smooth_frames(ref: MediaRef) -> np.ndarray:
    """Make frames that differ in space, in time and between references."""
    width, height = ref.native_size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    shift = sum(ref.path.encode()) % 17
    frames = [
        np.stack(
            [
                127 + 120 * np.sin(x / 9 + index + shift),
                127 + 120 * np.cos(y / 7 - index * 0.7),
                127 + 120 * np.sin((x + y) / 11 + shift * index),
            ],
            axis=-1,
        )
        for index in ref.frame_indices
    ]
    return np.stack(frames).astype(np.uint8)


def media_ref(
    kind: str,
    size: tuple[int, int] = (56, 56),
    *,
    num_frames: int = 4,
    fps: float = 2.0,
    path: str = "a",
) -> MediaRef:
    """Make a reference for `smooth_frames`; native frames are larger than what the policy sees."""
    count = 1 if kind == "image" else num_frames
    return MediaRef(
        kind=kind,
        path=path,
        frame_indices=tuple(range(count)),
        times_s=tuple(index / fps for index in range(count)),
        native_size=(size[0] * 3 // 2, size[1] * 2),
        size=size,
        duration_s=count / fps,
    )


def tiny_prompt(name: str, media: tuple[MediaRef, ...] = (), question: str = "where?") -> Prompt:
    """Make a prompt of media and a question."""
    parts = [{"type": ref.kind} for ref in media]
    sample = Sample(
        sample_id=name,
        dataset="tiny",
        split="train",
        question=question,
        media=Media(kind="image"),
        target=Target(),
    )
    return Prompt(
        prompt_id=name,
        sample=sample,
        messages=({"role": "user", "content": [*parts, {"type": "text", "text": question}]},),
        media=media,
    )


def tiny_prompts(unit: int = 28) -> dict[str, Prompt]:
    """Text, image, video, long video, several media, odd frame counts and sizes."""
    u = unit
    video = media_ref("video", (3 * u, 2 * u), num_frames=6)
    image = media_ref("image", (4 * u, 2 * u), path="b")
    media = {
        "text": (),
        "image": (image,),
        "video": (video,),
        "odd frames": (media_ref("video", (2 * u, 3 * u), num_frames=5, fps=1.3),),
        "long video": (media_ref("video", (2 * u, u), num_frames=24, fps=1.0, path="c"),),
        "image and video": (image, media_ref("video", (u, 2 * u), num_frames=2, fps=3.0)),
        "video, image, image": (video, image, media_ref("image", (u, u), path="d")),
    }
    return {name: tiny_prompt(name, refs, f"{name}: where?") for name, refs in media.items()}
