"""A network that falls apart under a run: one side works, no side hangs, the bytes stay the same.

Two nodes in network namespaces, joined by a router in a third that stops forwarding: nothing is
refused, packets just do not arrive. Needs root and iproute2.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import ClusterRun, ray_environment
from training_runs import make_inputs, run_undisturbed, what_must_agree

pytestmark = [pytest.mark.slow, pytest.mark.multinode]

STEPS = ["train.max_steps=8", "cluster.nnodes=2"]
HEAD = "10.77.1.1:6379"
ADDRESSES = {"near": "10.77.1", "far": "10.77.2"}
NOTICED_S = 90.0
"""Ray calls a silent node dead after 18 s here; the rest is for a busy machine."""


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """The near node, the far node, and the router between them."""

    def __init__(self) -> None:
        """Build it."""
        self._names = {name: f"scenerl-{name}-{os.getpid()}" for name in (*ADDRESSES, "router")}
        for name in self._names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "dev", "lo", "up")
        for name, prefix in ADDRESSES.items():
            side, router = self._names[name], self._names["router"]
            link = ("link", "add", "eth0", "type", "veth", "peer", "name", name)
            ip("-n", side, *link, "netns", router)
            ip("-n", side, "addr", "add", f"{prefix}.1/24", "dev", "eth0")
            ip("-n", router, "addr", "add", f"{prefix}.254/24", "dev", name)
            ip("-n", side, "link", "set", "dev", "eth0", "up")
            ip("-n", router, "link", "set", "dev", name, "up")
            ip("-n", side, "route", "add", "default", "via", f"{prefix}.254")
        self.mend()

    def within(self, name: str) -> list[str]:
        """Return the words that run a command on a node."""
        return ["ip", "netns", "exec", self._names[name]]

    def mend(self) -> None:
        """Let the router forward."""
        self._forward("1")

    def cut(self) -> None:
        """Let it drop everything."""
        self._forward("0")

    def _forward(self, value: str) -> None:
        write = f"echo {value} > /proc/sys/net/ipv4/ip_forward"
        subprocess.run([*self.within("router"), "sh", "-c", write], check=True, timeout=30)

    def processes(self, name: str) -> dict[int, str]:
        """Return pid -> command line of all that runs on a node."""
        found = {}
        for pid in map(int, ip("netns", "pids", self._names[name]).split()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = words.decode(errors="replace")
        return found

    def end(self, name: str) -> None:
        """SIGKILL all that runs on a node."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Take it down, and everything in it."""
        for name, full in self._names.items():
            with contextlib.suppress(OSError):
                self.end(name)
            with contextlib.suppress(OSError):
                ip("netns", "del", full)


class Cluster:
    """Ray over the network: the head is near and runs no actor."""

    def __init__(self, network: Network, folder: str) -> None:
        """Start the head."""
        self.network = network
        self.environment = {**ray_environment(folder), "RAY_ADDRESS": HEAD}
        head = ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
        self.start("near", 0, *head)

    def start(self, name: str, cpus: int, *more: str) -> None:
        """Start Ray on a node, and wait until it has joined."""
        more = more or (f"--address={HEAD}",)
        size = ["--object-store-memory=200000000", f"--node-ip-address={ADDRESSES[name]}.1"]
        words = ["-m", "ray.scripts.scripts", "start", f"--num-cpus={cpus}", *size, *more]
        done = subprocess.run(
            [*self.network.within(name), sys.executable, *words, "--disable-usage-stats"],
            env=self.environment, timeout=180, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"ray start on {name}: {done.returncode}"

    def run(self, root: Path, name: str, *more: str) -> ClusterRun:
        """Prepare a run whose driver is near."""
        within = self.network.within("near")
        return ClusterRun(root, name, self.environment, *STEPS, *more, within=within)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three CPUs far away, none near."""
    if shutil.which("ip") is None:
        pytest.skip("needs `ip` of iproute2")
    with contextlib.ExitStack() as stack:
        try:
            network = Network()
        except OSError as error:
            pytest.skip(f"may not make network namespaces: {error}")
        folder = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")  # sockets have short names only
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(network.close)
        made = Cluster(network, folder)
        made.start("far", 3)
        yield made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("partition")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    return run_undisturbed(root, *STEPS)


def learners(network: Network, side: str) -> list[int]:
    return [pid for pid, line in network.processes(side).items() if "ray::LearnerActor" in line]


def test_a_run_that_is_cut_off_goes_on_on_its_own_side_while_the_other_still_lives(
    root: Path, undisturbed: Path, cluster: Cluster
) -> None:
    network, run = cluster.network, cluster.run(root, "split")
    with run.working() as process:
        run.wait_until(process, lambda: run.steps() >= 2, "second step")
        network.cut()
        cluster.start("near", 3)
        run.wait_until(process, lambda: bool(learners(network, "near")), "learner near", NOTICED_S)
        assert learners(network, "far")  # of the generation before: it does not know yet
        assert run.generation() == 2
        same = [*network.within("far"), *run.words, "--no-ray"]
        other = subprocess.run(same, stderr=subprocess.DEVNULL, timeout=120)
        assert other.returncode == 77  # nobody else may take the run over meanwhile
        network.mend()
        assert process.wait(timeout=300) == 0, run.said()[-5000:]
    assert run.generation() == 2
    assert what_must_agree(run.path) == what_must_agree(undisturbed)


def test_a_run_that_is_cut_off_from_all_its_nodes_ends_in_time_and_continues_later(
    root: Path, undisturbed: Path, cluster: Cluster
) -> None:
    network, run = cluster.network, cluster.run(root, "alone", "cluster.placement_timeout_s=40")
    with run.working() as process:
        run.wait_until(process, lambda: run.steps() >= 2, "second step")
        network.cut()
        begun = time.monotonic()
        assert process.wait(timeout=NOTICED_S + 40 + 30) == 75, run.said()[-5000:]
        waited = time.monotonic() - begun
        steps = run.steps()
    assert waited > 60
    ended = json.loads((run.path / "exit.json").read_text())
    assert ended["reason"].startswith("PlaceLostError: a node is gone, and nothing took its place")
    assert "within 40 s: the run needs 3 CPU" in ended["reason"]
    assert "the cluster's 1 nodes have 0 CPU" in ended["reason"]
    assert run.steps() == steps  # what is left on the far side writes nothing
    network.mend()
    network.end("far")
    cluster.start("far", 3)
    with run.working() as process:
        assert process.wait(timeout=300) == 0, run.said()[-5000:]
    assert what_must_agree(run.path) == what_must_agree(undisturbed)
