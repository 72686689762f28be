"""Result files of MSR3D, SceneCOT and LEO: lists of replies with their questions and truths."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.rewards.predictions import read_json


def is_result_file(path: Path) -> bool:
    """Say whether a file holds replies (a .pt file, or JSON with responses), not annotations."""
    if path.suffix == ".pt":
        return True
    if path.suffix != ".json":
        return False
    rows = next((rows for _, rows in _lists(read_json(path)) if rows), [])
    first = rows[0] if rows else None
    return isinstance(first, dict) and bool(
        {"response_gt", "response_pred", "gt_answer", "text"} & first.keys()
    )


def result_rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (item id, where, row) of results.json, results.pt or a dict of lists by data set.

    The id is the row's index, else ``scene|row``; in a dict of several lists the data set's name
    and "|" stand before it.

    Raises:
        DataError: If the file holds anything else.
    """
    value = _load(path) if path.suffix == ".pt" else read_json(path)
    lists = list(_lists(value))
    if not lists:
        raise DataError(f"{path}: found {type(value).__name__}; expected a list of results")
    for name, rows in lists:
        for number, row in enumerate(rows):
            where = f"{path}: {name} row {number}" if name else f"{path}: row {number}"
            if not isinstance(row, dict):
                raise DataError(f"{where}: found {type(row).__name__}, expected an object")
            index: Any = row.get("index")
            if hasattr(index, "item"):
                index = index.item()
            item_id = str(index) if index is not None else f"{_scene(row)}|{number}"
            yield f"{name}|{item_id}" if len(lists) > 1 else item_id, where, row


def _scene(row: Mapping[str, Any]) -> str:
    return str(row.get("scene_id", row.get("scan_id", "")))


def _lists(value: Any) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(value, list):
        yield "", value
    elif isinstance(value, dict):
        for name, rows in value.items():
            if isinstance(rows, list):
                yield str(name), rows


def _load(path: Path) -> Any:
    """Return a .pt file, read without running code that may be in it."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read as plain data ({str(error).splitlines()[0]:.120}); save the "
            "list as JSON, or without objects of other kinds"
        ) from error


def question_of(row: Mapping[str, Any], where: str) -> str:
    """Return the question of a row: "question", the part of "instruction" after USER:, or "prompt".

    Of a text of several sentences, what starts with the first one that has a question mark.
    """
    text = row.get("question")
    if text is None and isinstance(row.get("instruction"), str):
        found = re.search(r"USER: (.*?) ASSISTANT:", row["instruction"])
        text = found[1] if found else row["instruction"]
    if text is None:
        text = row.get("prompt")
    if not isinstance(text, str):
        raise DataError(f'{where}: no "question", "instruction" or "prompt"')
    sentences = re.split(r"(?<=[.?!])\s+", text.strip())
    for number, sentence in enumerate(sentences):
        if "?" in sentence:
            return " ".join(sentences[number:])
    return sentences[-1]


def truths_of(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the true answers of a row: "response_gt" (nested lists flattened) or "gt_answer"."""
    value = row.get("response_gt", row.get("gt_answer"))
    if isinstance(value, str):
        value = [value]
    flat = [
        text
        for part in (value if isinstance(value, list) else [])
        for text in (part if isinstance(part, list) else [part])
    ]
    if not flat or any(not isinstance(text, str) for text in flat):
        raise DataError(f'{where}: "response_gt" is {value!r:.80}; expected a list of texts')
    return tuple(flat)


def reply_of(row: Mapping[str, Any], where: str) -> str:
    """Return the reply of a row: "response_pred" or "text"."""
    value = row.get("response_pred", row.get("text"))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise DataError(f'{where}: "response_pred" is {value!r:.80}; expected a text')
    return value


def type_of(row: Mapping[str, Any], where: str) -> str:
    """Return the type of a row, or the one that its reply names ("This is a counting question")."""
    value = row.get("type", row.get("question_type"))
    if isinstance(value, str):
        return value
    found = re.search(r"This is (?:an?|a) (.+?) question", reply_of(row, where), re.IGNORECASE)
    return found[1].strip() if found else "unknown"
