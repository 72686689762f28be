"""Numbers over several replies to each item: pass@k, the mean, and the named oracle."""

import math
from collections.abc import Mapping, Sequence


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that at least one of k replies is right, without bias.

    1 - C(n - c, k) / C(n, k) for n replies of which c are right (arXiv:2107.03374, eq. 1).

    Args:
        samples: n, replies that were drawn.
        right: c, how many of them are right.
        k: How many replies a user would get; at most n.

    Raises:
        ValueError: If k is not in 1..n or c not in 0..n.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {samples} replies with {right} right is not defined")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def ks(samples: int) -> list[int]:
    """Return the k that are reported: 1, 2, 4, ... and the number of replies."""
    powers = [2**power for power in range(samples.bit_length()) if 2**power <= samples]
    return sorted({*powers, samples})


def over_samples(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Summarise one metric of several replies per item.

    Args:
        values: Item id -> the metric of each of its replies, the same number for all.

    Returns:
        "mean_over_samples"; "pass@k" for several k when the metric is only ever 0 or 1; and
        "oracle_best_of_n", the best of the n replies chosen by looking at the truth, which no
        user can have. Empty without items.
    """
    rows = list(values.values())
    if not rows:
        return {}
    count = len(rows[0])
    summary = {"mean_over_samples": _mean([_mean(row) for row in rows])}
    if all(value in (0.0, 1.0) for row in rows for value in row):
        for k in ks(count):
            summary[f"pass@{k}"] = _mean([pass_at_k(count, round(sum(row)), k) for row in rows])
    summary[f"oracle_best_of_{count}"] = _mean([max(row) for row in rows])
    return summary


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
