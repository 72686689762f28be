"""Answer the items of one shard of a benchmark, every answer kept as it is made."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.configs.seeding import derive_seed
from scenerl.envs.benchmark_task import BenchmarkTask
from scenerl.envs.records import MediaRef, ParseError, Prompt
from scenerl.preprocess.records import Sample
from scenerl.rl.answer_log import AnswerLog
from scenerl.rl.evaluate import Interrupted
from scenerl.rl.metrics import plain
from scenerl.rollout.replies import Answerer, Reply, Unanswered

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How replies are drawn."""

    samples_per_question: int = 1
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    chunk: int = 32
    """Items between two writes."""

    def seeds(self, item_id: str) -> list[int]:
        """Return one seed per reply to an item, whatever shard it is in."""
        return [
            derive_seed(self.seed, "eval", item_id, k) for k in range(self.samples_per_question)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is asked: the items of a shard in order, with their samples."""

    task: BenchmarkTask
    data_root: Path
    samples: Mapping[str, Sample]
    """Item id -> sample."""


def answer_shard(
    answerer: Answerer,
    questions: Questions,
    log: AnswerLog,
    drawing: Drawing,
    *,
    should_stop: Callable[[], str | None] = lambda: None,
) -> dict[str, str]:
    """Answer what the log does not hold yet.

    Args:
        answerer: The model.
        questions: The items of the shard.
        log: Takes one row per answered item, in the order of the items.
        drawing: How many replies, and how.
        should_stop: Asked between chunks.

    Returns:
        Item id -> why it could not be asked; a later command tries these again.

    Raises:
        Interrupted: If `should_stop` gave a reason.
    """
    todo = [item for item in questions.samples if item not in log.rows]
    errors: dict[str, str] = {}
    done = len(log.rows)
    for start in range(0, len(todo), drawing.chunk):
        reason = should_stop()
        if reason is not None:
            raise Interrupted(reason)
        items = todo[start : start + drawing.chunk]
        prompts, failed = make_prompts(questions, items)
        seeds = [drawing.seeds(item) for item in prompts]
        replies = answerer.answer(list(prompts.values()), seeds, temperature=drawing.temperature)
        rows = []
        for (item, prompt), found in zip(prompts.items(), replies, strict=True):
            if isinstance(found, Unanswered):
                failed[item] = found.reason
            else:
                rows.append(answer_row(questions, item, prompt, found))
        log.append(rows)
        errors |= failed
        done += len(rows)
        logger.info(
            "%s: %d of %d answers%s",
            log.file.name.split(".")[0],
            done,
            len(questions.samples),
            f", {len(errors)} could not be asked" if errors else "",
        )
    log.write_errors(errors)
    return errors


def make_prompts(
    questions: Questions, items: Sequence[str]
) -> tuple[dict[str, Prompt], dict[str, str]]:
    """Return the prompts of items by id, and why others have none."""
    prompts, failed = {}, {}
    for item in items:
        try:
            prompts[item] = questions.task.prompt(questions.samples[item], questions.data_root)
        except (OSError, ValueError) as error:
            failed[item] = f"{type(error).__name__}: {error}"
    return prompts, failed


def answer_row(
    questions: Questions, item: str, prompt: Prompt, replies: Sequence[Reply]
) -> dict[str, Any]:
    """Return the trace of an item: what was shown and asked, what came back, what it means."""
    return {
        "id": item,
        "sample_id": prompt.sample.sample_id,
        "question": prompt.sample.question,
        "kind": prompt.sample.kind,
        "given_box": plain(prompt.sample.target.box_world)
        if questions.task.how.payload == "caption"
        else None,
        "messages": [plain(message) for message in prompt.messages],
        "media": [media_row(ref, questions.data_root) for ref in prompt.media],
        "samples": [_reply_row(questions.task, prompt, reply) for reply in replies],
    }


def media_row(ref: MediaRef, data_root: Path) -> dict[str, Any]:
    """Return the frames that were shown, the path relative to the data folder."""
    path = Path(ref.path)
    inside = path.is_relative_to(data_root)
    shown = str(path.relative_to(data_root)) if inside else ref.path
    row: dict[str, Any] = plain(dataclasses.replace(ref, path=shown))
    return row


def _reply_row(task: BenchmarkTask, prompt: Prompt, reply: Reply) -> dict[str, Any]:
    parsed = task.parse(reply.text, prompt)
    failed = isinstance(parsed, ParseError)
    return {
        "output": reply.text,
        "finish_reason": reply.finish_reason,
        "num_tokens": reply.num_tokens,
        "parsed": None if failed else parsed,
        "parse_error": parsed.reason if isinstance(parsed, ParseError) else None,
    }
