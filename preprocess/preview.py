"""A contact sheet: frames of a few scenes with the boxes of their samples drawn in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scenerl.preprocess.records import Sample

FRAMES_PER_SCENE = 6
FRAME_WIDTH = 320
EDGE_COLORS = ((255, 64, 64), (64, 200, 64), (80, 120, 255), (250, 200, 0), (240, 0, 240))


def write_preview(
    path: Path, root: str | Path, scenes: Mapping[str, Sequence[Sample]], *, num_scenes: int
) -> None:
    """Write a picture of scenes, one row each, with every sample's box and question.

    Args:
        path: PNG to write.
        root: The data folder.
        scenes: Scene folder in it -> samples to draw.
        num_scenes: Number of rows.

    Raises:
        ValueError: If there is no scene.
    """
    from PIL import Image

    rows = [
        _scene_row(Path(root) / scene, samples)
        for scene, samples in list(scenes.items())[:num_scenes]
    ]
    if not rows:
        raise ValueError(f"there is no scene of {root} to draw")
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(path)


def _scene_row(folder: Path, samples: Sequence[Sample]) -> np.ndarray:
    from PIL import Image, ImageDraw

    files = {int(file.stem): file for file in (folder / "color").iterdir()}
    indices = sorted(files)
    picks = np.linspace(0, len(indices) - 1, FRAMES_PER_SCENE).round().astype(int)
    tiles = []
    for index in (indices[pick] for pick in picks):
        stored = Image.open(files[index])
        scale = FRAME_WIDTH / stored.width
        image = stored.resize((FRAME_WIDTH, round(stored.height * scale)))
        draw = ImageDraw.Draw(image)
        named: set[int | None] = set()
        for sample in samples:
            box = (sample.target.boxes_px or {}).get(index)
            if box is None or sample.target.object_id in named:
                continue
            edge = EDGE_COLORS[len(named) % len(EDGE_COLORS)]
            named.add(sample.target.object_id)
            x0, y0, x1, y1 = (value * scale for value in box)
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=edge, width=2)
            draw.text((x0 + 3, y0 + 2), sample.question, fill=edge, stroke_width=1, stroke_fill=0)
        tiles.append(np.asarray(image))
    return np.concatenate(tiles, axis=1)
