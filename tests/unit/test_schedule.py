import pytest

from scenerl.configs.schema import TrainConfig
from scenerl.rl.schedule import learning_rate


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_rates_by_hand(kind, expected):
    config = TrainConfig(learning_rate=1.0, lr_scheduler_type=kind, warmup_steps=2, max_steps=6)
    assert [learning_rate(step, config) for step in range(6)] == pytest.approx(expected)


def test_falls_to_zero_and_stays():
    config = TrainConfig(learning_rate=1.0, lr_scheduler_type="cosine", max_steps=6)
    assert learning_rate(6, config) == pytest.approx(0.0)
    assert learning_rate(60, config) == pytest.approx(0.0)
