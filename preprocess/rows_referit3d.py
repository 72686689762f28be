"""Nr3D and Sr3D: utterances that choose one object among several of its class.

The header and one raw row of nr3d.csv:

    assignmentid,stimulus_id,utterance,correct_guess,speaker_id,listener_id,scan_id,instance_type,
        target_id,tokens,dataset,mentions_target_class,uses_object_lang,uses_spatial_lang,...
    10,scene0525_00-plant-5-9-10-11-12-13,The plant at the far right,True,3,7,scene0525_00,plant,
        9,"['the', 'plant', 'at', 'the', 'far', 'right']",nr3d,True,False,True,...

and of sr3d.csv, which has no id:

    scan_id,utterance,target_id,distractor_ids,stimulus_id,coarse_reference_type,reference_type,
        instance_type,anchors_types,anchor_ids,dataset,mentions_target_class,tokens
    scene0000_00,select the door that is near the desk,3,"[7]",scene0000_00-door-2-3-7,horizontal,
        closest,door,"['desk']","[12]",sr3d,True,"['select', ...]"

Source: referit3d/referit3d in_out/neural_net_oriented.py,
data_generation/nr3d/stimuli_generation.py
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.preprocess.row_sources import csv_items
from scenerl.preprocess.rows import (
    RowError,
    Rows,
    as_whole,
    collect_rows,
    found,
    is_true,
    key_text,
    listing,
    need,
    one,
    text,
    texts,
    whole,
    wholes,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stimulus:
    """The context of an utterance, read off ``scan-label-count-target-distractor-..``."""

    scan_id: str
    label: str
    num_objects: int
    """The target and its distractors; the official split calls up to 2 easy."""
    target_id: int
    distractor_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Nr3DRow:
    """One utterance of a person, and whether another person understood it."""

    assignmentid: str
    stimulus_id: str
    stimulus: Stimulus
    utterance: str
    correct_guess: bool
    scan_id: str
    instance_type: str
    target_id: int
    tokens: tuple[str, ...]
    mentions_target_class: bool

    @property
    def item_id(self) -> str:
        """Return the assignment's id."""
        return self.assignmentid


@dataclass(frozen=True, kw_only=True, slots=True)
class Sr3DRow:
    """One utterance made from a template."""

    number: int
    """0-based row of the file, its only id."""
    stimulus_id: str
    stimulus: Stimulus
    utterance: str
    scan_id: str
    instance_type: str
    target_id: int
    tokens: tuple[str, ...]
    mentions_target_class: bool
    distractor_ids: tuple[int, ...]
    coarse_reference_type: str
    reference_type: str
    anchors_types: tuple[str, ...]
    anchor_ids: tuple[int, ...]

    @property
    def item_id(self) -> str:
        """Return the row's number."""
        return str(self.number)


def read_nr3d(path: str | Path) -> Rows[Nr3DRow]:
    """Return the rows of nr3d.csv.

    Raises:
        DataError: If the file is missing or has no header.
    """
    return collect_rows(csv_items(path), one(_nr3d))


def read_sr3d(path: str | Path) -> Rows[Sr3DRow]:
    """Return the rows of sr3d.csv or sr3d+.csv.

    Raises:
        DataError: If the file is missing or has no header.
    """
    return collect_rows(csv_items(path), one(_sr3d))


def read_stimulus(stimulus_id: str) -> Stimulus:
    """Return the parts of a stimulus id, as the official `decode_stimulus_string` reads them.

    Raises:
        RowError: If it has other parts, or another number of distractors than it says.
    """
    parts = stimulus_id.split("-", maxsplit=4)
    if len(parts) < 4:
        raise RowError("wrong type", f"stimulus_id {found(stimulus_id)} has no 4 parts")
    distractors = parts[4].split("-") if len(parts) == 5 else []
    stimulus = Stimulus(
        scan_id=parts[0],
        label=parts[1].replace("_", " "),
        num_objects=as_whole(parts[2], "the count of stimulus_id"),
        target_id=as_whole(parts[3], "the target of stimulus_id"),
        distractor_ids=tuple(as_whole(d, "a distractor of stimulus_id") for d in distractors if d),
    )
    if len(stimulus.distractor_ids) != stimulus.num_objects - 1:
        raise RowError(
            "contradiction",
            f"stimulus_id {found(stimulus_id)} says {stimulus.num_objects} objects and names "
            f"{1 + len(stimulus.distractor_ids)}",
        )
    return stimulus


def _literal(raw: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list that the file writes as a Python literal."""
    written = text(raw, key)
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise RowError("wrong type", f"{key} is {found(written)}; expected a list") from error
    return listing(list(value) if isinstance(value, tuple) else value, key)


def _nr3d(raw: Mapping[str, Any], _number: int) -> Nr3DRow:
    stimulus_id = text(raw, "stimulus_id")
    return Nr3DRow(
        assignmentid=key_text(raw, "assignmentid"),
        stimulus_id=stimulus_id,
        stimulus=_stimulus(raw, stimulus_id),
        utterance=text(raw, "utterance"),
        correct_guess=is_true(need(raw, "correct_guess"), "correct_guess"),
        scan_id=text(raw, "scan_id"),
        instance_type=text(raw, "instance_type"),
        target_id=whole(raw, "target_id"),
        tokens=texts(_literal(raw, "tokens"), "tokens"),
        mentions_target_class=is_true(need(raw, "mentions_target_class"), "mentions_target_class"),
    )


def _sr3d(raw: Mapping[str, Any], number: int) -> Sr3DRow:
    stimulus_id = text(raw, "stimulus_id")
    return Sr3DRow(
        number=number,
        stimulus_id=stimulus_id,
        stimulus=_stimulus(raw, stimulus_id),
        utterance=text(raw, "utterance"),
        scan_id=text(raw, "scan_id"),
        instance_type=text(raw, "instance_type"),
        target_id=whole(raw, "target_id"),
        tokens=texts(_literal(raw, "tokens"), "tokens"),
        mentions_target_class=is_true(
            raw.get("mentions_target_class", True), "mentions_target_class"
        ),
        distractor_ids=wholes(_literal(raw, "distractor_ids"), "distractor_ids"),
        coarse_reference_type=text(raw, "coarse_reference_type"),
        reference_type=text(raw, "reference_type"),
        anchors_types=texts(_literal(raw, "anchors_types"), "anchors_types"),
        anchor_ids=wholes(_literal(raw, "anchor_ids"), "anchor_ids"),
    )


def _stimulus(raw: Mapping[str, Any], stimulus_id: str) -> Stimulus:
    stimulus = read_stimulus(stimulus_id)
    named = (text(raw, "scan_id"), whole(raw, "target_id"))
    if (stimulus.scan_id, stimulus.target_id) != named:
        raise RowError(
            "contradiction",
            f"stimulus_id {found(stimulus_id)} is not of {named[0]!r:.80}, target {named[1]}",
        )
    return stimulus
