"""Small whole inputs of the raw formats, to start fuzzing from."""

import base64
import io
import json
from pathlib import Path

import lz4.block
import numpy as np
from PIL import Image
from raw_folders import block, deflate

from scenerl.preprocess.iphone_depth import FLOAT_BYTES, SHORT_BYTES

DEPTH = [
    deflate(bytes(2 * FLOAT_BYTES)),
    block(lz4.block.compress(bytes(SHORT_BYTES), store_size=False)) * 2,
    block(deflate(bytes(FLOAT_BYTES))) * 2,
]
_EYE = np.eye(4).tolist()
_FRAME = {"aligned_pose": _EYE, "intrinsic": np.eye(3).tolist(), "timestamp": 1.0}
_TRANSFORMS = {
    **dict.fromkeys(("fl_x", "fl_y", "cx", "cy", "w", "h", "k1"), 1.0),
    "frames": [{"file_path": "frame_000000.jpg", "transform_matrix": _EYE}],
}
POSES = [
    b"\0" + json.dumps({"frame_000000": _FRAME}).encode(),
    b"\1" + json.dumps(_TRANSFORMS).encode(),
    b"\2" + b"# x\n1 1 0 0 0 0 0 0 1 frame_000000.jpg\n\n",
]
_BOX = {
    "centroid": [0, 0, 0],
    "axesLengths": [1, 1, 1],
    "normalizedAxes": [1, 0, 0, 0, 1, 0, 0, 0, 1],
}
BOXES = json.dumps(
    {"skipped": False, "data": [{"label": "sofa", "segments": {"obbAligned": _BOX}}]}
).encode()
_AFFORDANCE = {"action": "grasp", "sampled_points": [[1, 2]]}
_PART = {"part_name": "handle", "part_bbox": [1, 2, 3, 4], "affordances": [_AFFORDANCE]}
RECORD = json.dumps(
    {
        "image_path": "a.jpg",
        "objects": [{"phrase": "mug", "object_bbox": [1, 2, 3, 4], "parts": [_PART]}],
    }
).encode()


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue())


TSV = [
    b"\0".join([b"0\t" + _jpeg() + b"\n", b'0\t{"objects": []}\n', b"0\n"]),
    b"\0".join([b"0\tAAAA\n5\tAAAA\n", b'0\t{"objects": []}\n', b"0\n19\n"]),
]


def write_tsv_files(folder: Path, data: bytes) -> None:
    """Write images.tsv, annotations.tsv and the index from one input."""
    parts = [*data.split(b"\0", 2), b"", b""]
    names = ("images.tsv", "annotations.tsv", "annotations.tsv.lineidx")
    for name, content in zip(names, parts, strict=False):
        (folder / name).write_bytes(content)
