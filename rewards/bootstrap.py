"""Numbers of a benchmark with their bootstrap intervals.

Every metric here is a function of sums over items: a mean is sum(x) / sum(1), a micro F1 is
2 sum(TP) / (sum(P) + sum(G)), a macro mean averages such ratios. A resample draws as many items as
there are, with replacement; how often each was drawn times the columns gives the sums, and the
metric is computed again from them. So the interval of any such metric is its own, not that of a
mean of per-item values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scenerl.rewards.benchmark import Bootstrap, Metric, Rule

Column: TypeAlias = npt.NDArray[Any]

_BLOCK_BYTES = 16 * 2**20
"""Size of the draw counts held at a time."""


def ratio(*sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the first sum over the second, NaN where that is 0."""
    top, bottom = (np.asarray(part, dtype=np.float64) for part in sums)
    share = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=share, where=bottom != 0)
    return share


def macro(*sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the plain mean of the ratios of consecutive pairs of sums."""
    pairs = zip(sums[::2], sums[1::2], strict=True)
    return np.asarray(np.mean([ratio(top, bottom) for top, bottom in pairs], axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """A metric as a function of sums over items."""

    name: str
    columns: tuple[Column, ...]
    """Each [items]; what is summed."""
    compute: Callable[..., npt.NDArray[np.float64]] = ratio
    """Sums of the columns -> the metric; takes numbers and arrays alike."""
    count: int
    rule: Rule = "official"
    scale: float = 1.0
    value: float | None = None
    """The exact official value where rounding (float32, say) makes it another one."""
    empty: float | None = None
    """What the official script says when there is nothing to average."""


def mean(
    name: str,
    values: Column,
    where: Column | None = None,
    *,
    scale: float = 1.0,
    rule: Rule = "official",
    empty: float | None = None,
) -> Statistic:
    """Return the mean of values over the items of a mask, all items when there is none."""
    kept = np.ones(len(values)) if where is None else where
    return Statistic(
        name=name,
        columns=(values if where is None else np.where(where, values, 0), kept),
        count=int(kept.sum()),
        rule=rule,
        scale=scale,
        empty=empty,
    )


def estimate(
    statistics: Sequence[Statistic], item_ids: Sequence[str], bootstrap: Bootstrap
) -> tuple[Metric, ...]:
    """Return the metrics with the 2.5 and 97.5 percentiles of their resampled values.

    The draws depend on the seed and on the ids, not on the order of the items. Resamples in which
    a metric has nothing to average are left out of its percentiles.

    Args:
        statistics: What to compute; columns may be shared.
        item_ids: The items of the columns.
        bootstrap: How many resamples, which seed.
    """
    columns = list({id(c): c for s in statistics for c in s.columns}.values())
    position = {id(column): index for index, column in enumerate(columns)}
    table = np.array(columns, dtype=np.float64)  # [columns, items]
    totals = table.sum(axis=1)
    drawn = None
    if bootstrap.resamples and len(item_ids) > 1:
        order = np.argsort(np.array(item_ids))
        drawn = _resampled_sums(table[:, order].T.copy(), bootstrap)
    metrics = []
    for statistic in statistics:
        at = [position[id(column)] for column in statistic.columns]
        value = statistic.value
        if value is None:
            value = float(statistic.compute(*totals[at])) * statistic.scale
            value = None if np.isnan(value) else value
        low = high = None
        if drawn is not None and value is not None:
            low, high = _interval(statistic.compute(*drawn[:, at].T) * statistic.scale)
        metrics.append(
            Metric(
                name=statistic.name,
                value=statistic.empty if value is None else value,
                low=low,
                high=high,
                count=statistic.count,
                rule=statistic.rule,
            )
        )
    return tuple(metrics)


def _resampled_sums(
    table: npt.NDArray[np.float64], bootstrap: Bootstrap
) -> npt.NDArray[np.float64]:
    """Return the sums of every column in every resample, [resamples, columns]."""
    count, width = table.shape
    random = np.random.default_rng(bootstrap.seed)
    block = max(1, _BLOCK_BYTES // (8 * count))
    sums = np.empty((bootstrap.resamples, width))
    for start in range(0, bootstrap.resamples, block):
        size = min(block, bootstrap.resamples - start)
        draws = np.empty((size, count))
        for row in draws:
            row[:] = np.bincount(random.integers(0, count, count), minlength=count)
        sums[start : start + size] = draws @ table
    return sums


def _interval(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
