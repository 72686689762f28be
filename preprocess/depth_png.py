"""Encode 16-bit images as PNG at the speed of the fastest deflate.

Each row is stored as its difference from the row above (PNG filter 2), which makes depth images
both smaller and faster to compress, and packed by ISA-L at its level 1.
"""

import struct

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = 2


def encode_png16(image: np.ndarray, *, level: int = 1) -> bytes:
    """Return a 16-bit greyscale PNG.

    Args:
        image: uint16 [H, W].
        level: Of ISA-L, 0 (fastest) to 3 (smallest).
    """
    from isal import isal_zlib

    height, width = image.shape
    pixels = np.ascontiguousarray(image, ">u2").view(np.uint8)  # [H, 2 W], most significant first
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    body = isal_zlib.compress(rows, level)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    from isal import isal_zlib

    check = isal_zlib.crc32(content, isal_zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
