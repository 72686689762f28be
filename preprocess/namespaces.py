"""Namespaces of a child process: what it cannot see, it cannot reach, signal or leave behind.

A user namespace (no rights over anything outside), a process namespace (it can signal only what it
started, and the kernel ends all of that with it), mounts of its own (a /proc that shows only those
processes), System V objects of its own, and, unless asked otherwise, a network of its own that has
nothing but a loopback. `os.unshare` came with Python 3.12, so libc is called.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NEWNS: Final = 0x00020000
_NEWIPC: Final = 0x08000000
_NEWUSER: Final = 0x10000000
_NEWPID: Final = 0x20000000
_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def enter_namespaces(*, network: bool) -> str | None:
    """Move this process, which must have one thread, into namespaces of its own.

    It stays in its process namespace; what it forks from now on is in the new one, and the first
    such process has to be that of `start_init`.

    Args:
        network: Whether it keeps the machine's network.

    Returns:
        Why the system does not allow it (nothing has changed then), or None.

    Raises:
        OSError: If it is only half done; the process is of no use then.
    """
    flags = _NEWUSER | _NEWPID | _NEWNS | _NEWIPC | (0 if network else _NEWNET)
    ids = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    go_read, go_write = os.pipe()
    mapper = _start_mapper(go_read, go_write) if os.geteuid() == 0 else None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(flags) != 0:
            return f"unshare: {os.strerror(ctypes.get_errno())}"
        os.write(go_write, b"1")
    finally:
        os.close(go_write)
        if mapper is not None:
            os.waitpid(mapper, 0)
        os.close(go_read)
    for name, number in ids.items():
        place = Path("/proc/self") / name
        if place.read_text():
            continue
        if name == "gid_map":
            (place.parent / "setgroups").write_text("deny")
        place.write_text(f"{number} {number} 1\n")
    if not network:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            fcntl.ioctl(any_, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    return None


def _start_mapper(go_read: int, go_write: int) -> int:
    """Fork a process that gives root's child all users, so that it can read everybody's files.

    Only a process outside may map more than one user. It waits until the namespace is there.
    """
    pid = os.getpid()
    tables = {name: Path("/proc/self", name).read_text() for name in ("uid_map", "gid_map")}
    mapper = os.fork()
    if mapper:
        return mapper
    try:
        os.close(go_write)
        if os.read(go_read, 1):
            for name, table in tables.items():
                rows = [line.split() for line in table.splitlines()]
                same = "".join(f"{inside} {inside} {count}\n" for inside, _, count in rows)
                Path("/proc", str(pid), name).write_text(same)
    finally:
        os._exit(0)


def start_init(not_for_it: Sequence[int]) -> int:
    """Fork the first process of the new process namespace; when it ends, all others in it end.

    Args:
        not_for_it: Descriptors that it closes.

    Returns:
        A descriptor: the process ends as soon as every copy of it is closed, so the calling
        process keeps it and what it forks later closes it.
    """
    alive_read, alive_write = os.pipe()
    if os.fork() == 0:
        try:
            for fd in (alive_write, *not_for_it):
                os.close(fd)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans need nobody to wait for them
            os.read(alive_read, 1)
        finally:
            os._exit(0)
    os.close(alive_read)
    return alive_write


def show_own_processes() -> None:
    """Mount a /proc of the new process namespace, where the system allows that too."""
    ctypes.CDLL(None).mount(b"proc", b"/proc", b"proc", 0, None)
