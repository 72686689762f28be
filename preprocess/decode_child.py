"""The decoders in a process of their own; `preprocess/worker_process.py` runs it.

    {"op": "facts", "path"} -> {"frame_indices", "times_s", "native_size"}
    {"op": "frames", "path", "indices"} -> {"shape", "dtype"} and the bytes of the frames
    {"op": "image", "path", "mode"} -> the same of one image file

or {"error"}; each with "said", what was logged, and the "id" of the request.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.media import open_media
from scenerl.preprocess.records import DataError
from scenerl.preprocess.scene import read_image
from scenerl.preprocess.worker_process import Channel


class _Said(logging.Handler):
    """Keeps what is logged, for the process that asked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def serve(channel: Channel) -> None:
    """Read media until the requests end."""
    said = _Said()
    logging.getLogger("scenerl").addHandler(said)
    for request in channel.requests():
        reply, pixels = {}, None
        try:
            if request["op"] == "facts":
                reply = _facts(request["path"])
            elif request["op"] == "frames":
                pixels = open_media(request["path"]).read(request["indices"])
            else:
                pixels = read_image(Path(request["path"]), request["mode"])
        except DataError as error:
            reply = {"error": str(error)}
        except MemoryError:
            text = f"{request['path']} needs more memory than data.max_decode_memory_gib allows"
            reply = {"error": text}
        except Exception as error:  # whatever a decoder raises at a broken file
            reply = {"error": f"{request['path']}: {type(error).__name__}: {error}"}
        if pixels is not None:
            reply = {"shape": pixels.shape, "dtype": str(pixels.dtype)}
        said_now, said.lines = said.lines, []
        reply |= {"id": request["id"], "said": said_now}
        channel.reply(reply, None if pixels is None else _bytes(pixels))


def _facts(path: str) -> dict[str, Any]:
    source = open_media(path)
    indices = [int(index) for index in source.frame_indices]
    return {
        "frame_indices": indices,
        "times_s": [float(source.times_s(index)) for index in indices],
        "native_size": [int(side) for side in source.native_size],
    }


def _bytes(pixels: np.ndarray) -> memoryview:
    return np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data
