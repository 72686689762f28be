"""Which implementation runs: compiled where its package is installed, plain torch elsewhere."""

import functools
import importlib.util
import logging
from typing import Literal

logger = logging.getLogger(__name__)

Backend = Literal["auto", "numba", "triton", "torch"]


@functools.cache
def choose_backend(device: str) -> Backend:
    """Return the fast implementation for a torch device; say once when it is missing."""
    fast: Backend = "numba" if device == "cpu" else "triton"
    if importlib.util.find_spec(fast) is None:
        logger.warning("%s is not installed; torch computes instead, several times slower", fast)
        return "torch"
    return fast
