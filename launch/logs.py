"""What a person sees of a run: this package's progress, and of other packages only trouble."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def log_to_file(run: Path) -> Iterator[None]:
    """Add what is logged to RUN/log.txt as well, with dates, for `launch logs`."""
    handler = logging.FileHandler(run / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
