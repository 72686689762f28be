"""What a long run piles up: bytes of its directory, memory of its driver, objects, Ray's logs.

`pytest -s tests/e2e/test_growth.py` prints the slopes and what a day of them is.
"""

import json
import statistics
from collections import Counter
from pathlib import Path

import pytest
from ray_nodes import ClusterRun, ray_nodes
from toy_run import train_toy
from training_runs import make_inputs

STEPS_A_DAY = 2880
"""One every 30 s."""


def sizes(folder: Path) -> Counter[str]:
    """Return the bytes of a folder, by the names in it; files come and go meanwhile."""
    found = Counter[str]()
    for file in folder.rglob("*"):
        try:
            if file.is_file():
                found[file.relative_to(folder).parts[0]] += file.stat().st_size
        except FileNotFoundError:
            continue
    return found


def slope(points: list[tuple[int, float]]) -> float:
    """Return the growth per step of a straight line through the points."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def show(title: str, slopes: dict[str, float]) -> None:
    print(f"\n{title}\n  {'what':<24} {'bytes a step':>14} {'MiB a day':>12}")  # noqa: T201
    for name, value in slopes.items():
        print(f"  {name:<24} {value:>14,.0f} {value * STEPS_A_DAY / 2**20:>12,.1f}")  # noqa: T201


def driver_memory(run: Path, start: int) -> list[tuple[int, float]]:
    """Return (step, bytes) from a step on."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["memory/driver_gib"] * 2**30) for r in rows if r["step"] > start]


@pytest.mark.slow
def test_a_long_run_grows_by_its_records_and_by_nothing_else(tmp_path: Path) -> None:
    steps, every = 600, 50
    run = train_toy(tmp_path, max_steps=steps, save_steps=every)
    found = sizes(run)
    points = driver_memory(run, 100)
    show(
        f"toy run, {steps} steps of 2 groups of 3 completions of 4 tokens",
        {name: found[name] / steps for name in ("metrics.jsonl", "ledger.jsonl", "rollouts")}
        | {"driver memory": slope(points)},
    )
    records = {"metrics.jsonl", "ledger.jsonl", "rollouts", "checkpoints"}
    others = {name: size for name, size in found.items() if name not in records}
    assert sum(others.values()) < 20_000, others
    # commits: the newest two, with what the ledger was when they were made
    assert len(list((run / "checkpoints").glob("step_*"))) == 2
    assert found["checkpoints"] < 2 * (found["ledger.jsonl"] + 20_000)
    assert slope(points) < 8_000


@pytest.mark.slow
@pytest.mark.multinode
def test_a_run_over_ray_keeps_no_pixels_weights_or_logs(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    steps, begin = 64, 16
    with ray_nodes() as nodes:
        nodes.add("one", cpus=3)
        more = ["cluster.nnodes=2", f"train.max_steps={steps}", "train.save_steps=8"]
        run = ClusterRun(tmp_path, "growth", nodes.environment, *more)
        seen: list[tuple[int, Counter[str]]] = []
        with run.working() as process:
            while process.poll() is None:
                step = run.steps()
                if step < steps and (not seen or seen[-1][0] < step):
                    logs = sizes(nodes.folder)
                    stored = nodes.stored_bytes()
                    more_sizes = {"objects": stored, "Ray's session": logs.total()}
                    seen.append((step, sizes(run.path) + Counter(more_sizes)))
            assert process.returncode == 0, run.said()[-5000:]
    later = [(step, found) for step, found in seen if step >= begin]
    assert len(later) > 20
    names = sorted({name for _, found in later for name in found})
    slopes = {name: slope([(step, found[name]) for step, found in later]) for name in names}
    points = driver_memory(run.path, begin)
    slopes["driver memory"] = slope(points)
    show(f"tiny run over Ray, {steps} steps of 2 groups of 3 completions of 8 tokens", slopes)
    # a step's pixels and weights are there while they are needed; none stays
    stored = [found["objects"] for _, found in later]
    half = len(stored) // 2
    assert max(stored[half:]) <= 1.2 * max(stored[:half])
    assert slopes["driver memory"] < 200_000
    assert slopes["journal"] < 2_000
    assert slopes["Ray's session"] < 50_000
