"""A benchmark as a task: its prompt for a sample, and what a reply to it predicts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scenerl.configs.schema import ConfigError, EnvConfig
from scenerl.envs.benchmark_prompts import (
    Asking,
    Payload,
    Style,
    asking,
    benchmark_text,
)
from scenerl.envs.benchmark_replies import parse_reply
from scenerl.envs.family import ModelFamily
from scenerl.envs.media_refs import image_ref, media_facts, video_ref
from scenerl.envs.records import ParseError, Prompt, SpanAnswer, TextAnswer
from scenerl.envs.tasks import Env, make_env
from scenerl.preprocess.records import Sample

_ENVS: dict[Payload, Literal["temporal_grounding", "video_qa"]] = {
    "answer": "video_qa",
    "caption": "video_qa",
    "span_s": "temporal_grounding",
}
"""Payload -> the env in whose words a policy was trained to give it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkTask:
    """Asks the samples of one benchmark."""

    benchmark: str
    config: EnvConfig
    """Frames and their size; with the style "policy" also the template."""
    family: ModelFamily
    style: Style = "benchmark"

    def __post_init__(self) -> None:
        """Refuse a style that has no words for what is asked."""
        if self.style == "policy" and self.how.payload not in _ENVS:
            raise ConfigError(
                f"--prompts policy: no env of ours asks for {self.how.payload!r} in words; leave "
                "it out, or ground with --chain"
            )

    @property
    def how(self) -> Asking:
        """The benchmark's words."""
        return asking(self.benchmark)

    def prompt(self, sample: Sample, data_root: str | Path) -> Prompt:
        """Make the prompt of a sample: the medium first, then the words.

        Raises:
            DataError: If the media cannot be found.
        """
        if self.style == "policy":
            [prompt] = self._env().prompts(sample, data_root)
            return prompt
        facts = media_facts(sample.media, data_root)
        if sample.media.kind == "image":
            media = tuple(
                image_ref(facts, at, self.config, self.family)
                for at in range(len(facts.frame_indices))
            )
        else:
            media = (video_ref(facts, self.config, self.family),)
        text = benchmark_text(self.how, sample, self.style)
        content = [*({"type": ref.kind} for ref in media), {"type": "text", "text": text}]
        return Prompt(
            prompt_id=sample.sample_id,
            sample=sample,
            messages=({"role": "user", "content": content},),
            media=media,
            task=_ENVS.get(self.how.payload, "video_qa"),
        )

    def parse(self, text: str, prompt: Prompt) -> Any | ParseError:
        """Read a reply; see `parse_reply`."""
        if self.style != "policy":
            return parse_reply(text, self.how.payload, prompt.media[0].native_size)
        answer = self._env().parse(text, prompt)
        if isinstance(answer, TextAnswer):
            return answer.text
        return list(answer.span_s) if isinstance(answer, SpanAnswer) else answer

    def _env(self) -> Env:
        name = _ENVS[self.how.payload]
        return make_env(dataclasses.replace(self.config, name=name), self.family)
