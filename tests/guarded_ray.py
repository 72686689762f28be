"""Start a run's own Ray, attack it and starve it, and write down what happened, as JSON.

python tests/guarded_ray.py FOUND.json
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import descendants
from rollouts import encoded_text

from scenerl.configs.schema import ClusterConfig, RolloutConfig, RunConfig
from scenerl.launch.fleet import start_ray
from scenerl.launch.plan import make_plan
from scenerl.rewards.canary import canary_prompt

CANARY = "hf_canary_3b1f9c"
os.environ["HF_TOKEN"] = CANARY
os.environ |= {"RAY_local_fs_capacity_threshold": "0.0"}  # the disk counts as full


def reason(work: Callable[[], Any]) -> str:
    """Return how work failed."""
    try:
        return f"went through: {work()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def listening(pids: set[int]) -> dict[int, list[str]]:
    """Return port -> addresses that processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link))
            except OSError:
                continue
    ports: dict[int, list[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                address, port = words[1].split(":")
                ports.setdefault(int(port, 16), []).append(address)
    return ports


def post_a_job(port: int, path: str) -> str:
    """Ask a port to run a command, as an intruder would; what it said."""
    body = json.dumps({"entrypoint": "id"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError:
        return "no answer"
    except Exception as error:  # gRPC answers what HTTP/1 cannot read
        return type(error).__name__


def join(gcs: str, token: dict[str, str]) -> str:
    """Try to join the cluster from another process."""
    code = f"import ray; ray.init(address={gcs!r}); print('joined', len(ray.nodes()))"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**kept, "RAY_USAGE_STATS_ENABLED": "0", **token},
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return "refused: it waits"
    return done.stdout.strip() if done.returncode == 0 else f"refused: {done.stderr[-400:]}"


def starve(found: dict[str, str]) -> None:
    """Ask for what there is not, wait for what does not come, fill what is small."""
    import numpy as np
    import ray

    from scenerl.launch.placement import Layout, _reserve
    from scenerl.launch.waits import wait_for

    @ray.remote(num_cpus=0, max_restarts=0)
    class Victim:
        def sleep(self) -> None:
            time.sleep(1000)

        def die(self) -> None:
            os._exit(1)

        def lose_a_peer(self) -> None:
            raise RuntimeError(
                "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:7"
            )

        def divide(self) -> float:
            return 1 / 0

        def fill(self) -> int:
            kept = [ray.put(np.zeros(30 << 20, np.uint8)) for _ in range(10)]
            return len(kept)

        def oom_score(self) -> int:
            return int(Path("/proc/self/oom_score_adj").read_text())

    def ask(method: str, timeout_s: float = 60.0) -> Any:
        victim = Victim.remote()
        return wait_for(getattr(victim, method).remote(), f"victim 0: {method}", timeout_s)

    where = Layout(bundles=({"CPU": 1000.0},), learners=(), engines=())
    found["placement"] = reason(lambda: _reserve(where, 1.0))
    found["sleep"] = reason(lambda: ask("sleep", 2.0))
    for method in ("die", "lose_a_peer", "divide", "oom_score"):
        found[method] = reason(lambda method=method: ask(method))
    found["fill"] = reason(lambda: ask("fill", 120.0))


def readmit(found: dict[str, Any]) -> None:
    """Kill one of two engines; what becomes of the newcomer that is to take its place."""
    import ray

    from scenerl.launch.actors import EngineState
    from scenerl.launch.engines import EnginePool
    from scenerl.launch.placement import Placed

    @ray.remote(num_cpus=0, max_restarts=0)
    class ToyEngineActor:
        def __init__(self, checksum: str) -> None:
            self._version, self._checksum = 0, checksum

        def ready(self) -> EngineState:
            node = ray.get_runtime_context().get_node_id()
            return EngineState(
                version=self._version, checksum=self._checksum, node=node, pid=os.getpid()
            )

        def load_weights(self, chunks: list[Any], version: int, timeout_s: float) -> EngineState:
            self._version = version
            return self.ready()

        def generate(
            self, prompts: list[Any], seeds: list[list[int]], temperature: float, *pixels: Any
        ) -> list[list[int]]:
            return [[10 * seed for seed in row] for row in seeds]

    def attempt(newcomer: str, learners: int) -> dict[str, Any]:
        started, losses = [], []

        def start_engine(place: int) -> Any:
            started.append(place)
            return ToyEngineActor.remote(newcomer if len(started) > 2 else "same")

        pool = EnginePool(
            Placed(
                group=None,
                learners=[],
                encoders=[],
                num_engines=2,
                start_engine=start_engine,
                missing=lambda _: None,
            ),
            ClusterConfig(start_timeout_s=120.0, step_timeout_s=120.0),
            weights=lambda: ([], learners),
            on_loss=lambda fault: losses.append(fault["lost"]),
        )
        pool.admit()
        os.kill(ray.get(pool.actors[1].ready.remote(), timeout=60).pid, signal.SIGKILL)
        prompts = [encoded_text(canary_prompt("temporal_grounding"), name) for name in "ab"]
        answer = reason(lambda: pool.generate(prompts, [[1], [2]], None, [None, None]))
        left = len(pool.actors)
        for actor in pool.actors:
            ray.kill(actor)
        return {"answer": answer, "started": started, "losses": losses, "left": left}

    found["readmit"] = {
        "same": attempt("same", learners=0),
        "other checksum": attempt("other", learners=0),
        "learners ahead": attempt("same", learners=1),
    }


def main(file: Path) -> None:
    """Do all of it."""
    config = RunConfig(
        cluster=ClusterConfig(object_store_gib=0.1, cpus=2, start_timeout_s=300.0),
        rollout=RolloutConfig(engine="transformers"),
    )
    start_ray(config, make_plan(config))
    import ray

    found: dict[str, Any] = {"token_mode": os.environ["RAY_AUTH_MODE"]}
    node = ray._private.worker.global_worker.node
    readmit(found)
    starve(found)
    session = Path(node.get_session_dir_path())
    above = [session, *session.parents]
    found["closed"] = [str(f) for f in above if not stat.S_IMODE(f.stat().st_mode) & 0o077]
    tree = descendants(os.getpid())
    ports = listening({os.getpid(), *tree})
    found["listening"] = sorted(ports)
    paths = ("/api/jobs/", "/api/job_agent/jobs/")
    found["jobs"] = sorted({post_a_job(port, path) for port in ports for path in paths})
    found["join without a token"] = join(node.gcs_address, {"RAY_AUTH_MODE": "disabled"})
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    found["join with a wrong token"] = join(node.gcs_address, wrong)
    right = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    found["join with the token"] = join(node.gcs_address, right)
    words = [CANARY, os.environ["RAY_AUTH_TOKEN"]]
    found["said aloud"] = [
        *(line[:200] for line in tree.values() if any(word in line for word in words)),
        *(
            str(path) for path in session.rglob("*")
            if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
        ),
    ]  # fmt: skip
    file.write_text(json.dumps(found, indent=2))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
