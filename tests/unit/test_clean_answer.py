"""SQA3D's normalisation and the refined match, step by step."""

import pytest

from scenerl.envs.text_match import clean_answer, is_refined_match, official_match


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  The RED  chair. ", "red chair"),
        ("2 chairs", "two chairs"),
        ("20, 21 and 23", "twenty, 21 and twenty-three"),
        ("None", "zero"),
        ("3.5 metres", "35 metres"),
        ("no1", "no"),
        ("a 2", "two"),  # spelled out before the article goes
        ("tv", "TV"),
        ("12 oclock", "twelve o'clock"),
        ("o'   clock", "o'clock"),
        ("letf of me", "left of me"),
        ("backwards", "backward"),
        ("left/right", "leftright"),
        ("café", "caf"),
        ("the", "the"),
        ("", ""),
    ],
)
def test_clean_answer(text: str, cleaned: str) -> None:
    assert clean_answer(text) == cleaned


def test_cleaning_twice_may_clean_more() -> None:
    assert clean_answer("a a chair") == "a chair"
    assert clean_answer("a chair") == "chair"
    assert clean_answer("the a chair") == "chair"  # "a" goes before "the" does


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("red", ["red"], (True, True)),
        ("dark red", ["red"], (False, True)),
        ("darkred", ["dark red"], (False, True)),
        ("", ["red"], (False, True)),
        ("north", ["no"], (False, True)),
        ("red", ["dark red", "red"], (False, True)),  # the loose match comes first
        ("red", ["red", "dark red"], (True, True)),
        ("blue", ["red", "green"], (False, False)),
        ("blue", [], (False, False)),
    ],
)
def test_the_official_match_ends_at_the_first_loose_one(
    text: str, answers: list[str], expected: tuple[bool, bool]
) -> None:
    assert official_match(text, answers) == expected


def test_the_guarded_match_knows_the_same_spellings() -> None:
    assert is_refined_match("on the letf", ["left"])
    assert is_refined_match("23", ["twenty-three"])
    assert not is_refined_match("", ["left"])
