"""Read media in a supervised process: a file that hangs or crashes a decoder costs itself alone.

One process decodes for everything in this one, is started at the first read and replaced when it
dies. A read that takes too long, or over which it dies twice (once may be the machine's fault), is
a DataError that names the file and the limit; the file is not tried again while it stays the same.
"""

import atexit
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.configs.schema import DataConfig
from scenerl.preprocess.records import DataError
from scenerl.preprocess.worker import Worker, WorkerFault, WorkerSpec

logger = logging.getLogger(__name__)

_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Address space counts against the cap, and each thread of a library on many cores takes some."""
_DTYPES = ("bool", "uint8", "uint16", "int32", "float32")
"""Of the pixels that Pillow and the video decoders give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts:
    """What a video, recording or image holds, without its pixels."""

    frame_indices: tuple[int, ...]
    """Usable frames, in time order."""
    times_s: tuple[float, ...]
    """Seconds since the first frame, one per usable frame."""
    native_size: tuple[int, int]
    """(width, height)."""


class Decoder:
    """The process that reads media; may be used from several threads."""

    def __init__(self, config: DataConfig) -> None:
        """Remember the limits; the first read starts the process."""
        self._config = config
        self._spec = WorkerSpec(
            module="scenerl.preprocess.decode_child",
            memory_gib=config.max_decode_memory_gib,
            environment=_ENVIRONMENT,
        )
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._asked = 0
        self._given_up: dict[tuple[str, int, int], str] = {}

    def facts(self, path: str | Path) -> SourceFacts:
        """Return the frames of a medium and their times.

        Raises:
            DataError: If it cannot be opened within the limits.
        """
        reply, _ = self._read({"op": "facts", "path": str(path)})
        try:
            width, height = (int(side) for side in reply["native_size"])
            return SourceFacts(
                frame_indices=tuple(int(index) for index in reply["frame_indices"]),
                times_s=tuple(float(time_s) for time_s in reply["times_s"]),
                native_size=(width, height),
            )
        except (LookupError, TypeError, ValueError) as error:  # not the words of our own code
            self.close()
            raise DataError(f"the process that decoded {path} wrote nonsense: {error}") from None

    def frames(self, path: str | Path, indices: Sequence[int]) -> np.ndarray:
        """Return frames, uint8 RGB [n, H, W, 3].

        Raises:
            DataError: If they cannot be read within the limits.
        """
        wanted = [int(index) for index in indices]
        _, frames = self._read({"op": "frames", "path": str(path), "indices": wanted})
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise DataError(f"{path} gave {frames.dtype} {frames.shape}; expected RGB frames")
        return frames

    def image(self, path: Path, mode: str | None) -> np.ndarray:
        """Return the pixels of an image file, in a mode of Pillow's or as they are stored.

        Raises:
            DataError: If it cannot be read within the limits.
        """
        return self._read({"op": "image", "path": str(path), "mode": mode})[1]

    @property
    def isolated(self) -> bool:
        """Whether the process runs and has namespaces of its own."""
        return self._worker is not None and self._worker.isolated

    def close(self) -> None:
        """End the process; the next read starts another."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _read(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        with self._lock:
            file = _identity(request["path"])
            if file in self._given_up:
                raise DataError(self._given_up[file])
            try:
                reply, pixels = self._ask_twice(request)
            except WorkerFault as fault:
                self._given_up[file] = self._reason(request["path"], fault)
                raise DataError(self._given_up[file]) from None
        said = reply.get("said")
        for line in said[:4] if isinstance(said, list) else ():
            _say_once(str(line)[:500])
        if "error" in reply:
            raise DataError(str(reply["error"])[:2000])
        return reply, pixels

    def _ask_twice(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        try:
            return self._ask(request)
        except WorkerFault as fault:
            if fault.cause != "died":
                raise
        return self._ask(request)

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        worker = self._started()
        deadline = time.monotonic() + self._config.decode_timeout_s
        pixels = np.zeros(0, np.uint8)
        try:
            self._asked += 1
            worker.send(request | {"id": self._asked}, self._config.decode_timeout_s)
            reply = worker.receive(deadline - time.monotonic())
            if (answered := reply.get("id")) != self._asked:
                raise WorkerFault("bad reply", f"answered {answered!r:.60}, not the question")
            if "shape" in reply:
                pixels = self._room(reply)
                bytes_ = pixels.reshape(-1).view(np.uint8).data
                worker.receive_bytes(bytes_, deadline - time.monotonic())
        except BaseException:
            self._end()
            raise
        return reply, pixels

    def _started(self) -> Worker:
        if self._worker is None:
            try:
                self._worker = Worker(self._spec)
            except WorkerFault as fault:  # the machine's fault, not that of any file
                text = f"the process that decodes media does not start: {fault}"
                raise RuntimeError(text) from None
        return self._worker

    def _room(self, reply: dict[str, Any]) -> np.ndarray:
        """Make room for pixels that are on their way; the process may be anybody's by now."""
        shape, dtype = reply["shape"], reply.get("dtype")
        is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not is_shape or len(shape) > 4 or dtype not in _DTYPES:
            raise WorkerFault("bad reply", f"announced pixels of {dtype!r:.60} {shape!r:.60}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > self._config.max_decode_memory_gib * 2**30:
            raise WorkerFault("bad reply", f"announced {size} bytes of pixels")
        return np.empty(shape, dtype)

    def _reason(self, path: str, fault: WorkerFault) -> str:
        if fault.cause == "timeout":
            return (
                f"{path} was not decoded within {self._config.decode_timeout_s:g} s "
                "(data.decode_timeout_s)"
            )
        return (
            f"the process that decoded {path} {fault}; it may take "
            f"{self._config.max_decode_memory_gib:g} GiB (data.max_decode_memory_gib)"
        )


def _identity(path: str) -> tuple[str, int, int]:
    """A file as it is now; one that is mended is another."""
    try:
        facts = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _say_once(line: str) -> None:
    logger.warning("%s", line)


_LIMITS = DataConfig()


def set_limits(config: DataConfig) -> None:
    """Let reads of this process have the limits of a run; before, they have the default ones."""
    global _LIMITS
    before, _LIMITS = _LIMITS, config
    if _numbers(before) != _numbers(config):
        decoder().close()
        decoder.cache_clear()


def _numbers(config: DataConfig) -> tuple[float, float]:
    return config.decode_timeout_s, config.max_decode_memory_gib


@functools.cache
def decoder() -> Decoder:
    """Return the decoder of this process, with the limits that were set last."""
    made = Decoder(_LIMITS)
    atexit.register(made.close)
    return made


os.register_at_fork(after_in_child=decoder.cache_clear)  # a fork starts a process of its own
