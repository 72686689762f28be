"""Temporal grounding (stage 1): when can the thing asked about be seen?"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import EnvConfig
from scenerl.configs.seeding import derive_seed
from scenerl.envs.family import ModelFamily
from scenerl.envs.media_refs import media_facts, video_ref
from scenerl.envs.parsing import parse_span
from scenerl.envs.records import ParseError, Prompt, SpanAnswer
from scenerl.envs.templates import messages, reply_text, short_query
from scenerl.preprocess.records import Sample, Span


@dataclass(frozen=True, slots=True)
class TemporalGrounding:
    """A video and a referring expression; the reply names a span such as ``5s to 10s``."""

    config: EnvConfig
    family: ModelFamily

    def skip_reason(self, sample: Sample) -> str | None:
        """Say why a sample cannot be trained or evaluated on."""
        if sample.media.kind != "video":
            return "not a video"
        if not sample.target.spans_s:
            return "no true span"
        return None

    def prompts(
        self,
        sample: Sample,
        data_root: str | Path,
        *,
        span_s: Span | None = None,
        seed: int = 0,
        supervised: bool = False,
    ) -> list[Prompt]:
        """Make the one prompt of a sample; span, seed and supervision make no difference."""
        media = video_ref(media_facts(sample.media, data_root), self.config, self.family)
        return [
            Prompt(
                prompt_id=sample.sample_id,
                sample=sample,
                messages=messages(self.config, "temporal_grounding", "video", sample.question),
                media=(media,),
                task="temporal_grounding",
            )
        ]

    def parse(self, text: str, prompt: Prompt) -> SpanAnswer | ParseError:
        """Read the span of a reply, in seconds since the first frame of the video."""
        span_s = parse_span(text)
        return span_s if isinstance(span_s, ParseError) else SpanAnswer(span_s=span_s)

    def reference_completion(self, prompt: Prompt, *, looseness: float = 0.0, seed: int = 0) -> str:
        """Write the reply that names the longest true span, to a tenth of a second.

        The short template writes whole seconds, one number token each for a small policy.
        """
        spans_s = prompt.sample.target.spans_s
        if not spans_s:
            raise ValueError(
                f"sample {prompt.sample.sample_id} has no true span to write; leave out samples "
                "with a skip_reason"
            )
        start, end = max(spans_s, key=lambda span_s: span_s[1] - span_s[0])
        if looseness > 0:
            seed = derive_seed(seed, prompt.prompt_id)
            start, end = _loosen((start, end), looseness, prompt.media[0].duration_s, seed)
        if self.config.template == "short":
            whole = f"{math.floor(start + 0.5)}s to {math.floor(end + 0.5)}s"
            return reply_text(short_query(prompt.sample.question), whole)
        span = f"{seconds(start)} to {seconds(end)}"
        subject = short_query(prompt.sample.question)
        return reply_text(f"Looking for: {subject}. It can be seen from {span}.", span)


def seconds(time_s: float) -> str:
    """Write a time as the replies do: "5s", "5.5s"."""
    return f"{round(time_s, 1):g}s" if time_s < 1e5 else f"{time_s:.0f}s"


def _loosen(span_s: Span, looseness: float, duration_s: float | None, seed: int) -> Span:
    draw = random.Random(seed)
    length = (span_s[1] - span_s[0]) * looseness
    last = max(span_s[1], duration_s or 0.0)
    start, end = span_s[0] - draw.random() * length, span_s[1] + draw.random() * length
    return max(start, 0.0), min(end, last)
