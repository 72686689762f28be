"""Build a SAM2 model from a YAML and strictly load its weights, the tiny one as the large one.

A config is a YAML like those of the `sam2` package: a file, or a name inside the package such as
"configs/sam2.1/sam2.1_hiera_l.yaml". A checkpoint is the package's ``.pt`` ({"model": weights}) or
a ``.safetensors`` file of the same names.
"""

import logging
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scenerl.configs import schema
from scenerl.configs.schema import ConfigError

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

Sam2Model: TypeAlias = "SAM2VideoPredictor"

logger = logging.getLogger(__name__)

TINY = "tiny"
"""Config and checkpoint name of the embedded tracker."""

TINY_FOLDER = Path(schema.__file__).parent / "tiny_tracker"

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

PREDICTOR_DEFAULTS: dict[str, Any] = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
    "fill_hole_area": 8,
}
"""What the package sets for its video predictor; a YAML that sets a key itself wins."""


def build_sam2(config: str | None, checkpoint: str | None, *, device: str = "cpu") -> Sam2Model:
    """Build a SAM2 video predictor and load its weights.

    Args:
        config: YAML file, a name inside the sam2 package, or "tiny"; None means "tiny".
        checkpoint: ``.pt`` or ``.safetensors`` file, or "tiny"; None leaves random weights.
        device: Torch device.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: If the config or checkpoint is missing, unusable, or they do not match.
    """
    _check_package()
    _silence_progress()
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    path = resolve_config(config or TINY)
    settings = OmegaConf.load(path)
    if not OmegaConf.is_dict(settings) or "model" not in settings:
        raise ConfigError(f"{path}: found no `model:` section; expected a YAML as sam2 ships them")
    _check_targets(OmegaConf.to_container(settings.model), path)
    merged = OmegaConf.merge({"model": PREDICTOR_DEFAULTS}, {"model": settings.model})
    merged.model["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    if merged.model.fill_hole_area and not _can_fill_holes():
        merged.model.fill_hole_area = 0
    model: Sam2Model = instantiate(merged.model, _recursive_=True)
    if checkpoint is not None:
        load_weights(model, resolve_checkpoint(checkpoint), config_path=path)
    model.to(device).eval()
    return model


def resolve_config(name: str) -> Path:
    """Return the YAML file of a config name.

    Raises:
        ConfigError: If there is no such file, here or inside the sam2 package.
    """
    if name == TINY:
        return TINY_FOLDER / "tiny_tracker.yaml"
    if Path(name).is_file():
        return Path(name)
    import sam2

    package = Path(next(iter(sam2.__path__)))
    if (package / name).is_file():
        return package / name
    known = sorted(str(p.relative_to(package)) for p in package.glob("configs/sam2.1/*.yaml"))
    raise ConfigError(
        f"tracker.config is {name!r}, but there is no such file, here or in the sam2 package; "
        f"give a YAML file, {TINY!r}, or one of {', '.join(known)}"
    )


def resolve_checkpoint(name: str) -> Path:
    """Return the weights file of a checkpoint name.

    Raises:
        ConfigError: If there is no such file.
    """
    path = TINY_FOLDER / "model.safetensors" if name == TINY else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"tracker.checkpoint: no file {str(path)!r}; give SAM2 weights (.pt or .safetensors), "
            f"or {TINY!r} for the embedded tracker"
        )
    return path


def load_weights(model: torch.nn.Module, checkpoint: Path, *, config_path: Path) -> None:
    """Load every weight of the model, with none left over.

    Raises:
        ConfigError: If names or shapes differ: says how many and names the first.
    """
    weights = _read_weights(checkpoint)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    differing = sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])
    if missing or unexpected or differing:
        parts = [f"{len(missing)} weights missing ({missing[0]}, ...)"] if missing else []
        parts += [f"{len(unexpected)} unknown ({unexpected[0]}, ...)"] if unexpected else []
        if differing:
            name = differing[0]
            parts.append(
                f"{len(differing)} of another shape ({name}: found {list(found[name])}, "
                f"expected {list(expected[name])}, ...)"
            )
        raise ConfigError(
            f"checkpoint {checkpoint} does not fit config {config_path}: {'; '.join(parts)}; "
            "set tracker.config and tracker.checkpoint to the same model"
        )
    model.load_state_dict(weights)


def frame_tensor(color: np.ndarray, image_size: int) -> Tensor:
    """Return a colour frame as SAM2 reads it: square, bicubic, normalised.

    Args:
        color: uint8 [height, width, 3], RGB.
        image_size: Side of the model's input, pixels.

    Returns:
        float32 [3, image_size, image_size].
    """
    resized = np.asarray(Image.fromarray(color).resize((image_size, image_size)))
    scaled = torch.from_numpy(resized.astype(np.float32) / 255.0).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (scaled - mean) / std


def _read_weights(checkpoint: Path) -> dict[str, Tensor]:
    if checkpoint.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = load_file(str(checkpoint))
        return loaded
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = stored.get("model", stored) if isinstance(stored, dict) else None
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ConfigError(
            f"{checkpoint}: found no weights; expected {{'model': names to tensors}} as in the "
            "files that sam2 ships"
        )
    return dict(weights)


def _check_targets(settings: Any, path: Path) -> None:
    """Refuse a YAML that would call anything but SAM2's own modules."""
    if isinstance(settings, list):
        for value in settings:
            _check_targets(value, path)
    if not isinstance(settings, dict):
        return
    target = settings.get("_target_", "sam2.")
    if not str(target).startswith("sam2."):
        raise ConfigError(f"{path}: _target_ is {target!r}; only modules of sam2 may be named")
    for value in settings.values():
        _check_targets(value, path)


def _check_package() -> None:
    """Refuse a sam2 that is a checkout beside the working directory, not the package."""
    import sam2

    folder = Path(next(iter(sam2.__path__)))
    if (folder / "sam2").is_dir() or not (folder / "sam2_video_predictor.py").is_file():
        raise ConfigError(
            f"`import sam2` found {folder}, which is a checkout and not the package sam2 1.1; "
            "run from another folder, or pip install sam2==1.1.0"
        )


def _silence_progress() -> None:
    """Turn off the progress bar that sam2 draws for every propagation."""
    from sam2 import sam2_video_predictor
    from tqdm import tqdm  # type: ignore[import-untyped]

    sam2_video_predictor.tqdm = partial(tqdm, disable=True)


@cache
def _can_fill_holes() -> bool:
    """Whether sam2's compiled op is there; says once when it is not."""
    try:
        from sam2 import _C  # noqa: F401
    except ImportError:
        logger.info("sam2 has no compiled op here: small holes in masks are not filled")
        return False
    return torch.cuda.is_available()
