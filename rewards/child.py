"""The process in which one plug-in runs: ``python -m scenerl.rewards.child``.

It speaks JSON frames over two pipes whose numbers stand on its command line. A frame is a 4-byte
big-endian length and that many bytes of JSON. Requests and replies:

    {"op": "load", "path", "memory_gib"}
        -> {"names", "required", "takes_all", "is_async"} or {"cause", "text"}
    {"op": "call", "calls": [{"id", "count", "columns"}], "kwargs", "state", "timeout_s"}
        -> per call {"id", "parts", "extra", "metrics"} or {"id", "cause", "text"}

Standard output and error belong to the plug-in; the asking process drains them.
"""

import asyncio
import contextlib
import ctypes
import inspect
import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scenerl.rewards.loading import RewardFunction, function_needs, load_function
from scenerl.rewards.returned import BadReturn, read_returned

_PR_SET_PDEATHSIG = 1


class Child:
    """Loads one function and answers calls until the requests end."""

    def __init__(self, request_fd: int, reply_fd: int) -> None:
        """Take over the two pipes."""
        self._requests = os.fdopen(request_fd, "rb")
        self._reply_fd = reply_fd
        self._pid = os.getpid()
        self._function: RewardFunction | None = None

    def run(self) -> None:
        """Serve requests; return when the asking process closes its end."""
        while (header := self._requests.read(4)) and len(header) == 4:
            request = json.loads(self._requests.read(struct.unpack(">I", header)[0]))
            if request["op"] == "load":
                self._load(request)
            else:
                self._call(request)

    def _load(self, request: dict[str, Any]) -> None:
        if request["memory_gib"] is not None:
            limit = int(request["memory_gib"] * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            self._function = load_function(request["path"])
            needs = function_needs(self._function)
        except BaseException as error:  # the module is foreign code
            self._reply({"cause": "load", "text": _describe(error)})
            return
        self._reply(
            {
                "names": sorted(needs.names),
                "required": sorted(needs.required),
                "takes_all": needs.takes_all,
                "is_async": needs.is_async,
            }
        )

    def _call(self, request: dict[str, Any]) -> None:
        assert self._function is not None
        if function_needs(self._function).is_async:
            asyncio.run(self._call_together(request))
            return
        for call in request["calls"]:
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
        if os.getpid() != self._pid:  # the plug-in forked and both returned: only one may answer
            os._exit(0)
        body = json.dumps(reply).encode()
        frame = memoryview(struct.pack(">I", len(body)) + body)
        while frame:
            frame = frame[os.write(self._reply_fd, frame) :]


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


def _die_with(parent_pid: int) -> None:
    """Ask the kernel to end this process when the asking one ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(0)


def _stand_between(request_fd: int, reply_fd: int) -> None:
    """Fork: the plug-in runs in the new process, and this one, its parent, ends the way it does.

    A plug-in that kills its parent then does not kill the process that asked.
    """
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _die_with(parent_pid)
        return
    os.close(request_fd)
    os.close(reply_fd)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler to restore
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def main(argv: list[str]) -> None:
    """Serve one plug-in over the two pipes given as numbers, for the process given as a number."""
    request_fd, reply_fd, parent_pid = (int(text) for text in argv)
    _die_with(parent_pid)
    with contextlib.suppress(OSError):  # short of memory, the kernel ends the plug-in, not the run
        Path("/proc/self/oom_score_adj").write_text("1000")
    for fd in (request_fd, reply_fd):
        os.set_inheritable(fd, False)
    _stand_between(request_fd, reply_fd)
    Child(request_fd, reply_fd).run()
    sys.stdout.flush()
    os._exit(0)  # threads of the plug-in must not keep the process


if __name__ == "__main__":
    main(sys.argv[1:])
