"""Every benchmark that `launch score` knows, by name."""

import difflib
import importlib

from scenerl.configs.schema import ConfigError
from scenerl.rewards.benchmark import Benchmark

BENCHMARKS: dict[str, str] = {
    "scanrefer": "scenerl.rewards.benchmark_scanrefer",
    "nr3d": "scenerl.rewards.benchmark_referit3d",
    "sr3d": "scenerl.rewards.benchmark_referit3d",
    "multi3drefer": "scenerl.rewards.benchmark_multi3drefer",
    "vsibench": "scenerl.rewards.benchmark_vsibench",
    "temporal": "scenerl.rewards.benchmark_temporal",
    "sceneparser": "scenerl.rewards.benchmark_sceneparser",
    "scanqa": "scenerl.rewards.benchmark_scanqa",
    "sqa3d": "scenerl.rewards.benchmark_sqa3d",
    "scan2cap": "scenerl.rewards.benchmark_scan2cap",
    "msqa": "scenerl.rewards.benchmark_msqa",
    "gqa3d": "scenerl.rewards.benchmark_msqa",
    "beacon3d-grounding": "scenerl.rewards.benchmark_beacon3d",
    "beacon3d-qa": "scenerl.rewards.benchmark_beacon3d",
}
"""Name -> module with ``BENCHMARK``, or with ``BENCHMARKS`` by name where it has several; a module
is imported when its benchmark is asked for."""


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name.

    Raises:
        ConfigError: If there is none; suggests the nearest.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is no benchmark{guess}; known are {', '.join(BENCHMARKS)}")
    module = importlib.import_module(BENCHMARKS[name])
    benchmark: Benchmark = (
        module.BENCHMARKS[name] if hasattr(module, "BENCHMARKS") else module.BENCHMARK
    )
    return benchmark
