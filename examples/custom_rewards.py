"""Reward functions for `01_custom_reward.py`, with TRL's signature and columns by name."""

from typing import Any


def early_start(
    parsed: list[dict[str, Any]], span_s: list[list[float] | None], *, tolerance_s: float = 1.0
) -> list[float | None]:
    """Give 1 when the predicted span starts within a tolerance of the true start, else 0."""
    rewards: list[float | None] = []
    for reply, true in zip(parsed, span_s, strict=True):
        if true is None:
            rewards.append(None)  # does not apply to this sample
        elif "span_s" not in reply:
            rewards.append(0.0)  # the reply could not be parsed
        else:
            rewards.append(float(abs(reply["span_s"][0] - true[0]) <= tolerance_s))
    return rewards


def thought(
    completions: list[list[dict[str, str]]], question: list[str], **columns: Any
) -> list[dict[str, float]]:
    """Give named parts: thinks at all, and names what it looks for. Their sum is the reward."""
    columns["log_extra"]("characters", [len(reply[0]["content"]) for reply in completions])
    parts = []
    for reply, asked in zip(completions, question, strict=True):
        thinking = reply[0]["content"].partition("<think>")[2].partition("</think>")[0]
        noun = asked.rstrip(" .?!").rsplit(" ", 1)[-1]
        parts.append({"thinks": 0.5 * bool(thinking.strip()), "names": 0.5 * (noun in thinking)})
    return parts
