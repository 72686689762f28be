"""Plug-ins that misbehave: each is named, counted, ended in time, and leaves nothing running."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import WRITE_EVERYWHERE, descendants
from rollouts import group, reply

from scenerl.configs.schema import RewardConfig
from scenerl.preprocess.worker import Worker, WorkerSpec
from scenerl.rewards.records import RewardError
from scenerl.rewards.scorer import Scorer

PLUGINS = (
    """
import ctypes, os, signal, subprocess, sys, threading, time
"""
    + WRITE_EVERYWHERE
    + """
def good(completions):
    return [1.0 for _ in completions]

def sleeps(completions):
    time.sleep(1000)

def holds_the_gil(completions):
    ctypes.PyDLL(None).sleep(1000)

def ignores_everything(completions):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

def exits(completions):
    sys.exit(3)

def exits_at_once(completions):
    os._exit(7)

def crashes(completions):
    ctypes.string_at(0)

def raises(completions):
    return [1 / (len(c) - 1) for c in completions]

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no")

def raises_the_unprintable(completions):
    raise Unprintable

def nan(completions):
    return [0.0] + [float("nan")] * (len(completions) - 1)

def infinite(completions):
    return [float("-inf")] * len(completions)

def text(completions):
    return ["0.5"] * len(completions)

def nothing(completions):
    return None

def too_few(completions):
    return [1.0]

def kills_its_parent(completions):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

def closes_everything(completions):
    os.closerange(0, 1000)
    return [1.0 for _ in completions]

def writes_junk(completions):
    write_everywhere(b"junk" * 100)
    return [1.0 for _ in completions]

def writes_a_huge_header(completions):
    write_everywhere(bytes([255] * 4))
    time.sleep(1000)

def eats_memory(completions):
    return [float(len(bytearray(8 << 30))) for _ in completions]

def floods(completions):
    for _ in range(2000):
        sys.stdout.write("x" * 50_000)
    return [1.0 for _ in completions]

def forks_and_leaves_a_sleeper(completions):
    if os.fork() == 0:
        time.sleep(1000)
    return [1.0 for _ in completions]

def forks_through(completions):
    os.fork()
    return [1.0 for _ in completions]

def starts_a_daemon(completions):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    return [1.0 for _ in completions]

def leaves_a_thread(completions):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return [1.0 for _ in completions]

def stops_its_parent(completions):
    os.kill(os.getppid(), signal.SIGSTOP)
    return [1.0 for _ in completions]

def never_ends(completions):
    import itertools
    return itertools.repeat(1.0)

def too_many(completions):
    return [1.0] * 100_000

def recurses(completions):
    return recurses(completions)

def answers_what_was_not_asked(completions):
    import json, struct
    body = json.dumps({"id": 999, "parts": [], "extra": {}, "metrics": {}}).encode()
    write_everywhere(struct.pack(">I", len(body)) + body)
    return [1.0 for _ in completions]

def kills_who_asked(completions):
    os.kill(int(os.environ["SCENERL_CHILD"].partition("-")[0]), signal.SIGKILL)
    return [1.0 for _ in completions]

def reads_who_asked(completions):
    asking = os.environ["SCENERL_CHILD"].partition("-")[0]
    return [float(len(open(f"/proc/{asking}/environ").read())) for _ in completions]

def asks_a_judge(completions):
    import socket
    address = ("127.0.0.1", int(os.environ["CANARY_PORT"]))
    socket.create_connection(address, timeout=5).close()
    return [1.0 for _ in completions]

def hides_that_no_judge_answered(completions):
    import urllib.request
    try:
        urllib.request.urlopen("http://judge.example.com/v1", timeout=5)
    except OSError:
        pass
    return [0.0 for _ in completions]

async def asks_a_judge_and_waits(completions):
    import asyncio
    try:
        await asyncio.open_connection("127.0.0.1", int(os.environ["CANARY_PORT"]))
    except OSError:
        pass
    return [0.0 for _ in completions]

def asks_a_service_of_its_own(completions):
    import socket
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    return [1.0 for _ in completions]

def hangs_on_one_sample(completions, sample_id, group_id):
    if group_id[0] == "bad":
        time.sleep(1000)
    return [1.0 for _ in completions]

async def async_hangs_on_one(completions, group_id):
    import asyncio
    await asyncio.sleep(1000 if group_id[0] == "bad" else 0.01)
    return [1.0 for _ in completions]

async def async_blocks_on_one(completions, group_id):
    if group_id[0] == "bad":
        time.sleep(1000)
    return [1.0 for _ in completions]
"""
)

FAULTS = {
    "sleeps": ("timeout", "did not answer within 0.7 s"),
    "holds_the_gil": ("timeout", "did not answer within 0.7 s"),
    "ignores_everything": ("timeout", "did not answer within 0.7 s"),
    "writes_a_huge_header": ("bad reply", "wrote a reply of"),
    "exits": ("raised", "SystemExit: 3"),
    "exits_at_once": ("died", "exit code 7"),
    "crashes": ("died", "SIGSEGV"),
    "kills_its_parent": ("died", "SIGKILL"),
    "raises": ("raised", "ZeroDivisionError: division by zero"),
    "raises_the_unprintable": ("raised", "Unprintable"),
    "nan": ("bad return", "returned nan for completion 1"),
    "infinite": ("bad return", "returned -inf for completion 0"),
    "text": ("bad return", "returned str '0.5' for completion 0"),
    "nothing": ("bad return", "returned NoneType None"),
    "too_few": ("bad return", "returned 1 values for 2 completions"),
    "closes_everything": ("died", ""),
    "writes_junk": ("bad reply", ""),
    "eats_memory": ("raised", "MemoryError"),
    "never_ends": ("bad return", "returned repeat"),
    "too_many": ("bad return", "returned 100000 values for 2 completions"),
    "recurses": ("raised", "RecursionError"),
    "answers_what_was_not_asked": ("bad reply", "answered call 999, which was not asked"),
}
NO_NETWORK = "plug-ins have no network: set network: true in its entry of rewards if it needs one"
ISOLATED = {
    "stops_its_parent": ("timeout", "did not answer within 0.7 s"),
    "kills_who_asked": ("raised", "ProcessLookupError"),
    "reads_who_asked": ("raised", "Error: [Errno"),
    "asks_a_judge": ("no network", NO_NETWORK),
    "hides_that_no_judge_answered": ("no network", f"reach judge.example.com, and {NO_NETWORK}"),
    "asks_a_judge_and_waits": ("no network", NO_NETWORK),
}
"""Faults of a plug-in that has namespaces of its own."""
HARMLESS = (
    "good",
    "asks_a_service_of_its_own",
    "floods",
    "forks_and_leaves_a_sleeper",
    "forks_through",
    "starts_a_daemon",
    "leaves_a_thread",
)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugins") / "misbehaving.py"
    file.write_text(PLUGINS)
    return file


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    yield
    marked = []
    mark = f"SCENERL_CHILD={os.getpid()}-".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes():
                line = (entry.parent / "cmdline").read_text()
                marked += [] if "decode_child" in line else [line]  # of other tests' media
        except OSError:
            continue
    assert marked == []


def scorer(
    plugins: Path,
    name: str,
    on_error: str,
    weight: float = 1.0,
    timeout_s: float = 0.7,
    network: bool = False,
) -> Scorer:
    plugin = RewardConfig(
        path=f"{plugins}:{name}",
        on_error=on_error,  # type: ignore[arg-type]
        timeout_s=timeout_s,
        max_memory_gib=4.0,
        weight=weight,
        network=network,
    )
    return Scorer([RewardConfig(name="temporal_iou"), plugin])


REPLIES = [reply("1s to 3s"), reply("1s to 2s")]


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server on this machine that no plug-in may reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        monkeypatch.setenv("CANARY_PORT", str(server.getsockname()[1]))
        yield server


@pytest.fixture(scope="module")
def namespaces() -> None:
    worker = Worker(WorkerSpec(module="scenerl.rewards.child"))
    worker.kill()
    if not worker.isolated:
        pytest.skip("this system allows no namespaces")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("name", ISOLATED)
def test_what_namespaces_keep_a_plugin_from(
    name: str, plugins: Path, canary: socket.socket
) -> None:
    check_fault(plugins, name, *ISOLATED[name])
    with pytest.raises(TimeoutError):
        canary.accept()


def test_a_plugin_that_asks_for_the_network_has_it(plugins: Path, canary: socket.socket) -> None:
    subject = scorer(plugins, "asks_a_judge", "raise", timeout_s=20.0, network=True)
    (scores,) = subject.score([group(REPLIES)])
    subject.close()
    assert [score.value for score in scores] == [2.0, 1.5]
    canary.accept()[0].close()


@pytest.mark.usefixtures("namespaces")
def test_the_first_try_names_a_reward_that_needs_the_network(
    plugins: Path, canary: socket.socket
) -> None:
    subject = scorer(plugins, "asks_a_judge", "none", timeout_s=20.0)
    expected = f"127.0.0.1:{canary.getsockname()[1]}, and {NO_NETWORK}"
    with pytest.raises(RewardError, match="reward asks_a_judge: raised Conn") as caught:
        subject.canary()
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_group_unscored_and_is_counted(name: str, plugins: Path) -> None:
    check_fault(plugins, name, *FAULTS[name])


def check_fault(plugins: Path, name: str, cause: str, text: str) -> None:
    subject = scorer(plugins, name, "none")
    started = time.monotonic()
    (scores,) = subject.score([group(REPLIES)])
    assert time.monotonic() - started < 10.0
    subject.close()
    assert [score.value for score in scores] == [None, None]
    assert [score.parts for score in scores] == [
        {"temporal_iou": 1.0, name: None},
        {"temporal_iou": 0.5, name: None},
    ]
    assert scores[0].reason is not None
    assert scores[0].reason.startswith(f"{name}: ")
    assert text in scores[0].reason
    assert subject.counters == {f"{name}/errors": 2, f"{name}/{cause}": 2}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_scored_and_cleaned_up(name: str, plugins: Path) -> None:
    subject = scorer(plugins, name, "raise", timeout_s=20.0)
    for _ in range(3):
        (scores,) = subject.score([group(REPLIES)])
        assert [score.value for score in scores] == [2.0, 1.5]
    subject.close()
    assert subject.counters == {}


def test_raise_names_the_reward_the_sample_and_the_cause(plugins: Path) -> None:
    subject = scorer(plugins, "raises", "raise")
    expected = r"reward raises failed on sample canary: raised ZeroDivisionError.*misbehaving\.py"
    with pytest.raises(RewardError, match=expected):
        subject.score([group(REPLIES)])
    subject.close()


def test_zero_counts_the_fault_and_gives_zero(plugins: Path) -> None:
    subject = scorer(plugins, "exits_at_once", "zero")
    (scores,) = subject.score([group(REPLIES)])
    subject.close()
    assert [score.value for score in scores] == [1.0, 0.5]
    assert scores[0].parts["exits_at_once"] == 0.0
    assert subject.counters["exits_at_once/errors"] == 2


def test_a_failing_metric_of_weight_zero_costs_nothing(plugins: Path) -> None:
    subject = scorer(plugins, "raises", "none", weight=0.0)
    (scores,) = subject.score([group(REPLIES)])
    subject.close()
    assert [score.value for score in scores] == [1.0, 0.5]


@pytest.mark.parametrize(
    "name", ["hangs_on_one_sample", "async_hangs_on_one", "async_blocks_on_one"]
)
def test_only_the_group_that_hangs_is_lost(name: str, plugins: Path) -> None:
    subject = scorer(plugins, name, "none")
    groups = [group(REPLIES, group_id=group_id) for group_id in ("a", "bad", "b")]
    scores = subject.score(groups)
    subject.close()
    assert [[score.value for score in row] for row in scores] == [
        [2.0, 1.5],
        [None, None],
        [2.0, 1.5],
    ]
    assert subject.counters == {f"{name}/errors": 2, f"{name}/timeout": 2}


def test_waiting_for_a_plugin_that_always_hangs_has_a_bound(plugins: Path) -> None:
    subject = scorer(plugins, "sleeps", "none")
    started = time.monotonic()
    scores = subject.score([group(REPLIES) for _ in range(20)])
    assert time.monotonic() - started < 8.0  # three time-outs of 0.7 s and three starts
    subject.close()
    assert all(score.value is None for row in scores for score in row)
    assert subject.counters["sleeps/timeout"] == 40


def test_the_plugin_ends_with_the_process_that_asked(plugins: Path, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    file = tmp_path / "tells.py"
    file.write_text(
        "import pathlib, time\n"
        "def tells(completions):\n"
        f"    pathlib.Path({str(marker)!r}).write_text('here')\n"
        "    time.sleep(1000)\n"
    )
    code = (
        "from scenerl.rewards.runner import PluginRunner\n"
        f"runner = PluginRunner('tells', {str(file) + ':tells'!r}, {{}}, 900.0)\n"
        "runner.call([{'completions': [[{'role': 'assistant', 'content': 'x'}]]}], {})\n"
    )
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", code]) as asking:
        while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        plugin = [pid for pid, line in descendants(asking.pid).items() if "rewards.child" in line]
        asking.kill()
    assert len(plugin) >= 2
    while (left := still_there(plugin)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def still_there(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_process_that_the_machine_kills_once_is_asked_again(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    (tmp_path / "once.py").write_text(
        "import os, pathlib, signal\n"
        "def once(completions):\n"
        f"    mark = pathlib.Path({str(mark)!r})\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [1.0 for _ in completions]\n"
    )
    subject = Scorer([RewardConfig(path=f"{tmp_path / 'once.py'}:once", on_error="none")])
    (scores,) = subject.score([group(REPLIES)])
    subject.close()
    assert mark.exists()
    assert [score.value for score in scores] == [1.0, 1.0]
    assert not subject.counters
