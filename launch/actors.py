"""The Ray actors of a run: encoders, engines, learners. Each is a thin shell around its part.

No actor is restarted or detached: state lives on the disk, and a run that lost a learner or an
encoder starts again from its last commit; engines are replaced (`launch/engines.py`). Pixels travel
as NumPy arrays through the object store, written once and read in place by engine and learner;
weights travel once, to all engines.
"""

import dataclasses
import os
import signal
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from scenerl.configs.schema import DataConfig, ModelConfig, RolloutConfig, TrainConfig
from scenerl.envs.records import Prompt
from scenerl.rl.fleet import EncodeFailure, encode_one, save_learner_state
from scenerl.rl.learner import Learner
from scenerl.rl.records import TrainBatch, UpdateResult
from scenerl.rollout.records import Completion, EncodedPrompt, Group
from scenerl.rollout.weights import in_chunks


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ActorConfig:
    """What every actor of a run needs to know."""

    model: ModelConfig
    rollout: RolloutConfig
    train: TrainConfig
    data: DataConfig
    seed: int
    threads: int
    frame_cache_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """Which learner an actor is."""

    rank: int
    world_size: int
    address: str | None = None
    """host:port of rank 0, when there are several."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """What an engine that works says of itself."""

    version: int
    """Updates that its weights have seen."""
    checksum: str
    """Of its log-probs on the probe, made for this answer."""
    node: str
    """Ray's id of its node."""
    pid: int


@ray.remote(max_restarts=0, max_task_retries=0)
class EncoderActor:
    """Turns prompts into tensors."""

    def __init__(self, config: ActorConfig) -> None:
        """Load tokenizer and processor."""
        from scenerl.preprocess.decoding import set_limits
        from scenerl.rollout.encode import Encoder

        _use_threads(config.threads)
        set_limits(config.data)
        self._encoder = Encoder(config.model.path, frame_cache_bytes=config.frame_cache_bytes)
        self._max_prompt_length = config.rollout.max_prompt_length

    def ready(self) -> bool:
        """Answer once the actor is up."""
        return True

    @ray.method(num_returns=3)  # type: ignore[untyped-decorator]
    def encode(
        self, prompt: Prompt
    ) -> tuple[EncodedPrompt | EncodeFailure, Any, tuple[int, dict[str, float]]]:
        """Encode a prompt.

        Returns:
            The encoded prompt without its pixels; the pixels, an object that is read in place by
            whoever needs it and never passes the driver; their bytes, and `Encoder.frame_counts`.
        """
        encoded = encode_one(self._encoder, prompt, self._max_prompt_length)
        if isinstance(encoded, EncodeFailure):
            return encoded, None, (0, self._encoder.frame_counts())
        pixels = encoded.pixel_values
        array = None if pixels is None else pixels.contiguous().numpy()
        size = 0 if array is None else int(array.nbytes)
        light = dataclasses.replace(encoded, pixel_values=None)
        return light, array, (size, self._encoder.frame_counts())


@ray.remote(max_restarts=0, max_task_retries=0)
class EngineActor:
    """One engine replica."""

    def __init__(self, config: ActorConfig, devices: tuple[int, ...] | None = None) -> None:
        """Load the engine.

        Args:
            config: Model and rollout settings.
            devices: GPUs that learners own and this engine shares; None uses those Ray gives.
        """
        if devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        _use_threads(config.threads)
        import torch

        from scenerl.rollout.engine import make_engine

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._engine = make_engine(config.model.path, config.model, config.rollout, device=device)

    def ready(self) -> EngineState:
        """Run the probe through the model and say what came out."""
        return self._state(self._engine.checksum())

    def _state(self, checksum: str) -> EngineState:
        return EngineState(
            version=self._engine.policy_version,
            checksum=checksum,
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
        )

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float | None,
        *pixels: np.ndarray | None,
    ) -> list[list[Completion]]:
        """Complete prompts whose pixels come as separate objects."""
        whole = [_with_pixels(p, array) for p, array in zip(prompts, pixels, strict=True)]
        return self._engine.generate(whole, seeds, temperature=temperature)

    def load_weights(self, chunks: Sequence[Any], version: int, timeout_s: float) -> EngineState:
        """Take new weights from the object store and run the probe with them."""
        return self._state(self._engine.load_weights(_unpack_weights(chunks, timeout_s), version))

    def sleep(self) -> bool:
        """Give the device's memory back."""
        return self._engine.sleep()

    def wake(self) -> None:
        """Take it again."""
        self._engine.wake()

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()


@ray.remote(max_restarts=0, max_task_retries=0)
class LearnerActor:
    """One learner rank."""

    def __init__(self, config: ActorConfig, rank: Rank) -> None:
        """Load the policy for training."""
        _use_threads(config.threads)
        self._rank = rank
        self._learner = make_learner(config, rank)

    def ready(self) -> int:
        """Return the policy version."""
        return self._learner.policy_version

    def devices(self) -> list[int]:
        """Return the GPUs that Ray gave this actor."""
        found = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return [int(name) for name in found]

    def logprobs(self, groups: Sequence[Group], *pixels: np.ndarray | None) -> list[list[Any]]:
        """Score rollouts whose pixels come as separate objects."""
        whole = [
            dataclasses.replace(group, encoded=_with_pixels(group.encoded, array))
            for group, array in zip(groups, pixels, strict=True)
        ]
        return self._learner.logprobs(whole)

    def update(self, batches: Sequence[TrainBatch], *pixels: np.ndarray | None) -> UpdateResult:
        """Train; pixels come in the order of the groups over all batches."""
        arrays = iter(pixels)
        whole = [
            dataclasses.replace(
                batch,
                groups=tuple(
                    dataclasses.replace(group, encoded=_with_pixels(group.encoded, next(arrays)))
                    for group in batch.groups
                ),
            )
            for batch in batches
        ]
        return self._learner.update(whole)

    def put_weights(self) -> tuple[list[Any], int, int]:
        """Put the weights into the object store.

        Returns:
            References (of rank 0), bytes, and the policy version.
        """
        references, total = [], 0
        for chunk in in_chunks(self._learner.weights()):  # all ranks gather, the first sends
            if self._rank.rank == 0:
                references.append(ray.put([_pack_tensor(*weight) for weight in chunk]))
                total += sum(tensor.nbytes for _, tensor in chunk)
        return references, total, self._learner.policy_version

    def save(self, folder: str) -> int:
        """Write this rank's state, and the model on rank 0; returns the policy version."""
        self._learner.save_model(Path(folder) / "model")
        save_learner_state(self._learner.state_dict(), Path(folder), self._rank.rank)
        return self._learner.policy_version

    def load(self, folder: str) -> int:
        """Restore this rank; returns the policy version."""
        from scenerl.rl.fleet import load_learner

        load_learner(self._learner, Path(folder), self._rank.rank)
        return self._learner.policy_version

    def close(self) -> None:
        """Release the learner."""
        self._learner.close()


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def end_process(pid: int) -> bool:
    """Kill a frozen engine on the node where this runs; whether it was there."""
    try:
        if "EngineActor" not in Path(f"/proc/{pid}/cmdline").read_text():
            return False  # it has ended, and another process has its number
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def free_address() -> str:
    """Return host:port of a free port on the node where this runs."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def make_learner(config: ActorConfig, rank: Rank) -> Learner:
    """Build the learner that `train.learner` names."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.train.learner == "torch":
        from scenerl.rl.learner_torch import TorchLearner

        return TorchLearner(
            config.model, config.train, config.rollout, seed=config.seed, device=device
        )
    from scenerl.rl.learner_deepspeed import DeepSpeedLearner

    return DeepSpeedLearner(
        config.model,
        config.train,
        config.rollout,
        seed=config.seed,
        rank=rank.rank,
        world_size=rank.world_size,
        address=rank.address,
    )


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _with_pixels(encoded: EncodedPrompt, array: np.ndarray | None) -> EncodedPrompt:
    """Put the pixels back, without a copy."""
    import torch

    if array is None:
        return encoded
    with warnings.catch_warnings():
        # Arrays of the object store are read-only; nobody writes into pixels.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return dataclasses.replace(encoded, pixel_values=torch.from_numpy(array))


def _pack_tensor(name: str, tensor: Any) -> tuple[str, str, tuple[int, ...], np.ndarray]:
    """Return a tensor as bytes: NumPy has no bfloat16."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat


def _unpack_weights(chunks: Sequence[Any], timeout_s: float) -> Iterator[tuple[str, Any]]:
    import torch

    for reference in chunks:
        for name, dtype, shape, flat in ray.get(reference, timeout=timeout_s):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                tensor = torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape)
            yield name, tensor
