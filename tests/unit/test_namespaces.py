"""What a process in namespaces of its own cannot see, reach or signal, as root and as a user."""

import ctypes
import encodings.idna  # noqa: F401  # a user who may not read this Python cannot load it later
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenerl.preprocess.namespaces import enter_namespaces, show_own_processes, start_init

NOBODY = 65534


def in_namespaces(look: Callable[[], Any], *, network: bool = False, uid: int | None = None) -> Any:
    """Do something as the second process of new namespaces; return what it returned."""
    told, tell = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            if uid is not None:
                os.setgid(uid)
                os.setuid(uid)
                ctypes.CDLL(None).prctl(4, 1)  # readable again, as after an exec
            said = {"why_not": enter_namespaces(network=network)}
            if said["why_not"] is None:
                start_init(())
                inner = os.fork()
                if inner:
                    os.waitpid(inner, 0)
                    os._exit(0)
                show_own_processes()
                said = {"found": look()}
        except BaseException as error:
            said = {"error": repr(error)}
        os.write(tell, json.dumps(said).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        said = json.loads(answer.read())
    os.waitpid(outer, 0)
    assert "error" not in said, said
    if "why_not" in said:
        pytest.skip(f"this system allows no namespaces: {said['why_not']}")
    return said["found"]


def try_to(action: Callable[[], Any]) -> str:
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_it_sees_its_own_processes_and_no_listener_outside(tmp_path: Path, uid: int | None) -> None:
    if uid is not None and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    outside = os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def look() -> dict[str, Any]:
            with socket.create_server(("127.0.0.1", 0)) as own:
                local = try_to(lambda: socket.create_connection(own.getsockname()).close())
            return {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "uid": os.getuid(),
                "loopback": local,
                "outside": try_to(lambda: socket.create_connection(server.getsockname())),
                "internet": try_to(lambda: socket.create_connection(("192.0.2.1", 80), timeout=3)),
                "signal": try_to(lambda: os.kill(outside, 0)),
            }

        found = in_namespaces(look, uid=uid)
    assert found == {
        "pid": 2,
        "parent": 0,
        "uid": os.getuid() if uid is None else uid,
        "loopback": "done",
        "outside": "ConnectionRefusedError",
        "internet": "OSError",
        "signal": "ProcessLookupError",
    }


def test_it_keeps_the_network_when_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert (
            in_namespaces(
                lambda: try_to(lambda: socket.create_connection(address).close()),
                network=True,
            )
            == "done"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns files of others")
def test_root_still_reads_what_belongs_to_others(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("theirs")
    private.chmod(0o600)
    os.chown(private, NOBODY, NOBODY)
    assert in_namespaces(private.read_text) == "theirs"


def test_where_the_system_allows_none_it_is_said_once_and_work_goes_on(tmp_path: Path) -> None:
    tool = shutil.which("unshare")
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    words = [tool or "", "--user", "--map-root-user", "sh", "-c"]
    if tool is None or subprocess.run([*words, forbid], capture_output=True).returncode:
        pytest.skip("this system lets nobody forbid namespaces")
    (tmp_path / "one.py").write_text(
        "def one(completions):\n    return [1.0 for _ in completions]\n"
    )
    code = (
        "import logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from scenerl.rewards.runner import PluginRunner\n"
        "for number in range(2):\n"
        f"    runner = PluginRunner('one', {str(tmp_path / 'one.py') + ':one'!r}, {{}}, 30.0)\n"
        "    batch = {'completions': [[{'role': 'assistant', 'content': 'x'}]]}\n"
        "    print(runner.call([batch], {})[0].parts)\n"
        "    runner.close()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [*words, f"{forbid} && exec {sys.executable} {script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["[{'': 1.0}]"] * 2
    assert done.stderr.count("no namespaces of their own") == 1
    assert "unshare: No space left on device" in done.stderr
