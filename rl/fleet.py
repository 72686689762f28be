"""Engines and learner as the loop sees them, and the version that lives in one process.

`launch/actors.py` has the version over Ray actors. Both give the same numbers.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from scenerl.envs.records import Prompt
from scenerl.rl.durable import write_json
from scenerl.rl.learner import Learner
from scenerl.rl.records import TrainBatch, UpdateResult
from scenerl.rollout.engine import Engine
from scenerl.rollout.records import Completion, EncodedPrompt, Group

logger = logging.getLogger(__name__)

Handle = TypeVar("Handle")


class WeightSyncError(RuntimeError):
    """An engine does not run the learner's weights."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodeFailure:
    """A prompt whose media could not be read or that is too long. Data, not an exception."""

    prompt: Prompt
    reason: str
    broken: bool = False
    """Whether the media cannot be read; a prompt that is only too long is sound."""


class PromptEncoder(Protocol):
    """Turns a prompt into tensors, once."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Decode the media and run the processor."""
        ...

    def frame_counts(self) -> dict[str, float]:
        """Return how many frames were decoded, reused and evicted."""
        ...


class BegunPrompts(Generic[Handle]):
    """Prompts whose encoding was begun ahead; each is taken once."""

    def __init__(self) -> None:
        """Start without any."""
        self._begun: list[tuple[Prompt, Handle]] = []

    def look_ahead(self, prompts: Sequence[Prompt], begin: Callable[[Prompt], Handle]) -> None:
        """Begin those of the prompts that are not begun, and forget all others."""
        self._begun = [(prompt, self.take(prompt) or begin(prompt)) for prompt in prompts]

    def take(self, prompt: Prompt) -> Handle | None:
        """Return the handle of an equal prompt."""
        for place, (other, handle) in enumerate(self._begun):
            if other == prompt:
                del self._begun[place]
                return handle
        return None


class Fleet(Protocol):
    """Everything that holds weights or makes tensors."""

    @property
    def policy_version(self) -> int:
        """Updates that the learner's weights have seen."""
        ...

    @property
    def engine_version(self) -> int:
        """Updates that the engines' weights have seen."""
        ...

    def encode(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt | EncodeFailure]:
        """Encode each prompt once; the result may hold its pixels elsewhere (by reference)."""
        ...

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Begin to encode what `encode` will be asked for, unless it is begun; returns at once."""
        ...

    def frame_counts(self) -> dict[str, float]:
        """Return how many frames the encoders decoded, reused and evicted since the start."""
        ...

    def release(self, encoded: Sequence[EncodedPrompt]) -> None:
        """Drop what is kept elsewhere for these prompts."""
        ...

    def generate(
        self,
        encoded: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Make ``len(seeds[i])`` completions of prompt i; temperature 0 is greedy."""
        ...

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Return float32 [completion] log-probs of every rollout by the learner."""
        ...

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train on the batches."""
        ...

    def sleep(self) -> None:
        """Let engines that can (vLLM on a GPU) give their memory to the learner."""
        ...

    def wake(self) -> None:
        """Wake the engines after `sleep`."""
        ...

    def copy_weights(self) -> Any:
        """Copy the weights for a sync beside an update; None when the engines run them."""
        ...

    def sync_weights(self, copied: Any = None) -> int:
        """Bring weights into every engine and check them.

        Args:
            copied: What `copy_weights` returned; None takes the weights as they are now.

        Returns:
            Their bytes; 0 when the engines ran them.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write ``model/`` (hub layout) and everything the learner needs to continue exactly."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, strictly, and sync the engines."""
        ...

    def media_bytes(self) -> int:
        """Return how many bytes of pixels are kept for prompts that are not released."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class LocalFleet:
    """One engine and one learner in this process; no Ray."""

    def __init__(
        self,
        encoder: PromptEncoder,
        engine: Engine,
        learner: Learner | None,
        *,
        max_prompt_length: int,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: Makes the tensors of a prompt.
            engine: Generates.
            learner: Trains; None for evaluation only.
            max_prompt_length: Longer prompts are refused, in tokens.
        """
        self._encoder, self._engine, self._learner = encoder, engine, learner
        self._max_prompt_length = max_prompt_length
        self.engine_version = engine.policy_version
        self._begun: BegunPrompts[Future[EncodedPrompt | EncodeFailure]] = BegunPrompts()
        # one thread encodes, always the same: tokenizers are not made for several
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="encode",
            initializer=torch.set_num_threads,  # each thread has a number of its own
            initargs=(torch.get_num_threads(),),
        )

    @property
    def policy_version(self) -> int:
        """Updates that the learner's weights have seen."""
        return self._trainer.policy_version if self._learner else self.engine_version

    @property
    def _trainer(self) -> Learner:
        if self._learner is None:
            raise RuntimeError("this fleet has no learner; it was made for evaluation")
        return self._learner

    def encode(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt | EncodeFailure]:
        """Encode each prompt in turn, those that were begun ahead first."""
        begun = [self._begun.take(prompt) or self._begin(prompt) for prompt in prompts]
        return [future.result() for future in begun]

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """Encode in the encoder's own thread while something else runs."""
        self._begun.look_ahead(prompts, self._begin)

    def _begin(self, prompt: Prompt) -> "Future[EncodedPrompt | EncodeFailure]":
        return self._thread.submit(encode_one, self._encoder, prompt, self._max_prompt_length)

    def frame_counts(self) -> dict[str, float]:
        """Ask the encoder."""
        return self._encoder.frame_counts()

    def release(self, encoded: Sequence[EncodedPrompt]) -> None:
        """Nothing is kept elsewhere."""

    def generate(
        self,
        encoded: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Generate with the one engine."""
        return self._engine.generate(encoded, seeds, temperature=temperature)

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Ask the learner."""
        return self._trainer.logprobs(groups)

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train."""
        return self._trainer.update(batches)

    def sleep(self) -> None:
        """Ask the engine."""
        self._engine.sleep()

    def wake(self) -> None:
        """Wake the engine."""
        self._engine.wake()

    def copy_weights(self) -> tuple[int, list[tuple[str, Tensor]]] | None:
        """Return the policy version and copies of its weights."""
        if self.policy_version == self.engine_version:
            return None
        weights = self._trainer.weights()
        copies = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in weights]
        return self.policy_version, copies

    def sync_weights(self, copied: tuple[int, list[tuple[str, Tensor]]] | None = None) -> int:
        """Load weights into the engine."""
        version, weights = copied or (self._trainer.policy_version, self._trainer.weights())
        if version == self.engine_version:
            return 0
        sent = 0

        def counted() -> Iterator[tuple[str, Tensor]]:
            nonlocal sent
            for name, tensor in weights:
                sent += tensor.nbytes
                yield name, tensor

        checksum = self._engine.load_weights(counted(), version)
        check_sync([self._engine.policy_version], [checksum], version)
        self.engine_version = version
        return sent

    def save(self, folder: Path) -> None:
        """Write model and learner state."""
        save_learner(self._trainer, folder)

    def load(self, folder: Path) -> None:
        """Restore the learner and sync the engine."""
        load_learner(self._trainer, folder)
        self.engine_version = -1
        self.sync_weights()

    def media_bytes(self) -> int:
        """Nothing is kept elsewhere."""
        return 0

    def close(self) -> None:
        """Close engine and learner."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._engine.close()
        if self._learner is not None:
            self._learner.close()


def encode_one(
    encoder: PromptEncoder, prompt: Prompt, max_prompt_length: int
) -> EncodedPrompt | EncodeFailure:
    """Encode a prompt; media that cannot be read and prompts that are too long are data errors."""
    try:
        encoded = encoder.encode(prompt)
    except (OSError, ValueError) as error:
        return EncodeFailure(prompt=prompt, reason=f"{type(error).__name__}: {error}", broken=True)
    length = len(encoded.prompt_ids)
    if length > max_prompt_length:
        return EncodeFailure(
            prompt=prompt,
            reason=f"prompt of {length} tokens, rollout.max_prompt_length is {max_prompt_length}",
        )
    return encoded


def check_sync(versions: Sequence[int], checksums: Sequence[str], expected: int) -> None:
    """Check that all engines report the expected version and the same weights.

    Raises:
        WeightSyncError: If one lags behind or differs.
    """
    if any(version != expected for version in versions):
        raise WeightSyncError(
            f"engines report policy versions {list(versions)} after a sync of version {expected}"
        )
    if len(set(checksums)) > 1:
        raise WeightSyncError(
            f"engines differ after a sync of version {expected}: checksums {list(checksums)}"
        )


def save_learner(learner: Learner, folder: Path) -> None:
    """Write ``model/``, ``learner/rank0.pt`` and ``learner/learner.json`` into a folder."""
    learner.save_model(folder / "model")
    save_learner_state(learner.state_dict(), folder, rank=0)
    write_json(
        folder / "learner" / "learner.json", {"policy_version": learner.policy_version, "ranks": 1}
    )


def save_learner_state(state: dict[str, Any], folder: Path, rank: int) -> None:
    """Write the state of one rank; only tensors and plain values, so loading runs no code."""
    (folder / "learner").mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "learner" / f"rank{rank}.pt")


def load_learner(learner: Learner, folder: Path, rank: int = 0) -> None:
    """Restore a learner from what `save_learner` wrote."""
    file = folder / "learner" / f"rank{rank}.pt"
    learner.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
