"""Load, name and save the policy: from one Qwen-VL checkpoint folder to another."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenerl.configs.schema import ModelConfig

COPIED_SUFFIXES = (".json", ".txt", ".jinja", ".model")
"""Tokenizer, processor and template files; config and weights are written anew."""


def load_policy(
    model: ModelConfig, *, gradient_checkpointing: bool = False, device: str = "cpu"
) -> nn.Module:
    """Load the policy for training.

    Flash attention knows no packed masks, so with `flash_attention_2` the vision tower uses it and
    the text model uses sdpa.

    Args:
        model: Path, dtype, attention, LoRA, whether the vision tower is frozen.
        gradient_checkpointing: Recompute activations in the backward pass.
        device: Where the weights go.

    Returns:
        The transformers model, in a PEFT wrapper when `model.lora_r` is positive.

    Raises:
        ValueError: If weights are missing from the checkpoint.
    """
    policy: Any = _load_stock(model, device)
    if model.freeze_vision_tower:
        policy.model.visual.requires_grad_(False)
    if gradient_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if model.lora_r > 0:
        return _with_lora(policy, model)
    stock: nn.Module = policy
    return stock


def load_reference(model: ModelConfig, *, device: str = "cpu") -> nn.Module:
    """Load the frozen model of the KL term."""
    reference: nn.Module = _load_stock(model, device)
    reference.requires_grad_(False)
    return reference.eval()


def stock_model(policy: nn.Module) -> Any:
    """Return the transformers model, out of its PEFT wrapper when there is one."""
    get_base_model = getattr(policy, "get_base_model", None)
    return policy if get_base_model is None else get_base_model()


@contextlib.contextmanager
def adapter_disabled(policy: nn.Module) -> Iterator[None]:
    """Switch LoRA off: what runs inside sees the model that training started from."""
    with policy.disable_adapter():  # type: ignore[operator]
        yield


def plain_weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights under transformers' own names, LoRA merged, nothing copied.

    Weights tied to another one are left out, as in a saved checkpoint.
    """
    stock = stock_model(policy)
    tied = set(getattr(stock, "all_tied_weights_keys", None) or ())
    weights: dict[str, Tensor] = {}
    for name, tensor in stock.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" in name or plain in tied:
            continue
        weights[plain] = tensor
        if plain != name and name.endswith(".weight"):
            layer = stock.get_submodule(name.removesuffix(".base_layer.weight"))
            for adapter in layer.active_adapters:
                weights[plain] = weights[plain] + layer.get_delta_weight(adapter).to(tensor)
    return weights


def hub_names(policy: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to what `save_pretrained` writes and an engine's loader reads."""
    from transformers.core_model_loading import revert_weight_conversion

    renamed: dict[str, Tensor] = revert_weight_conversion(stock_model(policy), weights)
    return renamed


def save_policy(policy: nn.Module, weights: dict[str, Tensor], source: str, folder: Path) -> None:
    """Write a checkpoint folder that transformers, vLLM and this project load.

    Args:
        policy: Gives config and names.
        weights: `plain_weights` of it.
        source: `model.path`; its tokenizer and processor files are copied.
        folder: Made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stock_model(policy).save_pretrained(
        folder, state_dict={name: tensor.detach().cpu() for name, tensor in weights.items()}
    )
    if not Path(source).is_dir():
        from transformers import AutoProcessor

        AutoProcessor.from_pretrained(source).save_pretrained(folder)
        return
    for file in sorted(Path(source).iterdir()):
        is_index = file.name.endswith(".safetensors.index.json")
        if file.suffix in COPIED_SUFFIXES and not is_index and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _load_stock(model: ModelConfig, device: str) -> Any:
    from transformers import AutoModelForImageTextToText

    attention: str | dict[str, str] = model.attn_implementation
    if model.attn_implementation == "flash_attention_2":
        attention = {"text_config": "sdpa", "vision_config": "flash_attention_2"}
    policy, info = AutoModelForImageTextToText.from_pretrained(
        model.path,
        dtype=getattr(torch, model.dtype),
        attn_implementation=attention,
        trust_remote_code=model.trust_remote_code,
        output_loading_info=True,
    )
    problems = {
        kind: sorted(str(name) for name in info[kind])
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")
        if info.get(kind)
    }
    if problems:
        raise ValueError(
            f"{model.path}: the checkpoint does not fill the model exactly: {problems}; "
            "use a complete checkpoint folder with its own config.json"
        )
    return policy.to(device)


def _with_lora(policy: Any, model: ModelConfig) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    # the checkpointed text model sees inputs that need no gradient while its weights are frozen
    policy.enable_input_require_grads()
    wrapped: nn.Module = get_peft_model(
        policy,
        LoraConfig(
            r=model.lora_r,
            lora_alpha=model.lora_alpha,
            lora_dropout=model.lora_dropout,
            target_modules=list(model.lora_target_modules),
        ),
    )
    return wrapped
