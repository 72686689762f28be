"""From a reply to an answer. Every function is total: any text gives an answer or a ParseError.

The reply is ``<think>…</think>`` followed by ``<answer>…</answer>``. Parsing is lenient about what
stands around the answer (the ``format`` reward is strict about that) and strict about the answer
itself: what could be read in two ways is refused with a reason, never guessed.
"""

import math
import re
from typing import Final

from scenerl.envs.records import ParseError
from scenerl.preprocess.records import Box2D, Span

MAX_TIME_S: Final = 1e6
MAX_COORDINATE: Final = 1e6

_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_STRICT = re.compile(
    r"\s*<think>((?:(?!</?(?:think|answer)>).)*)</think>"
    r"\s*<answer>((?:(?!</?(?:think|answer)>).)*)</answer>\s*",
    re.DOTALL,
)

# A time: 5, 5.25, 1:05, 01:02:03.5, with an optional minus sign and unit. ASCII digits only.
_TIME = r"(-?)((?:[0-9]+:){0,2}[0-9]+(?:\.[0-9]+)?)\s*(?:s|secs?|seconds?)?"
_SPAN = re.compile(
    rf"(?<![\w.,:]){_TIME}(?:\s+(?:to|and)\s+|\s*[-–—]\s*){_TIME}(?![\w:]|[.,][0-9])",  # noqa: RUF001
    re.IGNORECASE,
)

_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)\s*"
_FOUR = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_LABEL = re.compile(r"""["']label["']\s*:\s*(?:"([^"]*)"|'([^']*)')""")


def is_strict_layout(text: str) -> bool:
    """Say whether a reply is exactly one think block, then exactly one answer block.

    Only white space may stand between and around the blocks, and neither may be blank.
    """
    match = _STRICT.fullmatch(text)
    return match is not None and bool(match[1].strip()) and bool(match[2].strip())


def extract_answer(text: str) -> str | ParseError:
    """Return the content of the last answer block after the last ``</think>``.

    Args:
        text: The whole reply.

    Returns:
        The content with white space collapsed, or a ParseError with one of the reasons
        "no <answer> block", "unclosed <answer>", "answer inside <think>", "empty answer".
    """
    reply = text.rsplit("</think>", 1)[-1]
    blocks = _BLOCK.findall(reply)
    if blocks:
        content = " ".join(str(blocks[-1]).split())  # also keeps the patterns below linear
        return content if content else ParseError(reason="empty answer", text=text)
    if "<answer>" in reply:
        return ParseError(reason="unclosed <answer>", text=text)
    if _BLOCK.search(text):
        return ParseError(reason="answer inside <think>", text=text)
    return ParseError(reason="no <answer> block", text=text)


def parse_span(text: str) -> Span | ParseError:
    """Read a time span from the answer block of a reply.

    Accepted, each with or without words around it: ``5s to 10s``, ``5 to 10``, ``5.0-10.0``
    (also with an en or em dash), ``5 and 10``, ``between 5 and 10 seconds``, ``0:05 to 0:10``,
    ``00:00:05 to 00:00:10``. Units are s, sec, secs, second, seconds or none. A span may start
    and end at one time, and may end after the video does: it is scored as it stands.

    Args:
        text: The whole reply.

    Returns:
        (start, end) in seconds, or a ParseError with the reason of `extract_answer` or one of
        "no time span", "several spans", "negative time", "bad clock time", "time out of range",
        "start after end".
    """
    answer = extract_answer(text)
    if isinstance(answer, ParseError):
        return answer
    found = {match.groups() for match in _SPAN.finditer(answer)}
    if len(found) != 1:
        return ParseError(reason="several spans" if found else "no time span", text=text)
    start_sign, start_text, end_sign, end_text = found.pop()
    if start_sign or end_sign:
        return ParseError(reason="negative time", text=text)
    start, end = _clock_seconds(start_text), _clock_seconds(end_text)
    if start is None or end is None:
        return ParseError(reason="bad clock time", text=text)
    if max(start, end) > MAX_TIME_S:
        return ParseError(reason="time out of range", text=text)
    if start > end:
        return ParseError(reason="start after end", text=text)
    return start, end


def _clock_seconds(text: str) -> float | None:
    """Seconds of "5.5", "1:05" or "1:02:03"; None when minutes or seconds reach 60."""
    *leading, last = (float(part) for part in text.split(":"))
    if leading and (last >= 60 or any(part >= 60 for part in leading[1:])):
        return None
    total = 0.0
    for part in leading:
        total = (total + part) * 60.0
    return total + last


def parse_box(text: str) -> tuple[Box2D, str | None] | ParseError:
    """Read one box, in the coordinates the policy writes, from the answer block of a reply.

    Accepted: ``{"bbox_2d": [x0, y0, x1, y1], "label": "chair"}``, the same in a list of one, in
    a ```json fence, with Python's quotes, with decimals, and the bare list of four numbers.

    Args:
        text: The whole reply.

    Returns:
        The box and the label (None when there is none), or a ParseError with the reason of
        `extract_answer` or one of "no box of four numbers", "several boxes",
        "coordinate out of range", "degenerate box".
    """
    answer = extract_answer(text)
    if isinstance(answer, ParseError):
        return answer
    found = {tuple(float(number) for number in match) for match in _FOUR.findall(answer)}
    if len(found) != 1:
        return ParseError(reason="several boxes" if found else "no box of four numbers", text=text)
    x0, y0, x1, y1 = found.pop()
    if not all(math.isfinite(value) and abs(value) <= MAX_COORDINATE for value in (x0, y0, x1, y1)):
        return ParseError(reason="coordinate out of range", text=text)
    if x1 <= x0 or y1 <= y0:
        return ParseError(reason="degenerate box", text=text)
    label = _LABEL.search(answer)
    name = None if label is None else (label[1] if label[1] is not None else label[2])
    return (x0, y0, x1, y1), name


def to_native_pixels(box: Box2D, grid: tuple[int, int], native: tuple[int, int]) -> Box2D | None:
    """Scale a box from the grid it was written in to the native frame, cut at the frame's edges.

    Args:
        box: (x0, y0, x1, y1) in units of `grid`.
        grid: (width, height) of the policy's coordinates: the resized frame, or (1000, 1000).
        native: (width, height) of the stored frame.

    Returns:
        The box in native pixels, or None when nothing of it lies inside the frame.
    """
    width, height = float(native[0]), float(native[1])
    x0, x1 = (min(max(x * width / grid[0], 0.0), width) for x in (box[0], box[2]))
    y0, y1 = (min(max(y * height / grid[1], 0.0), height) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def from_native_pixels(box: Box2D, grid: tuple[int, int], native: tuple[int, int]) -> Box2D:
    """Scale a box from the native frame to the grid that the policy writes in."""
    x0, x1 = (x * grid[0] / native[0] for x in (box[0], box[2]))
    y0, y1 = (y * grid[1] / native[1] for y in (box[1], box[3]))
    return x0, y0, x1, y1
