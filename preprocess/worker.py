"""Supervise a process for foreign code or files: every wait has a deadline, every end has a name.

The process (`preprocess/worker_process.py`) has its own session and, where the system allows,
namespaces of its own; it dies with this one. Its output is drained and cut, so that a flood cannot
block it. When it has to go, its whole process group goes, and with it whatever else was started
from it (found by a mark in the environment), so that nothing is left running.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

MAX_REPLY_BYTES: Final = 64 * 2**20
START_TIMEOUT_S: Final = 120.0
"""For starting a process and importing its module."""
_END_TIMEOUT_S = 10.0
_OUTPUT_TAIL = 2000
_PIPE_BYTES = 1 << 20
_MARK = "SCENERL_CHILD"


class WorkerFault(Exception):
    """The process hung, died or wrote nonsense.

    Attributes:
        cause: "timeout", "died" or "bad reply".
    """

    def __init__(self, cause: str, text: str) -> None:
        """Keep the cause beside the text."""
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """What a process is for and what it may have."""

    module: str
    """Its ``serve(channel)`` answers the requests."""
    memory_gib: float | None = None
    """Address space; None sets no limit."""
    network: bool = False
    """Whether it keeps the machine's network."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of this process."""


class Worker:
    """One running process.

    Attributes:
        isolated: Whether it has namespaces of its own.
        why_not: Why it has none.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        """Start the process and wait until its module is imported.

        Raises:
            WorkerFault: If it does not start.
        """
        try:
            hello = self._begin(spec, isolate=True)
        except WorkerFault as fault:
            if fault.cause != "died":
                raise
            hello = self._begin(spec, isolate=False)
        self.why_not: str | None = hello["why_not"]
        self.isolated = self.why_not is None
        _say_once(self.why_not)

    def _begin(self, spec: WorkerSpec, *, isolate: bool) -> dict[str, Any]:
        self._owner = os.getpid()
        self._mark = f"{self._owner}-{uuid.uuid4().hex}"
        started = _starter().submit(_start, spec, self._mark, isolate)
        try:
            self._process, self._request_fd, self._reply_fd, self._output_fd = started.result(
                START_TIMEOUT_S
            )
        except TimeoutError:
            text = f"its process did not start within {START_TIMEOUT_S:g} s"
            raise WorkerFault("timeout", text) from None
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._replies = bytearray()
        self._bulk = memoryview(b"")
        self._output = b""
        try:
            return self.receive(START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise

    def send(self, request: dict[str, Any], timeout_s: float) -> None:
        """Write one request, or raise WorkerFault when the process does not take it in time."""
        body = json.dumps(request).encode()
        self._exchange(memoryview(struct.pack(">I", len(body)) + body), timeout_s, lambda: True)

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next reply, or raise WorkerFault when there is none in time."""
        self._exchange(memoryview(b""), timeout_s, self._has_frame)
        return self._next_frame()

    def receive_bytes(self, buffer: memoryview, timeout_s: float) -> None:
        """Fill a buffer with the bytes after a reply, read in place, or raise WorkerFault."""
        early = min(len(buffer), len(self._replies))
        buffer[:early] = self._replies[:early]
        del self._replies[:early]
        self._bulk = buffer[early:]
        self._exchange(memoryview(b""), timeout_s, lambda: not self._bulk)

    def _exchange(self, data: memoryview, timeout_s: float, done: Callable[[], bool]) -> None:
        """Write data and take what comes, until all is written and `done`."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            if data:
                selector.register(self._request_fd, selectors.EVENT_WRITE)
            for fd in (self._reply_fd, self._output_fd, self._exit_fd):
                selector.register(fd, selectors.EVENT_READ)
            while data or not done():
                ready = {
                    key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))
                }
                if self._output_fd in ready and not self._drain_output():
                    selector.unregister(self._output_fd)
                if self._reply_fd in ready:
                    self._read_reply()
                elif self._request_fd in ready:
                    data = data[self._write(data) :]
                elif self._exit_fd in ready:
                    raise WorkerFault("died", self._how_it_died())
                if time.monotonic() >= deadline and (data or not done()):
                    raise WorkerFault("timeout", "did not answer in time")

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._request_fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise WorkerFault("died", self._how_it_died()) from None

    def _read_reply(self) -> None:
        if self._bulk:
            count = os.readv(self._reply_fd, [self._bulk])
            self._bulk = self._bulk[count:]
        else:
            chunk = os.read(self._reply_fd, 1 << 16)
            count = len(chunk)
            self._replies += chunk
        if not count:
            raise WorkerFault("died", self._how_it_died())

    def _has_frame(self) -> bool:
        if len(self._replies) < 4:
            return False
        size = struct.unpack_from(">I", self._replies)[0]
        if size > MAX_REPLY_BYTES:
            raise WorkerFault(
                "bad reply", f"wrote a reply of {size} bytes; something else wrote it"
            )
        return len(self._replies) >= 4 + int(size)

    def _next_frame(self) -> dict[str, Any]:
        size = struct.unpack_from(">I", self._replies)[0]
        body = bytes(self._replies[4 : 4 + size])
        del self._replies[: 4 + size]
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise WorkerFault("bad reply", f"wrote {body[:60]!r}, expected a reply in JSON")
        return reply

    def _drain_output(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._output_fd, 1 << 20)
            self._output = (self._output + chunk)[-_OUTPUT_TAIL:]
            return bool(chunk)
        return True

    def output_tail(self) -> str:
        """Return the last of what the process printed."""
        self._drain_output()
        return self._output.decode(errors="replace").strip()

    def _how_it_died(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.returncode
        if code is None:
            text = "closed its pipes"
        elif code < 0:
            text = f"was ended by {signal.Signals(-code).name}"
        else:
            text = f"ended its process with exit code {code}"
        tail = self.output_tail()
        return f"{text}; its last output: {tail[-500:]!r}" if tail else text

    def kill(self) -> None:
        """End the process and everything it started, and give back its pipes. May be repeated."""
        if self._exit_fd < 0 or os.getpid() != self._owner:  # a fork does not own it
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a dead disk
            self._process.wait(timeout=_END_TIMEOUT_S)
        for pid in _marked_processes(self._mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for fd in (self._request_fd, self._reply_fd, self._output_fd, self._exit_fd):
            os.close(fd)
        self._exit_fd = -1


@functools.cache
def _starter() -> ThreadPoolExecutor:
    """Return the thread that starts all processes, for as long as this process lives.

    The kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), so that thread has
    to live as long as this process, which the threads of a caller need not.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="scenerl-starter")


os.register_at_fork(after_in_child=_starter.cache_clear)  # a fork has no threads


@functools.cache
def _say_once(why_not: str | None) -> None:
    if why_not is None:
        logger.info("reward plug-ins and decoders run in namespaces of their own")
    else:
        logger.warning(
            "this system gives reward plug-ins and decoders no namespaces of their own (%s): they "
            "see its network and its processes",
            why_not,
        )


def _start(
    spec: WorkerSpec, mark: str, isolate: bool
) -> tuple[subprocess.Popen[bytes], int, int, int]:
    request_read, request_write = os.pipe()
    reply_read, reply_write = os.pipe()
    output_read, output_write = os.pipe()
    options = {
        "module": spec.module,
        "requests": request_read,
        "replies": reply_write,
        "parent": os.getpid(),
        "isolate": isolate,
        "network": spec.network,
        "memory_gib": spec.memory_gib,
    }
    with contextlib.suppress(OSError):  # an unprivileged user has only so many pages for pipes
        fcntl.fcntl(reply_read, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.preprocess.worker_process", json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            pass_fds=(request_read, reply_write),
            start_new_session=True,
            env=os.environ | dict(spec.environment) | {_MARK: mark},
        )
    finally:
        for fd in (request_read, reply_write, output_write):
            os.close(fd)
    for fd in (request_write, output_read):
        os.set_blocking(fd, False)
    return process, request_write, reply_read, output_read


def _marked_processes(mark: str) -> Iterator[int]:
    """Yield the processes that carry the mark in their environment, until none is left."""
    wanted = f"{_MARK}={mark}".encode()
    for _ in range(10):
        found = False
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes():
                    found = True
                    yield int(entry.name)
        if not found:
            return
        time.sleep(0.01)
