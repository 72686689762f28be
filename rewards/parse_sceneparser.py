"""From SceneParser's reply to objects in pixels, as its evaluation reads it.

Source: SceneParser/SceneParser evaluation/inference_sceneparser.py. What cannot be read gives no
objects, so a malformed reply and an empty one score alike.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from scenerl.rewards.sceneparser_match import Thing


def parse_reply(text: str, size: tuple[float, float]) -> list[Thing]:
    """Return the objects of a reply: its first ```json block, else first "{" to last "}".

    Args:
        text: The reply; what follows <|im_end|> is ignored.
        size: (width, height) of the image in pixels.
    """
    try:
        value = json.loads(_json_part(text.split("<|im_end|>")[0]))
    except (json.JSONDecodeError, RecursionError):
        return []
    raw = value.get("objects") if isinstance(value, dict) else None
    return [
        {
            "name": item.get("name"),
            "bbox": to_pixels(item.get("bbox"), size, 4),
            "parts": [
                {
                    "part_name": part.get("part_name"),
                    "bbox": to_pixels(part.get("bbox"), size, 4),
                    "affordances": [
                        {
                            "action": affordance.get("action"),
                            "point": to_pixels(affordance.get("point"), size, 2),
                        }
                        for affordance in _objects(part.get("affordances"))
                    ],
                }
                for part in _objects(item.get("parts"))
            ],
            "affordances": [],
        }
        for item in _objects(raw)
    ]


def _json_part(text: str) -> str:
    if block := re.search(r"```json\s*(.*?)\s*```", text, re.DOTALL):
        return block[1]
    return text[text.find("{") : text.rfind("}") + 1] if "{" in text else ""


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def to_pixels(value: Any, size: tuple[float, float], count: int) -> list[float] | None:
    """Return a box (4) or point (2) in pixels, None when it is none.

    "<x><y>" and numbers up to 999 are thousandths of the image (v / 999 * size), numbers up to 1
    its fractions, anything larger pixels. So a box in pixels of which none is above 999 is misread;
    negative numbers count as small for a box and by their size for a point.
    """
    if isinstance(value, str):
        tokens = re.findall(r"<(\d+)>", value)
        if len(tokens) != count:
            return None
        return _scaled([int(token) for token in tokens], size, 999.0)
    if not isinstance(value, Sequence) or len(value) != count:
        return None
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        return None
    largest = max(numbers) if count == 4 else max(abs(number) for number in numbers)
    if largest <= 1.0:
        return [number * size[axis % 2] for axis, number in enumerate(numbers)]
    return _scaled(numbers, size, 999.0) if largest <= 999.0 else numbers


def _scaled(numbers: Sequence[float], size: tuple[float, float], whole: float) -> list[float]:
    return [number / whole * size[axis % 2] for axis, number in enumerate(numbers)]
