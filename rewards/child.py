"""The reward function in the process of one plug-in; `preprocess/worker_process.py` runs it.

Requests and replies:

    {"op": "load", "path"} -> {"names", "required", "takes_all", "is_async"} or {"cause", "text"}
    {"op": "call", "calls": [{"id", "count", "columns"}], "kwargs", "state", "timeout_s"}
        -> per call {"id", "parts", "extra", "metrics"} or {"id", "cause", "text"}
"""

import asyncio
import contextlib
import inspect
import ipaddress
import socket
import sys
import traceback
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scenerl.preprocess.worker_process import Channel
from scenerl.rewards.loading import RewardFunction, function_needs, load_function
from scenerl.rewards.returned import BadReturn, read_returned


def serve(channel: Channel) -> None:
    """Load one function and answer calls until the requests end."""
    Child(channel).run()


class Child:
    """One loaded function."""

    def __init__(self, channel: Channel) -> None:
        """Answer on a channel."""
        self._channel = channel
        self._attempts = Attempts(watch=not channel.has_network)
        self._function: RewardFunction | None = None

    def run(self) -> None:
        """Serve requests; return when the asking process closes its end."""
        for request in self._channel.requests():
            self._attempts.forget()
            if request["op"] == "load":
                self._channel.reply(self._load(request["path"]))
            else:
                self._call(request)

    def _load(self, path: str) -> dict[str, Any]:
        try:
            self._function = load_function(path)
            needs = function_needs(self._function)
        except BaseException as error:  # the module is foreign code
            return {"cause": "load", "text": "; ".join([_describe(error), *self._attempts.hint()])}
        return {
            "names": sorted(needs.names),
            "required": sorted(needs.required),
            "takes_all": needs.takes_all,
            "is_async": needs.is_async,
        }

    def _call(self, request: dict[str, Any]) -> None:
        assert self._function is not None
        if function_needs(self._function).is_async:
            asyncio.run(self._call_together(request))
            return
        for call in request["calls"]:
            self._attempts.forget()
            log = _Log()
            try:
                value = self._function(**self._arguments(call, request, log))
                if inspect.isawaitable(value):
                    value = asyncio.run(_finish(value))
                reply = _reply_to(call, value, log)
            except BaseException as error:  # SystemExit and KeyboardInterrupt are faults as well
                reply = _fault(call, error)
            self._reply(reply)

    async def _call_together(self, request: dict[str, Any]) -> None:
        """Run all calls of an async function at once; each has its own time-out."""
        await asyncio.gather(*(self._call_async(call, request) for call in request["calls"]))

    async def _call_async(self, call: dict[str, Any], request: dict[str, Any]) -> None:
        assert self._function is not None
        log = _Log()
        limit = asyncio.timeout(request["timeout_s"])
        try:
            async with limit:
                value = await self._function(**self._arguments(call, request, log))
            reply = _reply_to(call, value, log)
        except BaseException as error:
            reply = _fault(call, error)
            if limit.expired():
                text = f"did not answer within {request['timeout_s']:g} s"
                reply = {"id": call["id"], "cause": "timeout", "text": text}
        self._reply(reply)

    def _arguments(
        self, call: dict[str, Any], request: dict[str, Any], log: "_Log"
    ) -> dict[str, Any]:
        assert self._function is not None
        needs = function_needs(self._function)
        injected = {
            "log_extra": log.extra,
            "log_metric": log.metric,
            "trainer_state": SimpleNamespace(**request["state"]),
        }
        if not needs.takes_all:
            injected = {name: value for name, value in injected.items() if name in needs.names}
        return {**call["columns"], **request["kwargs"], **injected}

    def _reply(self, reply: dict[str, Any]) -> None:
        if hint := self._attempts.hint():  # also where the function hid that it got nothing
            text = "; ".join([reply["text"], *hint] if "text" in reply else hint)
            reply = {"id": reply["id"], "cause": "no network", "text": text}
        self._channel.reply(reply)


class Attempts:
    """Connections that the function tried to make and that its process has no network for."""

    def __init__(self, *, watch: bool) -> None:
        """Begin to watch the interpreter's sockets, or never see anything."""
        self._names: list[str] = []
        if watch:
            sys.addaudithook(self._see)

    def forget(self) -> None:
        """Start anew."""
        self._names.clear()

    def hint(self) -> list[str]:
        """Return what was tried and what to do, if anything was."""
        return [
            f"it tried to reach {name}, and plug-ins have no network: set network: true in its "
            "entry of rewards if it needs one"
            for name in self._names[:1]
        ]

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            if not _is_own(arguments[0]):
                self._names.append(str(arguments[0]))
        elif event == "socket.connect":
            from_socket, address = arguments
            streams = from_socket.type == socket.SOCK_STREAM
            if streams and isinstance(address, tuple) and not _is_served(*address[:2]):
                self._names.append(f"{address[0]}:{address[1]}")


def _is_own(host: Any) -> bool:
    """Whether looking up a host needs no network."""
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
        return True
    return False


def _is_served(host: str, port: int) -> bool:
    """Whether something in this process's own network listens there."""
    with contextlib.suppress(ValueError):
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            return False
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                place, state = line.split()[1], line.split()[3]
                if state == "0A" and int(place.rpartition(":")[2], 16) == port:
                    return True
    return False


async def _finish(value: Awaitable[Any]) -> Any:
    return await value


class _Log:
    """What a function logs during one call."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.metrics: dict[str, float] = {}

    def extra(self, column: str, values: list[Any]) -> None:
        self.columns[str(column)] = [_plain(value) for value in values]

    def metric(self, name: str, value: float) -> None:
        self.metrics[str(name)] = float(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _reply_to(call: dict[str, Any], value: Any, log: _Log) -> dict[str, Any]:
    parts = read_returned(value, call["count"])
    return {"id": call["id"], "parts": parts, "extra": log.columns, "metrics": log.metrics}


def _fault(call: dict[str, Any], error: BaseException) -> dict[str, Any]:
    if isinstance(error, BadReturn):
        return {"id": call["id"], "cause": "bad return", "text": str(error)}
    return {"id": call["id"], "cause": "raised", "text": _describe(error)}


def _describe(error: BaseException) -> str:
    """The exception and the line of the plug-in that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    text = ""
    with contextlib.suppress(Exception):
        text = str(error)
    return f"raised {type(error).__name__}: {text[:1000]}{where}"
