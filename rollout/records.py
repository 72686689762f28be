"""Records between engine and learner."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scenerl.envs.records import Answer, ParseError, Prompt


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedPrompt:
    """One prompt after its one processor call: the same tensors for engine and learner."""

    prompt: Prompt
    prompt_ids: Tensor
    """int64 [prompt], media placeholders expanded."""
    position_ids: Tensor
    """int64 [3, prompt]: mRoPE positions (time, height, width) as Qwen and vLLM define them."""
    pixel_values: Tensor | None
    """float32 [patches, patch dim] of all media, in order; images and videos alike."""
    grid_thw: Tensor | None
    """int64 [media, 3]: patches in time, height, width of each image or video."""
    media_kinds: tuple[Literal["image", "video"], ...]
    second_per_grid_s: tuple[float, ...]
    """Seconds between temporal patches of each medium; 0.0 for an image."""
    content_hash: str
    """XXH3 over ids, grids and pixel bytes; checked by engine and learner."""
    num_media_tokens: int
    """Placeholder tokens in prompt_ids; must equal the merged patches."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as arrays."""
        return reduce_to_arrays(self)


def reduce_to_arrays(record: Any) -> tuple[Any, ...]:
    """Return what `__reduce__` of a dataclass with tensors should: tensors as NumPy arrays.

    Pickle passes arrays on as they are; torch writes an archive for every tensor, which for the
    hundreds of small ones in a batch takes longer than to send them.
    """
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return _from_arrays, (type(record), {name: _arrays(value) for name, value in values.items()})


def _arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    return tuple(map(_arrays, value)) if isinstance(value, tuple) else value


def _from_arrays(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**{name: _tensors(value) for name, value in values.items()})


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())  # out of shared memory it would be read-only
    return tuple(map(_tensors, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What the policy wrote."""

    completion_ids: tuple[int, ...]
    """Includes the end-of-turn token when there is one."""
    rollout_logprobs: tuple[float, ...]
    """Of each completion id, at sampling temperature 1 semantics, by the engine."""
    text: str
    finish_reason: Literal["stop", "length"]
    policy_version: int

    @property
    def is_truncated(self) -> bool:
        """Whether the length limit ended it."""
        return self.finish_reason == "length"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rollout:
    """A completion with what it means."""

    index: int
    completion: Completion
    answer: Answer | ParseError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """The rollouts of one prompt."""

    group_id: str
    encoded: EncodedPrompt
    rollouts: tuple[Rollout, ...]

    @property
    def prompt(self) -> Prompt:
        """The prompt that all rollouts of the group answer."""
        return self.encoded.prompt
