"""A Ray cluster of several nodes on this machine that come and go as a test wants.

A process of their own starts them, since one that has seen a cluster end cannot be trusted with
another: `python tests/ray_nodes.py` reads a JSON object a line and answers with one.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from processes import descendants
from training_runs import recorded_steps

ANSWER = "answer: "
PATIENCE_S = 180.0

QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray calls a node dead 3 s after its end, and 18 s after it stopped answering."""


def ray_environment(folder: str) -> dict[str, str]:
    """Return the environment of a cluster with a token, and of drivers that may join it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **kept,
        **QUICK_TO_NOTICE,
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


class Nodes:
    """The cluster of `ray_nodes`; its head has no CPU, so that runs work on the other nodes."""

    def __init__(self, folder: str) -> None:
        """Start the head; Ray's own files go into a folder."""
        self.folder = Path(folder)
        self.environment = ray_environment(folder)
        self._log = self.folder / "nodes.log"
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, env=self.environment, start_new_session=True,
            )  # fmt: skip
        self.environment["RAY_ADDRESS"] = str(self._read())

    def add(self, name: str, cpus: int = 1) -> None:
        """Start a node."""
        self._ask("add", name=name, cpus=cpus)

    def kill(self, name: str) -> None:
        """SIGKILL a node's raylet and everything below it."""
        self._ask("kill", name=name)

    def of(self, kind: str) -> str:
        """Return the node that runs the one process whose command line holds `kind`."""
        (name,) = self._ask("of", kind=kind)
        return str(name)

    def stored_bytes(self) -> int:
        """Return the bytes of all objects in all nodes' stores."""
        return int(self._ask("stored"))

    def close(self) -> None:
        """End all nodes."""
        below = {self._server.pid, *descendants(self._server.pid)}
        with contextlib.suppress(OSError, RuntimeError):
            self._ask("end")
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait(timeout=PATIENCE_S)

    def _ask(self, what: str, **words: Any) -> Any:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"what": what, **words}) + "\n")
        self._server.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._server.stdout is not None
        timer = threading.Timer(PATIENCE_S, self._server.kill)
        timer.start()
        try:
            for line in self._server.stdout:
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
        finally:
            timer.cancel()
        code = self._server.wait(timeout=10)
        raise RuntimeError(f"the nodes' process ended with {code}: {self._log.read_text()[-3000:]}")


@contextlib.contextmanager
def ray_nodes() -> Iterator[Nodes]:
    """A cluster with nothing but a head; all of it is gone afterwards."""
    folder = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")  # sockets have short names only
    try:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            nodes.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class ClusterRun:
    """Stage 1 over a cluster that is there, in a process of its own."""

    def __init__(
        self,
        root: Path,
        name: str,
        environment: Mapping[str, str],
        *more: str,
        within: Sequence[str] = (),
    ) -> None:
        """Prepare.

        Args:
            root: Folder that `training_runs.make_inputs` filled.
            name: Of the run.
            environment: With RAY_ADDRESS.
            more: Settings.
            within: What the command is given to, such as `ip netns exec NAME`.
        """
        launch = [sys.executable, "-m", "scenerl.launch.cli", "stage1"]
        self.words = [*launch, "--config", str(root / "tiny.yaml"), f"name={name}", *more]
        self._within = within
        self._environment = dict(environment)
        self.path, self._log = root / "runs" / name, root / f"{name}.log"

    def said(self) -> str:
        """Return all that every process of the run has said."""
        return self._log.read_text() if self._log.exists() else ""

    def steps(self) -> int:
        """Return how many steps are recorded."""
        return recorded_steps(self.path)

    def generation(self) -> int:
        """Return how often the actors were started."""
        return int(json.loads((self.path / "generation.json").read_text())["generation"])

    @contextlib.contextmanager
    def working(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The run's process; it is ended with the block."""
        with self._log.open("a") as log:
            process = subprocess.Popen(
                [*self._within, *self.words],
                stdout=log, stderr=log, env=self._environment, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            below = {process.pid, *descendants(process.pid)}
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(timeout=60)

    def wait_until(
        self,
        process: "subprocess.Popen[bytes]",
        there: Callable[[], bool],
        what: str,
        timeout_s: float = 300.0,
    ) -> None:
        """Wait for a moment of the run; what it said is in the error when that does not come."""
        deadline = time.monotonic() + timeout_s
        while not there():
            ended = process.poll()
            if ended is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"no {what} within {timeout_s:g} s (exit code {ended}): {self.said()[-5000:]}"
                )
            time.sleep(0.01)


def serve() -> None:
    """Start a cluster and do what the lines of the input say, until they end."""
    from ray._private.internal_api import get_memory_info_reply
    from ray.cluster_utils import Cluster

    few = {"object_store_memory": 200 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **few}
    )
    nodes: dict[str, Any] = {}

    def raylet(name: str) -> int:
        return int(nodes[name].all_processes["raylet"][0].process.pid)

    def kill(name: str) -> None:
        for pid in (raylet(name), *descendants(raylet(name))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cluster.remove_node(nodes.pop(name), allow_graceful=False)  # reaps them

    say(cluster.address)
    for line in sys.stdin:
        words = json.loads(line)
        answer: Any = None
        if words["what"] == "add":
            nodes[words["name"]] = cluster.add_node(num_cpus=words["cpus"], **few)
        elif words["what"] == "kill":
            kill(words["name"])
        elif words["what"] == "of":
            below = {name: descendants(raylet(name)).values() for name in nodes}
            answer = [n for n, lines in below.items() if any(words["kind"] in x for x in lines)]
        elif words["what"] == "stored":
            found = get_memory_info_reply(cluster.global_state)
            answer = found.store_stats.object_store_bytes_used
        elif words["what"] == "end":
            cluster.shutdown()
        say(answer)


def say(answer: Any) -> None:
    """Answer the test."""
    print(ANSWER + json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
