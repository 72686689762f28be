"""Scan2Cap's definitions, by numbers worked by hand."""

import numpy as np
import pytest

from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.benchmark_scan2cap import corners_of
from scenerl.rewards.score_scan2cap import (
    Caption,
    DescribedObject,
    SceneCaptions,
    float32_iou,
    framed,
    official_giou,
    score_matched,
    score_scan2cap,
    sound_giou,
    spaced,
    spaced_leo,
    with_ends,
)

NO_BOOTSTRAP = Bootstrap(resamples=0)
UNIT = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
HALF = (0.0, 0.0, 0.0, 1.0, 1.0, 0.5)
FAR = (5.0, 5.0, 5.0, 6.0, 6.0, 6.0)


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def test_texts_are_framed_as_each_script_does() -> None:
    assert framed(["a"] * 40) == "sos " + "a " * 30 + "eos"
    assert with_ends("red chair") == "sos red chair eos"
    assert with_ends("sos red eos") == "sos red eos"
    assert spaced("A red, big.") == "sos a red ,  big .  eos"
    assert spaced_leo("A red. Big.") == "sos A red . Big . eos"


def test_the_threshold_is_strict() -> None:
    assert float(float32_iou(UNIT, UNIT)) == 1.0
    references = {
        str(n): DescribedObject(captions=(f"sos {word} chair eos",), box=UNIT)
        for n, word in enumerate(("red", "blue", "green"))
    }
    predictions = {
        "0": Caption(text="red chair", iou=0.5),
        "1": Caption(text="blue chair", iou=0.25),
        "2": Caption(text="green chair", box=UNIT),
    }
    report = score_scan2cap(references, predictions, bootstrap=NO_BOOTSTRAP)
    # "sos eos" against "sos x chair eos": precision 1, recall 1/2
    missed = 2.44 * 0.5 / (0.5 + 1.44)
    assert report["rouge-l@0.25"].value == pytest.approx((1 + missed + 1) / 3)
    assert report["rouge-l@0.5"].value == pytest.approx((missed + missed + 1) / 3)


def test_captions_without_a_place_are_scored_as_they_are() -> None:
    references = {"0": DescribedObject(captions=("sos red eos",))}
    report = score_scan2cap(references, {"0": Caption(text="red")}, bootstrap=NO_BOOTSTRAP)
    assert report["rouge-l"].value == pytest.approx(1.0)


def test_given_boxes_are_in_percent() -> None:
    references = {"0": DescribedObject(captions=(spaced("Red."),))}
    report = score_scan2cap(
        references, {"0": Caption(text="red.")}, definition="given", bootstrap=NO_BOOTSTRAP
    )
    assert report["rouge-l"].value == pytest.approx(100.0)


def test_the_official_giou_never_sees_an_intersection() -> None:
    unit, half, far = (np.array([corners_of(box)]) for box in (UNIT, HALF, FAR))
    assert official_giou(unit, unit)[0, 0] == pytest.approx(1.0)  # (1 + 1) / 1 - 1
    assert official_giou(unit, half)[0, 0] == pytest.approx(0.5)
    assert official_giou(unit, far)[0, 0] == pytest.approx(2 / 216 - 1)
    assert sound_giou(unit, half)[0, 0] == pytest.approx(0.5)
    assert sound_giou(unit, far)[0, 0] == pytest.approx(2 / 216 - 1)


def scene(*boxes: tuple[tuple[float, ...], str]) -> SceneCaptions:
    return SceneCaptions(
        captions=tuple((text,) for _, text in boxes),
        corners=tuple(corners_of(box) for box, _ in boxes),
    )


def test_surplus_objects_get_the_first_prediction_officially_and_none_soundly() -> None:
    true = scene((UNIT, "sos red eos"), (UNIT, "sos blue eos"))
    predicted = scene((UNIT, "sos red eos"))
    report = score_matched({"s": true}, {"s": predicted}, bootstrap=NO_BOOTSTRAP)
    near = 2 / 3  # "sos red eos" against "sos blue eos"
    assert report["rouge-l@0.5/recall"].value == pytest.approx((1 + near) / 2)
    assert report["rouge-l@0.5/precision"].value == pytest.approx(1 + near)
    assert report["sound/rouge-l@0.5/recall"].value == pytest.approx(1 / 2)
    assert report["sound/rouge-l@0.5/precision"].value == pytest.approx(1)
    assert report["sound/rouge-l@0.5/f1"].value == pytest.approx(2 / 3)


def test_an_iou_at_the_threshold_counts_when_boxes_are_matched() -> None:
    # 1 x 1 x 0.5 in 1 x 1 x 1: the IoU is 0.5 in float32, 1e-8 vanishes in it
    report = score_matched(
        {"s": scene((UNIT, "sos red eos"))},
        {"s": scene((HALF, "sos red eos"))},
        bootstrap=NO_BOOTSTRAP,
    )
    assert report["rouge-l@0.5/f1"].value == pytest.approx(1.0)


def test_a_scene_without_a_prediction_counts_as_not_found() -> None:
    references = {"s": scene((UNIT, "sos red eos")), "t": scene((UNIT, "sos blue eos"))}
    report = score_matched(references, {"s": references["s"]}, bootstrap=NO_BOOTSTRAP)
    assert report["rouge-l@0/recall"].value == pytest.approx(0.5)
    assert report["rouge-l@0/precision"].value == pytest.approx(1.0)
