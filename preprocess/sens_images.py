"""The images of `.sens` frames: checked, decoded within the bytes their header allows."""

import io
import warnings
import zlib
from typing import Any

import numpy as np

from scenerl.preprocess.sens import SensFile

JPEG_END = b"\xff\xd9"


def read_depth(sens: SensFile, index: int) -> np.ndarray:
    """Return the depth image of a frame, uint16 [H, W] in units of 1 / depth_shift metres.

    At most W * H * 2 + 1 bytes are ever inflated, whatever the stream holds.

    Raises:
        SensError: If it cannot be decoded, or holds fewer or more pixels than the header says.
    """
    from isal import isal_zlib

    width, height = sens.header.depth_size
    stored = sens.depth_bytes(index)
    at, expected = sens.depth_offset(index), width * height * 2
    if sens.header.depth_format == "occi":
        text = (
            "depth is stored in the occi format, which only the sensor's own library reads; "
            "convert the recording with it to zlib depth"
        )
        raise sens.error("depth_format", at, text)
    if sens.header.depth_format == "zlib":
        inflate = isal_zlib.decompressobj()
        try:
            pixels = inflate.decompress(stored, expected + 1)
        except (zlib.error, isal_zlib.IsalError) as error:
            text = f"the depth of frame {index} cannot be inflated: {error}"
            raise sens.error("depth_unreadable", at, text) from error
        if not inflate.eof and len(pixels) <= expected:
            text = f"the depth of frame {index} is cut off after {len(pixels)} of {expected} bytes"
            raise sens.error("depth_unreadable", at, text)
    else:
        pixels = stored
    if len(pixels) != expected:
        found = f"more than {expected}" if len(pixels) > expected else str(len(pixels))
        text = (
            f"the depth of frame {index} holds {found} bytes, expected {expected} for "
            f"{width}x{height} pixels of 16 bits"
        )
        raise sens.error("depth_size", at, text)
    return np.frombuffer(pixels, "<u2").reshape(height, width)


def check_color(sens: SensFile, index: int, stored: bytes) -> None:
    """Check the stored colour image of a frame by its header and its end, without decoding it.

    Raises:
        SensError: If it is not an image of the header's format and size, or is cut off.
    """
    width, height = sens.header.color_size
    if sens.header.color_format == "raw":
        if len(stored) != width * height * 3:
            text = (
                f"the color of frame {index} has {len(stored)} bytes, expected "
                f"{width * height * 3} for {width}x{height} RGB pixels"
            )
            raise sens.error("color_size", sens.color_offset(index), text)
        return
    with _open(sens, index, stored):
        pass
    if sens.header.color_format == "jpeg" and not stored.rstrip(b"\0").endswith(JPEG_END):
        text = f"the color of frame {index} is a JPEG without an end; it is cut off"
        raise sens.error("color_unreadable", sens.color_offset(index), text)


def read_color(sens: SensFile, index: int, *, at_least: tuple[int, int] | None = None) -> Any:
    """Return the colour image of a frame as a PIL image in RGB.

    Args:
        sens: An open file.
        index: The frame.
        at_least: (width, height) that suffices; a JPEG may then be decoded to a half, a quarter or
            an eighth of its size, which is faster.

    Raises:
        SensError: If it cannot be decoded.
    """
    from PIL import Image

    stored = sens.color_bytes(index)
    check_color(sens, index, stored)
    if sens.header.color_format == "raw":
        return Image.frombytes("RGB", sens.header.color_size, stored)
    with _open(sens, index, stored) as image:
        try:
            if at_least is not None:
                image.draft("RGB", at_least)
            return image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            text = f"the color of frame {index} cannot be decoded: {error}"
            raise sens.error("color_unreadable", sens.color_offset(index), text) from error


def _open(sens: SensFile, index: int, stored: bytes) -> Any:
    """Return a PIL image whose header is read and fits the file's header."""
    from PIL import Image

    at, kind = sens.color_offset(index), sens.header.color_format
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(stored), formats=[kind.upper()])
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as error:
        text = f"the color of frame {index} is not a {kind} image: {error}"
        raise sens.error("color_unreadable", at, text) from error
    if image.size != sens.header.color_size:
        text = (
            f"the color of frame {index} has {image.size[0]}x{image.size[1]} pixels, the header "
            f"says {sens.header.color_size[0]}x{sens.header.color_size[1]}"
        )
        image.close()
        raise sens.error("color_size", at, text)
    return image
