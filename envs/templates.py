"""The words of the prompts.

"reference" asks the way the reference systems ask (TimeZero and Scene-R1 for time, VLM-R1 for
boxes): think first, then one answer in a fixed form. "short" is a task word and the query, for
policies too small to follow instructions.
"""

import re
from typing import Any, Literal

from scenerl.configs.schema import EnvConfig
from scenerl.preprocess.records import Sample

TaskName = Literal["temporal_grounding", "image_grounding", "video_qa"]

_REFERENCE: dict[str, str] = {
    "temporal_grounding": (
        'When can "{query}" be seen in this video? Reason about the video inside <think> </think>, '
        "naming what you see and at which second. Then write the start and the end of the period, "
        "in seconds, inside <answer> </answer>, for example:\n"
        "<think>your reasoning</think>\n<answer>5s to 10s</answer>"
    ),
    "image_grounding": (
        'Where is "{query}" in this image? Reason first inside <think> </think>, then write the '
        "bounding box as JSON inside <answer> </answer>, with the keys bbox_2d "
        "(left, top, right, bottom) and label, for example:\n"
        '<think>your reasoning</think>\n<answer>{{"bbox_2d": [x1, y1, x2, y2], "label": "chair"}}'
        "</answer>"
    ),
    "video_qa": (
        "{query}\nReason about the video inside <think> </think>. Then write only the answer, a "
        "word, a number or a short phrase, inside <answer> </answer>, for example:\n"
        "<think>your reasoning</think>\n<answer>two</answer>"
    ),
}
_SHORT: dict[str, str] = {
    "temporal_grounding": "when: {query}",
    "image_grounding": "where: {query}",
    "video_qa": "ask: {query}",
}
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)


def short_query(question: str) -> str:
    """Return a question without its leading article and closing punctuation."""
    return _ARTICLE.sub("", question.strip()).rstrip(" .?!")


def question_text(sample: Sample) -> str:
    """Return what is asked in full: the situation, the question, the options, a line each."""
    parts = [sample.situation, sample.question]
    if sample.options:
        parts += ["Options:", *sample.options, "Answer with the letter of the right option."]
    return "\n".join(part.strip() for part in parts if part.strip())


def prompt_text(task: TaskName, template: str, question: str) -> str:
    """Return the text part of a prompt.

    Args:
        task: Name of the env.
        template: "reference" or "short" (`EnvConfig.template`).
        question: `Sample.question`, or all of `question_text`.
    """
    if template == "short":
        return _SHORT[task].format(query=short_query(question))
    query = question.strip()
    return _REFERENCE[task].format(query=query if task == "video_qa" else query.rstrip(" ."))


def messages(
    config: EnvConfig, task: TaskName, kind: Literal["video", "image"], question: str
) -> tuple[dict[str, Any], ...]:
    """Return the chat messages of a prompt with one medium.

    The reference template puts a video after the text, as TimeZero does, and an image before it,
    as VLM-R1 does; the short template puts the medium first.
    """
    text = {"type": "text", "text": prompt_text(task, config.template, question)}
    medium = {"type": kind}
    text_first = config.template == "reference" and kind == "video"
    return ({"role": "user", "content": [text, medium] if text_first else [medium, text]},)


def reply_text(thought: str, answer: str) -> str:
    """Return a reply in the form that every template asks for."""
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"
