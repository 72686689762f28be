"""Engines and learners as Ray actors, placed by the plan; every wait has a deadline and a name."""

import logging
import os
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from scenerl.configs.schema import RunConfig
from scenerl.envs.records import Prompt
from scenerl.launch.plan import Plan
from scenerl.rl.durable import write_json
from scenerl.rl.fleet import BegunPrompts, EncodeFailure, check_sync
from scenerl.rl.records import TrainBatch, UpdateResult
from scenerl.rollout.records import Completion, EncodedPrompt, Group

logger = logging.getLogger(__name__)


RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # When memory runs out the kernel decides, and it takes reward plug-ins first (they ask for it);
    # Ray's own monitor knows only its workers and would end a learner for a plug-in's appetite.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_oom_score_adjustment": "100",
}
"""Of every process of a run's own Ray."""


class ResourceError(RuntimeError):
    """The machines do not have what the plan needs."""


class ActorLostError(RuntimeError):
    """An actor died or did not answer in time; the run continues from its last commit."""


class RayFleet:
    """See `rl.fleet.Fleet`: the same, over Ray actors."""

    def __init__(self, config: RunConfig, plan: Plan, *, with_learner: bool = True) -> None:
        """Start Ray and all actors, and wait until each has loaded.

        Raises:
            ResourceError: If a placement group cannot be met in time.
            ActorLostError: If an actor dies while it loads, or takes too long.
        """
        self._cluster = config.cluster
        start_ray(config, plan)
        from scenerl.launch.placement import place

        self._pixels: dict[str, Any] = {}
        self._bytes: dict[str, int] = {}
        self._users: Counter[str] = Counter()
        self._group: Any = None
        self._next_encoder = 0
        self._begun: BegunPrompts[Any] = BegunPrompts()
        try:
            placed = place(config, plan, with_learner=with_learner)
            self._group = placed.group
            self._encoders, self._engines = placed.encoders, placed.engines
            self._learners = placed.learners
            roles = [
                ("encoder", self._encoders),
                ("learner", self._learners),
                ("engine", self._engines),
            ]
            versions = {
                name: self._all(name, "loading", actors, "ready", self._cluster.start_timeout_s)
                for name, actors in roles
            }
        except BaseException:
            self.close()
            raise
        self.engine_version = int(versions["engine"][0])
        self.policy_version = int((versions["learner"] or versions["engine"])[0])

    def encode(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt | EncodeFailure]:
        """Encode over the pool; the pixels stay in the object store."""
        calls = [self._begun.take(prompt) or self._begin(prompt) for prompt in prompts]
        results = []
        for prompt, (light, pixels, size) in zip(prompts, calls, strict=True):
            what = f"encoding {prompt.prompt_id}"
            result = wait_for(light, what, self._cluster.step_timeout_s)
            if not isinstance(result, EncodeFailure):
                self._pixels[result.content_hash] = pixels
                self._bytes[result.content_hash] = wait_for(size, what, 60.0)
                self._users[result.content_hash] += 1
            results.append(result)
        return results

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Give the encoders something to do while engines and learners work."""
        self._begun.replace([(prompt, self._begin(prompt)) for prompt in prompts])

    def _begin(self, prompt: Prompt) -> Any:
        """Let the encoder that has the frames of this video make the prompt's tensors."""
        place = self._next_encoder
        if prompt.media:
            place = zlib.crc32(prompt.media[0].path.encode())
        else:
            self._next_encoder += 1
        return self._encoders[place % len(self._encoders)].encode.remote(prompt)

    def frame_counts(self) -> dict[str, float]:
        """Add up what the encoders decoded, reused and evicted."""
        timeout_s = self._cluster.step_timeout_s
        counts = self._all("encoder", "its counts", self._encoders, "frame_counts", timeout_s)
        return {name: sum(each[name] for each in counts) for name in counts[0]}

    def release(self, encoded: Sequence[EncodedPrompt]) -> None:
        """Let the object store drop the pixels of these prompts."""
        for item in encoded:
            self._users[item.content_hash] -= 1
            if self._users[item.content_hash] <= 0:
                del self._users[item.content_hash]
                self._pixels.pop(item.content_hash, None)
                self._bytes.pop(item.content_hash, None)

    def generate(
        self,
        encoded: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Spread the prompts over the engines, longest first, and collect in order."""
        shares = spread_prompts([len(item.prompt_ids) for item in encoded], len(self._engines))
        calls = [
            (
                share,
                engine.generate.remote(
                    [encoded[i] for i in share],
                    [list(seeds[i]) for i in share],
                    temperature,
                    *[self._pixels[encoded[i].content_hash] for i in share],
                ),
            )
            for engine, share in zip(self._engines, shares, strict=True)
            if share
        ]
        completions: dict[int, list[Completion]] = {}
        deadline = time.monotonic() + self._cluster.step_timeout_s
        for number, (share, call) in enumerate(calls):
            left = max(deadline - time.monotonic(), 1.0)
            what = f"engine {number}: completions of {len(share)} prompts"
            completions |= dict(zip(share, wait_for(call, what, left), strict=True))
        return [completions[i] for i in range(len(encoded))]

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Ask the learners; every rank takes part, rank 0 answers."""
        pixels = [self._pixels[group.encoded.content_hash] for group in groups]
        result: list[list[Tensor]] = self._learn("log-probs", "logprobs", groups, *pixels)[0]
        return result

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train on every rank."""
        groups = [group for batch in batches for group in batch.groups]
        pixels = [self._pixels[group.encoded.content_hash] for group in groups]
        results = self._learn("update", "update", batches, *pixels)
        result: UpdateResult = results[0]
        self.policy_version = result.policy_version
        return result

    def sleep(self) -> None:
        """Let engines that can give the GPU's memory to the learners."""
        self._all("engine", "going to sleep", self._engines, "sleep", self._cluster.step_timeout_s)

    def wake(self) -> None:
        """Wake the engines."""
        self._all("engine", "waking up", self._engines, "wake", self._cluster.step_timeout_s)

    def sync_weights(self) -> int:
        """Send the weights through the object store, once, and check every engine."""
        if self.engine_version == self.policy_version:
            return 0
        version, timeout_s = self.policy_version, self._cluster.step_timeout_s
        chunks, sent = self._learn("weights", "put_weights")[0]
        checksums = self._all(
            "engine", "taking weights", self._engines, "load_weights", timeout_s,
            chunks, version, timeout_s,
        )  # fmt: skip
        versions = self._all("engine", "its version", self._engines, "version", timeout_s)
        check_sync(versions, checksums, version)
        self.engine_version = version
        return int(sent)

    def save(self, folder: Path) -> None:
        """Let every rank write into the folder."""
        versions = self._learn("saving", "save", str(folder.resolve()))
        write_json(
            folder / "learner" / "learner.json",
            {"policy_version": versions[0], "ranks": len(self._learners)},
        )

    def load(self, folder: Path) -> None:
        """Restore every rank and sync the engines."""
        versions = self._learn("restoring", "load", str(folder.resolve()))
        self.policy_version = int(versions[0])
        self.engine_version = -1
        self.sync_weights()

    def media_bytes(self) -> int:
        """Return the size of the pixels in the object store."""
        return sum(self._bytes.values())

    def close(self) -> None:
        """End all actors and Ray itself."""
        import ray

        actors = [
            *getattr(self, "_engines", ()),
            *getattr(self, "_learners", ()),
            *getattr(self, "_encoders", ()),
        ]
        for actor in actors:
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
        ray.shutdown()

    def _learn(self, what: str, method: str, *arguments: Any) -> list[Any]:
        return self._all(
            "learner", what, self._learners, method, self._cluster.step_timeout_s, *arguments
        )

    def _all(
        self,
        role: str,
        what: str,
        actors: Sequence[Any],
        method: str,
        timeout_s: float,
        *arguments: Any,
    ) -> list[Any]:
        """Call a method of all actors of a role at once and wait for every answer."""
        calls = [getattr(actor, method).remote(*arguments) for actor in actors]
        deadline = time.monotonic() + timeout_s
        return [
            wait_for(call, f"{role} {number}: {what}", max(deadline - time.monotonic(), 1.0))
            for number, call in enumerate(calls)
        ]


def start_ray(config: RunConfig, plan: Plan) -> None:
    """Start Ray on this machine, or join the cluster that RAY_ADDRESS names.

    Tokens are required from whoever talks to it, nothing is reported to anybody, and a cluster
    that happens to run here is never joined by accident.

    Raises:
        ResourceError: If more nodes are wanted and no cluster is named.
    """
    os.environ.update(RAY_ENVIRONMENT)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["OMP_NUM_THREADS"] = str(config.cluster.threads_per_actor)
    address = os.environ.get("RAY_ADDRESS")
    if config.cluster.nnodes > 1 and not address:
        raise ResourceError(
            f"cluster.nnodes is {config.cluster.nnodes}, but RAY_ADDRESS names no cluster; start "
            "Ray on the nodes and set RAY_ADDRESS=host:port"
        )
    joins = config.cluster.nnodes > 1
    if not joins:
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    needed = sum(role.count * max(role.cpus, 1) for role in plan.roles)
    options: dict[str, Any] = {"address": address}
    if not joins:
        options = {
            "address": "local",
            "num_cpus": int(max(needed + config.cluster.num_encoders, plan.total_cpus)),
            "num_gpus": plan.total_gpus,
        }
        if config.cluster.object_store_gib is not None:
            options["object_store_memory"] = int(config.cluster.object_store_gib * 1024**3)
    options |= {"include_dashboard": None if joins else False, "logging_level": logging.WARNING}
    options["log_to_driver"] = logger.isEnabledFor(logging.DEBUG)  # else in Ray's session folder
    previous = os.umask(0o077)  # sockets, logs and tokens are nobody else's business
    try:
        _init_within(options, config.cluster.start_timeout_s)
    finally:
        os.umask(previous)


def _init_within(options: dict[str, Any], timeout_s: float) -> None:
    """Start Ray, again when its own 30 s are too short for a busy machine."""
    import ray

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise ResourceError(f"Ray did not start: {error}") from error
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"Ray did not start within {timeout_s:.0f} s ({error}); the machine is too "
                    "busy: end other work, raise cluster.start_timeout_s, or use --no-ray"
                ) from error
            logger.warning("Ray's processes need long to start on this busy machine; once more")


def wait_for(reference: Any, what: str, timeout_s: float) -> Any:
    """Return what an actor answers.

    Raises:
        ActorLostError: If it dies or the deadline passes; an error raised inside the actor comes
            as itself.
    """
    import ray

    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise ActorLostError(
            f"{what}: no answer within {timeout_s:.0f} s; raise cluster.step_timeout_s or "
            "cluster.start_timeout_s if it is only slow, and look at the logs in "
            f"{_log_folder()}"
        ) from error
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
        reason = " ".join(str(error).split())[:600]
        raise ActorLostError(f"{what}: the process died ({reason})") from error


def _log_folder() -> str:
    import ray

    node = ray._private.worker.global_worker.node
    return str(node.get_logs_dir_path()) if node is not None else "Ray's session folder"


def spread_prompts(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Give each engine about the same number of prompt tokens; indices stay in order."""
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += lengths[index]
    return [sorted(share) for share in shares]
