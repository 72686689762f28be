"""Ask about a furnished room: referring expressions that mean one piece, and questions.

A query is only made when it is unambiguous in its room, also with respect to pieces that the
video hardly shows.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from scenerl.preprocess.records import Box2D, Span
from scenerl.preprocess.rooms_furniture import COLORS, FURNITURE
from scenerl.preprocess.rooms_layout import Piece, footprint_gap_m

NEXT_TO_M = 0.55
"""Pieces nearer than this are next to each other ..."""
NOT_NEXT_TO_M = 1.2
"""... and those farther than this are not; between the two no query is made."""

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sighting:
    """A piece and where the video shows it."""

    piece: Piece
    boxes_px: dict[int, Box2D]
    """Frames that show it well."""
    spans_s: tuple[Span, ...]
    glimpses: dict[int, Box2D]
    """Frames that show any pixel of it."""

    @property
    def is_target(self) -> bool:
        """Whether it can be asked for: seen well, in one stretch."""
        return len(self.spans_s) == 1

    @property
    def name(self) -> str:
        """Colour and class."""
        return f"{self.piece.color} {self.piece.label}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One question; either `object_id` or `answers` is given."""

    kind: str
    question: str
    object_id: int | None = None
    answers: tuple[str, ...] | None = None


def _pick(rng: np.random.Generator, phrasings: tuple[str, ...]) -> str:
    """Choose a phrasing; the first is as likely as all others together."""
    if rng.random() < 0.5:
        return phrasings[0]
    return phrasings[int(rng.integers(len(phrasings)))]


def plural(label: str) -> str:
    """Return the plural of a class name."""
    irregular = {"shelf": "shelves", "box": "boxes"}
    return irregular.get(label, label + "s")


def attribute_queries(sightings: list[Sighting], rng: np.random.Generator) -> list[Query]:
    """Ask for each piece whose class and colour no other piece has."""
    names = Counter(s.name for s in sightings)
    queries = []
    for s in sightings:
        if names[s.name] != 1 or not s.is_target:
            continue
        color, label = s.piece.color, s.piece.label
        phrasings = (
            f"the {color} {label}",
            f"the {label} that is {color}",
            f"a {label} in {color}",
            f"the {color} colored {label}",
        )
        queries.append(
            Query(kind="attribute", question=_pick(rng, phrasings), object_id=s.piece.object_id)
        )
    return queries


def _is_next_to(a: Sighting, anchor: Sighting) -> bool | None:
    """Return yes, no, or None where people could disagree."""
    if a.piece.stands_on is not None or anchor.piece.stands_on is not None:
        return None
    gap = footprint_gap_m(a.piece.footprint, anchor.piece.footprint)
    if gap <= NEXT_TO_M:
        return True
    return False if gap >= NOT_NEXT_TO_M else None


def _is_beside(a: Sighting, anchor: Sighting, sign: int) -> bool | None:
    """Return whether `a` shows left (-1) or right (+1) of the anchor; None when unclear."""
    glimpsed = a.glimpses.keys() & anchor.glimpses.keys()
    if not glimpsed:
        return False
    offsets = []
    for frame in glimpsed:
        x, y = a.glimpses[frame], anchor.glimpses[frame]
        offsets.append((x[0] + x[2] - y[0] - y[2]) * sign)
    if max(offsets) < 0:
        return False
    shared = a.boxes_px.keys() & anchor.boxes_px.keys()
    apart = all(
        (a.boxes_px[f][0] >= anchor.boxes_px[f][2] - 4)
        if sign > 0
        else (a.boxes_px[f][2] <= anchor.boxes_px[f][0] + 4)
        for f in shared
    )
    return True if len(shared) >= 3 and min(offsets) > 0 and apart else None


def _relations(anchor: Sighting) -> list[tuple[tuple[str, ...], str]]:
    place = ("the {} next to", "the {} beside", "the {} close to")
    left = ("the {} to the left of", "the {} left of")
    right = ("the {} to the right of", "the {} right of")
    if anchor.piece.label == "table":
        return [(("the {} on", "the {} standing on"), "on"), (place, "next"), (left, "left")]
    return [(place, "next"), (left, "left"), (right, "right")]


def _holds(relation: str, a: Sighting, anchor: Sighting) -> bool | None:
    if relation == "on":
        return a.piece.stands_on == anchor.piece.object_id
    if relation == "next":
        return _is_next_to(a, anchor)
    return _is_beside(a, anchor, -1 if relation == "left" else 1)


def relation_queries(sightings: list[Sighting], rng: np.random.Generator) -> list[Query]:
    """Ask for a piece by its class and its place beside a piece that can be named."""
    names = Counter(s.name for s in sightings)
    labels = Counter(s.piece.label for s in sightings)
    queries = []
    for anchor in sightings:
        if names[anchor.name] != 1 or not anchor.boxes_px:
            continue
        short = labels[anchor.piece.label] == 1 and rng.random() < 0.3
        thing = anchor.piece.label if short else anchor.name
        for phrasings, relation in _relations(anchor):
            for label in sorted(labels):
                others = [s for s in sightings if s.piece.label == label and s is not anchor]
                facts = [_holds(relation, s, anchor) for s in others]
                if facts.count(True) != 1 or None in facts:
                    continue
                target = others[facts.index(True)]
                if target.is_target and label != anchor.piece.label:
                    question = f"{_pick(rng, phrasings).format(label)} the {thing}"
                    queries.append(
                        Query(kind="relation", question=question, object_id=target.piece.object_id)
                    )
    return queries


def superlative_queries(sightings: list[Sighting], rng: np.random.Generator) -> list[Query]:
    """Ask for the extreme one of a class, when it stands out clearly."""
    queries = []
    for label in sorted({s.piece.label for s in sightings}):
        pieces = [s for s in sightings if s.piece.label == label]
        if len(pieces) < 2:
            continue
        heights = [s.piece.box_world[5] - s.piece.box_world[2] for s in pieces]
        volumes = [h * _area(s.piece.footprint) for h, s in zip(heights, pieces, strict=True)]
        for sizes, ratio, most, least in (
            (heights, 1.15, ("the tallest {}",), ("the shortest {}", "the lowest {}")),
            (volumes, 1.35, ("the largest {}", "the biggest {}"), ("the smallest {}",)),
        ):
            order = np.argsort(sizes)
            for first, second, phrasings in (
                (order[-1], order[-2], most),
                (order[1], order[0], least),
            ):
                target = pieces[int(first if phrasings is most else second)]
                if sizes[first] >= ratio * sizes[second] and target.is_target:
                    question = _pick(rng, phrasings).format(label)
                    queries.append(
                        Query(
                            kind="superlative",
                            question=question,
                            object_id=target.piece.object_id,
                        )
                    )
    return queries


def _area(footprint: np.ndarray) -> float:
    x, y = footprint[1] - footprint[0], footprint[2] - footprint[1]
    return float(np.linalg.norm(x) * np.linalg.norm(y))


def _count_query(thing: str, count: int, rng: np.random.Generator) -> Query:
    phrasings = (
        f"How many {thing} are there?",
        f"How many {thing} are in the room?",
        f"Count the {thing}.",
    )
    return Query(
        kind="count", question=_pick(rng, phrasings), answers=(str(count), NUMBER_WORDS[count])
    )


def count_queries(sightings: list[Sighting], rng: np.random.Generator) -> list[Query]:
    """Ask how many pieces of a class or a colour there are; none of them may be hardly seen."""
    unsure = [s for s in sightings if not s.boxes_px]
    queries = []
    for label in FURNITURE:
        count = sum(s.piece.label == label for s in sightings)
        if all(s.piece.label != label for s in unsure) and (count or rng.random() < 0.06):
            queries.append(_count_query(plural(label), count, rng))
    for color in COLORS:
        count = sum(s.piece.color == color for s in sightings)
        if all(s.piece.color != color for s in unsure) and count and rng.random() < 0.5:
            queries.append(_count_query(f"{color} objects", count, rng))
    return queries


def existence_queries(sightings: list[Sighting], rng: np.random.Generator) -> list[Query]:
    """Ask whether something is there; as many no as yes, and a no is half true."""
    names = {s.name for s in sightings}
    queries = []
    for s in sightings:
        if not s.boxes_px:
            continue
        color, label, answer = s.piece.color, s.piece.label, "yes"
        if rng.random() < 0.5:
            color, label, answer = str(rng.choice(list(COLORS))), s.piece.label, "no"
            if rng.random() < 0.5:
                color, label = s.piece.color, str(rng.choice(list(FURNITURE)))
            if f"{color} {label}" in names:
                continue
        article = "an" if color[0] in "aeiou" else "a"
        phrasings = (
            f"Is there {article} {color} {label}?",
            f"Does the room have {article} {color} {label}?",
            f"Can you see {article} {color} {label}?",
        )
        queries.append(Query(kind="existence", question=_pick(rng, phrasings), answers=(answer,)))
    return queries


def color_queries(
    sightings: list[Sighting], relations: list[Query], rng: np.random.Generator
) -> list[Query]:
    """Ask for the colour of a piece that its class or its place names."""
    labels = Counter(s.piece.label for s in sightings)
    things = [
        (f"the {s.piece.label}", s.piece.color)
        for s in sightings
        if labels[s.piece.label] == 1 and s.boxes_px
    ]
    colors = {s.piece.object_id: s.piece.color for s in sightings}
    things += [(q.question, colors[q.object_id]) for q in relations if q.object_id is not None]
    queries = []
    for thing, color in things:
        phrasings = (f"What color is {thing}?", f"Which color does {thing} have?")
        queries.append(Query(kind="color", question=_pick(rng, phrasings), answers=(color,)))
    return queries


def room_queries(
    sightings: list[Sighting], rng: np.random.Generator, *, limits: dict[str, int]
) -> list[Query]:
    """Make the queries of one room.

    Args:
        sightings: Every piece of the room, also those hardly seen.
        rng: Source of phrasings and of what is kept under the limits.
        limits: Kind -> most queries of that kind.

    Returns:
        Unambiguous queries with different questions, grouped by kind.
    """
    relations = relation_queries(sightings, rng)
    made = {
        "attribute": attribute_queries(sightings, rng),
        "relation": relations,
        "superlative": superlative_queries(sightings, rng),
        "count": count_queries(sightings, rng),
        "existence": existence_queries(sightings, rng),
        "color": color_queries(sightings, relations, rng),
    }
    kept = []
    for kind, queries in made.items():
        unique = list({query.question: query for query in queries}.values())
        chosen = sorted(rng.permutation(len(unique))[: limits[kind]])
        kept += [unique[i] for i in chosen]
    return kept
