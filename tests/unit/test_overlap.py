"""Rollouts beside the update: what the engines run does not depend on who is faster."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor
from toy_run import ToyEngine, ToyLearner, train_toy, what_a_toy_run_did

from scenerl.rl.records import TrainBatch, UpdateResult


class InPlaceLearner(ToyLearner):
    """Changes its weights where they are, as optimizers do, and says when it has."""

    def __init__(self, updated: threading.Event) -> None:
        super().__init__()
        self._updated = updated

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        self._updated.clear()
        yield from super().weights()

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        place = self._weights
        result = super().update(batches)
        self._weights = place.copy_(self._weights)
        self._updated.set()
        return result


class LateEngine(ToyEngine):
    """Takes weights only after the learner has gone on."""

    def __init__(self, updated: threading.Event) -> None:
        super().__init__()
        self._updated = updated

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> str:
        assert self._updated.wait(10), "the learner waits for the engine"
        return super().load_weights(weights, policy_version)


@pytest.mark.parametrize("staleness", [1, 2])
def test_engines_run_the_weights_of_before_the_update_however_late_they_take_them(
    tmp_path: Path, staleness: int
) -> None:
    plain = train_toy(tmp_path / "plain", max_steps=6, max_staleness=staleness)
    updated = threading.Event()
    late = train_toy(
        tmp_path / "late",
        lambda: InPlaceLearner(updated),
        lambda: LateEngine(updated),
        max_steps=6,
        max_staleness=staleness,
    )
    assert what_a_toy_run_did(late) == what_a_toy_run_did(plain)
