"""Image grounding (stage 2): where in the frames of a span is the thing asked about?"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import EnvConfig
from scenerl.configs.seeding import derive_seed
from scenerl.envs.family import ModelFamily
from scenerl.envs.media_refs import MediaFacts, frames_in_spans, image_ref, media_facts, spread
from scenerl.envs.metrics import true_box_px
from scenerl.envs.parsing import from_native_pixels, parse_box, to_native_pixels
from scenerl.envs.records import BoxAnswer, MediaRef, ParseError, Prompt
from scenerl.envs.templates import messages, reply_text, short_query
from scenerl.preprocess.records import Box2D, Sample, Span


@dataclass(frozen=True, slots=True)
class ImageGrounding:
    """A frame and a referring expression; the reply names a box in JSON.

    The box is written in pixels of the resized frame by Qwen2.5-VL and in 0..1000 by Qwen2-VL and
    Qwen3-VL (`EnvConfig.coordinates` decides otherwise); answers are in native pixels.
    """

    config: EnvConfig
    family: ModelFamily

    def skip_reason(self, sample: Sample) -> str | None:
        """Say why a sample cannot be trained or evaluated on."""
        return None if sample.target.boxes_px else "no true box"

    def prompts(
        self,
        sample: Sample,
        data_root: str | Path,
        *,
        span_s: Span | None = None,
        seed: int = 0,
        supervised: bool = False,
    ) -> list[Prompt]:
        """Make one prompt per chosen frame of the span.

        The span is the predicted one, else the true ones, else the whole video. With
        `supervised`, frames without a true box are not asked about, and the list may be empty.
        """
        facts = media_facts(sample.media, data_root)
        candidates = self._candidates(sample, facts, span_s)
        if supervised:
            boxes = sample.target.boxes_px or {}
            candidates = [at for at in candidates if facts.frame_indices[at] in boxes]
        count = self.config.frames_per_span
        draw = random.Random(derive_seed(seed, sample.sample_id, "frames"))
        offsets = [0.5 if seed == 0 else draw.random() for _ in range(count)]
        return [self._prompt(sample, facts, at) for at in spread(candidates, count, offsets)]

    def _candidates(self, sample: Sample, facts: MediaFacts, span_s: Span | None) -> list[int]:
        if sample.media.kind == "image":
            return list(range(len(facts.frame_indices)))
        spans_s = (span_s,) if span_s is not None else (sample.target.spans_s or ())
        return frames_in_spans(facts, spans_s) or list(range(len(facts.frame_indices)))

    def _prompt(self, sample: Sample, facts: MediaFacts, at: int) -> Prompt:
        media = image_ref(facts, at, self.config, self.family)
        return Prompt(
            prompt_id=f"{sample.sample_id}@{media.frame_indices[0]}",
            sample=sample,
            messages=messages(self.config, "image_grounding", "image", sample.question),
            media=(media,),
            task="image_grounding",
        )

    def grid(self, media: MediaRef) -> tuple[int, int]:
        """Return (width, height) of the coordinates that the policy writes for a frame."""
        relative = (
            self.family.relative_coordinates
            if self.config.coordinates == "auto"
            else self.config.coordinates == "relative_1000"
        )
        return (1000, 1000) if relative else media.size

    def parse(self, text: str, prompt: Prompt) -> BoxAnswer | ParseError:
        """Read the box of a reply, in pixels of the native frame and cut at its edges."""
        parsed = parse_box(text)
        if isinstance(parsed, ParseError):
            return parsed
        media = prompt.media[0]
        box_px = to_native_pixels(parsed[0], self.grid(media), media.native_size)
        if box_px is None:
            return ParseError(reason="box outside the image", text=text)
        return BoxAnswer(box_px=box_px, label=parsed[1])

    def reference_completion(self, prompt: Prompt, *, looseness: float = 0.0, seed: int = 0) -> str:
        """Write the reply that names the true box of the frame, in whole coordinates."""
        box_px = true_box_px(prompt)
        if box_px is None:
            raise ValueError(
                f"prompt {prompt.prompt_id} shows a frame without a true box; make training "
                "prompts with supervised=True"
            )
        media = prompt.media[0]
        if looseness > 0:
            box_px = _loosen(box_px, looseness, derive_seed(seed, prompt.prompt_id))
        grid = self.grid(media)
        box = _whole(from_native_pixels(box_px, grid, media.native_size), grid)
        query = short_query(prompt.sample.question)
        label = prompt.sample.target.label or query
        answer = json.dumps({"bbox_2d": box, "label": label}, ensure_ascii=False)
        if self.config.template == "short":
            return reply_text(query, answer)
        return reply_text(f"Looking for: {query}. It is at {box}.", answer)


def _whole(box: Box2D, grid: tuple[int, int]) -> list[int]:
    """Round to whole coordinates inside the grid, at least one wide and high."""
    x0 = min(max(round(box[0]), 0), grid[0] - 1)
    y0 = min(max(round(box[1]), 0), grid[1] - 1)
    x1 = min(max(round(box[2]), x0 + 1), grid[0])
    y1 = min(max(round(box[3]), y0 + 1), grid[1])
    return [x0, y0, x1, y1]


def _loosen(box: Box2D, looseness: float, seed: int) -> Box2D:
    draw = random.Random(seed)
    width, height = (box[2] - box[0]) * looseness, (box[3] - box[1]) * looseness
    return (
        box[0] - draw.random() * width,
        box[1] - draw.random() * height,
        box[2] + draw.random() * width,
        box[3] + draw.random() * height,
    )
