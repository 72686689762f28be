r"""SceneParser's TSV files, written from JSONL.

    images.tsv               OFFSET \t BASE64 OF A JPEG \n         OFFSET: where this line begins
    annotations.tsv          OFFSET \t JSON \n                     OFFSET: of the image's line
    annotations.tsv.lineidx  OFFSET \n                             of the annotation's line

Offsets are bytes. Equal to the files of ZGCA-HMI-Lab/SceneParser's converter to the byte (with the
same Pillow), as long as every record is good; the records that it drops are listed here.
"""

import base64
import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scenerl.preprocess.records import DataError
from scenerl.preprocess.safe_files import FileError, local_path, open_image
from scenerl.preprocess.sceneparser_records import parse_record, to_annotation
from scenerl.preprocess.store import Skipped

IMAGES, ANNOTATIONS, LINEIDX = "images.tsv", "annotations.tsv", "annotations.tsv.lineidx"
REPORT = "report.json"
MAX_LINE = 1 << 26
MAX_PIXELS = 178_956_970
"""Where Pillow, and so the official converter, refuses an image."""
MAX_JPEG_SIDE = 65500


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a JSONL file."""

    number: int
    """From 1."""
    offset: int
    """Its first byte."""
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What a line became."""

    line: int
    offset: int
    image: bytes = b""
    """Base64."""
    annotation: bytes = b""
    error: tuple[str, str] | None = None
    """(code, reason) of a line that cannot be used."""


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a text file that are not blank.

    Lines end where Python's text files end them: at LF, CR LF or CR. One of more than 64 MiB
    comes cut off, and so is no JSON.
    """
    number = offset = 0
    with path.open("rb") as file:
        while content := file.readline(MAX_LINE):
            start = offset
            offset += len(content)
            if len(content) == MAX_LINE and not content.endswith(b"\n"):
                while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                    offset += len(more)
                offset += len(more)
            for piece in content.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                number += 1
                if piece.strip():
                    yield Line(number=number, offset=start, content=piece)
                start += len(piece) + 1


def encode_image(path: Path, *, copy_jpeg: bool) -> bytes:
    """Return an image file as the bytes of a JPEG.

    Args:
        path: Any format that Pillow reads.
        copy_jpeg: Keep the bytes of a JPEG, instead of decoding it and encoding it again at
            Pillow's default quality of 75 as the official converter does.

    Raises:
        FileError: image_size or image_unreadable.
    """
    image = open_image(path, str(path), max_pixels=MAX_PIXELS, max_side=MAX_JPEG_SIDE)
    if copy_jpeg and image.format == "JPEG":
        return path.read_bytes()
    buffer = io.BytesIO()
    try:
        image.convert("RGB").save(buffer, format="JPEG")
    except (OSError, ValueError, MemoryError) as error:
        raise FileError("image_unreadable", f"{path} cannot be stored as JPEG: {error}") from error
    return buffer.getvalue()


def convert_line(line: Line, *, images: Path, copy_jpeg: bool) -> Converted:
    """Return the image and annotation of a line, or why there are none."""
    made = Converted(line=line.number, offset=line.offset)
    try:
        record = parse_record(line.content)
        annotation = to_annotation(record)
        path = local_path(record.get("image_path"), images)
        jpeg = encode_image(path, copy_jpeg=copy_jpeg)
        text = json.dumps(annotation, ensure_ascii=False).encode("utf-8")
    except FileError as error:
        return replace(made, error=(error.code, str(error)))
    except RecursionError:
        return replace(made, error=("record", "nested too deep"))
    except UnicodeEncodeError as error:
        return replace(made, error=("not_utf8", f"half a surrogate pair: {error.reason}"))
    return replace(made, image=base64.b64encode(jpeg), annotation=text)


def _map(
    run: Callable[[Line], Converted], lines: Iterable[Line], workers: int
) -> Iterator[Converted]:
    """Yield the results in order, with a bounded number of lines on their way."""
    if workers == 1:
        yield from map(run, lines)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: deque[Future[Converted]] = deque()
        for line in lines:
            running.append(pool.submit(run, line))
            if len(running) >= 16 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class TsvWriter:
    """Writes the three files; they appear under their names only when all are complete."""

    def __init__(self, folder: Path) -> None:
        """Open the files in a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._partial = {
            name: folder / f".{name}.{os.getpid()}" for name in (IMAGES, ANNOTATIONS, LINEIDX)
        }
        self._files = {name: path.open("wb") for name, path in self._partial.items()}
        self._hashes = {name: hashlib.sha256() for name in self._files}
        self._sizes = dict.fromkeys(self._files, 0)
        self.written = 0

    def write(self, image: bytes, annotation: bytes) -> None:
        """Add a record: base64 and JSON."""
        where, own = self._sizes[IMAGES], self._sizes[ANNOTATIONS]
        self._put(IMAGES, b"%d\t%b\n" % (where, image))
        self._put(ANNOTATIONS, b"%d\t%b\n" % (where, annotation))
        self._put(LINEIDX, b"%d\n" % own)
        self.written += 1

    def _put(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._hashes[name].update(content)
        self._sizes[name] += len(content)

    def finish(self) -> dict[str, str]:
        """Put the files in their places and return their SHA-256 by name."""
        for name, file in self._files.items():
            file.close()
            self._partial[name].replace(self._folder / name)
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}

    def discard(self) -> None:
        """Remove what was written."""
        for name, file in self._files.items():
            file.close()
            self._partial[name].unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class TsvReport:
    """What a conversion did."""

    records: int
    """Lines that are not blank, or annotations."""
    written: int
    skipped: tuple[Skipped, ...]
    sha256: dict[str, str]


def write_tsv(
    source: Path,
    output: Path,
    *,
    images: Path,
    copy_jpeg: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TsvReport:
    """Turn a JSONL file into TSV files and report.json.

    Args:
        source: The JSONL file.
        output: Folder for the files; earlier ones are replaced when the new ones are complete.
        images: Folder that image_path is relative to and must stay in.
        copy_jpeg: Keep the bytes of JPEGs; not what the official converter does.
        workers: Processes.
        progress: Called with (bytes of the source done, bytes in all).

    Raises:
        DataError: If there is no such file or folder.
    """
    for path, is_there in ((source, source.is_file()), (images, images.is_dir())):
        if not is_there:
            raise DataError(
                f"{path} does not exist; expected the JSONL file, and --images a folder"
            )
    writer, records, skipped = TsvWriter(output), 0, []
    run = partial(convert_line, images=images, copy_jpeg=copy_jpeg)
    size = source.stat().st_size
    try:
        for made in _map(run, read_lines(source), workers):
            records += 1
            if made.error is None:
                writer.write(made.image, made.annotation)
            else:
                skipped.append(skip_record(f"line {made.line}, byte {made.offset}", *made.error))
            if progress is not None:
                progress(made.offset, size)
        if progress is not None:
            progress(size, size)
    except BaseException:
        writer.discard()
        raise
    hashes = writer.finish()
    report = TsvReport(
        records=records, written=writer.written, skipped=tuple(skipped), sha256=hashes
    )
    write_report(output, report, {"source": source.name, "copy_jpeg": copy_jpeg})
    return report


def skip_record(item: str, code: str, detail: str, *, broken: bool = True) -> Skipped:
    """Return the row of the report about something left out."""
    return Skipped(
        dataset="sceneparser", scene_id="", item=item, reason=code, detail=detail, broken=broken
    )


def write_report(folder: Path, report: TsvReport, settings: dict[str, Any]) -> None:
    """Write report.json."""
    reasons: dict[str, int] = {}
    for item in report.skipped:
        reasons[item.reason] = reasons.get(item.reason, 0) + 1
    content = {
        **settings,
        "records": report.records,
        "written": report.written,
        "sha256": report.sha256,
        "skipped_reasons": dict(sorted(reasons.items())),
        "skipped": [asdict(item) for item in report.skipped],
    }
    partial_path = folder / f".{REPORT}.{os.getpid()}"
    partial_path.write_text(json.dumps(content, indent=1) + "\n")
    partial_path.replace(folder / REPORT)
