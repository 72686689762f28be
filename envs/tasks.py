"""The tasks by name: how a sample becomes prompts, and a reply an answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from scenerl.configs.schema import ConfigError, EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.image_grounding import ImageGrounding
from scenerl.envs.records import Answer, ParseError, Prompt
from scenerl.envs.temporal_grounding import TemporalGrounding
from scenerl.envs.video_qa import VideoQA
from scenerl.preprocess.records import Sample, Span


class Env(Protocol):
    """A task."""

    def skip_reason(self, sample: Sample) -> str | None:
        """Say why a sample cannot be trained or evaluated on; None when it can."""
        ...

    def prompts(
        self,
        sample: Sample,
        data_root: str | Path,
        *,
        span_s: Span | None = None,
        seed: int = 0,
        supervised: bool = False,
    ) -> list[Prompt]:
        """Make the prompts of one sample.

        Args:
            sample: The dataset row.
            data_root: Folder that the sample's media are relative to.
            span_s: Predicted span to look into; None takes the true one. Only image grounding
                looks at it.
            seed: Which frames image grounding shows: 0 takes evenly placed ones, any other value
                a random one of each equal part of the span.
            supervised: Leave out the frames that have no true box, for training. Answering a
                question must not set it: that would use the truth to choose the frames.
        """
        ...

    def parse(self, text: str, prompt: Prompt) -> Answer | ParseError:
        """Read a reply. Total: any text gives an answer or a ParseError."""
        ...

    def reference_completion(self, prompt: Prompt, *, looseness: float = 0.0, seed: int = 0) -> str:
        """Write a right reply, for supervised training.

        Args:
            prompt: A prompt of a sample without a skip reason.
            looseness: Each edge of the true span or box lies outside the truth by a uniformly
                drawn share, up to this, of its length: labels as a quick annotator gives them.
            seed: Seed of the draw; the same prompt and seed give the same reply.

        Raises:
            ValueError: When the target does not say what is right.
        """
        ...


_ENVS: dict[str, Callable[[EnvConfig, ModelFamily], Env]] = {
    "temporal_grounding": TemporalGrounding,
    "image_grounding": ImageGrounding,
    "video_qa": VideoQA,
}


def make_env(config: EnvConfig, family: ModelFamily) -> Env:
    """Make the task that a config names, for a model family.

    Raises:
        ConfigError: When there is no such task.
    """
    if config.name not in _ENVS:
        raise ConfigError(
            f"env.name is {config.name!r}, expected one of {', '.join(_ENVS)}; correct env.name"
        )
    return _ENVS[config.name](config, family)
