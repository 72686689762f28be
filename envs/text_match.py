"""When two short answers say the same."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Final

_NUMBER_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_NUMBER_OF_WORD: Final = {word: float(number) for number, word in enumerate(_NUMBER_WORDS)}
_WORD = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_ARTICLES: Final = frozenset({"a", "an", "the"})
_CLOSED_ANSWERS: Final = frozenset({("yes",), ("no",)})

_RESPELLED: Final = {
    **{"letf": "left", "let": "left", "tehre": "there", "rigth": "right", "rght": "right"},
    **{"behine": "behind", "tv": "TV", "chai": "chair", "wasing": "washing"},
    **{"waslked": "walked", "oclock": "o'clock"},
}
_DIGITS: Final = {
    **{str(number): word for number, word in enumerate(_NUMBER_WORDS)},
    **{"23": "twenty-three", "none": "zero"},
}
_RESPELL = re.compile(rf"\b(?:{'|'.join(_RESPELLED)})\b")
_SPELL_OUT = re.compile(rf"\b(?:{'|'.join(_DIGITS)})\b")
_DROPPED = re.compile(r"[^a-zA-Z0-9,'\s\-:]+")
_NUMBERED_WORD = re.compile(r"\b([a-zA-Z]+)([0-9])\b")
_ARTICLE_BEFORE = tuple(re.compile(rf"\b{word}\b ([a-zA-Z]+)") for word in ("a", "an", "the"))


@functools.lru_cache(maxsize=2**16)
def clean_answer(text: str) -> str:
    """Return an answer as SQA3D's script normalises it before two answers are compared.

    In this order: lower case; spaces stripped and collapsed; every character but ASCII letters and
    digits, comma, apostrophe, white space, hyphen and colon dropped; a dozen misspellings
    corrected; 0 to 20, 23 and "none" spelled out; one digit dropped from the end of a word
    ("no1"); "a", "an" and "the" dropped before a word; "backwards" -> "backward".

    Applying it twice may give something else ("a a chair" -> "a chair" -> "chair"), "3.5"
    becomes "35", 21 stays 21, and "tv" becomes "TV".

    Source: SilongYong/SQA3D LLM/eval_sqa3d_llm.py (clean_answer); the same in LEO, MSR3D, Beacon3D,
    SceneCOT, Video-3D-LLM and GS-Reasoner.
    """
    text = re.sub(" +$", "", text.lower())
    text = re.sub(" {2,}", " ", re.sub("^ +", "", text))
    text = _DROPPED.sub("", text)
    text = _RESPELL.sub(lambda found: _RESPELLED[found[0]], text)
    text = re.sub(r"\bo' +clock\b", "o'clock", text)
    text = _SPELL_OUT.sub(lambda found: _DIGITS[found[0]], text)
    text = _NUMBERED_WORD.sub(r"\1", text)
    for article in _ARTICLE_BEFORE:
        text = article.sub(r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def official_match(text: str, answers: Sequence[str]) -> tuple[bool, bool]:
    """Return (exact match, refined match) of cleaned texts, by the rule of LEO and Beacon3D.

    The answers are tried in order; the first that is equal, or contains the text, or is contained
    in it (white space removed) decides. So an exact match behind a loose one is lost, the empty
    text matches everything, and "no" matches "north": never a reward. `is_refined_match` is the
    guarded rule.

    Source: embodied-generalist evaluator/scanqa_eval.py, beacon-3d utils.py (answer_match).
    """
    joined = "".join(text.split())
    for answer in answers:
        if text == answer:
            return True, True
        true = "".join(answer.split())
        if joined in true or true in joined:
            return False, True
    return False, False


def answer_words(text: str) -> tuple[str, ...]:
    """Return the words that count, each cleaned as `clean_answer` does, without articles.

    Unlike there, "3.5" stays a number and words of other alphabets stay.
    """
    words = (
        word if "." in word else clean_answer(word).lower() or word
        for word in _WORD.findall(text.lower())
    )
    return tuple(word for word in words if word not in _ARTICLES)


def is_exact_match(text: str, answers: Sequence[str]) -> bool:
    """Say whether a text has the words of one of the answers, in order. Nothing matches nothing."""
    words = answer_words(text)
    return bool(words) and any(words == answer_words(answer) for answer in answers)


def is_refined_match(text: str, answers: Sequence[str], *, max_extra_words: int = 2) -> bool:
    """Say whether a text matches an answer up to a few words around it.

    The refined exact match of the 3D question-answering benchmarks counts an answer when one
    string contains the other, so that an empty reply, "no" in "north" and a reply that lists
    everything all count. Here whole words are compared, and besides an exact match counts only:
    the true answer inside a reply with at most `max_extra_words` words more and no "or"; or a
    reply inside the true answer with at least half of its words. Yes and no must match exactly.

    Args:
        text: The reply.
        answers: The true answers.
        max_extra_words: How many words a reply may have beyond the true answer.
    """
    if is_exact_match(text, answers):
        return True
    words = answer_words(text)
    if not words or "or" in words:
        return False
    for answer in answers:
        true_words = answer_words(answer)
        if not true_words or true_words in _CLOSED_ANSWERS:
            continue
        extra = len(words) - len(true_words)
        if 0 < extra <= max_extra_words and _contains(words, true_words):
            return True
        if extra < 0 and 2 * len(words) >= len(true_words) and _contains(true_words, words):
            return True
    return False


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(
        tuple(words[start : start + len(part)]) == tuple(part)
        for start in range(len(words) - len(part) + 1)
    )


def leading_number(text: str) -> float | None:
    """Return the number that a text starts with ("3.5 metres", "two"), None when it has none."""
    first = next(iter(text.split()), "").strip(",;:!?()").lower()
    if match := _DECIMAL.fullmatch(first.rstrip(".") or first):
        number = float(match[0])
        return number if math.isfinite(number) else None
    return _NUMBER_OF_WORD.get(first.rstrip("."))
