"""What a model family fixes for the tasks: the pixel grid and how boxes are written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]

# model_type in config.json -> (family, default patch size, boxes in 0..1000?)
_FAMILIES: dict[str, tuple[FamilyName, int, bool]] = {
    "qwen2_vl": ("qwen2_vl", 14, True),
    "qwen2_5_vl": ("qwen2_5_vl", 14, False),
    "qwen3_vl": ("qwen3_vl", 16, True),
    "qwen3_vl_moe": ("qwen3_vl", 16, True),
}
_DEFAULT_MERGE_SIZE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """The facts about a Qwen-VL checkpoint that a prompt and its parser depend on."""

    name: FamilyName
    patch_size: int
    merge_size: int
    relative_coordinates: bool
    """True when the model writes boxes in 0..1000 of the frame, False for pixels it sees."""

    @property
    def factor(self) -> int:
        """Width and height of a frame that the policy sees are multiples of this."""
        return self.patch_size * self.merge_size


def model_family(model: str | Path | Mapping[str, Any]) -> ModelFamily:
    """Read the family of a checkpoint from its config.json.

    Args:
        model: A checkpoint folder, a config.json, a name in the local hub cache (looked up by
            transformers), or the config as a mapping.

    Returns:
        The family with the sizes that this very checkpoint declares.

    Raises:
        ValueError: When the model type is not a supported Qwen-VL.
        FileNotFoundError: When there is no config.json.
    """
    config = model if isinstance(model, Mapping) else _read_config(str(model))
    model_type = config.get("model_type")
    if model_type not in _FAMILIES:
        raise ValueError(
            f"model_type is {model_type!r}, but the tasks are written for "
            f"{', '.join(sorted(_FAMILIES))}; set model.path to a checkpoint of one of these"
        )
    name, patch_size, relative_coordinates = _FAMILIES[model_type]
    vision = config.get("vision_config") or {}
    return ModelFamily(
        name=name,
        patch_size=int(vision.get("patch_size") or vision.get("spatial_patch_size") or patch_size),
        merge_size=int(vision.get("spatial_merge_size") or _DEFAULT_MERGE_SIZE),
        relative_coordinates=relative_coordinates,
    )


def _read_config(model: str) -> dict[str, Any]:
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _cached_config(model, path)
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, expected a JSON object")
    return config


def _cached_config(model: str, missing: Path) -> Path:
    from transformers.utils import cached_file

    try:
        return Path(cached_file(model, "config.json"))
    except (OSError, ValueError, TypeError) as error:
        raise FileNotFoundError(
            f"{missing} does not exist, and {model!r} is not a checkpoint that transformers can "
            "find; set model.path to a folder with config.json"
        ) from error
