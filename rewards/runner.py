"""Call reward functions: built-in ones here, plug-ins in a supervised process each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from scenerl.preprocess.worker import START_TIMEOUT_S, Worker, WorkerFault, WorkerSpec
from scenerl.rewards.columns import Columns
from scenerl.rewards.loading import (
    Needs,
    RewardFunction,
    function_needs,
    signature_problem,
)
from scenerl.rewards.records import RewardError
from scenerl.rewards.returned import BadReturn, Parts, read_returned

logger = logging.getLogger(__name__)

_ASYNC_GRACE_S = 2.0
_WINDOW: Final = 64
"""Calls under way at once: a step of any size is sent in pieces, so memory has a bound."""
_HANGS_IN_A_ROW: Final = 3
"""After so many calls that hang, the rest of a step is not asked: waiting has a bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a call gave no reward."""

    cause: str
    """Countable: "raised", "timeout", "died", "bad return", "bad reply", "no network"."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one call gave: the parts of every completion, or a fault."""

    parts: list[Parts] | None
    fault: Fault | None = None
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Columns that the function logged."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Numbers that the function logged."""


class RewardRunner(Protocol):
    """One reward function, wherever it runs."""

    def start(self, columns: frozenset[str]) -> None:
        """Make it ready and check its signature against the columns there will be.

        Raises:
            RewardError: When it cannot be loaded or called.
        """
        ...

    def call(self, batches: Sequence[Columns], state: Mapping[str, Any]) -> list[Outcome]:
        """Score each batch (the completions of one prompt) in a call of its own."""
        ...

    def close(self) -> None:
        """End it, and whatever it started."""
        ...


class BuiltinRunner:
    """A reward function of this package, called in process."""

    def __init__(self, name: str, function: RewardFunction, kwargs: Mapping[str, Any]) -> None:
        """Bind the function to the reward's name and keyword arguments."""
        self._name = name
        self._function = function
        self._kwargs = dict(kwargs)
        self._needs = function_needs(function)

    def start(self, columns: frozenset[str]) -> None:
        """Check the keyword arguments."""
        if problem := signature_problem(self._needs, columns, frozenset(self._kwargs)):
            raise RewardError(f"reward {self._name}: {problem}")

    def call(self, batches: Sequence[Columns], state: Mapping[str, Any]) -> list[Outcome]:
        """Score each batch; an exception becomes a fault, as it does for a plug-in."""
        return [self._call_one(batch) for batch in batches]

    def _call_one(self, batch: Columns) -> Outcome:
        wanted = self._needs.wanted(frozenset(batch))
        arguments = {name: batch[name] for name in wanted} | self._kwargs
        try:
            value = self._function(**arguments)
            return Outcome(parts=read_returned(value, _count(batch)))
        except BadReturn as error:
            return Outcome(parts=None, fault=Fault(cause="bad return", text=str(error)))
        except Exception as error:
            text = f"raised {type(error).__name__}: {error}"
            logger.debug("reward %s raised", self._name, exc_info=True)
            return Outcome(parts=None, fault=Fault(cause="raised", text=text))

    def close(self) -> None:
        """Nothing to end."""


class PluginRunner:
    """A reward function in a file or module of the user's, in a process of its own."""

    def __init__(
        self,
        name: str,
        path: str,
        kwargs: Mapping[str, Any],
        timeout_s: float,
        memory_gib: float | None = None,
        network: bool = False,
    ) -> None:
        """Remember how to start the process; `start` starts it."""
        self._name = name
        self._path = path
        self._kwargs = dict(kwargs)
        self._timeout_s = timeout_s
        self._spec = WorkerSpec(
            module="scenerl.rewards.child", memory_gib=memory_gib, network=network
        )
        self._worker: Worker | None = None
        self._needs: Needs | None = None

    def start(self, columns: frozenset[str]) -> None:
        """Start the process, import the plug-in there and check its signature."""
        if self._worker is not None:
            return
        try:
            self._worker = Worker(self._spec)
            self._worker.send({"op": "load", "path": self._path}, START_TIMEOUT_S)
            reply = self._worker.receive(START_TIMEOUT_S)
        except WorkerFault as fault:
            self.close()
            raise RewardError(
                f"reward {self._name} ({self._path}) while loading: {fault}"
            ) from None
        if reply.get("cause"):
            self.close()
            raise RewardError(f"reward {self._name} cannot be loaded: {reply.get('text')}")
        self._needs = Needs(
            names=frozenset(reply["names"]),
            required=frozenset(reply["required"]),
            takes_all=bool(reply["takes_all"]),
            is_async=bool(reply["is_async"]),
        )
        if problem := signature_problem(self._needs, columns, frozenset(self._kwargs)):
            self.close()
            raise RewardError(f"reward {self._name} ({self._path}): {problem}")

    def call(self, batches: Sequence[Columns], state: Mapping[str, Any]) -> list[Outcome]:
        """Score each batch. After a fault the process is replaced and the rest goes on.

        A batch over which the process died is asked once more: only the second death is the
        plug-in's, the first may have been the machine's.
        """
        outcomes: dict[int, Outcome] = {}
        died: set[int] = set()
        together = True
        hangs = 0
        while len(outcomes) < len(batches):
            if hangs == _HANGS_IN_A_ROW:
                fault_now = Fault(cause="timeout", text=f"not asked: {hangs} calls hung before it")
                rest = [at for at in range(len(batches)) if at not in outcomes]
                outcomes |= {at: Outcome(parts=None, fault=fault_now) for at in rest}
                break
            waiting = [at for at in range(len(batches)) if at not in outcomes]
            asked = waiting[: self._window if together else 1]
            try:
                self._ask(batches, asked, state, outcomes)
            except WorkerFault as fault:
                self.close()
                unanswered = [at for at in asked if at not in outcomes]
                is_async = self._needs is not None and self._needs.is_async
                if is_async and len(unanswered) > 1:
                    together = False  # they ran at once: ask one by one to find the culprit
                    continue
                if fault.cause == "died" and unanswered[0] not in died:
                    died.add(unanswered[0])
                    continue
                text = str(fault)
                hangs = hangs + 1 if fault.cause == "timeout" else 0
                if fault.cause == "timeout":
                    text = f"did not answer within {self._timeout_s:g} s"
                fault_now = Fault(cause=fault.cause, text=text)
                outcomes[unanswered[0]] = Outcome(parts=None, fault=fault_now)
            except RewardError as error:  # it loaded before, and does not any more
                fault_now = Fault(cause="died", text=str(error))
                outcomes |= {at: Outcome(parts=None, fault=fault_now) for at in asked}
        return [outcomes[at] for at in range(len(batches))]

    def _ask(
        self,
        batches: Sequence[Columns],
        asked: Sequence[int],
        state: Mapping[str, Any],
        outcomes: dict[int, Outcome],
    ) -> None:
        self.start(frozenset(batches[asked[0]]))
        assert self._worker is not None
        assert self._needs is not None
        timeout_s = self._timeout_s + (_ASYNC_GRACE_S if self._needs.is_async else 0.0)
        calls = []
        for at in asked:
            wanted = self._needs.wanted(frozenset(batches[at]))
            columns = {name: batches[at][name] for name in sorted(wanted)}
            calls.append({"id": at, "count": _count(batches[at]), "columns": columns})
        request = {
            "op": "call",
            "calls": calls,
            "kwargs": self._kwargs,
            "state": dict(state),
            "timeout_s": self._timeout_s,
        }
        self._worker.send(request, timeout_s)
        for _ in asked:
            reply = self._worker.receive(timeout_s)
            answered = reply.get("id")
            if not isinstance(answered, int) or answered not in asked or answered in outcomes:
                raise WorkerFault("bad reply", f"answered call {answered!r}, which was not asked")
            outcomes[answered] = _read_reply(reply, _count(batches[answered]))

    @property
    def _window(self) -> int | None:
        """How many calls to send at once; an async function gets all of a step."""
        return None if self._needs is not None and self._needs.is_async else _WINDOW

    def close(self) -> None:
        """End the process and whatever it started. It starts again when it is asked again."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def _read_reply(reply: dict[str, Any], count: int) -> Outcome:
    """Check a reply again on this side: the plug-in could have written it itself."""
    if "cause" in reply:
        fault = Fault(cause=str(reply["cause"]), text=str(reply.get("text")))
        return Outcome(parts=None, fault=fault)
    try:
        rows = reply["parts"]
        read_returned([row[""] for row in rows], count)
        for row in rows:
            read_returned(list(row.values()), len(row))
        extra = {name: list(values) for name, values in reply["extra"].items()}
        metrics = {str(name): float(value) for name, value in reply["metrics"].items()}
    except (BadReturn, KeyError, TypeError, AttributeError, ValueError) as error:
        return Outcome(parts=None, fault=Fault(cause="bad reply", text=f"wrote {error}"))
    return Outcome(parts=rows, extra=extra, metrics=metrics)


def _count(batch: Columns) -> int:
    return len(batch["completions"])
