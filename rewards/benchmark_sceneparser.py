"""SceneParser-Bench as `launch score sceneparser` runs it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenerl.preprocess.records import DataError
from scenerl.rewards.benchmark import (
    Benchmark,
    Bootstrap,
    Option,
    Options,
    Predictions,
    References,
    Report,
)
from scenerl.rewards.predictions import (
    collect,
    first_object,
    read_json,
    read_json_lines,
    read_own_predictions,
)
from scenerl.rewards.reference_rows import whole

if TYPE_CHECKING:
    from scenerl.preprocess.rows_sceneparser import ParsedObject
    from scenerl.rewards.sceneparser_match import Mask

Objects = list[dict[str, Any]]
_AFFORDANCE_NUMBERS = (("affordance_bbox", 4), ("bbox", 4), ("point", 2), ("affordance_point", 2))


def read_references(path: Path, options: Options) -> References:
    """Return item id -> true objects of val.jsonl, answer.jsonl or our own lines.

    Raises:
        DataError: If a line cannot be used.
    """
    first = first_object(path)
    if "gt" in first:
        return References(by_id=dict(_answers(path, "gt")))
    if "id" in first:
        return References(by_id=dict(read_own_predictions(path, _own_objects)))
    from scenerl.preprocess.rows_sceneparser import read_sceneparser

    return References(
        by_id={
            row.item_id: [_as_truth(item) for item in row.objects]
            for _, row in whole(read_sceneparser(path), path)
        }
    )


def _as_truth(item: "ParsedObject") -> dict[str, Any]:
    """Return an object as the official inference writes its truth.

    Parts without a box and affordances without an action, or without both box and points, are left
    out, and so is the mark of pseudo parts: only their placeholder name tells them.
    """
    parts = [
        {
            "part_name": part.name,
            "bbox": list(part.box),
            "affordances": [
                {
                    "action": a.action,
                    "affordance_bbox": None if a.box is None else list(a.box),
                    "mask_path": a.mask_path or None,
                    "points": [list(point) for point in a.points],
                    "point": list(a.points[0]) if a.points else None,
                }
                for a in part.affordances
                if a.action and (a.box is not None or a.points)
            ],
        }
        for part in item.parts
        if part.box is not None
    ]
    return {"name": item.name, "bbox": list(item.box), "parts": parts, "affordances": []}


def read_predictions(path: Path, references: Mapping[str, Any], options: Options) -> Predictions:
    """Return item id -> predicted objects of the official answer.jsonl or our own lines.

    Raises:
        DataError: If a line cannot be used.
    """
    if "extracted_predictions" in first_object(path):
        return collect(_answers(path, "extracted_predictions"))
    return collect(read_own_predictions(path, _own_objects))


def _answers(path: Path, key: str) -> Iterator[tuple[str, Objects]]:
    for where, row in read_json_lines(path, allow_nan=True):
        if "image_path" not in row or key not in row:
            raise DataError(f'{where}: expected "image_path", "category" and "{key}"')
        category = row.get("category")
        item_id = row["image_path"] if category is None else f"{row['image_path']}|{category}"
        yield item_id, check_objects((row[key] or {}).get("objects"), where)


def _own_objects(row: dict[str, Any], where: str) -> Objects:
    if "response" not in row:
        return check_objects(row.get("objects"), where)
    from scenerl.rewards.parse_sceneparser import parse_reply

    size = row.get("size")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(row["response"], str):
        raise DataError(f'{where}: a "response" needs "size": [width, height] of the image')
    return [dict(thing) for thing in parse_reply(row["response"], (size[0], size[1]))]


def check_objects(value: Any, where: str) -> Objects:
    """Return a list of objects whose boxes, points and lists are what they should be.

    Raises:
        DataError: Where the official scripts would stop, or worse, would not.
    """
    objects = _things(value, "objects", where)
    for item in objects:
        _check_numbers(item, "bbox", 4, where)
        for level in (item, *_things(item.get("parts"), "parts", where)):
            _check_numbers(level, "bbox", 4, where)
            for affordance in _things(level.get("affordances"), "affordances", where):
                for key, count in _AFFORDANCE_NUMBERS:
                    _check_numbers(affordance, key, count, where)
    return objects


def _things(value: Any, what: str, where: str) -> Objects:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f'{where}: "{what}" is {value!r:.80}; expected a list of objects')
    return value


def _check_numbers(thing: dict[str, Any], key: str, count: int, where: str) -> None:
    """Check a box of 4 numbers, or a point of 2 (more are there in some files)."""
    value = thing.get(key)
    if value is None or (
        isinstance(value, list)
        and (len(value) == count or (count == 2 and len(value) > 2))
        and set(map(type, value)) <= {int, float}
    ):
        return
    raise DataError(f'{where}: "{key}" is {value!r:.80}; expected {count} numbers or null')


def read_aliases(location: str | None) -> dict[str, str]:
    """Return label -> canonical label of {"alias_map": {...}}; {} for None.

    Raises:
        DataError: If the file is of another form.
    """
    if location is None:
        return {}
    value = read_json(Path(location))
    if not isinstance(value, dict) or not isinstance(value.get("alias_map"), dict):
        raise DataError(f'{location}: expected {{"alias_map": {{"label": "canonical label"}}}}')
    from scenerl.rewards.sceneparser_match import normalized

    return {normalized(key): normalized(name) for key, name in value["alias_map"].items()}


class Masks:
    """Masks by mask_path under a folder, each opened once."""

    def __init__(self, root: str) -> None:
        """Remember the folder; a path that leaves it is not opened."""
        self.root = Path(root).resolve()
        self.known: dict[str, Mask | None] = {}

    def at(self, mask_path: str) -> "Mask | None":
        """Return the mask, None when there is none that can be opened."""
        if mask_path not in self.known:
            self.known[mask_path] = self._open(mask_path)
        return self.known[mask_path]

    def _open(self, mask_path: str) -> "Mask | None":
        import numpy as np
        from PIL import Image

        try:
            path = (self.root / mask_path).resolve()
            if not path.is_relative_to(self.root):
                return None
            with Image.open(path) as image:
                pixels = np.array(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return (pixels.max(axis=2) if pixels.ndim == 3 else pixels) > 0


def score(
    references: Mapping[str, Any],
    predictions: Mapping[str, Any],
    options: Options,
    bootstrap: Bootstrap,
) -> Report:
    """Return the report; see score_sceneparser."""
    from dataclasses import replace

    from scenerl.rewards.sceneparser_match import Rules
    from scenerl.rewards.score_sceneparser import score_sceneparser

    masks = Masks(options["mask_root"])
    rules = Rules(
        scene=options["script"] == "scene",
        part_aliases=read_aliases(options["part_aliases"]),
        action_aliases=read_aliases(options["action_aliases"]),
        mask_at=masks.at,
    )
    report = score_sceneparser(
        references, predictions, rules=rules, full=options["full"], bootstrap=bootstrap
    )
    closed = sum(mask is None for mask in masks.known.values())
    if not closed:
        return report
    note = (
        f"{closed} of {len(masks.known)} masks could not be opened under {options['mask_root']}; "
        "boxes decide there, as in the official script"
    )
    return replace(report, notes=(*report.notes, note))


BENCHMARK = Benchmark(
    name="sceneparser",
    title="objects, parts and where to touch them: L1, L2, L3 and ParseRate",
    source="SceneParser/SceneParser evaluation/metrics/sceneparser_hierarchical_metric.py and "
    "sceneparser_scene_hierarchical_metric.py, each with and without filters",
    references_help='val.jsonl of SceneParser-Bench; the official answer.jsonl (its "gt"); or '
    'lines {"id", "objects"}',
    predictions_help='the official answer.jsonl (its "extracted_predictions"); lines {"id", '
    '"objects": [{"name", "bbox", "parts": [{"part_name", "bbox", "affordances": [{"action", '
    '"point"}]}]}]} in pixels; or {"id", "response", "size": [width, height]}; id is '
    "image_path|category",
    examples=(
        "launch score sceneparser --predictions answer.jsonl --references val.jsonl",
        "launch score sceneparser --predictions answer.jsonl --references answer.jsonl --full",
        "launch score sceneparser --predictions answer.jsonl --references answer.jsonl "
        "--script scene --mask-root /data/sceneparser",
    ),
    read_references=read_references,
    read_predictions=read_predictions,
    score=score,
    options=(
        Option(
            flag="--script",
            help="which official script: object (one category of an image) or scene (all of it)",
            default="object",
            choices=("object", "scene"),
        ),
        Option(flag="--full", help="every number that the script writes", is_switch=True),
        Option(flag="--mask-root", help="folder that mask_path starts from", default="."),
        Option(flag="--part-aliases", help='{"alias_map": {...}} for part names'),
        Option(flag="--action-aliases", help='{"alias_map": {...}} for actions'),
    ),
)
