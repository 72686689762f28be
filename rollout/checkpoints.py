"""What a checkpoint folder holds, read from the headers of its files without torch."""

import json
from pathlib import Path

from scenerl.configs.schema import ConfigError

Shapes = dict[str, tuple[int, ...]]


def checkpoint_shapes(model_dir: str | Path) -> Shapes:
    """Read name and shape of every weight of a checkpoint folder.

    Raises:
        ConfigError: If the folder holds no safetensors files, or broken ones.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(Path(model_dir).glob("*.safetensors"))
    index = Path(model_dir) / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [Path(model_dir) / name for name in sorted(named)]
    if not files:
        raise ConfigError(
            f"{model_dir} holds no *.safetensors; set model.path to a folder in the format of "
            "save_pretrained"
        )
    shapes: Shapes = {}
    for file in files:
        try:
            with safe_open(str(file), framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"{file} cannot be read ({error}); copy the checkpoint again"
            ) from None
    return shapes
