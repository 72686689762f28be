"""Records of a benchmark: what it reads, what it scores, what comes out.

Nothing heavy is imported here, so that `launch score --help` answers at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

Rule: TypeAlias = Literal["official", "sound"]
"""Whether a number follows the official script, bugs included, or the definition."""

Options: TypeAlias = Mapping[str, Any]
"""The benchmark's own settings by name, as `launch score` read them from the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number of a report."""

    name: str
    value: float | None
    """In the official script's own scale; None when there is nothing to average."""
    low: float | None
    high: float | None
    """Ends of the 95 % bootstrap interval over items; None where it is not meaningful."""
    count: int
    """How many items the number averages."""
    rule: Rule = "official"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """The scores of one item."""

    item_id: str
    values: dict[str, float | None]
    groups: tuple[str, ...] = ()
    """For example ("unique", "not_in_others")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a scorer returns."""

    benchmark: str
    metrics: tuple[Metric, ...]
    items: tuple[ItemScore, ...]
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        """Return the metric of a name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{name!r} is not one of {[metric.name for metric in self.metrics]}")

    def as_json(self) -> dict[str, Any]:
        """Return the report without its items, ready for a JSON file."""
        return {
            "benchmark": self.benchmark,
            "metrics": {
                metric.name: {
                    "value": metric.value,
                    "low": metric.low,
                    "high": metric.high,
                    "count": metric.count,
                    "rule": metric.rule,
                }
                for metric in self.metrics
            },
            "counts": self.counts,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """The true side of a benchmark."""

    by_id: Mapping[str, Any]
    """Item id -> the benchmark's own record, in the order of the file."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was left out and why, for example {"filtered/correct_guess": 12}."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The predicted side of a benchmark, and what is wrong with its list of ids."""

    by_id: Mapping[str, Any]
    """Item id -> the benchmark's own record; the first one of an id that is there twice."""
    duplicates: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """How the intervals are drawn."""

    resamples: int = 1000
    """0 leaves the intervals out."""
    seed: int = 0


DEFAULT_BOOTSTRAP: Final = Bootstrap()


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One command-line option of a benchmark."""

    flag: str
    """For example "--boxes"; its value is found under "boxes"."""
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    is_switch: bool = False
    """Takes no value: True when given, else False."""

    @property
    def name(self) -> str:
        """The key of the value in Options."""
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A benchmark as `launch score` runs it.

    The readers do all the input and raise DataError; `score` is pure. A prediction that `score`
    does not find counts as wrong.
    """

    name: str
    title: str
    source: str
    """The official script, as repository and file."""
    references_help: str
    predictions_help: str
    examples: tuple[str, ...]
    """Command lines, each starting with "launch score NAME"."""
    read_references: Callable[[Path, Options], References]
    read_predictions: Callable[[Path, Mapping[str, Any], Options], Predictions]
    """Gets the references too, since some upstream files name items only by position."""
    score: Callable[[Mapping[str, Any], Mapping[str, Any], Options, Bootstrap], Report]
    options: tuple[Option, ...] = ()

    def defaults(self) -> dict[str, Any]:
        """Return the options as they are when none is given."""
        return {
            option.name: False if option.is_switch else option.default for option in self.options
        }
