"""SceneParser's replies: one JSON object with objects, their parts and where to touch them.

    {"objects": [{"name": "mug", "bbox": "<102><310><188><402>", "parts": [
      {"part_name": "handle", "bbox": "<170><330><188><380>",
       "affordances": [{"action": "hold", "point": "<179><355>"}]}]}]}

Source: SceneParser/SceneParser evaluation/inference_sceneparser.py (the reading of a reply).
"""

import json
import math
import re
from typing import Any

from scenerl.envs.records import ParseError

LAST_BIN = 999.0
_FENCE = re.compile(r"```json\s*(.*?)\s*```", re.DOTALL)
_TOKEN = re.compile(r"<(\d+)>")


def parse_objects(text: str, image_size: tuple[float, float]) -> list[dict[str, Any]] | ParseError:
    """Read the objects of a reply, coordinates in pixels.

    The first fenced block counts, else everything from the first { to the last }. Entries that are
    no objects are passed over and affordances are read below parts only, as the official reader
    does; unlike it, a reply that is no JSON is told from one that names nothing.

    Args:
        text: The reply.
        image_size: (width, height) in pixels.

    Returns:
        [{"name", "bbox", "parts": [{"part_name", "bbox", "affordances": [{"action", "point"}]}],
        "affordances": []}], a box or point None where it cannot be read; or a ParseError with
        "no JSON object", "bad JSON" or "no list of objects".
    """
    block = _json_text(text)
    if not block:
        return ParseError(reason="no JSON object", text=text)
    try:
        value = json.loads(block)
    except (ValueError, RecursionError):
        return ParseError(reason="bad JSON", text=text)
    objects = value.get("objects", []) if isinstance(value, dict) else None
    if not isinstance(objects, list):
        return ParseError(reason="no list of objects", text=text)
    return [_object(item, image_size) for item in objects if isinstance(item, dict)]


def _json_text(text: str) -> str:
    text = text.split("<|im_end|>")[0]
    fenced = _FENCE.findall(text)
    if fenced:
        return str(fenced[0])
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if -1 < start < end else ""


def _object(item: dict[str, Any], image_size: tuple[float, float]) -> dict[str, Any]:
    parts = [
        {
            "part_name": part.get("part_name"),
            "bbox": to_pixels(part.get("bbox"), image_size, 4),
            "affordances": [
                {
                    "action": affordance.get("action"),
                    "point": to_pixels(affordance.get("point"), image_size, 2),
                }
                for affordance in _dicts(part.get("affordances"))
            ],
        }
        for part in _dicts(item.get("parts"))
    ]
    return {
        "name": item.get("name"),
        "bbox": to_pixels(item.get("bbox"), image_size, 4),
        "parts": parts,
        "affordances": [],
    }


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def to_pixels(value: Any, image_size: tuple[float, float], count: int) -> list[float] | None:
    """Return the coordinates of a box (count 4) or a point (count 2) in pixels, None if unreadable.

    "<x0><y0><x1><y1>" are bins 0..999. Of numbers, the largest says what they are: up to 1 shares
    of the image, up to 999 bins, above that pixels; so pixel boxes within 999 are taken for bins,
    as the official reader does.
    """
    if isinstance(value, str):
        bins = _TOKEN.findall(value)
        if len(bins) != count:
            return None
        return _scaled([float(number) for number in bins], image_size, LAST_BIN)
    if not isinstance(value, list) or len(value) != count:
        return None
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(math.isfinite, numbers)):
        return None
    largest = max(numbers) if count == 4 else max(map(abs, numbers))
    if largest <= 1.0:
        return _scaled(numbers, image_size, 1.0)
    return _scaled(numbers, image_size, LAST_BIN) if largest <= LAST_BIN else numbers


def _scaled(numbers: list[float], image_size: tuple[float, float], unit: float) -> list[float]:
    return [number / unit * image_size[at % 2] for at, number in enumerate(numbers)]
