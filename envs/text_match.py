"""When two short answers say the same."""

import math
import re
from collections.abc import Sequence
from typing import Final

_NUMBER_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_WORD_OF_DIGITS: Final = {str(number): word for number, word in enumerate(_NUMBER_WORDS)}
_NUMBER_OF_WORD: Final = {word: float(number) for number, word in enumerate(_NUMBER_WORDS)}
_WORD = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_ARTICLES: Final = frozenset({"a", "an", "the"})
_CLOSED_ANSWERS: Final = frozenset({("yes",), ("no",)})


def answer_words(text: str) -> tuple[str, ...]:
    """Return the words that count: lower case, no punctuation or articles, 0..20 spelled out."""
    words = (_WORD_OF_DIGITS.get(word, word) for word in _WORD.findall(text.lower()))
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
