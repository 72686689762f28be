"""Names and shapes of a checkpoint's weights, checked strictly on their way into an engine."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scenerl.rollout.checkpoints import Shapes

CHUNK_BYTES = 1 << 30
"""Weights travel to another process in pieces of about this size."""


class WeightError(ValueError):
    """Weights that are not exactly those of the checkpoint: names what is missing or left over."""


class CheckedWeights:
    """Passes weights through; every expected one must come exactly once, in its shape."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]], expected: Shapes) -> None:
        """Wrap `weights`, which are consumed once."""
        self._weights = iter(weights)
        self._expected = expected
        self._missing = dict(expected)
        self.digest = 0
        """XOR over the bits of each tensor so far, per name: changes when any weight does."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor).

        Raises:
            WeightError: At the first weight that is unexpected, repeated or of another shape.
        """
        for name, tensor in self._weights:
            if name not in self._missing:
                why = "came twice" if name in self._expected else "is not in the checkpoint"
                raise WeightError(
                    f"weight {name} {why}; expected the {len(self._expected)} names that "
                    "save_pretrained writes, each once"
                )
            shape = self._missing.pop(name)
            if tuple(tensor.shape) != shape:
                raise WeightError(
                    f"weight {name} has shape {tuple(tensor.shape)}, expected {shape}"
                )
            tensor = tensor.detach()
            self.digest = hash((self.digest, name, int(torch.hash_tensor(tensor).item())))
            yield name, tensor

    def finish(self) -> int:
        """Check that nothing is missing or left over; return the digest.

        Raises:
            WeightError: If not all expected weights have passed.
        """
        for name, _ in self:
            raise WeightError(f"loading stopped before weight {name}; restart the engine")
        if self._missing:
            some = ", ".join(sorted(self._missing)[:3])
            raise WeightError(
                f"{len(self._missing)} of {len(self._expected)} weights are missing ({some}, ...); "
                "a weight sync must carry them all"
            )
        return self.digest


def in_chunks(
    weights: Iterable[tuple[str, Tensor]], chunk_bytes: int = CHUNK_BYTES
) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield weights in lists that end once they hold `chunk_bytes`."""
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        chunk.append((name, tensor))
        size += tensor.nbytes
        if size >= chunk_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedWeights:
    """Weights that other processes of this machine read in place: it pickles as names of files."""

    files: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor)."""
        from safetensors import safe_open

        for file in self.files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    yield name, tensors.get_tensor(name)


@contextmanager
def shared_weights(
    weights: Iterable[tuple[str, Tensor]], chunk_bytes: int = CHUNK_BYTES
) -> Iterator[SharedWeights]:
    """Copy weights to memory that every process of this user can open until the block ends.

    The memory has no name in any file system: it is gone with this process, however that ends.

    Args:
        weights: (name, tensor) on any device.
        chunk_bytes: Size of one such memory, about.
    """
    from safetensors.torch import save

    files: list[str] = []
    with ExitStack() as stack:
        for chunk in in_chunks(weights, chunk_bytes):
            descriptor = os.memfd_create("scenerl-weights")
            memory = stack.enter_context(os.fdopen(descriptor, "wb"))
            memory.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in chunk}))
            memory.flush()
            files.append(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield SharedWeights(files=tuple(files))


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
) -> int:
    """Copy weights into a transformers model, in place; return their digest.

    Raises:
        WeightError: As `CheckedWeights`, before anything was copied.
    """
    checked = CheckedWeights(weights, expected)
    arrived = dict(checked)
    digest = checked.finish()
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
    return digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Sync:
    """What an engine took, and what came of it."""

    digest: int
    """Of the bits of all weights."""
    checksum: str
    """Of the engine's log-probs on its probe."""


def check_followed(before: Sync | None, after: Sync) -> None:
    """Check that an engine's outputs changed exactly when its weights did.

    Args:
        before: The sync before this one; None when there was none.
        after: This sync.

    Raises:
        WeightError: If the weights changed and the probe did not, or the other way round.
    """
    if before is None:
        return
    if (before.digest == after.digest) != (before.checksum == after.checksum):
        changed = "did not change" if before.digest == after.digest else "changed"
        raise WeightError(
            f"the learner's weights {changed} since the last sync, but the engine's probe went "
            f"from {before.checksum} to {after.checksum}: the engine does not run these weights; "
            "restart the run from its last checkpoint"
        )
