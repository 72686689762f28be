import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from annotation_files import FILES, csv_text
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.preprocess.annotation_formats import FORMATS
from scenerl.preprocess.records import DataError
from scenerl.preprocess.rows import Rows

FILE_OF = {"beacon3d": "beacon3d-qa", "beacon3d_grounding": "beacon3d-grounding"}
NAMES = sorted(FORMATS)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.just("\udce9"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def content_of(name: str) -> bytes:
    file, content = FILES[FILE_OF.get(name, name)]
    if file.endswith(".csv"):
        return csv_text(content).encode()
    if file.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in content).encode()
    return json.dumps(content).encode()


def read(name: str, content: bytes) -> Rows[Any] | None:
    """Read and draft a file of these bytes; None when the whole file is refused."""
    reader, draft = FORMATS[name].load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILES[FILE_OF.get(name, name)][0]
        path.write_bytes(content)
        if name == "sqa3d":
            path.with_name("v1_balanced_sqa_annotations_val_scannetv2.json").write_bytes(content)
        try:
            rows: Rows[Any] = reader(path)
        except DataError:
            return None
    ids = [row.item_id for row in rows.rows]
    assert len(set(ids)) == len(ids)
    for row in rows.rows:
        row.item_id.encode()
        try:
            made = draft(row)
            made.question.encode()
        except DataError:
            pass
    for item in rows.skipped:
        assert item.reason
        assert item.location
    return rows


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_rows_or_reasons(name: str, content: bytes) -> None:
    read(name, content)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_damaged_file_is_rows_or_reasons(name: str, data: st.DataObject) -> None:
    content = bytearray(content_of(name))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["cut", "set", "drop"]))
        if kind == "cut":
            content = content[: max(1, at)]
        elif kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 5))]
        if not content:
            break
    read(name, bytes(content))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_value_in_a_row_is_a_row_or_a_reason(name: str, data: st.DataObject) -> None:
    file, content = FILES[FILE_OF.get(name, name)]
    if file.endswith(".csv"):
        rows = [dict(row) for row in content]
        key = data.draw(st.sampled_from(sorted(rows[0])))
        rows[0][key] = data.draw(st.text(st.characters(codec="utf-8"), max_size=12))
        found = read(name, csv_text(rows).encode())
        assert found is not None
        return
    mutated = replace_somewhere(json.loads(json.dumps(content)), data)
    if file.endswith(".jsonl") and isinstance(mutated, list):
        raw = "".join(json.dumps(row) + "\n" for row in mutated)
    else:
        raw = json.dumps(mutated)
    read(name, raw.encode())


def replace_somewhere(value: Any, data: st.DataObject) -> Any:
    """Return a JSON value with one of its parts replaced by any JSON value."""
    if isinstance(value, list) and value and data.draw(st.booleans() | st.just(True)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], replace_somewhere(value[at], data), *value[at + 1 :]]
    if isinstance(value, dict) and value and data.draw(st.booleans() | st.just(True)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: replace_somewhere(value[key], data)}
    return data.draw(json_values)


@settings(deadline=None, max_examples=50)
@given(
    cut=st.integers(0, 10**6),
    count=st.integers(1, 6),
)
def test_every_row_before_a_cut_is_read(cut: int, count: int) -> None:
    row = FILES["scanrefer"][1][0]
    parts = [json.dumps({**row, "ann_id": str(n)}) for n in range(count)]
    whole = "[" + ",".join(parts) + "]"
    starts = [1 + sum(map(len, parts[:n])) + n for n in range(count)]
    borders = sorted({at for start in starts for at in (start - 1, start, start + 1)})
    at = 1 + cut % len(whole) if cut % 2 else max(1, borders[cut // 2 % len(borders)])
    rows = read("scanrefer", whole[:at].encode())
    assert rows is not None
    ends = [1 + sum(map(len, parts[: n + 1])) + n for n in range(count)]
    complete = sum(end <= at for end in ends)
    assert [r.ann_id for r in rows.rows] == [str(n) for n in range(complete)]
    assert rows.reasons() == ({} if at == len(whole) else {"cut off": 1})


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=5))
def test_words_survive_a_csv_file(words: list[str]) -> None:
    rows = [{**FILES["sr3d"][1][0], "utterance": f"x{word}"} for word in words]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    found = read("sr3d", out.getvalue().encode())
    assert found is not None
    assert [row.utterance for row in found.rows] == [row["utterance"] for row in rows]
