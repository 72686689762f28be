"""Every benchmark that `launch score` knows, by name."""

import difflib
import importlib

from scenerl.configs.schema import ConfigError
from scenerl.rewards.benchmark import Benchmark

BENCHMARKS: dict[str, str] = {
    "scanrefer": "scenerl.rewards.benchmark_scanrefer",
}
"""Name -> module with ``BENCHMARK``; a module is imported when its benchmark is asked for."""


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name.

    Raises:
        ConfigError: If there is none; suggests the nearest.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is no benchmark{guess}; known are {', '.join(BENCHMARKS)}")
    benchmark: Benchmark = importlib.import_module(BENCHMARKS[name]).BENCHMARK
    return benchmark
