"""A made-up first batch, on which every reward is tried before anything expensive starts."""

from typing import Final

from scenerl.envs.metrics import true_box_px
from scenerl.envs.records import (
    Answer,
    BoxAnswer,
    MediaRef,
    ParseError,
    Prompt,
    SpanAnswer,
    TextAnswer,
)
from scenerl.envs.templates import TaskName, reply_text
from scenerl.preprocess.records import Media, Sample, Target
from scenerl.rewards.columns import Columns, prompt_row, rollout_row
from scenerl.rollout.records import Completion, Rollout

_UNPARSABLE: Final = "I do not know."


def canary_prompt(task: TaskName) -> Prompt:
    """Return a prompt as an env of that name makes them, with everything that can be true."""
    is_image = task == "image_grounding"
    media = MediaRef(
        kind="image" if is_image else "video",
        path="canary",
        frame_indices=(4,) if is_image else tuple(range(8)),
        times_s=(2.0,) if is_image else tuple(index / 2 for index in range(8)),
        native_size=(224, 168),
        size=(224, 168),
        duration_s=4.0,
    )
    target = Target(
        spans_s=((1.0, 3.0),),
        boxes_px={4: (40.0, 30.0, 120.0, 110.0)},
        box_world=(0.0, 0.0, 0.0, 0.5, 0.5, 1.0),
        object_id=1,
        label="chair",
        answers=("two",) if task == "video_qa" else None,
    )
    question = "How many chairs are there?" if task == "video_qa" else "the red chair"
    sample = Sample(
        sample_id="canary",
        dataset="canary",
        split="train",
        question=question,
        media=Media(kind="image" if is_image else "video", scene="canary"),
        target=target,
        scene_id="canary",
        kind="attribute",
        provenance="made up to try the rewards",
    )
    content = [{"type": media.kind}, {"type": "text", "text": question}]
    return Prompt(
        prompt_id="canary",
        sample=sample,
        messages=({"role": "user", "content": content},),
        media=(media,),
        task=task,
    )


def canary_columns(prompt: Prompt) -> Columns:
    """Return the columns of two completions of a prompt: a right one and an unparsable one."""
    answer, text = _right_answer(prompt)
    error = ParseError(reason="no <answer> block", text=_UNPARSABLE)
    rollouts = [
        _rollout(0, reply_text("a canary", text), answer),
        _rollout(1, _UNPARSABLE, error),
    ]
    rows = [prompt_row(prompt) | {"group_id": "canary"} | rollout_row(each) for each in rollouts]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _right_answer(prompt: Prompt) -> tuple[Answer, str]:
    target = prompt.sample.target
    if prompt.task == "video_qa":
        text = (target.answers or ("two",))[0]
        return TextAnswer(text=text), text
    if prompt.task == "image_grounding":
        box_px = true_box_px(prompt) or (0.0, 0.0, 10.0, 10.0)
        answer = BoxAnswer(box_px=box_px, label=target.label)
        return answer, f'{{"bbox_2d": {list(box_px)}, "label": "{target.label}"}}'
    span_s = (target.spans_s or ((0.0, 1.0),))[0]
    return SpanAnswer(span_s=span_s), f"{span_s[0]}s to {span_s[1]}s"


def _rollout(index: int, text: str, answer: Answer | ParseError) -> Rollout:
    ids = tuple(range(10, 10 + len(text.split())))
    completion = Completion(
        completion_ids=ids,
        rollout_logprobs=(-1.0,) * len(ids),
        text=text,
        finish_reason="stop",
        policy_version=0,
    )
    return Rollout(index=index, completion=completion, answer=answer)
