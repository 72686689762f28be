"""Names and shapes of a checkpoint's weights, checked strictly on their way into an engine."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]


class WeightError(ValueError):
    """Weights that are not exactly those of the checkpoint: names what is missing or left over."""


def checkpoint_shapes(model_dir: str | Path) -> Shapes:
    """Read name and shape of every weight of a checkpoint folder from its safetensors headers.

    Raises:
        WeightError: If the folder holds no safetensors files.
    """
    from safetensors import safe_open

    files = sorted(Path(model_dir).glob("*.safetensors"))
    index = Path(model_dir) / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [Path(model_dir) / name for name in sorted(named)]
    if not files:
        raise WeightError(f"{model_dir} holds no *.safetensors; save the model in that format")
    shapes: Shapes = {}
    for file in files:
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                shapes[name] = tuple(tensors.get_slice(name).get_shape())
    return shapes


def checked_weights(
    weights: Iterable[tuple[str, Tensor]], expected: Shapes
) -> Iterator[tuple[str, Tensor]]:
    """Pass weights through; every expected one must come exactly once, in its shape.

    Raises:
        WeightError: At the first weight that is unexpected, repeated or of another shape, and at
            the end when some are missing.
    """
    missing = dict(expected)
    for name, tensor in weights:
        if name not in missing:
            why = "came twice" if name in expected else "is not in the checkpoint"
            raise WeightError(
                f"weight {name} {why}; expected the {len(expected)} names that save_pretrained "
                "writes, each once"
            )
        shape = missing.pop(name)
        if tuple(tensor.shape) != shape:
            raise WeightError(f"weight {name} has shape {tuple(tensor.shape)}, expected {shape}")
        yield name, tensor
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise WeightError(
            f"{len(missing)} of {len(expected)} weights are missing ({some}, ...); a weight sync "
            "must carry them all"
        )


def hub_state_dict(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a transformers model's weights under the names `save_pretrained` writes, not copied.

    transformers 5 holds Qwen-VL models under other names than their checkpoints. Weights tied to
    another one are left out, as in a saved checkpoint.
    """
    from transformers.core_model_loading import revert_weight_conversion

    stock: Any = model
    tied = set(getattr(stock, "all_tied_weights_keys", None) or ())
    plain = {name: tensor for name, tensor in stock.state_dict().items() if name not in tied}
    yield from revert_weight_conversion(stock, plain).items()


def assign_hub_weights(
    model: nn.Module, weights: Iterable[tuple[str, Tensor]], expected: Shapes
) -> None:
    """Copy checked weights into a transformers model, in place.

    Raises:
        WeightError: As `checked_weights`, before anything was copied.
    """
    import torch

    arrived = dict(checked_weights(weights, expected))
    own = dict(hub_state_dict(model))
    if own.keys() != arrived.keys():
        odd = sorted(own.keys() ^ arrived.keys())
        raise WeightError(
            f"the model and its checkpoint folder name {len(odd)} weights differently "
            f"({', '.join(odd[:3])}, ...); save the folder anew with save_pretrained"
        )
    with torch.no_grad():
        for name, tensor in arrived.items():
            own[name].copy_(tensor)
