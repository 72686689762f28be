"""What a reward function can ask for: one list per column, one entry per completion.

The first three are TRL's (``prompts``, ``completions``, ``completion_ids``, in TRL's form for
conversational data); the others are the columns of the data set and what the env made of the
reply. All values survive JSON, so that built-in rewards and plug-ins see the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from scenerl.envs.metrics import true_box_px
from scenerl.envs.records import Answer, BoxAnswer, ParseError, Prompt, SpanAnswer, TextAnswer
from scenerl.rollout.records import Group, Rollout

Columns: TypeAlias = dict[str, list[Any]]


def group_columns(group: Group) -> Columns:
    """Return the columns of one group; every list has one entry per rollout."""
    rows = [
        prompt_row(group.prompt) | {"group_id": group.group_id} | rollout_row(rollout)
        for rollout in group.rollouts
    ]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """Return the columns that all completions of a prompt share."""
    return {name: read(prompt) for name, read in _PROMPT_COLUMNS.items()}


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """Return the columns of one completion."""
    completion = rollout.completion
    return {
        "completions": [{"role": "assistant", "content": completion.text}],
        "completion_ids": list(completion.completion_ids),
        "index": rollout.index,
        "finish_reason": completion.finish_reason,
        "parsed": answer_row(rollout.answer),
    }


def answer_row(answer: Answer | ParseError) -> dict[str, Any]:
    """Return a parsed answer as plain values.

    Returns:
        ``{"span_s": [start, end]}``, ``{"box_px": [x0, y0, x1, y1], "label": ...}``,
        ``{"text": ...}`` or, for a reply that could not be parsed, ``{"error": reason}``.
    """
    if isinstance(answer, SpanAnswer):
        return {"span_s": list(answer.span_s)}
    if isinstance(answer, BoxAnswer):
        return {"box_px": list(answer.box_px), "label": answer.label}
    if isinstance(answer, TextAnswer):
        return {"text": answer.text}
    return {"error": answer.reason}


def _longest_span(prompt: Prompt) -> list[float] | None:
    spans_s = prompt.sample.target.spans_s
    if not spans_s:
        return None
    start, end = max(spans_s, key=lambda span_s: span_s[1] - span_s[0])
    return [start, end]


def _media(prompt: Prompt) -> list[dict[str, Any]]:
    return [
        {
            "kind": media.kind,
            "path": media.path,
            "frame_indices": list(media.frame_indices),
            "times_s": list(media.times_s),
            "native_size": list(media.native_size),
            "size": list(media.size),
        }
        for media in prompt.media
    ]


def _optional_list(value: Sequence[Any] | None) -> list[Any] | None:
    return None if value is None else list(value)


_PROMPT_COLUMNS: dict[str, Callable[[Prompt], Any]] = {
    "prompts": lambda prompt: [dict(message) for message in prompt.messages],
    "task": lambda prompt: prompt.task,
    "prompt_id": lambda prompt: prompt.prompt_id,
    "sample_id": lambda prompt: prompt.sample.sample_id,
    "dataset": lambda prompt: prompt.sample.dataset,
    "split": lambda prompt: prompt.sample.split,
    "scene_id": lambda prompt: prompt.sample.scene_id,
    "kind": lambda prompt: prompt.sample.kind,
    "question": lambda prompt: prompt.sample.question,
    "label": lambda prompt: prompt.sample.target.label,
    "object_id": lambda prompt: prompt.sample.target.object_id,
    "span_s": _longest_span,
    "spans_s": lambda prompt: (
        [list(span_s) for span_s in prompt.sample.target.spans_s]
        if prompt.sample.target.spans_s
        else None
    ),
    "box_px": lambda prompt: _optional_list(true_box_px(prompt)),
    "box_world": lambda prompt: _optional_list(prompt.sample.target.box_world),
    "answers": lambda prompt: _optional_list(prompt.sample.target.answers),
    "solution": lambda prompt: next(iter(prompt.sample.target.answers or ()), None),
    "duration_s": lambda prompt: prompt.media[0].duration_s if prompt.media else None,
    "frame_index": lambda prompt: (
        prompt.media[0].frame_indices[0] if prompt.task == "image_grounding" else None
    ),
    "media": _media,
}
