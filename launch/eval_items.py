"""Which items of a benchmark are asked, and the files that fix such a choice."""

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.envs.benchmark_prompts import asking
from scenerl.preprocess.records import DataError, Sample
from scenerl.preprocess.store import read_manifest, read_samples
from scenerl.rl.answer_log import ids_sha256, named
from scenerl.rl.durable import write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """The items that are asked, in order."""

    samples: dict[str, Sample]
    """Item id -> sample."""
    data_root: Path
    data_sha256: str
    """Of the split's file."""
    available: int
    """Items of the split."""
    is_whole: bool
    """Whether all items of the split are asked."""

    @property
    def ids(self) -> list[str]:
        """The item ids, in order."""
        return list(self.samples)


def choose_items(config: RunConfig, benchmark: str, arguments: argparse.Namespace) -> Items:
    """Read the samples of a benchmark and choose among them.

    Raises:
        DataError: If there are none, an id is there twice, or an id of the list has no sample.
    """
    root = Path(arguments.data)
    manifest = read_manifest(root)
    split = arguments.split or _only_split(manifest["splits"], config.data.eval_split, root)
    found = benchmark_samples(read_samples(root, split), benchmark, f"{root}, split {split!r}")
    ids = list(found)
    if arguments.ids is not None:
        ids = read_ids(arguments.ids)
        absent = [item for item in ids if item not in found]
        if absent:
            raise DataError(
                f"{arguments.ids}: {len(absent)} of {len(ids)} ids have no sample in {root}, split "
                f"{split!r}: {named(absent)}; prepare their scenes, or take them off the list"
            )
    if arguments.limit is not None:
        ids = pick(ids, arguments.limit, arguments.seed)
    return Items(
        samples={item: found[item] for item in ids},
        data_root=root,
        data_sha256=manifest["splits"][split]["sha256"],
        available=len(found),
        is_whole=len(ids) == len(found),
    )


def _only_split(splits: Sequence[str], default: str, root: Path) -> str:
    if len(splits) == 1:
        return next(iter(splits))
    if default in splits:
        return default
    raise ConfigError(f"{root} has the splits {sorted(splits)}; choose one with --split")


def benchmark_samples(samples: Sequence[Sample], benchmark: str, where: str) -> dict[str, Sample]:
    """Return the samples of a benchmark by item id, in file order.

    Raises:
        DataError: If there are none, or an id is there twice.
    """
    dataset = asking(benchmark).dataset or benchmark
    mine = [sample for sample in samples if sample.item_id and sample.dataset == dataset]
    if not mine:
        others = dict(Counter(sample.dataset for sample in samples))
        raise DataError(
            f"{where}: no samples of {dataset!r}, found {others or 'none at all'}; prepare them "
            "with `launch preprocess` (docs/annotations.md)"
        )
    counts = Counter(sample.item_id for sample in mine)
    twice = [item for item, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{where}: {len(twice)} item ids are there twice: {named(twice)}")
    return {sample.item_id: sample for sample in mine}


def pick(ids: Sequence[str], limit: int, seed: int) -> list[str]:
    """Return `limit` of the ids, those with the smallest hash of seed and id, in their order.

    The choice does not depend on the order of the ids, and a larger limit only adds to it.

    Raises:
        ConfigError: If the limit is below 1 or above the number of ids.
    """
    if not 1 <= limit <= len(ids):
        raise ConfigError(f"--limit is {limit}, expected 1 to {len(ids)}, the number of items")
    chosen = sorted(ids, key=lambda item: hashlib.sha256(f"{seed}|{item}".encode()).digest())
    kept = set(chosen[:limit])
    return [item for item in ids if item in kept]


def read_ids(path: Path) -> list[str]:
    """Read a list of ids, one a line.

    Raises:
        DataError: If it is empty, not UTF-8, or names an id twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; expected ids") from error
    ids = [line.removesuffix("\r") for line in lines if line.removesuffix("\r")]
    twice = [item for item, count in Counter(ids).items() if count > 1]
    if twice or not ids:
        raise DataError(f"{path}: {f'ids twice: {named(twice)}' if twice else 'no ids'}")
    return ids


def write_ids(path: Path, ids: Sequence[str]) -> str:
    """Write a list of ids, whole or not at all; return its SHA-256.

    Raises:
        DataError: If an id does not fit on one line.
    """
    bad = [item for item in ids if "\n" in item or item.endswith("\r")]
    if bad:
        raise DataError(f"{len(bad)} ids do not fit on one line of a list: {named(bad)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{item}\n" for item in ids))
    return ids_sha256(ids)
