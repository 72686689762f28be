"""Built-in rewards of the form, the length and the text of a reply.

They have the signature of a plug-in: lists by column name, one entry per completion, in and out.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from scenerl.envs.parsing import is_strict_layout
from scenerl.envs.text_match import is_exact_match, is_refined_match, leading_number

Rewards = list[float | None]

_STEP: Final = (0.95 - 0.5) / 9
MRA_THRESHOLDS: Final = (*(step * _STEP + 0.5 for step in range(9)), 0.95)
"""Confidence thresholds of VSI-Bench's mean relative accuracy: 0.50, 0.55, ..., 0.95, to the bit
those of numpy's linspace(.5, .95, 10), which the official script compares with."""


def format_reward(
    completions: list[list[dict[str, str]]],
    parsed: list[dict[str, Any]],
    *,
    require_answer: bool = True,
) -> Rewards:
    """Give 1 to a reply of exactly one think block and one answer block, else 0.

    Args:
        completions: The replies.
        parsed: What the env made of them.
        require_answer: Also ask that the answer can be parsed, as VLM-R1 does; False looks at the
            layout alone, as TimeZero does.
    """
    return [
        float(is_strict_layout(_text(reply)) and not (require_answer and "error" in answer))
        for reply, answer in zip(completions, parsed, strict=True)
    ]


def answer_exact_reward(parsed: list[dict[str, Any]], answers: list[list[str] | None]) -> Rewards:
    """Give 1 to an answer with the words of a true one (case, punctuation, articles, 0..20)."""
    return _match(parsed, answers, is_exact_match)


def answer_refined_reward(
    parsed: list[dict[str, Any]], answers: list[list[str] | None], *, max_extra_words: int = 2
) -> Rewards:
    """Give 1 to an answer that matches a true one up to a few words around it.

    Empty answers, answers that swallow the true one in a longer list, alternatives ("left or
    right") and parts of words score 0; `is_refined_match` has the rules.
    """

    def matches(text: str, true: Sequence[str]) -> bool:
        return is_refined_match(text, true, max_extra_words=max_extra_words)

    return _match(parsed, answers, matches)


def _match(
    parsed: list[dict[str, Any]],
    answers: list[list[str] | None],
    matches: Callable[[str, Sequence[str]], bool],
) -> Rewards:
    return [
        None if not true else float(matches(answer.get("text", ""), true))
        for answer, true in zip(parsed, answers, strict=True)
    ]


def answer_mra_reward(parsed: list[dict[str, Any]], answers: list[list[str] | None]) -> Rewards:
    """Score a number by VSI-Bench's mean relative accuracy, in [0, 1] (arXiv:2412.14171).

    The share of thresholds t in 0.50, 0.55, ..., 0.95 with |x - true| / |true| <= 1 - t. The
    number is the first word of the answer. A true answer of 0 asks for exactly 0. None when the
    true answer is no number.
    """
    rewards: Rewards = []
    for answer, true in zip(parsed, answers, strict=True):
        true_number = leading_number(true[0]) if true else None
        number = leading_number(answer.get("text", ""))
        if true_number is None:
            rewards.append(None)
        else:
            rewards.append(0.0 if number is None else mean_relative_accuracy(number, true_number))
    return rewards


def mean_relative_accuracy(number: float, true_number: float) -> float:
    """Return the share of MRA_THRESHOLDS that a number meets, up to rounding."""
    if true_number == 0:
        return float(number == 0)
    return relative_accuracy(abs(number - true_number) / abs(true_number), tolerance=1e-9)


def relative_accuracy(error: float, *, tolerance: float = 0.0) -> float:
    """Return the share of MRA_THRESHOLDS t with error <= 1 - t + tolerance.

    Without a tolerance this is the official comparison of floats, in which an error of 0.2 does
    not meet 0.8, since the 1 - t that it compares with is 0.19999999999999996.
    """
    met = sum(error <= 1 - threshold + tolerance for threshold in MRA_THRESHOLDS)
    return met / len(MRA_THRESHOLDS)


def length_reward(
    completion_ids: list[list[int]],
    *,
    max_tokens: int,
    buffer_tokens: int = 0,
    min_tokens: int = 0,
) -> Rewards:
    """Penalise replies that are too long or too short, in [-1, 0].

    0 up to max_tokens - buffer_tokens, from there down a straight line to -1 at max_tokens (the
    soft overlong punishment of DAPO, arXiv:2503.14476, eq. 13). Below min_tokens a straight line
    to -1 for an empty reply.

    Args:
        completion_ids: The replies in tokens.
        max_tokens: Length that costs 1.
        buffer_tokens: Length of the slope before it.
        min_tokens: Shortest reply that costs nothing.
    """
    if not 0 <= buffer_tokens <= max_tokens or not 0 <= min_tokens <= max_tokens - buffer_tokens:
        raise ValueError(
            f"max_tokens={max_tokens}, buffer_tokens={buffer_tokens}, min_tokens={min_tokens}: "
            "expected 0 <= min_tokens <= max_tokens - buffer_tokens; correct the reward's kwargs"
        )
    rewards: Rewards = []
    for ids in completion_ids:
        excess = len(ids) - (max_tokens - buffer_tokens)
        if excess > 0:
            rewards.append(-1.0 if excess >= buffer_tokens else -excess / buffer_tokens)
        elif len(ids) < min_tokens:
            rewards.append(len(ids) / min_tokens - 1.0)
        else:
            rewards.append(0.0)
    return rewards


def _text(completion: list[dict[str, str]]) -> str:
    return completion[0]["content"]
