"""Question answering: a question about a video (or an image), a short text as the reply."""

from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.media_refs import image_ref, media_facts, video_ref
from scenerl.envs.parsing import extract_answer
from scenerl.envs.records import ParseError, Prompt, TextAnswer
from scenerl.envs.templates import messages, question_text, reply_text, short_query
from scenerl.preprocess.records import Sample, Span


@dataclass(frozen=True, slots=True)
class VideoQA:
    """A video or an image and a question; the reply is a word, a number or a short phrase."""

    config: EnvConfig
    family: ModelFamily

    def skip_reason(self, sample: Sample) -> str | None:
        """Say why a sample cannot be trained or evaluated on."""
        return None if sample.target.answers else "no true answer"

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
        facts = media_facts(sample.media, data_root)
        if sample.media.kind == "image":
            media = image_ref(facts, 0, self.config, self.family)
        else:
            media = video_ref(facts, self.config, self.family)
        return [
            Prompt(
                prompt_id=sample.sample_id,
                sample=sample,
                messages=messages(self.config, "video_qa", media.kind, question_text(sample)),
                media=(media,),
                task="video_qa",
            )
        ]

    def parse(self, text: str, prompt: Prompt) -> TextAnswer | ParseError:
        """Read the answer of a reply, its white space collapsed."""
        answer = extract_answer(text)
        return answer if isinstance(answer, ParseError) else TextAnswer(text=answer)

    def reference_completion(self, prompt: Prompt, *, looseness: float = 0.0, seed: int = 0) -> str:
        """Write the reply that gives the first true answer; an answer in words has no jitter.

        A sample that brings its own reply (`Target.completion`) gets that, as it is.
        """
        target = prompt.sample.target
        if target.completion is not None:
            return target.completion
        answers = target.answers
        if not answers:
            raise ValueError(
                f"sample {prompt.sample.sample_id} has no true answer to write; leave out samples "
                "with a skip_reason"
            )
        query = short_query(prompt.sample.question)
        if self.config.template == "short":
            return reply_text(target.label or query, answers[0])
        return reply_text(f"The question is: {query}. The video shows: {answers[0]}.", answers[0])
