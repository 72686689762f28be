import numpy as np
import pytest

from scenerl.rewards.benchmark import Bootstrap, Metric
from scenerl.rewards.bootstrap import Statistic, estimate, macro, mean, ratio


def only(statistic: Statistic, ids: list[str], bootstrap: Bootstrap) -> Metric:
    return estimate([statistic], ids, bootstrap)[0]


def test_a_mean_is_exact_and_its_interval_is_that_of_the_binomial() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    ids = [str(i) for i in range(1000)]
    metric = only(mean("acc", values), ids, Bootstrap(resamples=4000))
    assert metric.value == 0.3
    assert metric.count == 1000
    # Normal approximation: 0.3 +- 1.96 sqrt(0.3 x 0.7 / 1000) = 0.3 +- 0.0284.
    assert metric.low == pytest.approx(0.3 - 0.0284, abs=0.003)
    assert metric.high == pytest.approx(0.3 + 0.0284, abs=0.003)


def test_the_interval_of_a_micro_f1_is_that_of_recomputing_it() -> None:
    generator = np.random.default_rng(3)
    tp = generator.integers(0, 3, 80).astype(float)
    predicted, true = tp + generator.integers(0, 3, 80), tp + generator.integers(0, 3, 80)
    f1 = Statistic(
        name="f1",
        columns=(tp, predicted, true),
        compute=lambda t, p, g: ratio(2 * t, p + g),
        count=80,
    )
    metric = only(f1, [f"{i:03d}" for i in range(80)], Bootstrap(resamples=3000))
    naive = []
    for _ in range(3000):
        drawn = generator.integers(0, 80, 80)
        naive.append(2 * tp[drawn].sum() / (predicted[drawn].sum() + true[drawn].sum()))
    low, high = np.percentile(naive, [2.5, 97.5])
    assert metric.low == pytest.approx(low, abs=0.01)
    assert metric.high == pytest.approx(high, abs=0.01)


def test_a_macro_mean_weighs_its_groups_alike() -> None:
    values, first = np.array([1.0, 0.0, 0.0, 0.0]), np.array([True, False, False, False])
    one, rest = mean("a", values, first), mean("b", values, ~first)
    both = Statistic(name="macro", columns=one.columns + rest.columns, compute=macro, count=4)
    assert only(both, list("abcd"), Bootstrap(resamples=0)).value == 0.5


def test_the_interval_depends_on_seed_and_ids_but_not_on_the_order_of_the_items() -> None:
    generator = np.random.default_rng(0)
    values, ids = generator.random(50), [f"item{i}" for i in range(50)]
    shuffled = generator.permutation(50)
    here = only(mean("m", values), ids, Bootstrap(seed=1))
    there = only(mean("m", values[shuffled]), [ids[i] for i in shuffled], Bootstrap(seed=1))
    other = only(mean("m", values), ids, Bootstrap(seed=2))
    assert here.low == pytest.approx(there.low, abs=1e-12)
    assert here.high == pytest.approx(there.high, abs=1e-12)
    assert here.low != other.low


def test_what_has_no_items_or_no_resamples_has_no_interval() -> None:
    nothing = mean("none", np.ones(4), np.zeros(4, dtype=bool))
    metric = only(nothing, list("abcd"), Bootstrap(resamples=10))
    assert (metric.value, metric.low, metric.high, metric.count) == (None, None, None, 0)
    metric = only(mean("all", np.ones(4)), list("abcd"), Bootstrap(resamples=0))
    assert (metric.value, metric.low, metric.high) == (1.0, None, None)


def test_a_group_that_resamples_miss_is_judged_by_those_that_hold_it() -> None:
    lone = mean("lone", np.array([1.0, 0.0, 0.0]), np.array([True, False, False]))
    metric = only(lone, list("abc"), Bootstrap(resamples=200))
    assert (metric.low, metric.high) == (1.0, 1.0)
