"""Read depth.bin of ScanNet++'s iPhone recordings, in both of its encodings, frame by frame.

Frames are 256 x 192, numbered from 0, at 60 a second (scannetpp/scannetpp,
iphone/prepare_iphone_data.py::extract_depth). Either one raw deflate stream of all frames, float32
metres; or each frame by itself:

    u32 size (little endian)
    size bytes      an LZ4 block of uint16 millimetres, or raw deflate of float32 metres

Upstream tells them apart by trying the first and, when anything goes wrong, the second, so a cut
off stream is read as nonsense; here the sizes of the blocks decide, which must lead from frame to
frame to the end of the file.
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from scenerl.preprocess.safe_files import FileError

WIDTH, HEIGHT = 256, 192
FPS = 60.0
FLOAT_BYTES = 4 * WIDTH * HEIGHT
SHORT_BYTES = 2 * WIDTH * HEIGHT
MAX_BLOCK = FLOAT_BYTES + (1 << 16)
"""Neither encoding makes a frame longer than its pixels by more than this."""
MAX_FRAMES = 1 << 20
"""Almost five hours."""
CHUNK = 1 << 16
Encoding = Literal["stream", "blocks"]


def to_millimetres(depth_m: np.ndarray) -> np.ndarray:
    """Return float32 metres as uint16 millimetres, cut as upstream does: int(metres * 1000).

    What is not finite, negative or above 65.535 m becomes 0, "not measured"; upstream wraps it.
    """
    with np.errstate(all="ignore"):
        scaled = depth_m * np.float32(1000)
        good = (scaled >= 0) & (scaled < 65536)  # also false for nan
    return np.where(good, scaled, 0).astype(np.uint16)


class DepthStream:
    """A depth.bin that is read once, forwards.

    Attributes:
        path: The file.
        encoding: "stream" or "blocks".
        num_frames: Blocks in the file; None for a stream, which has to be read to be counted.
        damage: What is wrong behind the last readable frame; None while nothing is known.
    """

    def __init__(self, path: Path) -> None:
        """Find out how the file is encoded.

        Raises:
            FileError: file_missing, or depth_encoding when it is neither of both.
        """
        if not path.is_file():
            raise FileError("file_missing", f"{path} does not exist")
        self.path = path
        self.num_frames: int | None = None
        self.damage: FileError | None = None
        self.encoding: Encoding = "blocks"
        self._offsets: list[tuple[int, int]] = []
        size = path.stat().st_size
        damage = self._find_blocks(size)
        if damage is None:
            self.num_frames = len(self._offsets)
            return
        if self._starts_as_stream():
            self.encoding = "stream"
            self._offsets = []
            return
        if not self._offsets or not self._starts_as_block():
            raise FileError(
                "depth_encoding",
                f"{path} ({size} bytes) is neither a deflate stream of {WIDTH}x{HEIGHT} float "
                f"frames nor a row of compressed ones: {damage}; copy the file again",
            )
        self.num_frames, self.damage = len(self._offsets), damage

    def _find_blocks(self, size: int) -> FileError | None:
        """Note where the blocks are; return why they do not reach the end of the file."""
        offset = 0
        with self.path.open("rb") as file:
            while offset < size:
                file.seek(offset)
                head = file.read(4)
                length = int.from_bytes(head, "little")
                where = f"{self.path}: byte {offset}: frame {len(self._offsets)}"
                if len(head) < 4 or offset + 4 + length > size:
                    text = f"{where} claims {length} bytes, {size - offset - len(head)} are left"
                    return FileError("depth_truncated", text + "; the file is cut off")
                if not 0 < length <= MAX_BLOCK or len(self._offsets) == MAX_FRAMES:
                    text = f"{where} claims {length} bytes, expected 1 to {MAX_BLOCK} and at most "
                    return FileError("depth_block", text + f"{MAX_FRAMES} frames")
                self._offsets.append((offset + 4, length))
                offset += 4 + length
        if not self._offsets:
            return FileError("depth_truncated", f"{self.path} is empty")
        return None

    def _starts_as_stream(self) -> bool:
        first = next(self._inflate(), None)
        return isinstance(first, np.ndarray)

    def _starts_as_block(self) -> bool:
        with self.path.open("rb") as file:
            return isinstance(self._block(file, 0), np.ndarray)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray | FileError]]:
        """Yield (index, uint16 millimetres [192, 256] or what is wrong) of the wanted frames.

        One item for each wanted index, in order; memory holds one frame. Afterwards `damage` says
        whether the file broke off on the way.

        Args:
            wanted: Frame indices, increasing.
        """
        if self.encoding == "stream":
            yield from self._stream_frames(wanted)
            return
        with self.path.open("rb") as file:
            for index in wanted:
                if index >= len(self._offsets):
                    yield index, self._absent(index)
                else:
                    yield index, self._block(file, index)

    def _absent(self, index: int) -> FileError:
        reason = "" if self.damage is None else f"; {self.damage}"
        count = "fewer" if self.num_frames is None else str(self.num_frames)
        return FileError(
            "depth_missing", f"{self.path} holds {count} frames, not frame {index}{reason}"
        )

    def _block(self, file: BinaryIO, index: int) -> np.ndarray | FileError:
        import lz4.block

        offset, length = self._offsets[index]
        file.seek(offset)
        content = file.read(length)
        try:
            plain = lz4.block.decompress(content, uncompressed_size=SHORT_BYTES)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError):
            plain = b""
        if len(plain) == SHORT_BYTES:
            return np.frombuffer(plain, "<u2").reshape(HEIGHT, WIDTH)
        where = f"{self.path}: byte {offset}: frame {index}"
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            plain = inflater.decompress(content, FLOAT_BYTES + 1)
        except zlib.error as error:
            text = f"{where} is neither LZ4 nor deflate: {error}"
            return FileError("depth_unreadable", text)
        if len(plain) != FLOAT_BYTES or not inflater.eof:
            more = "more than " if len(plain) > FLOAT_BYTES else ""
            text = f"{where} holds {more}{min(len(plain), FLOAT_BYTES)} bytes of pixels"
            return FileError("depth_size", f"{text}; expected {FLOAT_BYTES}")
        return to_millimetres(np.frombuffer(plain, "<f4").reshape(HEIGHT, WIDTH))

    def _inflate(self) -> Iterator[np.ndarray | FileError]:
        """Yield the frames of the stream, and last of all what is wrong with it, if anything."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        frame, count = bytearray(), 0
        with self.path.open("rb") as file:
            content = file.read(CHUNK)
            while not inflater.eof:
                try:
                    part = inflater.decompress(content, FLOAT_BYTES - len(frame))
                except zlib.error as error:
                    where = f"{self.path}: near byte {file.tell()}: frame {count}"
                    yield FileError("depth_unreadable", f"{where}: {error}")
                    return
                frame += part
                if len(frame) == FLOAT_BYTES:
                    yield to_millimetres(np.frombuffer(frame, "<f4").reshape(HEIGHT, WIDTH))
                    frame, count = bytearray(), count + 1
                content = inflater.unconsumed_tail or file.read(CHUNK)
                if not content and not part:  # zlib may still hold pixels of what it has read
                    break
        if not inflater.eof or frame:
            text = f"{self.path} is cut off in frame {count}; copy the file again"
            yield FileError("depth_truncated", text)

    def _stream_frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray | FileError]]:
        found, number = self._inflate(), -1
        for index in wanted:
            item: np.ndarray | FileError | None = None
            while number < index and self.damage is None:
                item = next(found, None)
                if item is None:
                    break
                if isinstance(item, FileError):
                    self.damage = item
                    break
                number += 1
            yield index, item if isinstance(item, np.ndarray) else self._absent(index)
