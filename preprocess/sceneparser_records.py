"""SceneParser's records: a line of its JSONL, and the annotation that its TSV files hold.

One line, shortened (SceneParser-bench, val.jsonl):

    {"image_path": "datasets/EgoObjects/images/X.jpg", "objects": [{"phrase": "mug",
      "object_bbox": [12, 30, 80, 95], "parts": [{"part_name": "handle", "part_bbox": [..],
      "affordances": [{"action": "grasp", "affordance_bbox": [..], "sampled_points": [[70, 60]]}]}]
      }]}

its annotation:

    {"objects": [{"name": "mug", "bbox": [12, 30, 80, 95], "parts": [{"part_name": "handle", "bbox":
      [..], "affordances": [{"action": "grasp", "point": [70, 60]}]}]}]}

The rules are those of ZGCA-HMI-Lab/SceneParser, datasets/tools/convert__to_tsv_mp.py, to the byte;
what that converter drops without a word is a `FileError` here.
"""

import json
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from scenerl.preprocess.safe_files import FileError

T = TypeVar("T")


def _no_constant(name: str) -> Any:
    raise FileError("not_finite", f"{name} is no JSON; expected finite numbers")


def parse_record(line: bytes) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises:
        FileError: not_utf8, json, json_kind or not_finite.
    """
    try:
        text = line.decode("utf-8").strip()
        value = json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FileError("not_utf8", f"byte {error.start} of the line is not UTF-8") from error
    except json.JSONDecodeError as error:
        cut = "; the line is cut off" if error.pos >= len(text) else ""
        raise FileError("json", f"column {error.colno}: {error.msg}{cut}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError("json", f"{error}") from error
    if not isinstance(value, dict):
        raise FileError("json_kind", f"found {type(value).__name__}, expected an object")
    return value


def _items(value: Any, where: str) -> list[Any]:
    """Return what iterating over `value or []` gives.

    Raises:
        FileError: record, if it cannot be iterated over.
    """
    if not value:
        return []
    if not isinstance(value, list | dict | str):
        raise FileError("record", f"{where} is {value!r:.60}; expected a list")
    return list(value)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileError("record", f"{where} is {value!r:.60}; expected an object")
    return value


def _point(affordance: dict[str, Any], where: str) -> list[Any] | None:
    """Return the first two numbers of the first sampled point; None when there is none."""
    points = affordance.get("sampled_points") or []
    if not points or isinstance(points, str):
        return None
    if not isinstance(points, list):
        raise FileError("record", f"{where}: sampled_points is {points!r:.60}; expected a list")
    first = points[0]
    return first[:2] if isinstance(first, list) and len(first) >= 2 else None


def _part(value: Any, where: str) -> dict[str, Any]:
    part = _object(value, where)
    affordances = [
        {"action": item.get("action"), "point": _point(item, where)}
        for item in _items(part.get("affordances"), f"{where}: affordances")
        if isinstance(item, dict)
    ]
    return {
        "part_name": part.get("part_name"),
        "bbox": part.get("part_bbox") or part.get("bbox"),
        "affordances": _unique(affordances, lambda a: (_word(a["action"]), _fixed(a["point"]))),
    }


def _word(value: Any) -> str:
    """Return a name as names are compared."""
    return str(value or "").strip().lower()


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _unique(items: list[T], key: Callable[[T], Hashable]) -> list[T]:
    """Return the items without those whose key came before.

    Raises:
        FileError: record, if a box or point is no flat list.
    """
    first: dict[Hashable, T] = {}
    try:
        for item in items:
            first.setdefault(key(item), item)
    except TypeError as error:
        raise FileError("record", f"a box or point is no list of numbers: {error}") from error
    return list(first.values())


def to_annotation(record: dict[str, Any]) -> dict[str, Any]:
    """Return the annotation of a record.

    Of the sampled points the first remains; affordances, parts and objects that repeat one before
    (names without case and surrounding space, equal boxes and contents) are left out.

    Raises:
        FileError: record, where the official converter fails.
    """
    objects = []
    for number, value in enumerate(_items(record.get("objects"), "objects")):
        where = f"objects[{number}]"
        row = _object(value, where)
        parts = [
            _part(part, f"{where}: parts[{place}]")
            for place, part in enumerate(_items(row.get("parts"), f"{where}: parts"))
        ]
        box = row.get("object_bbox") or row.get("bbox")
        objects.append(
            {
                "name": row.get("phrase") or row.get("name"),
                "bbox": box,
                "parts": _unique(
                    parts, lambda p: _key(p["part_name"], p["bbox"], p["affordances"])
                ),
            }
        )
    return {"objects": _unique(objects, lambda o: _key(o["name"], o["bbox"], o["parts"]))}


def _key(name: Any, box: Any, content: Any) -> Hashable:
    """Return what an object or part must not share with one before it."""
    return (
        _word(name),
        _fixed(box or None),
        json.dumps(content, ensure_ascii=False, sort_keys=True),
    )


def _choice(value: Any, first: str, second: str) -> dict[str, Any]:
    """Return an entry from which `first or second` gives the value again."""
    return {first if value else second: value}


def to_record(annotation: dict[str, Any], image_path: str) -> dict[str, Any]:
    """Return a record whose annotation is the given one.

    What the TSV files do not hold cannot come back: affordance boxes, masks, further sampled
    points, is_pseudo_part.
    """
    return {
        "image_path": image_path,
        "objects": [
            {
                **_choice(item["name"], "phrase", "name"),
                **_choice(item["bbox"], "object_bbox", "bbox"),
                "parts": [
                    {
                        "part_name": part["part_name"],
                        **_choice(part["bbox"], "part_bbox", "bbox"),
                        "affordances": [
                            {
                                "action": affordance["action"],
                                "sampled_points": []
                                if affordance["point"] is None
                                else [affordance["point"]],
                            }
                            for affordance in part["affordances"]
                        ],
                    }
                    for part in item["parts"]
                ],
            }
            for item in annotation["objects"]
        ],
    }


def check_annotation(value: Any) -> dict[str, Any]:
    """Return an annotation of a TSV file that has the form above.

    Raises:
        FileError: annotation, with the place where it has not.
    """
    if not isinstance(value, dict) or not isinstance(value.get("objects"), list):
        raise FileError("annotation", 'expected {"objects": [...]}')
    for number, item in enumerate(value["objects"]):
        _check_keys(item, ("name", "bbox", "parts"), f"objects[{number}]")
        for place, part in enumerate(item["parts"]):
            where = f"objects[{number}].parts[{place}]"
            _check_keys(part, ("part_name", "bbox", "affordances"), where)
            for spot, affordance in enumerate(part["affordances"]):
                _check_keys(affordance, ("action", "point"), f"{where}.affordances[{spot}]")
    return value


def _check_keys(item: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(item, dict) or any(key not in item for key in keys):
        raise FileError("annotation", f"{where}: expected an object with {', '.join(keys)}")
    for key in ("parts", "affordances"):
        if key in keys and not isinstance(item[key], list):
            raise FileError("annotation", f"{where}: {key} is no list")


def is_box(value: Any) -> bool:
    """Return whether a value is four finite numbers x0 < x1, y0 < y1."""
    return _is_numbers(value, 4) and value[0] < value[2] and value[1] < value[3]


def is_point(value: Any) -> bool:
    """Return whether a value is two finite numbers."""
    return _is_numbers(value, 2)


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 1e9
            for number in value
        )
    )
