"""The process in which foreign code or foreign files are dealt with; see `preprocess/worker.py`.

``python -m scenerl.preprocess.worker_process OPTIONS``, with the options in JSON:

    {"module", "requests", "replies", "parent", "isolate", "network", "memory_gib"}

It puts itself where it can do no harm, imports the module and lets its ``serve(channel)`` answer.
Requests and replies are frames over two pipes, a 4-byte big-endian length and that many bytes of
JSON; a reply may be followed by plain bytes. The first reply is {"why_not"}: why the process has no
namespaces of its own, or null. Standard output and error belong to the module; the asking process
drains them.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenerl.preprocess.namespaces import enter_namespaces, show_own_processes, start_init

_PR_SET_PDEATHSIG = 1


class Channel:
    """Requests in, replies out.

    Attributes:
        has_network: Whether this process sees the machine's network.
    """

    def __init__(self, request_fd: int, reply_fd: int, *, has_network: bool) -> None:
        """Take over the two pipes."""
        self._requests = os.fdopen(request_fd, "rb")
        self._reply_fd = reply_fd
        self._pid = os.getpid()
        self.has_network = has_network

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield requests until the asking process closes its end."""
        while (header := self._requests.read(4)) and len(header) == 4:
            yield json.loads(self._requests.read(struct.unpack(">I", header)[0]))

    def reply(self, reply: dict[str, Any], more: memoryview | None = None) -> None:
        """Write a reply, and bytes after it."""
        if os.getpid() != self._pid:  # foreign code forked and both returned: only one may answer
            os._exit(0)
        body = json.dumps(reply).encode()
        self._write(memoryview(struct.pack(">I", len(body)) + body))
        if more is not None:
            self._write(more)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._reply_fd, data) :]


def _die_with(parent_pid: int) -> None:
    """Ask the kernel to end this process when its parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(0)


def _stand_between(pipes: tuple[int, int], *, isolated: bool) -> None:
    """Fork: foreign code runs in the new process, and this one, its parent, ends the way it does.

    Foreign code that kills its parent then does not kill the process that asked. In a process
    namespace the parent is not even visible: its number is 0.
    """
    parent_pid = os.getpid()
    alive = start_init(pipes) if isolated else None
    pid = os.fork()
    if pid == 0:
        _die_with(parent_pid if alive is None else 0)
        if alive is not None:
            os.close(alive)
            os.setsid()  # kill(0) means whoever shares the group
            show_own_processes()
        return
    for fd in pipes:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler to restore
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def main(argv: list[str]) -> None:
    """Serve until the requests end."""
    options = json.loads(argv[0])
    pipes = (options["requests"], options["replies"])
    _die_with(options["parent"])
    with contextlib.suppress(OSError):  # short of memory, the kernel ends this, not the run
        Path("/proc/self/oom_score_adj").write_text("1000")
    for fd in pipes:
        os.set_inheritable(fd, False)
    why_not: str | None = "it could not start there"
    if options["isolate"]:
        why_not = enter_namespaces(network=options["network"])
    _stand_between(pipes, isolated=why_not is None)
    if options["memory_gib"] is not None:
        limit = int(options["memory_gib"] * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    module = importlib.import_module(options["module"])
    channel = Channel(*pipes, has_network=options["network"] or why_not is not None)
    channel.reply({"why_not": why_not})
    module.serve(channel)
    sys.stdout.flush()
    os._exit(0)  # threads of foreign code must not keep the process


if __name__ == "__main__":
    main(sys.argv[1:])
