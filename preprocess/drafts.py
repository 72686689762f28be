"""What one annotation says, before its scene is looked up: one function per format.

ScanNet numbers its objects from 0 (objectId) and prepared scenes from 1, since 0 is no object in an
instance image; a draft has the latter.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from scenerl.preprocess.records import Box3D, Span
from scenerl.preprocess.rows import RowError, found
from scenerl.preprocess.rows_beacon3d import Beacon3DGroundingRow, Beacon3DQARow
from scenerl.preprocess.rows_gsreasoner import GSReasonerRow
from scenerl.preprocess.rows_msqa import MSQARow
from scenerl.preprocess.rows_multi3drefer import Multi3DReferRow
from scenerl.preprocess.rows_referit3d import Nr3DRow, Sr3DRow
from scenerl.preprocess.rows_scanqa import ScanQARow
from scenerl.preprocess.rows_scanrefer import Scan2CapRow, ScanReferRow
from scenerl.preprocess.rows_sceneparser import SceneParserRow
from scenerl.preprocess.rows_sqa3d import SQA3DRow
from scenerl.preprocess.rows_temporal import TemporalRow
from scenerl.preprocess.rows_vsibench import VSIBenchRow

OBJECT_OFFSET: Final = 1
_PLACEHOLDER = re.compile(r"<([^<>-]+)-\d+-IMG>")
_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One annotation on its way to a sample."""

    scene_id: str
    """Scene folder, or the video's name."""
    question: str
    """``{box}`` stands for the 3D box of the only object."""
    kind: str
    object_ids: tuple[int, ...] | None = None
    """Prepared ids of all objects meant; None when the format does not say."""
    needs_objects: bool = False
    """Whether the sample is of no use without them."""
    boxes_world: tuple[Box3D, ...] | None = None
    """Where the annotation itself has boxes."""
    label: str | None = None
    answers: tuple[str, ...] | None = None
    situation: str = ""
    options: tuple[str, ...] | None = None
    completion: str | None = None
    span_s: Span | None = None
    media: str | None = None
    """Video file to look for when there is no such scene, relative to the folder of media."""
    parsed: SceneParserRow | None = None
    """An image's objects, to be written out once the image's size is known."""
    signals: dict[str, str] = field(default_factory=dict)
    """Signal -> where it comes from."""


class Filtered(RowError):
    """A row that the user or the benchmark itself leaves out: not broken."""


def _ids(numbers: Iterable[int | str]) -> tuple[int, ...]:
    ids = []
    for number in numbers:
        text = str(number).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise RowError("no such object", f"{found(number)} is no number of an object")
        ids.append(int(text) + OBJECT_OFFSET)
    return tuple(dict.fromkeys(ids))


def draft_scanrefer(row: ScanReferRow) -> Draft:
    """Return a description of one object."""
    return Draft(
        scene_id=row.scene_id,
        question=row.description,
        kind="description",
        object_ids=_ids([row.object_id]),
        needs_objects=True,
        label=row.object_name.replace("_", " "),
        signals={"question": "human", "object_id": "human"},
    )


def draft_scan2cap(row: Scan2CapRow) -> Draft:
    """Return an object to describe; its descriptions are the answers."""
    return Draft(
        scene_id=row.scene_id,
        question="Describe the object inside the 3D box {box} (two corners, metres): what it is, "
        "how it looks and where it stands.",
        kind="caption",
        object_ids=_ids([row.object_id]),
        needs_objects=True,
        label=row.object_name.replace("_", " "),
        answers=row.descriptions,
        signals={"question": "template", "answers": "human"},
    )


REFERIT3D_FILTERS = ("none", "mentions-target-class", "correct-guess", "both")
"""Which utterances are taken, in the words of `launch score nr3d --filter`."""


def filter_referit3d(row: Nr3DRow | Sr3DRow, rule: str) -> None:
    """Raise Filtered for an utterance that a rule of REFERIT3D_FILTERS leaves out."""
    if rule in ("mentions-target-class", "both") and not row.mentions_target_class:
        raise Filtered("filtered: class not mentioned", "mentions_target_class is False")
    if rule in ("correct-guess", "both") and not getattr(row, "correct_guess", True):
        raise Filtered("filtered: guessed wrong", "correct_guess is False")


def draft_referit3d(row: Nr3DRow | Sr3DRow) -> Draft:
    """Return an utterance that chooses an object among others of its class."""
    source = "human" if isinstance(row, Nr3DRow) else "template"
    return Draft(
        scene_id=row.scan_id,
        question=row.utterance,
        kind="utterance" if isinstance(row, Nr3DRow) else row.reference_type,
        object_ids=_ids([row.target_id]),
        needs_objects=True,
        label=row.instance_type,
        signals={"question": source, "object_id": source},
    )


def draft_multi3drefer(row: Multi3DReferRow) -> Draft:
    """Return a description of no, one or several objects."""
    return Draft(
        scene_id=row.scene_id,
        question=row.description,
        kind=row.eval_type,
        object_ids=_ids(row.object_ids),
        needs_objects=True,
        label=row.object_name.replace("_", " "),
        signals={"question": "human_or_model", "object_ids": "human"},
    )


def draft_scanqa(row: ScanQARow) -> Draft:
    """Return a question with the objects that it is about."""
    return Draft(
        scene_id=row.scene_id,
        question=row.question,
        kind="question",
        object_ids=_ids(row.object_ids) or None,
        label=row.object_names[0] if len(set(row.object_names)) == 1 else None,
        answers=row.answers or None,
        signals={"question": "human_or_model", "answers": "human"},
    )


def draft_sqa3d(row: SQA3DRow) -> Draft:
    """Return a question asked from a situation."""
    return Draft(
        scene_id=row.scene_id,
        question=row.question,
        kind="situated question",
        answers=row.answers,
        situation=row.situation,
        signals={"question": "human", "answers": "human"},
    )


def draft_vsibench(row: VSIBenchRow) -> Draft:
    """Return a question with options, or one that wants a number."""
    return Draft(
        scene_id=row.scene_name,
        question=row.question,
        kind=row.question_type,
        answers=(row.ground_truth,),
        options=row.options,
        media=f"{row.dataset}/{row.scene_name}",
        signals={"question": "template", "answers": "3d_annotation"},
    )


def plain_words(text: str) -> str:
    """Return a text with image placeholders such as <chair-5-IMG> replaced by their words."""
    return _PLACEHOLDER.sub(r"\1", text)


def draft_msqa(row: MSQARow) -> Draft:
    """Return a situated question of MSQA or GQA3D; object images become the objects' names."""
    return Draft(
        scene_id=row.scan_id,
        question=plain_words(row.question),
        kind=row.type or "question",
        object_ids=_ids(row.object_ids) or None,
        answers=row.answers,
        situation=plain_words(row.situation),
        signals={"question": "model", "answers": "model"},
    )


def draft_scenecot(row: MSQARow) -> Draft:
    """Return a situated question with a reply to be trained on, thoughts and all."""
    draft = draft_msqa(row)
    return Draft(
        scene_id=draft.scene_id,
        question=draft.question,
        kind=draft.kind,
        object_ids=draft.object_ids,
        answers=draft.answers,
        situation=draft.situation,
        completion=row.answer_with_cot or row.answer_with_cot_region,
        signals={**draft.signals, "completion": "model"},
    )


def draft_beacon3d_grounding(row: Beacon3DGroundingRow) -> Draft:
    """Return one level of a chain: an expression and all objects that it fits."""
    return Draft(
        scene_id=row.scene_id,
        question=row.text,
        kind=row.tag or "description",
        object_ids=_ids(row.target_ids),
        needs_objects=True,
        label=row.object_class,
        signals={"question": "human", "object_ids": "human"},
    )


def draft_beacon3d(row: Beacon3DQARow) -> Draft:
    """Return a question about one object."""
    return Draft(
        scene_id=row.scene_id,
        question=row.question,
        kind=row.tag or "question",
        object_ids=_ids([row.object_id]),
        label=row.object_class,
        answers=(row.answer,),
        signals={"question": "human", "answers": "human"},
    )


def draft_temporal(row: TemporalRow) -> Draft:
    """Return a sentence and when it is true of a video."""
    start, end = row.span_s
    if not 0 <= start < end:
        raise RowError("wrong span", f"found {start} to {end} s; expected 0 <= start < end")
    return Draft(
        scene_id=row.video_id,
        question=row.query,
        kind="sentence",
        span_s=row.span_s,
        media=row.video_id,
        signals={"question": "human", "spans_s": "human"},
    )


def draft_gsreasoner(row: GSReasonerRow) -> Draft:
    """Return a question with a reply to be trained on.

    The answers are those of the file, else what stands inside the reply's <answer>.
    """
    if row.is_augmented:
        raise Filtered(
            "filtered: scene was moved",
            "the reply tells of a scene that was scaled, turned or moved before it was written",
        )
    inside = _ANSWER.search(row.completion)
    answers = row.answers or ((inside[1].strip(),) if inside and inside[1].strip() else ())
    named = [item for item in row.objects if item.centre_sizes]
    return Draft(
        scene_id=row.scene_id,
        question=row.question,
        kind=row.question_type or row.dataset,
        boxes_world=tuple(box for item in row.objects for box in item.boxes) or None,
        label=named[0].name if len(named) == 1 and named[0].name else None,
        answers=answers or None,
        completion=row.completion,
        media=row.video,
        signals={"completion": "annotation_file", "boxes_world": "annotation_file"}
        if row.objects
        else {"completion": "model"},
    )


def draft_sceneparser(row: SceneParserRow) -> Draft:
    """Return one category of one image."""
    return Draft(
        scene_id=row.image_path,
        question=row.category,
        kind="parse",
        label=row.category,
        media=row.image_path,
        parsed=row,
        signals={"boxes_px": "human_or_model", "completion": "annotation_file"},
    )
