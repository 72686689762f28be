"""Split work over as many threads as torch uses; compiled kernels release the GIL."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def map_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `work` of each item, in order; `torch.get_num_threads()` items run at once."""
    todo = list(items)
    threads = min(torch.get_num_threads(), len(todo))
    if threads <= 1:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, todo))


def share_out(work: Callable[[Iterator[T]], R], items: Iterable[T]) -> list[R]:
    """Return one result per thread: each draws its next item when it is done with the last."""
    todo = list(items)
    drawn = iter(todo)  # CPython hands out each item of a list's iterator once
    return map_threads(lambda _: work(drawn), range(min(torch.get_num_threads(), len(todo))))


def even_parts(count: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut range(count) into two parts per thread, each of at least `least` items."""
    parts = max(1, min(2 * torch.get_num_threads(), count // max(least, 1)))
    edges = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))
