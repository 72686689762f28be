"""What a person sees of a run: this package's progress, and of other packages only trouble."""

import logging
import os
import shutil

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Set before the heavy imports, and inherited by Ray's workers, unless the user has set them."""


def set_up_logging() -> None:
    """Write INFO of this package and warnings of others to stderr."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if shutil.which("nvidia-smi") is None:  # DeepSpeed otherwise says aloud that it guessed
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("scenerl").setLevel(logging.INFO)
