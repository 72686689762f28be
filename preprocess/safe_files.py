"""Read files that somebody else wrote, which must not lead elsewhere or fill the memory.

Every error is a `FileError`, whose code is short and countable and whose text says where.
"""

import io
import json
import re
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from scenerl.preprocess.records import DataError

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26
MAX_TEXT_BYTES = 1 << 30


class FileError(DataError):
    """Something wrong with one file, or one place of it.

    Attributes:
        code: Short and countable, for example "image_unreadable".
    """

    def __init__(self, code: str, text: str) -> None:
        """Say what and where."""
        super().__init__(code, text)
        self.code = code

    def __str__(self) -> str:
        """Return the text."""
        return str(self.args[1])


def inside(path: Path, root: Path) -> Path:
    """Return the path, which stays inside a folder when all links are followed.

    Raises:
        FileError: link_outside, if it does not.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise FileError(
            "link_outside", f"{path} is a link out of {root}; copy the file in, it is not followed"
        )
    return path


def local_path(text: object, root: Path) -> Path:
    """Return the place that a row's file name means, relative to a folder and inside it.

    Raises:
        FileError: not_a_path, url, path_outside, link_outside or file_missing.
    """
    if not isinstance(text, str) or not text or "\0" in text:
        raise FileError("not_a_path", f"found {text!r:.200}; expected the name of a file")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
        raise FileError(
            "url",
            f"{text!r:.200} is a URL or has a drive; expected a file below {root}; nothing is "
            "fetched, download the file and write its path",
        )
    if ".." in PurePosixPath(text).parts or "\\" in text:
        raise FileError("path_outside", f"{text!r:.200} leaves {root}; write it without '..'")
    path = root / text
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            code = "path_outside" if PurePosixPath(text).is_absolute() else "link_outside"
            raise FileError(code, f"{text!r:.200} leads out of {root}; copy the file in")
        if not path.is_file():
            raise FileError("file_missing", f"{path} does not exist, or is no regular file")
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise FileError("not_a_path", f"{text!r:.200} cannot be looked up: {error}") from error
    return path


def check_name(name: str, what: str) -> str:
    """Return a name that is safe as a folder's: letters, digits, _, - and inner dots.

    Raises:
        FileError: bad_name.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        text = f"{what} {name!r:.200}: expected letters, digits, _, - and dots inside"
        raise FileError("bad_name", text)
    return name


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        FileError: file_missing, file_unreadable, file_too_large or not_utf8 (with the byte).
    """
    if not path.is_file():
        raise FileError("file_missing", f"{path} does not exist, or is no regular file")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise FileError("file_unreadable", f"{path} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise FileError("file_too_large", f"{path} has more than {max_bytes} bytes; is it right?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        text = f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        raise FileError("not_utf8", text) from error


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        FileError: json, with the line and column where it stops being JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = "; the text is cut off" if error.pos >= len(text.rstrip()) else ""
        place = f"line {error.lineno}, column {error.colno}"
        raise FileError("json", f"{where}: {place}: {error.msg}{cut}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too deep
        raise FileError("json", f"{where}: {error}") from error


def read_json(path: Path, kind: type, *, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Return the JSON value of a file, which must be of a kind (dict or list).

    Raises:
        FileError: As `read_text` and `parse_json`; json_kind for another kind of value.
    """
    value = parse_json(read_text(path, max_bytes=max_bytes), str(path))
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "a list"
        raise FileError("json_kind", f"{path}: found {type(value).__name__}, expected {name}")
    return value


def open_image(
    source: Path | bytes, where: str, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE
) -> Any:
    """Return a decoded PIL image whose size was checked before its pixels were.

    Args:
        source: A file or its content.
        where: What to call it in messages.
        max_pixels: Most pixels.
        max_side: Longest side.

    Raises:
        FileError: image_size or image_unreadable.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, lower limit on sizes
        try:
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
                image = Image.open(stream)
                width, height = image.size
                if not (0 < width <= max_side and 0 < height <= max_side) or (
                    width * height > max_pixels
                ):
                    raise FileError(
                        "image_size",
                        f"{where} is {width}x{height}; expected sides of 1 to {max_side} and at "
                        f"most {max_pixels} pixels",
                    )
                image.load()
        except Image.DecompressionBombError as error:
            raise FileError("image_size", f"{where}: {error}") from error
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
            if isinstance(error, FileError):
                raise
            text = f"{where} is not an image that can be read: {error}"
            raise FileError("image_unreadable", text) from error
    return image
