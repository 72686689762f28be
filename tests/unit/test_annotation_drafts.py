"""What annotations become, worked by hand, and what the policy is asked and taught then."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenerl.configs.schema import EnvConfig
from scenerl.envs.family import ModelFamily
from scenerl.envs.records import Prompt
from scenerl.envs.templates import question_text
from scenerl.envs.video_qa import VideoQA
from scenerl.preprocess.annotated_samples import provenance_text
from scenerl.preprocess.annotated_scenes import merge_spans
from scenerl.preprocess.annotation_formats import FORMATS, find_format
from scenerl.preprocess.drafts import (
    Filtered,
    draft_gsreasoner,
    draft_temporal,
    filter_referit3d,
    plain_words,
)
from scenerl.preprocess.export_vsibench import gap_m
from scenerl.preprocess.media import open_media
from scenerl.preprocess.prepare_annotations import split_of
from scenerl.preprocess.records import DataError, Media, Sample, Target
from scenerl.preprocess.rows import RowError
from scenerl.preprocess.rows_gsreasoner import GSReasonerRow, NamedBoxes, boxes_text
from scenerl.preprocess.rows_referit3d import read_nr3d
from scenerl.preprocess.rows_sceneparser import (
    ParsedAffordance,
    ParsedObject,
    ParsedPart,
    SceneParserRow,
)
from scenerl.preprocess.rows_temporal import TemporalRow
from scenerl.preprocess.sceneparser_text import bin_of, parse_text

FAMILY = ModelFamily(name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=False)


def qa_sample(target: Target, **fields: object) -> Sample:
    base = Sample(
        sample_id="a",
        dataset="d",
        split="train",
        question="Where is it?",
        media=Media(kind="video", scene="scenes/a"),
        target=target,
    )
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def test_a_question_is_asked_with_its_situation_and_options() -> None:
    sample = qa_sample(Target(answers=("B",)), situation="I sit.", options=("A. here", "B. there"))
    assert question_text(sample) == (
        "I sit.\nWhere is it?\nOptions:\nA. here\nB. there\n"
        "Answer with the letter of the right option."
    )
    assert question_text(qa_sample(Target())) == "Where is it?"


@pytest.mark.parametrize("template", ["reference", "short"])
def test_a_reply_that_comes_with_the_data_is_trained_on_as_it_is(template: str) -> None:
    env = VideoQA(EnvConfig(name="video_qa", template=template), FAMILY)  # type: ignore[arg-type]
    reply = "<think_type>a</think_type>\n <answer>two</answer> "
    sample = qa_sample(Target(answers=("two",), completion=reply))
    prompt = Prompt(prompt_id="a", sample=sample, messages=(), media=(), task="video_qa")
    assert env.reference_completion(prompt) == reply


def test_an_image_can_be_asked_about(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (255, 0, 0)).save(tmp_path / "a.png")
    sample = qa_sample(Target(answers=("red",)), media=Media(kind="image", video="a.png"))
    prompt = VideoQA(EnvConfig(name="video_qa"), FAMILY).prompts(sample, tmp_path)[0]
    assert (prompt.media[0].kind, prompt.media[0].native_size) == ("image", (64, 48))
    frames = open_media(tmp_path / "a.png").read([0])
    assert frames.shape == (1, 48, 64, 3)
    assert tuple(frames[0, 0, 0]) == (255, 0, 0)


def mug(box: tuple[float, float, float, float], *parts: ParsedPart) -> ParsedObject:
    return ParsedObject(name="mug", box=box, parts=parts)


def part(name: str, box: tuple[float, float, float, float], *actions: str) -> ParsedPart:
    affordances = tuple(
        ParsedAffordance(action=action, box=None, points=((50.0, 25.0),), mask_path="")
        for action in actions
    )
    return ParsedPart(name=name, box=box, is_pseudo=False, affordances=affordances)


def test_sceneparser_text_has_bins_order_and_no_placeholders() -> None:
    handle = part("handle", (50, 25, 100, 50), "grasp", "__none__", "Grasp ")
    row = SceneParserRow(
        image_path="a.jpg",
        category="mug",
        objects=(
            mug((50, 0, 100, 50), handle, part("Handle", (50, 25, 100, 50))),
            mug((10, 0, 20, 50), part("__placeholder_part__", (10, 0, 20, 50))),
            mug((10, 0, 20, 50)),
            mug((90, 0, 80, 50)),
        ),
    )
    assert json.loads(parse_text(row, 100, 50)) == {
        "objects": [
            {"name": "mug", "bbox": "<99><0><199><999>", "parts": []},
            {
                "name": "mug",
                "bbox": "<499><0><999><999>",
                "parts": [
                    {
                        "part_name": "handle",
                        "bbox": "<499><499><999><999>",
                        "affordances": [{"action": "grasp", "point": "<499><499>"}],
                    }
                ],
            },
            {"name": "mug", "bbox": None, "parts": []},
        ]
    }


def test_bins_are_cut_off_not_rounded() -> None:
    assert [bin_of(v, 100) for v in (-5, 0, 0.1, 0.2, 99.99, 100, 200)] == [
        0,
        0,
        0,
        1,
        998,
        999,
        999,
    ]


def named(name: str, *boxes: tuple[float, float, float, float, float, float]) -> NamedBoxes:
    return NamedBoxes(name=name, object_ids=(), centre_sizes=boxes)


def test_boxes_are_written_as_gs_reasoner_trains_on_them() -> None:
    one = named("red chair", (1, 1, 1, 2, 2, 2))
    assert boxes_text((one,)) == (
        "red chair 1 <bbox>(0.0000, 0.0000, 0.0000, 2.0000, 2.0000, 2.0000)</bbox>"
    )
    assert boxes_text((named("chair"),)) == "<bbox></bbox>"
    assert boxes_text((one, named("lamp"))) == "<bbox></bbox>"
    assert boxes_text((one, one)).count("</bbox>, red chair 1 <bbox>") == 1


def test_box_text_agrees_with_float32_tensors() -> None:
    import torch

    boxes = np.random.default_rng(0).uniform(-9, 9, (500, 6)).round(6).tolist()
    differ = 0
    for box in boxes:
        tensor = torch.tensor([box])
        low, high = tensor[:, :3] - tensor[:, 3:] / 2, tensor[:, :3] + tensor[:, 3:] / 2
        values = [value.item() for value in torch.cat([low, high], dim=-1)[0]]
        expected = ", ".join(f"{value:.4f}" for value in values)
        assert boxes_text((named("x", tuple(box)),)) == f"x 1 <bbox>({expected})</bbox>"
        sharp = [box[n % 3] + (-1 if n < 3 else 1) * box[3 + n % 3] / 2 for n in range(6)]
        differ += expected != ", ".join(f"{value:.4f}" for value in sharp)
    assert differ  # so that float32 is what the test is about


def conversation(dataset: str, reply: str, **fields: object) -> GSReasonerRow:
    row = GSReasonerRow(
        id="1",
        video="scannet/a",
        dataset=dataset,
        question_type="",
        prompt="<image>\nDescribe <ground>.",
        reply=reply,
        objects=(named("chair", (1, 1, 1, 2, 2, 2)),),
        target_object_id=None,
        is_augmented=False,
    )
    return dataclasses.replace(row, **fields)  # type: ignore[arg-type]


def test_replies_of_question_answering_are_wrapped_and_others_kept() -> None:
    box = "<bbox>(0.0000, 0.0000, 0.0000, 2.0000, 2.0000, 2.0000)</bbox>"
    caption = draft_gsreasoner(conversation("scan2cap", "a chair"))
    assert caption.completion == "<think></think><answer>a chair</answer>"
    assert caption.question == f"Describe {box}."
    assert caption.answers == ("a chair",)
    thought = "<think>x</think><answer>2</answer>"
    assert draft_gsreasoner(conversation("vsibench_cot", thought)).completion == thought
    with pytest.raises(Filtered, match="moved"):
        draft_gsreasoner(conversation("vsibench_cot", thought, is_augmented=True))


@pytest.mark.parametrize(
    ("span", "is_good"), [((0.0, 1.0), True), ((1.0, 1.0), False), ((2.0, 1.0), False)]
)
def test_a_span_must_end_after_it_starts(span: tuple[float, float], is_good: bool) -> None:
    row = TemporalRow(video_id="v", sentence_index=0, duration_s=3, span_s=span, sentence="A.")
    if is_good:
        assert draft_temporal(row).question == "a"
    else:
        with pytest.raises(RowError, match="wrong span"):
            draft_temporal(row)


def test_the_referit3d_filters_are_those_of_the_scorer(tmp_path: Path) -> None:
    from annotation_files import write_file

    row = read_nr3d(write_file(tmp_path, "nr3d")).rows[0]
    silent = dataclasses.replace(row, mentions_target_class=False)
    missed = dataclasses.replace(row, correct_guess=False)
    for rule, left_out in (
        ("none", []),
        ("mentions-target-class", [silent]),
        ("correct-guess", [missed]),
        ("both", [silent, missed]),
    ):
        for each in (row, silent, missed):
            if each in left_out:
                with pytest.raises(Filtered):
                    filter_referit3d(each, rule)
            else:
                filter_referit3d(each, rule)


def test_image_placeholders_become_words() -> None:
    assert plain_words("I sit on <office chair-12-IMG>, near <tv-3-IMG>.") == (
        "I sit on office chair, near tv."
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("ScanRefer_filtered_val.json", "val"),
        ("v1_balanced_questions_test_scannetv2.json", "test"),
        ("situated_qa_train_pure_txt.json", "train"),
        ("nr3d.csv", "train"),
        ("contest_values.json", "train"),
    ],
)
def test_the_split_is_read_off_the_name(name: str, split: str) -> None:
    assert split_of(name) == split


def test_spans_of_several_objects_are_united() -> None:
    assert merge_spans([(3, 4), (0, 1), (0.5, 2), (4, 5)]) == ((0, 2), (3, 5))


def test_provenance_names_every_signal() -> None:
    assert provenance_text({"question": "human", "answers": "human"}) == (
        "answers=human; question=human; text_only"
    )
    assert provenance_text({"boxes_px": "projected_from_3d_mask"}) == (
        "boxes_px=projected_from_3d_mask"
    )


def test_the_gap_of_boxes_is_the_distance_of_their_nearest_points() -> None:
    assert gap_m((0, 0, 0, 1, 1, 1), (4, 5, 0, 6, 6, 1)) == 5.0
    assert gap_m((0, 0, 0, 1, 1, 1), (0.5, 0.5, 0.5, 2, 2, 2)) == 0.0


def test_formats_are_found_by_the_names_of_the_benchmarks() -> None:
    assert all(find_format(name).name == name for name in FORMATS)
    with pytest.raises(DataError, match="no annotation format"):
        find_format("scanrefr")
