"""What generates completions: one protocol, two engines."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from scenerl.configs.schema import ModelConfig, RolloutConfig
from scenerl.rollout.records import Completion, EncodedPrompt


class EngineError(RuntimeError):
    """An engine that cannot do what it was asked: says what was found and what to do."""


class Engine(Protocol):
    """Generates with one version of the policy's weights."""

    policy_version: int
    """Updates that the engine's weights have seen; every completion carries it."""

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Make ``len(seeds[i])`` completions of prompt i.

        A completion is a function of weights, prompt and its own seed, whatever else is in the
        batch (with vLLM's prefix cache on, log-probs may differ in the last digits).

        Args:
            prompts: Their content hash is checked first.
            seeds: One per completion.
            temperature: None takes the configured one; 0 is greedy.

        Returns:
            Completions in the order of prompts and seeds. Their log-probs are the policy's own at
            the configured temperature; vision placeholder tokens are never sampled.
        """
        ...

    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Tensor]
    ) -> list[list[float]]:
        """Return the log-probs (temperature 1) of given completions, int64 [completion] each."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> str:
        """Replace all weights.

        Args:
            weights: Every weight under its name in a saved checkpoint, once.
            policy_version: Updates that they have seen.

        Returns:
            The `checksum` of the new weights.

        Raises:
            WeightError: If a weight is missing, unexpected or has another shape, or if the
                engine's outputs do not follow the change.
        """
        ...

    def checksum(self) -> str:
        """Return a fingerprint of the weights in use: of their log-probs on a fixed probe."""
        ...

    def sleep(self) -> bool:
        """Give the device's memory back until `wake`; False where the engine keeps it."""
        ...

    def wake(self) -> None:
        """Take the memory again, with the weights that were there."""
        ...

    def close(self) -> None:
        """Release memory and processes."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """Everything an engine needs to start."""

    model_dir: Path
    """Checkpoint folder."""
    model: ModelConfig
    rollout: RolloutConfig
    policy_version: int = 0
    device: str = "cpu"
    """Of the transformers engine; vLLM takes the device it was built for."""


def make_engine(
    model_dir: str | Path,
    model: ModelConfig,
    rollout: RolloutConfig,
    *,
    policy_version: int = 0,
    device: str = "cpu",
) -> Engine:
    """Start the engine that `rollout.engine` names.

    Args:
        model_dir: Checkpoint folder with weights, tokenizer and processor.
        model: Dtype and attention.
        rollout: Lengths, sampling, memory.
        policy_version: Updates that the folder's weights have seen.
        device: Where the transformers engine runs.
    """
    folder = Path(model_dir)
    if not (folder / "config.json").is_file():
        raise EngineError(
            f"{folder} holds no config.json; expected a checkpoint folder: set model.path to one"
        )
    spec = EngineSpec(
        model_dir=folder, model=model, rollout=rollout, policy_version=policy_version, device=device
    )
    if rollout.engine == "transformers":
        from scenerl.rollout.engine_transformers import TransformersEngine

        return TransformersEngine(spec)
    from scenerl.rollout.engine_vllm import VllmEngine

    return VllmEngine(spec)
