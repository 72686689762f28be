"""The embedded policy's architecture: Qwen2.5-VL, small enough to train and run on two cores.

`make_tiny_policy` writes a checkpoint folder with random weights that every loader of Qwen2.5-VL
reads. What differs from the 7B model, and why:

- Rotary base 100 instead of 1e6: with 16 frequencies per head the width axis of mRoPE gets the
  slowest ones, which at 1e6 would turn less than a thousandth of a radian across an image.
- Numbers 0..511 are one token each, and their embeddings start as smooth functions of the number,
  so that a box edge is one choice among neighbours that look alike.
- Every vision block attends to the whole frame.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NUM_NUMBERS = 512

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's form, without its default system message."""

_PHRASES = (
    "the {c} {l}", "{l} that is {c}", "{l} in {c}", "{c} colored {l}",
    "{l} next to the {c} {l}", "{l} beside the {l}", "{l} on the {c} {l}",
    "{l} to the left of the {c} {l}", "{l} to the right of the {l}",
    "smallest {l}", "largest {l}", "tallest {l}", "biggest {l}",
    "How many {l}s are there?", "How many {c} objects are in the room?", "Count the {l}s.",
    "Is there a {c} {l}?", "Does the room have a {c} {l}?", "What color is the {l}?",
)  # fmt: skip


def make_tiny_policy(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a checkpoint folder with random weights.

    Args:
        folder: Made when missing.
        seed: Of the weights; the tokenizer is always the same.

    Returns:
        The folder.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processor = tiny_processor()
    processor.save_pretrained(str(folder))
    config = tiny_config(processor.tokenizer)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    numbers = processor.tokenizer.convert_tokens_to_ids([str(n) for n in range(NUM_NUMBERS)])
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_(0.0, 0.05)
        embeddings[numbers] = number_embeddings(embeddings.shape[1])
    model.save_pretrained(str(folder))
    generation = {"eos_token_id": config.text_config.eos_token_id, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    return folder


def number_embeddings(width: int) -> Tensor:
    """Return embeddings of 0..511 in which neighbours resemble each other, [512, width].

    Random Fourier features with length scales from 5 to 300, plus a little noise that keeps
    neighbours apart.
    """
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(width // 2, generator=generator)
    scale = torch.exp(uniform * math.log(300 / 5) + math.log(5))
    phase = torch.rand(width // 2, generator=generator) * 2 * math.pi
    angle = torch.arange(NUM_NUMBERS).float()[:, None] / scale + phase
    features = torch.cat([angle.cos(), angle.sin()], dim=1)
    noise = torch.randn(NUM_NUMBERS, width, generator=generator)
    return 0.0636 * features + 0.01 * noise


def tiny_config(tokenizer: Any) -> Any:
    """Return the Qwen2.5-VL config of the embedded policy: 1.9 M parameters."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,  # heads of 32, which vLLM's attention on CPU has
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": [4, 6, 6],
        },
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 4,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [0, 1, 2, 3],
        "tokens_per_second": 1,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def tiny_processor() -> Any:
    """Return Qwen2.5-VL's processor around the small tokenizer."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=784, max_pixels=1003520),
        tokenizer=tiny_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(min_pixels=784, max_pixels=602112),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer (any text survives) trained on the words of the rooms."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=5,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    words = [*TAGS, *(str(number) for number in range(NUM_NUMBERS))]
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> list[str]:
    """Return the texts that prompts and replies about rooms are made of."""
    from scenerl.envs.templates import prompt_text
    from scenerl.preprocess.rooms_furniture import COLORS, FURNITURE

    corpus = []
    for color in COLORS:
        for label in FURNITURE:
            for phrase in _PHRASES:
                query = phrase.format(c=color, l=label)
                for task in ("temporal_grounding", "image_grounding", "video_qa"):
                    corpus.append(prompt_text(task, "short", query))
            corpus += ['{"bbox_2d": [', ", ", f'], "label": "{label}"}}', "s to ", "user\n"]
            corpus += ["assistant\n", "system\n", "yes", "no", "one", "two", "three", "four"]
    return corpus
