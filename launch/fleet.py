"""Engines and learners as Ray actors, placed by the plan; every wait has a deadline and a name."""

import contextlib
import logging
import os
import secrets
import stat
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from scenerl.configs.schema import RunConfig
from scenerl.envs.records import Prompt
from scenerl.launch.plan import RAY_ENVIRONMENT, Plan
from scenerl.launch.waits import ResourceError, wait_for
from scenerl.rl.durable import write_json
from scenerl.rl.fleet import BegunPrompts, EncodeFailure
from scenerl.rl.records import TrainBatch, UpdateResult
from scenerl.rollout.records import Completion, EncodedPrompt, Group

logger = logging.getLogger(__name__)


class RayFleet:
    """See `rl.fleet.Fleet`: the same, over Ray actors."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        *,
        with_learner: bool = True,
        on_loss: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """Start Ray and all actors, and wait until each has loaded.

        Args:
            config: Resolved settings.
            plan: What they amount to.
            with_learner: Whether anything is to be trained.
            on_loss: Is told of every engine that was lost and replaced.

        Raises:
            PlacementError: If the bundles of the plan do not come free in time.
            ActorLostError: If an actor dies while it loads, or takes too long.
        """
        self._cluster = config.cluster
        start_ray(config, plan)
        from scenerl.launch.engines import EnginePool
        from scenerl.launch.placement import place

        self._pixels: dict[str, Any] = {}
        self._bytes: dict[str, int] = {}
        self._users: Counter[str] = Counter()
        self._frames: dict[int, dict[str, float]] = {}
        self._group: Any = None
        self._next_encoder = 0
        self._begun: BegunPrompts[Any] = BegunPrompts()
        self._runs_ahead = config.train.max_staleness > 0
        self._kept: Sequence[Any] | None = None
        """The engines' weights; kept only where the learners go on while the engines work."""
        self._calling = threading.Lock()
        try:
            placed = place(config, plan, with_learner=with_learner)
            self._group = placed.group
            self._encoders, self._learners = placed.encoders, placed.learners
            self._engines = EnginePool(
                placed,
                self._cluster,
                self._engine_weights if with_learner else None,
                on_loss,
            )
            timeout_s = self._cluster.start_timeout_s
            self._all("encoder", "loading", self._encoders, "ready", timeout_s)
            versions = self._all("learner", "loading", self._learners, "ready", timeout_s)
            self.engine_version = self._engines.admit()
        except BaseException:
            self.close()
            raise
        self.policy_version = int(versions[0]) if versions else self.engine_version

    def encode(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt | EncodeFailure]:
        """Encode over the pool; the pixels stay in the object store."""
        calls = [self._begun.take(prompt) or self._begin(prompt) for prompt in prompts]
        results = []
        for prompt, (place, light, pixels, sizes) in zip(prompts, calls, strict=True):
            what = f"encoding {prompt.prompt_id}"
            result = wait_for(light, what, self._cluster.step_timeout_s)
            num_bytes, self._frames[place] = wait_for(sizes, what, 60.0)
            if not isinstance(result, EncodeFailure):
                self._pixels[result.content_hash] = pixels
                self._bytes[result.content_hash] = num_bytes
                self._users[result.content_hash] += 1
            results.append(result)
        return results

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Give the encoders something to do while engines and learners work."""
        self._begun.look_ahead(prompts, self._begin)

    def _begin(self, prompt: Prompt) -> tuple[Any, ...]:
        """Let the encoder that has the frames of this video work; return it and references."""
        place = self._next_encoder
        if prompt.media:
            place = zlib.crc32(prompt.media[0].path.encode())
        else:
            self._next_encoder += 1
        place %= len(self._encoders)
        return place, *self._encoders[place].encode.remote(prompt)

    def frame_counts(self) -> dict[str, float]:
        """Add up what the encoders had decoded, reused and evicted with their last prompts."""
        total: Counter[str] = Counter()
        for counts in list(self._frames.values()):  # the thread that encodes adds to them
            total.update(counts)
        return dict(total)

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
        """Ask the engines; one that is lost over it is replaced, and makes what it owes."""
        pixels = [self._pixels[item.content_hash] for item in encoded]
        return self._engines.generate(encoded, seeds, temperature, pixels)

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
        self._engines.tell("sleep", "going to sleep")

    def wake(self) -> None:
        """Wake the engines."""
        self._engines.tell("wake", "waking up")

    def copy_weights(self) -> list[Any] | None:
        """Let the learners put their weights into the object store before they do anything else."""
        if self.engine_version == self.policy_version:
            return None
        self._kept = None
        return self._ask(self._learners, "put_weights")

    def sync_weights(self, copied: list[Any] | None = None) -> int:
        """Send weights through the object store, once, and check every engine."""
        copied = copied or self.copy_weights()
        if copied is None:
            return 0
        answers = self._wait("learner", "weights", copied, self._cluster.step_timeout_s)
        chunks, sent, version = answers[0]
        self._engines.load(chunks, version)
        self.engine_version = version
        if self._runs_ahead:
            self._kept = chunks
        return int(sent)

    def _engine_weights(self) -> tuple[Sequence[Any], int]:
        """Return what the engines run: kept from the last sync, or asked of idle learners."""
        if self._kept is not None:
            return self._kept, self.engine_version
        chunks, _, version = self._learn("weights for a new engine", "put_weights")[0]
        return chunks, int(version)

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
            *(self._engines.actors if hasattr(self, "_engines") else ()),
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
        return self._wait(role, what, self._ask(actors, method, *arguments), timeout_s)

    def _ask(self, actors: Sequence[Any], method: str, *arguments: Any) -> list[Any]:
        with self._calling:  # two threads: all ranks have to see their calls in the same order
            return [getattr(actor, method).remote(*arguments) for actor in actors]

    def _wait(self, role: str, what: str, calls: Sequence[Any], timeout_s: float) -> list[Any]:
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
            "_temp_dir": str(closed_folder() / "ray"),
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


def closed_folder() -> Path:
    """Return a folder that nobody but this user can enter.

    Ray opens its own folders (sockets, logs) to every user of the machine, again with every worker
    that starts; so the folder above them has to be closed.
    """
    root = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    folder = Path(root) / f"ray-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if mine and not stat.S_IMODE(found.st_mode) & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="ray-", dir=root))  # somebody else was there first


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
