"""Write coloured point clouds as binary PLY, which every viewer opens."""

from pathlib import Path

import numpy as np


def write_ply(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    """Write points with colours.

    Args:
        path: The file; its folder is made.
        points: [n, 3] metres.
        colors: uint8 [n, 3].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.empty(
        len(points),
        dtype=[(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")],
    )
    for place, name in enumerate(("x", "y", "z")):
        rows[name] = points[:, place]
    for place, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, place]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {color}" for color in ("red", "green", "blue")]
    path.write_bytes(("\n".join([*header, "end_header"]) + "\n").encode() + rows.tobytes())
