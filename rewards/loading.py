"""Find a reward function by its path and read from its signature what it asks for."""

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

RewardFunction: TypeAlias = Callable[..., Any]

ENTRY_POINTS: Final = "scenerl.rewards"
"""Entry point group in which installed packages offer reward functions."""

INJECTED: Final = frozenset({"log_extra", "log_metric", "trainer_state"})
"""Arguments that are objects of the calling process, not columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a reward function can be called with."""

    names: frozenset[str]
    """Parameters by name."""
    required: frozenset[str]
    """Those without a default."""
    takes_all: bool
    """It has **kwargs and gets every column, as in TRL."""
    is_async: bool

    def wanted(self, columns: frozenset[str]) -> frozenset[str]:
        """Return the columns to pass."""
        return columns if self.takes_all else columns & self.names


def load_function(path: str) -> RewardFunction:
    """Import the function that a path names.

    Args:
        path: ``FILE.py:FUNCTION`` (relative to the working directory; the file's folder is
            importable from it) or ``package.module:FUNCTION``; FUNCTION may be dotted.

    Raises:
        ValueError: When the path has no colon, or what it names is not callable.
        FileNotFoundError: When there is no such file.
        AttributeError: When the module has no such function.
    """
    module_name, _, function_name = path.rpartition(":")
    if not module_name or not function_name:
        raise ValueError(
            f"reward path is {path!r}, expected FILE.py:FUNCTION or package.module:FUNCTION"
        )
    module = _load_file(module_name) if module_name.endswith(".py") else _import(module_name)
    found: Any = module
    for part in function_name.split("."):
        if not hasattr(found, part):
            offers = ", ".join(name for name in dir(module) if not name.startswith("_"))
            raise AttributeError(f"{module_name} has no {function_name!r}; it has: {offers[:500]}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{path} is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def _load_file(name: str) -> Any:
    file = Path(name).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no reward file {file}; correct the reward's path")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} cannot be imported as Python")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def function_needs(function: RewardFunction) -> Needs:
    """Read what a reward function asks for.

    Raises:
        ValueError: When it has a positional-only parameter: columns are passed by name.
    """
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ValueError(
                f"parameter {parameter.name!r} is positional-only, but columns are passed by name; "
                "remove the / from the signature"
            )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    is_async = any(map(asyncio.iscoroutinefunction, (function, type(function).__call__)))
    return Needs(
        names=frozenset(p.name for p in named),
        required=frozenset(p.name for p in named if p.default is p.empty),
        takes_all=any(p.kind is p.VAR_KEYWORD for p in parameters),
        is_async=is_async,
    )


def signature_problem(needs: Needs, columns: frozenset[str], kwargs: frozenset[str]) -> str | None:
    """Say why a function cannot be called with these columns and keyword arguments, or None."""
    unknown = kwargs - needs.names
    if unknown and not needs.takes_all:
        return (
            f"kwargs has {sorted(unknown)}, but the function takes only {sorted(needs.names)}; "
            "correct the reward's kwargs"
        )
    if clash := kwargs & (columns | INJECTED):
        return f"kwargs would replace the columns {sorted(clash)}; rename the function's parameters"
    missing = needs.required - columns - kwargs - INJECTED
    if missing:
        return (
            f"it asks for {sorted(missing)}, which is neither a column nor in the reward's kwargs; "
            f"columns are {sorted(columns)}"
        )
    return None
