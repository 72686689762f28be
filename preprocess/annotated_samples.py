"""A draft and its scene to a sample: spans, boxes in frames and in 3D of the objects meant."""

from dataclasses import dataclass
from pathlib import Path

from scenerl.preprocess.annotated_scenes import (
    PreparedScenes,
    SceneFacts,
    bring_file,
    merge_spans,
)
from scenerl.preprocess.drafts import Draft
from scenerl.preprocess.records import Box3D, Media, Sample, Target
from scenerl.preprocess.rows import RowError
from scenerl.preprocess.scene import image_size
from scenerl.preprocess.sceneparser_text import parse_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where scenes and media come from and go to."""

    output: Path
    scenes: PreparedScenes | None
    media: Path | None


def make_sample(draft: Draft, item_id: str, places: Places, *, dataset: str, split: str) -> Sample:
    """Return the sample of a draft; its scene or file stands in the output then.

    Raises:
        RowError: If the scene, an object or the file does not exist, or a name is hostile.
    """
    sources: dict[str, str] = {}
    scene_id: str | None = None
    if draft.parsed is not None:
        medium, target = _image_target(draft, places)
    elif draft.media is None or (places.scenes is not None and places.scenes.has(draft.scene_id)):
        facts = _facts(draft, places)
        target, sources = _scene_target(draft, facts)
        scene_id = facts.scene_id
        medium = Media(kind="video", scene=f"scenes/{scene_id}")
    else:
        medium = Media(kind="video", video=_video(draft, places))
        target, scene_id = _plain_target(draft), draft.scene_id
    signals = {**draft.signals, **sources}
    return Sample(
        sample_id=f"{dataset}-{item_id}",
        dataset=dataset,
        split=split,
        question=draft.question.replace("{box}", _box_text(target.box_world)),
        media=medium,
        target=target,
        scene_id=scene_id,
        kind=draft.kind,
        provenance=provenance_text(signals),
        item_id=item_id,
        situation=draft.situation,
        options=draft.options,
    )


def provenance_text(signals: dict[str, str]) -> str:
    """Return "signal=source; ..." in the order of the names, text_only without anything spatial."""
    spatial = {"spans_s", "boxes_px", "box_world", "boxes_world"}
    parts = [f"{name}={source}" for name, source in sorted(signals.items())]
    return "; ".join(parts if spatial & signals.keys() else [*parts, "text_only"])


def _facts(draft: Draft, places: Places) -> SceneFacts:
    if places.scenes is None:
        raise RowError("no such scene", f"{draft.scene_id!r:.80}: no prepared scenes were given")
    return places.scenes.find(draft.scene_id)


def _video(draft: Draft, places: Places) -> str:
    assert draft.media is not None
    if places.media is None:
        raise RowError(
            "no such scene",
            f"{draft.scene_id!r:.80} is no prepared scene, and no --media was given",
        )
    return bring_file(draft.media, places.media, places.output, "videos")


def _plain_target(draft: Draft) -> Target:
    boxes = draft.boxes_world
    return Target(
        spans_s=None if draft.span_s is None else (draft.span_s,),
        box_world=boxes[0] if boxes and len(boxes) == 1 else None,
        boxes_world=boxes,
        label=draft.label,
        answers=draft.answers,
        completion=draft.completion,
    )


def _scene_target(draft: Draft, facts: SceneFacts) -> tuple[Target, dict[str, str]]:
    """Return the target, and where its spatial signals come from."""
    plain = _plain_target(draft)
    if draft.object_ids is None or (not facts.objects and not draft.needs_objects):
        return plain, {}
    missing = [number for number in draft.object_ids if number not in facts.objects]
    if missing:
        raise RowError(
            "no such object",
            f"{facts.scene_id} has {len(facts.objects)} objects, none with id {missing[0]}",
        )
    boxes = [facts.objects[number].box_world for number in draft.object_ids]
    if draft.needs_objects and None in boxes:
        bad = draft.object_ids[boxes.index(None)]
        raise RowError("object without box", f"object {bad} of {facts.scene_id} has no 3D box")
    worlds = tuple(box for box in boxes if box is not None)
    only = draft.object_ids[0] if len(draft.object_ids) == 1 else None
    seen = [facts.appearances[n] for n in draft.object_ids if n in facts.appearances]
    spans = merge_spans([span for view in seen for span in view.spans_s])
    target = Target(
        spans_s=plain.spans_s or spans or None,
        boxes_px=dict(seen[0].boxes_px) if only is not None and seen else None,
        box_world=worlds[0] if only is not None and worlds else None,
        object_id=only,
        object_ids=draft.object_ids,
        boxes_world=worlds if len(worlds) == len(draft.object_ids) else None,
        label=draft.label,
        answers=draft.answers,
        completion=draft.completion,
    )
    found = {
        "spans_s": bool(spans) and plain.spans_s is None,
        "boxes_px": target.boxes_px,
        "box_world": target.box_world,
        "boxes_world": target.boxes_world and only is None,
    }
    return target, {name: facts.provenance for name, value in found.items() if value}


def _image_target(draft: Draft, places: Places) -> tuple[Media, Target]:
    assert draft.parsed is not None
    assert draft.media is not None
    if places.media is None:
        raise RowError("no such file", f"{draft.media!r:.80}: no --media was given")
    path = bring_file(draft.media, places.media, places.output, "images")
    width, height = image_size(places.output / path)
    text = parse_text(draft.parsed, width, height)
    objects = draft.parsed.objects
    box = objects[0].box
    is_drawn = len(objects) == 1 and box[0] < box[2] and box[1] < box[3]
    target = Target(
        boxes_px={0: box} if is_drawn else None,
        label=draft.label,
        answers=(text,),
        completion=text,
    )
    return Media(kind="image", video=path), target


def _box_text(box: Box3D | None) -> str:
    return "(unknown)" if box is None else f"({', '.join(f'{value:.2f}' for value in box)})"
