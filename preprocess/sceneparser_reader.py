"""Read SceneParser's TSV files by byte offset, turn them back into JSONL, and check them."""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scenerl.preprocess.records import DataError
from scenerl.preprocess.safe_files import FileError, open_image, parse_json
from scenerl.preprocess.sceneparser_records import check_annotation, is_box, is_point, to_record
from scenerl.preprocess.sceneparser_tsv import (
    ANNOTATIONS,
    IMAGES,
    LINEIDX,
    MAX_JPEG_SIDE,
    MAX_LINE,
    MAX_PIXELS,
    TsvReport,
    skip_record,
    write_report,
)
from scenerl.preprocess.store import Skipped

RECORDS = "records.jsonl"
MAX_IMAGE_LINE = 1 << 29
MIN_SIDE = 28
"""The official reader passes over smaller images."""


class TsvReader:
    """The records of three TSV files, each reached by two seeks.

    Use as a context manager.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files and read the index.

        Raises:
            DataError: If a file is missing, or the index holds something but offsets.
        """
        for name in (IMAGES, ANNOTATIONS, LINEIDX):
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder} has no {name}; expected {IMAGES}, {ANNOTATIONS}, {LINEIDX}"
                )
        self.folder = folder
        self.offsets = read_lineidx(folder / LINEIDX)
        self._annotations = (folder / ANNOTATIONS).open("rb")
        self._images = (folder / IMAGES).open("rb")

    def __enter__(self) -> "TsvReader":
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._annotations.close()
        self._images.close()

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.offsets)

    def annotation(self, index: int) -> tuple[int, dict[str, Any]]:
        """Return (byte of the image's line, annotation) of a record.

        Raises:
            FileError: line, json or annotation, with the byte.
        """
        where = f"{self.folder / ANNOTATIONS}: byte {self.offsets[index]}"
        first, second = _read_line(self._annotations, self.offsets[index], where, MAX_LINE)
        try:
            text = second.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError("not_utf8", f"{where}: byte {error.start} is not UTF-8") from error
        try:
            return first, check_annotation(parse_json(text, where))
        except FileError as error:
            if error.code != "annotation":
                raise
            raise FileError(error.code, f"{where}: {error}") from error

    def jpeg(self, offset: int) -> bytes:
        """Return the bytes of the image whose line begins at an offset.

        Raises:
            FileError: line or base64.
        """
        where = f"{self.folder / IMAGES}: byte {offset}"
        own, content = _read_line(self._images, offset, where, MAX_IMAGE_LINE)
        if own != offset:
            raise FileError("line", f"{where}: the line says that it begins at byte {own}")
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FileError("base64", f"{where}: {error}") from error

    def __getitem__(self, index: int) -> tuple[dict[str, Any], bytes]:
        """Return (annotation, JPEG) of a record.

        Raises:
            FileError: As `annotation` and `jpeg`.
        """
        offset, annotation = self.annotation(index)
        return annotation, self.jpeg(offset)


def _read_line(file: BinaryIO, offset: int, where: str, most: int) -> tuple[int, bytes]:
    """Return the number and the content of the line that begins at an offset."""
    if offset > 0:
        file.seek(offset - 1)
        if file.read(1) != b"\n":
            raise FileError("line", f"{where}: no line begins there")
    file.seek(offset)
    line = file.readline(most)
    number, tab, content = line.removesuffix(b"\n").partition(b"\t")
    if not line.endswith(b"\n") or not tab or not number.isdigit() or len(number) > 18:
        text = f"{where}: found {line[:40]!r}, expected a number, a tab, the content and a line end"
        raise FileError("line", text)
    if b"\t" in content:
        raise FileError("line", f"{where}: more than two columns")
    return int(number), content


def read_lineidx(path: Path) -> Sequence[int]:
    """Return the offsets of an index file.

    Raises:
        FileError: lineidx, with the line.
    """
    offsets = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digits = line.strip()
            if not digits.isdigit() or len(digits) > 18:
                text = f"{path}: line {number} is {line[:40]!r}; expected a byte offset"
                raise FileError("lineidx", text)
            offsets.append(int(digits))
    return offsets


def write_jsonl(
    source: Path, output: Path, *, progress: Callable[[int, int], None] | None = None
) -> TsvReport:
    """Turn TSV files back into records.jsonl, images/ and report.json.

    Converted again with `copy_jpeg`, they give the same bytes.

    Args:
        source: Folder of the TSV files.
        output: Folder for the files.
        progress: Called with (records done, records in all).

    Raises:
        DataError: If a file is missing, or the index is broken.
    """
    (output / "images").mkdir(parents=True, exist_ok=True)
    skipped, written = [], 0
    partial_path = output / f".{RECORDS}.{os.getpid()}"
    digest = hashlib.sha256()
    with TsvReader(source) as reader, partial_path.open("wb") as file:
        for index in range(len(reader)):
            name = f"images/{index:08d}.jpg"
            try:
                annotation, jpeg = reader[index]
                text = json.dumps(to_record(annotation, name), ensure_ascii=False)
                line = text.encode("utf-8") + b"\n"
            except FileError as error:
                skipped.append(skip_record(f"record {index}", error.code, str(error)))
                continue
            except (UnicodeEncodeError, RecursionError) as error:
                skipped.append(skip_record(f"record {index}", "annotation", str(error)))
                continue
            (output / name).write_bytes(jpeg)
            file.write(line)
            digest.update(line)
            written += 1
            if progress is not None:
                progress(index + 1, len(reader))
        records = len(reader)
    partial_path.replace(output / RECORDS)
    report = TsvReport(
        records=records,
        written=written,
        skipped=tuple(skipped),
        sha256={RECORDS: digest.hexdigest()},
    )
    write_report(output, report, {"source": source.name})
    return report


def check_tsv(source: Path, *, progress: Callable[[int, int], None] | None = None) -> TsvReport:
    """Look at every byte of the three files.

    Broken are: offsets that do not lead to lines, lines that no offset leads to, images that do not
    decode, annotations of another form. Listed as well, but not broken: what the official reader
    passes over (sides below 28 pixels, no objects) and boxes or points that are null, empty or
    outside the image.

    Args:
        source: Folder of the TSV files.
        progress: Called with (records done, records in all).

    Raises:
        DataError: If a file is missing, or the index is broken.
    """
    found: list[Skipped] = []
    good = 0
    with TsvReader(source) as reader:
        found += _check_lines(source / ANNOTATIONS, reader.offsets)
        image_offsets: list[int] = []
        for index in range(len(reader)):
            remarks = list(_check_record(reader, index, image_offsets))
            found += remarks
            good += not any(item.broken for item in remarks)
            if progress is not None:
                progress(index + 1, len(reader))
        found += _check_lines(source / IMAGES, image_offsets)
        return TsvReport(records=len(reader), written=good, skipped=tuple(found), sha256={})


def _check_lines(path: Path, offsets: Sequence[int]) -> Iterator[Skipped]:
    """Yield how the lines of a file differ from where the offsets say that they begin."""
    number, position, expected = 0, 0, iter(offsets)
    with path.open("rb") as file:
        for line in file:
            wanted = next(expected, None)
            if wanted != position:
                detail = (
                    f"{path}: line {number + 1} begins at byte {position}, the offset is {wanted}"
                )
                yield skip_record(f"line {number + 1}", "offset", detail)
                return
            number, position = number + 1, position + len(line)
    left = sum(1 for _ in expected)
    if left:
        detail = f"{path} has {number} lines, {number + left} offsets lead into it"
        yield skip_record(path.name, "counts_differ", detail)


def _check_record(reader: TsvReader, index: int, image_offsets: list[int]) -> Iterator[Skipped]:
    item = f"record {index}"
    try:
        offset, annotation = reader.annotation(index)
        image_offsets.append(offset)
        where = f"{reader.folder / IMAGES}: byte {offset}"
        size = open_image(
            reader.jpeg(offset), where, max_pixels=MAX_PIXELS, max_side=MAX_JPEG_SIDE
        ).size
    except FileError as error:
        yield skip_record(item, error.code, str(error))
        return
    if min(size) < MIN_SIDE:
        text = f"{where}: {size[0]}x{size[1]}; the official reader passes over it"
        yield skip_record(item, "image_small", text, broken=False)
    if not annotation["objects"]:
        yield skip_record(item, "no_objects", where, broken=False)
    for place, value, is_good in _places(annotation):
        if value is None or not is_good(value):
            yield skip_record(item, "not_a_place", f"{place} is {value!r:.80}", broken=False)
        elif not _is_inside(value, size):
            detail = f"{place} is {value}, the image {size[0]}x{size[1]}"
            yield skip_record(item, "outside_image", detail, broken=False)


def _is_inside(values: list[float], size: tuple[int, int]) -> bool:
    xs, ys = values[0::2], values[1::2]
    return min(values) >= 0 and max(xs) <= size[0] and max(ys) <= size[1]


def _places(annotation: dict[str, Any]) -> Iterator[tuple[str, Any, Callable[[Any], bool]]]:
    """Yield (where, value, what it should be) of every box and point."""
    for number, item in enumerate(annotation["objects"]):
        where = f"objects[{number}]"
        yield f"{where}.bbox", item["bbox"], is_box
        for place, part in enumerate(item["parts"]):
            yield f"{where}.parts[{place}].bbox", part["bbox"], is_box
            for spot, affordance in enumerate(part["affordances"]):
                name = f"{where}.parts[{place}].affordances[{spot}].point"
                yield name, affordance["point"], is_point
