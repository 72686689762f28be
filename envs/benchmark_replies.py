"""From a reply to a prediction. Total: any text gives a value or a ParseError."""

import re
from typing import Any, Final

from scenerl.envs.benchmark_prompts import Payload
from scenerl.envs.parsing import MAX_COORDINATE, parse_span
from scenerl.envs.records import ParseError
from scenerl.envs.sceneparser_reply import parse_objects

_NUMBER = r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*"
_SIX = re.compile(r"[(\[]" + ",".join([_NUMBER] * 6) + r"[)\]]")
_BLOCK = re.compile(r"<bbox>((?:(?!</?bbox>).)*)</bbox>", re.DOTALL)

NOTHING: Final[dict[Payload, Any]] = {
    "answer": "",
    "caption": "",
    "box": [],
    "boxes": [],
    "span_s": None,
    "objects": [],
}
"""What is predicted for a reply that cannot be read: it counts as wrong."""


def parse_reply(
    text: str, payload: Payload, image_size: tuple[int, int] = (1000, 1000)
) -> Any | ParseError:
    """Read what a benchmark wants out of a reply.

    Args:
        text: The whole reply.
        payload: What is wanted.
        image_size: (width, height) in pixels, for boxes in the image.

    Returns:
        Text for "answer" and "caption", a list of [x0, y0, z0, x1, y1, z1] in metres for "box" and
        "boxes" (in the order of the reply), [start, end] in seconds for "span_s", SceneParser's
        objects in pixels for "objects"; or a ParseError.
    """
    if payload in ("answer", "caption"):
        answer = answer_part(text)
        return answer or ParseError(reason="empty answer", text=text)
    if payload in ("box", "boxes"):
        return parse_boxes_3d(text, may_be_none=payload == "boxes")
    if payload == "objects":
        return parse_objects(answer_part(text), image_size)
    span_s = parse_span(text)
    return span_s if isinstance(span_s, ParseError) else list(span_s)


def answer_part(text: str) -> str:
    """Return what stands after the last <answer>, else after the last </think>, else everything.

    GS-Reasoner's rule (lmms_eval/tasks/vsibench/utils.py), with white space around it removed. A
    reply that was cut off before its </answer> still has the part that is there.
    """
    if "<answer>" in text:
        return text.rsplit("<answer>", 1)[1].replace("</answer>", "").strip()
    return text.rsplit("</think>", 1)[-1].strip()


def parse_boxes_3d(text: str, *, may_be_none: bool = False) -> list[list[float]] | ParseError:
    """Read 3D boxes: ``<bbox>(x1, y1, z1, x2, y2, z2)</bbox>``, or six numbers in brackets.

    The whole answer part is searched and no name or count around a box is needed, so that a reply
    is read where GS-Reasoner's own pattern (NAME COUNT boxes, one word of the name) finds nothing.

    Args:
        text: The whole reply.
        may_be_none: ``<bbox></bbox>`` says that there is no such object.

    Returns:
        Boxes in the order of the reply, corners as they are written; or a ParseError with one of
        the reasons "no 3D box", "bad 3D box", "coordinate out of range".
    """
    answer = answer_part(text)
    blocks = _BLOCK.findall(answer)
    found = [_SIX.findall(block) for block in blocks] if blocks else [_SIX.findall(answer)]
    if may_be_none and blocks and not "".join(blocks).strip():
        return []
    boxes = [[float(value) for value in match] for part in found for match in part]
    if not boxes:
        return ParseError(reason="bad 3D box" if blocks else "no 3D box", text=text)
    if any(abs(value) > MAX_COORDINATE for box in boxes for value in box):
        return ParseError(reason="coordinate out of range", text=text)
    return boxes


def prediction_line(
    item_id: str, payload: Payload, parsed: Any, given_box: Any = None
) -> dict[str, Any]:
    """Return the line of the prediction file: "id" and the payload.

    Args:
        item_id: The id that the scorer knows.
        payload: What was asked for.
        parsed: Of `parse_reply`; None for a reply that could not be read.
        given_box: The box that a caption was asked for.
    """
    value = NOTHING[payload] if parsed is None else parsed
    if payload == "box":  # the scorer takes the first and can say what the best one would give
        return {"id": item_id, "boxes": value}
    if payload == "caption":
        return {"id": item_id, "caption": value, "box": given_box}
    return {"id": item_id, payload: value}
