import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenerl.launch.cli import main
from scenerl.preprocess.sceneparser_reader import TsvReader

NAMES = ("images.tsv", "annotations.tsv", "annotations.tsv.lineidx")


def picture(path: Path, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def record(image: object, name: str = "mug") -> dict[str, Any]:
    affordance = {"action": "grasp", "affordance_bbox": [1, 2, 3, 4]}
    affordance["sampled_points"] = [[7.5, 9], [1, 1]]
    part = {"part_name": "handle", "part_bbox": [5, 6, 20, 30], "affordances": [affordance]}
    return {
        "image_path": image,
        "objects": [{"phrase": name, "object_bbox": [1, 2, 40, 41], "parts": [part]}],
    }


def write_lines(path: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    content = [text.encode() if isinstance(text, str) else text for text in texts]
    path.write_bytes(b"\n".join(content) + b"\n")
    return path


def convert(folder: Path, *more: str) -> int:
    line = ["preprocess", "sceneparser", "--input", str(folder / "in.jsonl")]
    return main([*line, "--images", str(folder), "--output", str(folder / "tsv"), *more])


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_three_files_hold_offsets_in_bytes_and_a_jpeg_at_pillows_quality(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.jpg", (30, 40))
    write_lines(tmp_path / "in.jsonl", record("a.png", "杯"), "", record("b.jpg"))
    assert convert(tmp_path) == 0
    images, annotations, lineidx = ((tmp_path / "tsv" / name).read_bytes() for name in NAMES)
    first, second = images.splitlines(keepends=True)
    buffer = io.BytesIO()
    Image.open(tmp_path / "a.png").convert("RGB").save(buffer, "JPEG")
    assert first == b"0\t" + base64.b64encode(buffer.getvalue()) + b"\n"
    assert second.startswith(b"%d\t" % len(first))
    one, two = annotations.splitlines(keepends=True)
    assert one.decode() == (
        '0\t{"objects": [{"name": "杯", "bbox": [1, 2, 40, 41], "parts": [{"part_name": "handle", '
        '"bbox": [5, 6, 20, 30], "affordances": [{"action": "grasp", "point": [7.5, 9]}]}]}]}\n'
    )
    assert two.startswith(b"%d\t" % len(first))
    assert lineidx == b"0\n%d\n" % len(one)
    assert len(one) > len(one.decode())


def test_repeats_are_left_out_at_every_level(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    row = record("a.png")
    item = row["objects"][0]
    part = item["parts"][0]
    part["affordances"].append({"action": " GRASP ", "sampled_points": [[7.5, 9.0]]})
    part["affordances"].append({"action": "lift", "sampled_points": []})
    item["parts"].append({**part, "part_name": "Handle "})
    row["objects"] += [{**item, "phrase": "MUG"}, {**item, "object_bbox": [0, 0, 9, 9]}]
    write_lines(tmp_path / "in.jsonl", row)
    assert convert(tmp_path) == 0
    with TsvReader(tmp_path / "tsv") as reader:
        annotation, _ = reader[0]
    assert [item["bbox"] for item in annotation["objects"]] == [[1, 2, 40, 41], [0, 0, 9, 9]]
    (only,) = annotation["objects"][0]["parts"]
    assert only["affordances"] == [
        {"action": "grasp", "point": [7.5, 9]},
        {"action": "lift", "point": None},
    ]


def test_a_tsv_turned_back_gives_the_same_bytes_with_any_number_of_processes(
    tmp_path: Path,
) -> None:
    for number in range(5):
        picture(tmp_path / f"{number}.png", (40 + number, 30))
    rows = [record(f"{number}.png", f"thing {number % 2}") for number in range(5)]
    rows[1]["objects"] = []
    rows[2]["objects"][0] |= {"phrase": "", "object_bbox": None, "parts": []}
    write_lines(tmp_path / "in.jsonl", *rows)
    assert convert(tmp_path) == 0
    back = tmp_path / "back"
    line = ["preprocess", "sceneparser", "--input", str(tmp_path / "tsv")]
    assert main([*line, "--to-jsonl", "--output", str(back)]) == 0
    line = ["preprocess", "sceneparser", "--input", str(back / "records.jsonl"), "--copy-jpeg"]
    line += ["--images", str(back), "--output", str(back / "tsv"), "--workers", "2"]
    assert main(line) == 0
    for name in NAMES:
        assert (back / "tsv" / name).read_bytes() == (tmp_path / "tsv" / name).read_bytes()


def test_bad_records_are_listed_with_line_byte_and_reason_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    picture(root / "good.png")
    picture(root / "flat.png", (70_000, 1))
    Image.new("1", (20_000, 20_000)).save(root / "huge.png")
    (root / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "empty.png").write_bytes(b"")
    picture(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    write_lines(
        root / "in.jsonl",
        record("good.png"),
        '{"image_path": "good.png", "objects": [',
        b'{"image_path": "good.png", "objects": [{"phrase": "\xe9"}]}',
        "[1, 2]",
        record("missing.png"),
        record("../secret.png"),
        record(str(tmp_path / "secret.png")),
        record("link.png"),
        record("https://example.com/a.png"),
        record("file:///etc/passwd"),
        record(7),
        record("flat.png"),
        record("huge.png"),
        record("cut.jpg"),
        record("empty.png"),
        {"image_path": "good.png", "objects": [3]},
        {"image_path": "good.png", "objects": [{"object_bbox": [[1]]}]},
        '{"image_path": "good.png", "objects": [{"phrase": NaN}]}',
        '{"image_path": "good.png", "objects": [{"phrase": "\\ud800"}]}',
        '{"image_path": "good.png", "objects": ' + "[" * 100_000,
        record("good.png", "second"),
    )
    assert convert(root) == 65
    found = report(root / "tsv")
    assert (found["records"], found["written"]) == (21, 2)
    by_line = {int(row["item"].split()[1].strip(",")): row["reason"] for row in found["skipped"]}
    assert by_line == {
        2: "json",
        3: "not_utf8",
        4: "json_kind",
        5: "file_missing",
        6: "path_outside",
        7: "path_outside",
        8: "link_outside",
        9: "url",
        10: "url",
        11: "not_a_path",
        12: "image_size",
        13: "image_size",
        14: "image_unreadable",
        15: "image_unreadable",
        16: "record",
        17: "record",
        18: "not_finite",
        19: "not_utf8",
        20: "json",
    }
    content = (root / "in.jsonl").read_bytes()
    offset = int(found["skipped"][1]["item"].split()[-1])
    assert content[offset:].startswith(b'{"image_path": "good.png", "objects": [{"phrase": "\xe9')
    assert "19 left out, 19 of them broken" in capsys.readouterr().out
    assert convert(root, "--allow-skipped") == 0
    with TsvReader(root / "tsv") as reader:
        assert [reader[index][0]["objects"][0]["name"] for index in range(2)] == ["mug", "second"]


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["preprocess", "sceneparser", "--input", str(folder), "--check"])
    return status, capsys.readouterr().out


def test_the_check_finds_every_planted_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "small.png", (64, 20))
    outside = record("a.png")
    outside["objects"][0]["object_bbox"] = [1, 2, 65, 40]
    nothing = {"image_path": "a.png", "objects": []}
    write_lines(tmp_path / "in.jsonl", record("a.png"), record("small.png"), outside, nothing)
    assert convert(tmp_path) == 0
    tsv = tmp_path / "tsv"
    status, text = check(tsv, capsys)
    assert status == 0
    for word in ("image_small", "outside_image", "no_objects", "4 records, 4 good"):
        assert word in text
    whole = {name: (tsv / name).read_bytes() for name in NAMES}
    third = whole["annotations.tsv"].splitlines(keepends=True)[2]
    faults = [
        ("annotations.tsv.lineidx", lambda b: b.replace(b"0\n", b"1\n", 1), "line"),
        ("annotations.tsv.lineidx", lambda b: b[: b.rindex(b"\n", 0, -1) + 1], "offset"),
        ("annotations.tsv", lambda b: b[:-9], "line"),
        ("annotations.tsv", lambda b: b.replace(third, third.replace(b"[", b"(")), "json"),
        (
            "annotations.tsv",
            lambda b: b.replace(third, third.replace(b"bbox", b"xbox")),
            "annotation",
        ),
        ("images.tsv", lambda b: b[: len(b) // 2], "line"),
        ("images.tsv", lambda b: b"9" + b[1:], "begins at byte 9"),
        ("images.tsv", lambda b: b.replace(b"/9j/", b"!9j/", 1), "base64"),
        ("images.tsv", lambda b: b.replace(b"/9j/", b"AAAA", 1), "image_unreadable"),
        ("images.tsv", lambda b: b + b"7\tAAAA\n", "offset"),
    ]
    for name, change, word in faults:
        (tsv / name).write_bytes(change(whole[name]))
        status, text = check(tsv, capsys)
        assert status == 65, (name, word)
        assert word in text, (name, word, text)
        (tsv / name).write_bytes(whole[name])
    (tsv / "annotations.tsv.lineidx").write_bytes(b"0\nx\n")
    assert main(["preprocess", "sceneparser", "--input", str(tsv), "--check"]) == 65
    assert "line 2" in capsys.readouterr().err


def test_wrong_calls_say_what_is_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preprocess", "sceneparser", "--input", str(tmp_path / "x.jsonl")]) == 64
    assert "--output" in capsys.readouterr().err
    assert convert(tmp_path) == 65
    assert "does not exist" in capsys.readouterr().err
    assert main(["preprocess", "sceneparser", "--input", str(tmp_path), "--check"]) == 65
    assert "images.tsv" in capsys.readouterr().err
