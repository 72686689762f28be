"""Find and end the processes of a run, as a fault would."""

import contextlib
import os
import signal
from pathlib import Path

WRITE_EVERYWHERE = """
def write_everywhere(data):
    for fd in range(3, 1000):
        try:
            os.write(fd, data)
        except OSError:
            pass
"""
"""For plug-ins and decoders that disturb whatever is open."""


def descendants(pid: int) -> dict[int, str]:
    """Return pid -> command line of everything below a process."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if stat[0] == "Z":
                continue
            parents[int(folder.name)] = int(stat[1])
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            names[int(folder.name)] = words.decode(errors="replace").strip()
    found: dict[int, str] = {}
    frontier = [pid]
    while frontier:
        above = frontier.pop()
        for child, parent in parents.items():
            if parent == above and child not in found:
                found[child] = names.get(child, "")
                frontier.append(child)
    return found


def kill(pid: int, kind: str, number: int = signal.SIGKILL) -> str | None:
    """Send a signal to one process below `pid` whose command line holds `kind`: its line."""
    for child, line in sorted(descendants(pid).items()):
        if kind in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
                return line
    return None
