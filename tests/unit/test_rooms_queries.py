"""Queries over rooms placed by hand."""

import numpy as np

from scenerl.preprocess.records import Box2D, Span
from scenerl.preprocess.rooms_furniture import box
from scenerl.preprocess.rooms_layout import Piece
from scenerl.preprocess.rooms_queries import (
    Query,
    Sighting,
    attribute_queries,
    color_queries,
    count_queries,
    existence_queries,
    relation_queries,
    room_queries,
    superlative_queries,
)

SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


def sighting(
    object_id: int,
    color: str,
    label: str,
    *,
    x: float,
    height: float = 1.0,
    boxes: dict[int, Box2D] | None = None,
    spans: tuple[Span, ...] = ((0.0, 2.0),),
    stands_on: int | None = None,
) -> Sighting:
    piece = Piece(
        object_id=object_id,
        label=label,
        color=color,
        parts=(box((x + 0.5, 0.5, height / 2), (1, 1, height), "main"),),
        footprint=SQUARE + np.array([x, 0.0]),
        stands_on=stands_on,
    )
    shown = {0: (0.0, 0.0, 9.0, 9.0)} if boxes is None else boxes
    return Sighting(piece=piece, boxes_px=shown, spans_s=spans, glimpses=shown)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_colour_and_class_that_two_pieces_share_is_not_asked_for() -> None:
    sightings = [
        sighting(1, "red", "chair", x=0),
        sighting(2, "red", "chair", x=3),
        sighting(3, "blue", "chair", x=6),
    ]
    queries = attribute_queries(sightings, rng())
    assert [q.object_id for q in queries] == [3]
    assert "blue" in queries[0].question
    assert "chair" in queries[0].question


def test_what_is_not_seen_in_one_stretch_is_not_asked_for() -> None:
    unseen = sighting(1, "red", "chair", x=0, boxes={}, spans=())
    twice = sighting(2, "blue", "chair", x=3, spans=((0.0, 1.0), (5.0, 6.0)))
    assert attribute_queries([unseen, twice], rng()) == []


def test_next_to_names_the_one_near_piece_of_a_class() -> None:
    near, far = sighting(1, "red", "chair", x=1.3), sighting(2, "blue", "chair", x=9)
    bed = sighting(3, "green", "bed", x=0)
    found = relation_queries([near, far, bed], rng())
    assert {q.object_id for q in found if q.question.endswith("bed")} == {1}


def test_no_relation_is_made_when_people_could_disagree() -> None:
    near, doubtful = sighting(1, "red", "chair", x=1.3), sighting(2, "blue", "chair", x=-1.9)
    bed = sighting(3, "green", "bed", x=0)
    words = ("next to", "beside", "close to")
    questions = [q.question for q in relation_queries([near, doubtful, bed], rng())]
    assert not [q for q in questions if q.endswith("bed") and any(word in q for word in words)]


def test_left_and_right_are_those_of_every_shared_frame() -> None:
    places: dict[int, Box2D] = {n: (10.0 + n, 0, 20.0 + n, 9) for n in range(4)}
    beside: dict[int, Box2D] = {n: (40.0 + n, 0, 60.0 + n, 9) for n in range(4)}
    lamp = sighting(1, "red", "lamp", x=0, boxes=places)
    sofa = sighting(2, "blue", "sofa", x=5, boxes=beside)
    found = {(q.question, q.object_id) for q in relation_queries([lamp, sofa], rng())}
    assert any("left of" in question and object_id == 1 for question, object_id in found)
    assert any("right of" in question and object_id == 2 for question, object_id in found)
    crossing = {**places, 3: (80.0, 0, 90.0, 9)}
    lamp = sighting(1, "red", "lamp", x=0, boxes=crossing)
    assert relation_queries([lamp, sofa], rng()) == []


def test_on_means_standing_on_it() -> None:
    table = sighting(1, "white", "table", x=0)
    plant = sighting(2, "red", "plant", x=0, stands_on=1)
    other = sighting(3, "blue", "plant", x=9)
    found = relation_queries([table, plant, other], rng())
    assert {q.object_id for q in found if " on " in q.question} == {2}


def test_superlatives_need_a_clear_difference() -> None:
    low, high = (
        sighting(1, "red", "lamp", x=0, height=1.0),
        sighting(2, "blue", "lamp", x=3, height=1.5),
    )
    found = {(q.question, q.object_id) for q in superlative_queries([low, high], rng())}
    assert ("the tallest lamp", 2) in found
    assert {1, 2} == {object_id for _, object_id in found}
    alike = sighting(2, "blue", "lamp", x=3, height=1.05)
    assert superlative_queries([low, alike], rng()) == []


def test_counts_are_right_and_not_asked_when_one_is_hardly_seen() -> None:
    chairs = [sighting(n, "red", "chair", x=3.0 * n) for n in (1, 2)]
    hidden = sighting(3, "blue", "sofa", x=12, boxes={}, spans=())
    found = {q.question: q.answers for q in count_queries([*chairs, hidden], rng())}
    about_chairs = [answers for question, answers in found.items() if "chairs" in question]
    assert about_chairs == [("2", "two")]
    assert not [question for question in found if "sofa" in question or "blue" in question]


def test_existence_answers_are_true() -> None:
    sightings = [sighting(1, "red", "chair", x=0), sighting(2, "blue", "sofa", x=5)]
    there = {"red chair", "blue sofa"}
    answers = set()
    for seed in range(30):
        for query in existence_queries(sightings, np.random.default_rng(seed)):
            expected = "yes" if any(name in query.question for name in there) else "no"
            assert query.answers == (expected,)
            answers.add(expected)
    assert answers == {"yes", "no"}


def test_colours_are_asked_of_what_its_class_or_place_names() -> None:
    sightings = [
        sighting(1, "red", "chair", x=0),
        sighting(2, "blue", "chair", x=5),
        sighting(3, "green", "bed", x=9),
    ]
    relation = Query(kind="relation", question="the chair next to the bed", object_id=2)
    found = {q.question: q.answers for q in color_queries(sightings, [relation], rng())}
    assert sorted(found.values()) == [("blue",), ("green",)]


def test_limits_hold_and_questions_differ() -> None:
    sightings = [
        sighting(n, "red", label, x=3.0 * n) for n, label in enumerate(("bed", "tv", "box"), 1)
    ]
    limits = {
        "attribute": 2,
        "relation": 0,
        "superlative": 9,
        "count": 1,
        "existence": 0,
        "color": 1,
    }
    queries = room_queries(sightings, rng(), limits=limits)
    kinds = [q.kind for q in queries]
    assert kinds == ["attribute", "attribute", "count", "color"]
    assert len({q.question for q in queries}) == len(queries)
