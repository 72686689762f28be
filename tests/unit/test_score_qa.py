"""ScanQA and SQA3D, by numbers worked by hand."""

import math

import pytest

from scenerl.rewards.benchmark import Bootstrap
from scenerl.rewards.score_scanqa import ScanQAQuestion, question_class, score_scanqa
from scenerl.rewards.score_sqa3d import (
    SituatedAnswer,
    SituatedQuestion,
    loose_match,
    position_error_m,
    question_type,
    rotation_error_deg,
    score_sqa3d,
)

NO_BOOTSTRAP = Bootstrap(resamples=0)


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Where is the chair?", "place"),
        ("In the room, Where is it? How many?", "place"),
        ("How many chairs?", "number"),
        ("What color is it?", "color"),
        ("What is the color of it?", "color"),
        ("What type of chair is it?", "object_nature"),
        ("What is on the table?", "object"),
        ("where is the chair?", "other"),
        ("Which one?", "other"),
    ],
)
def test_the_first_phrase_found_names_the_class(question: str, name: str) -> None:
    assert question_class(question) == name


def scanqa(**options: bool) -> dict[str, float | None]:
    references = {
        "0": ScanQAQuestion(question="Where is it?", answers=("on the table", "left")),
        "1": ScanQAQuestion(question="How many chairs?", answers=("two",)),
        "2": ScanQAQuestion(question="What is it?", answers=("a red chair",)),
        "3": ScanQAQuestion(question="What is it?", answers=("bed",)),
    }
    predictions = {
        "0": ("left", "right"),  # equal
        "1": ("2", "two"),  # equal once cleaned; the second is equal
        "2": ("Red chair.",),  # equal once cleaned
        "3": ("",),  # nothing
    }
    report = score_scanqa(references, predictions, bootstrap=NO_BOOTSTRAP, **options)
    assert any("Java" in note for note in report.notes)
    return {metric.name: metric.value for metric in report.metrics}


def test_scanqa_exact_matches() -> None:
    values = scanqa()
    assert values["em@1"] == 25.0
    assert values["em@10"] == 50.0
    assert values["place/em@1"] == 100.0
    assert values["number/em@1"] == 0.0
    assert values["number/em@10"] == 100.0
    assert values["object/em@1"] == 0.0
    assert values["plain/em"] == 0.25
    assert values["leo/em"] == 0.75
    assert values["leo/em-refined"] == 1.0  # the empty answer counts there
    assert values["sound/em-refined"] == 0.75  # and not here
    assert "bleu-1" not in values  # PTB tokens need Java
    assert values["plain/meteor"] is None


def test_plain_captions_strip_the_full_stop_of_the_prediction_only() -> None:
    references = {
        "0": ScanQAQuestion(question="?", answers=("red.",)),
        "1": ScanQAQuestion(question="?", answers=("blue",)),
    }
    predictions = {"0": ("red.",), "1": ("blue...",)}
    report = score_scanqa(references, predictions, bootstrap=NO_BOOTSTRAP)
    assert report["plain/rouge-l"].value == pytest.approx(50.0)
    assert report["plain/em"].value == 0.5


def test_a_missing_scanqa_prediction_is_wrong_everywhere() -> None:
    references = {"0": ScanQAQuestion(question="?", answers=("a",))}
    report = score_scanqa(references, {}, bootstrap=NO_BOOTSTRAP)
    assert report["leo/em-refined"].value == 0.0
    assert report["em@1"].value == 0.0


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (" What is behind me?", "what"),
        ("Isn't it red?", "is"),
        ("Island?", "is"),
        ("How many?", "how"),
        ("Can I see it?", "can"),
        ("WHICH way?", "which"),
        ("Are there chairs?", "others"),
        ("Where?", "others"),
    ],
)
def test_the_first_letters_tell_the_type(question: str, kind: str) -> None:
    assert question_type(question) == kind


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("2", "two", True),
        ("", "two", True),
        ("brown table", "the table", True),  # a shared word
        ("tablecloth", "table", False),  # only a part of the answer counts
        ("Two", "Two", False),  # only the prediction is lowered
    ],
)
def test_the_official_loose_rule(text: str, answer: str, right: bool) -> None:
    assert loose_match(text, answer) is right


def test_places_are_compared_in_the_ground_plane_and_about_z() -> None:
    assert position_error_m((3.0, 4.0, 9.0), (0.0, 0.0, 0.0)) == 5.0

    def about_z(degrees: float) -> tuple[float, ...]:
        return (0.0, 0.0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2))

    assert rotation_error_deg(about_z(20), about_z(-10)) == pytest.approx(30)
    assert rotation_error_deg(about_z(170), about_z(-170)) == pytest.approx(20)


def test_sqa3d_by_type_and_place() -> None:
    place = {"position_m": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0)}
    references = {
        "0": SituatedQuestion(question="What is it?", answers=("table",), **place),
        "1": SituatedQuestion(question="Is it red?", answers=("no",), **place),
        "2": SituatedQuestion(question="Is it red?", answers=("yes",), **place),
        "3": SituatedQuestion(question="Which?", answers=("left",)),
    }
    predictions = {
        "0": SituatedAnswer(
            answer="The table",
            positions_m=((2.0, 0.0, 0.0), (0.0, 0.4, 5.0)),
            rotations=((0.0, 0.0, 1.0, 0.0),),
        ),
        "1": SituatedAnswer(answer="nothing", positions_m=((0.5, 0.0, 0.0),)),
        "2": SituatedAnswer(answer=""),
    }
    report = score_sqa3d(references, predictions, bootstrap=NO_BOOTSTRAP)
    values = {metric.name: metric.value for metric in report.metrics}
    assert values["em"] == 25.0
    assert values["em-refined"] == 75.0
    assert values["sound/em-refined"] == 25.0
    assert values["is/em"] == 0.0
    assert values["is/em-refined"] == 100.0
    assert values["which/em"] == 0.0
    assert values["loose/accuracy"] == 0.5  # "table" and "", "nothing" is no part of "no"
    assert values["acc@0.5m"] == pytest.approx(1 / 3)  # 0.5 is not below 0.5
    assert values["acc@1.0m"] == pytest.approx(2 / 3)
    assert values["acc@15deg"] == 0.0
    assert report["acc@0.5m"].count == 3
