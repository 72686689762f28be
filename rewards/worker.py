"""Supervise the process of one plug-in: every wait has a deadline, every end has a name.

The process has its own session and dies with this one. Its output is drained and cut, so that a
flood cannot block it. When it has to go, its whole process group goes, and with it whatever else
was started from it (found by a mark in the environment), so that nothing is left running.
"""

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

MAX_REPLY_BYTES: Final = 64 * 2**20
START_TIMEOUT_S: Final = 120.0
"""For starting a plug-in's process and importing its module."""
_END_TIMEOUT_S = 10.0
_OUTPUT_TAIL = 2000
_MARK = "SCENERL_REWARD_WORKER"

# The kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), so that thread has to
# live as long as this process, which the threads of a caller need not.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scenerl-reward-starter")


class WorkerFault(Exception):
    """The process hung, died or wrote nonsense.

    Attributes:
        cause: "timeout", "died" or "bad reply".
    """

    def __init__(self, cause: str, text: str) -> None:
        """Keep the cause beside the text."""
        super().__init__(text)
        self.cause = cause


class Worker:
    """One running plug-in process."""

    def __init__(self) -> None:
        """Start the process; it imports nothing of the plug-in yet."""
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        started = _STARTER.submit(_start, self._mark)
        try:
            self._process, self._request_fd, self._reply_fd, self._output_fd = started.result(
                START_TIMEOUT_S
            )
        except TimeoutError:
            text = f"its process did not start within {START_TIMEOUT_S:g} s"
            raise WorkerFault("timeout", text) from None
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._replies = bytearray()
        self._output = b""

    def send(self, request: dict[str, Any], timeout_s: float) -> None:
        """Write one request, or raise WorkerFault when the process does not take it in time."""
        body = json.dumps(request).encode()
        self._exchange(
            memoryview(struct.pack(">I", len(body)) + body), time.monotonic() + timeout_s
        )

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next reply, or raise WorkerFault when there is none in time."""
        deadline = time.monotonic() + timeout_s
        while (reply := self._next_frame()) is None:
            self._exchange(memoryview(b""), deadline, wait_for_reply=True)
        return reply

    def _exchange(self, data: memoryview, deadline: float, *, wait_for_reply: bool = False) -> None:
        """Write data, take what comes, and return when all is written (or something came)."""
        came = False
        with selectors.DefaultSelector() as selector:
            if data:
                selector.register(self._request_fd, selectors.EVENT_WRITE)
            for fd in (self._reply_fd, self._output_fd, self._exit_fd):
                selector.register(fd, selectors.EVENT_READ)
            while data or (wait_for_reply and not came):
                ready = {
                    key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))
                }
                if self._output_fd in ready and not self._drain_output():
                    selector.unregister(self._output_fd)
                if self._reply_fd in ready:
                    came = self._read_reply()
                elif self._request_fd in ready:
                    data = data[self._write(data) :]
                elif self._exit_fd in ready:
                    raise WorkerFault("died", self._how_it_died())
                if not came and time.monotonic() >= deadline:
                    raise WorkerFault("timeout", "did not answer in time")

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._request_fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise WorkerFault("died", self._how_it_died()) from None

    def _read_reply(self) -> bool:
        chunk = os.read(self._reply_fd, 1 << 16)
        if not chunk:
            raise WorkerFault("died", self._how_it_died())
        self._replies += chunk
        return True

    def _next_frame(self) -> dict[str, Any] | None:
        if len(self._replies) < 4:
            return None
        size = struct.unpack_from(">I", self._replies)[0]
        if size > MAX_REPLY_BYTES:
            raise WorkerFault(
                "bad reply", f"wrote a reply of {size} bytes; something else wrote it"
            )
        if len(self._replies) < 4 + size:
            return None
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
        """Return the last of what the plug-in printed."""
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
        if self._exit_fd < 0:
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


def _start(mark: str) -> tuple[subprocess.Popen[bytes], int, int, int]:
    request_read, request_write = os.pipe()
    reply_read, reply_write = os.pipe()
    output_read, output_write = os.pipe()
    arguments = [str(number) for number in (request_read, reply_write, os.getpid())]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenerl.rewards.child", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            pass_fds=(request_read, reply_write),
            start_new_session=True,
            env=os.environ | {_MARK: mark},
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
