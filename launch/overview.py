"""One picture of an answer: frames with box and mask, and the point cloud from above and aside."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from scenerl.preprocess.records import Box2D, Box3D

PREDICTED_COLOR = (230, 30, 60)
TRUE_COLOR = (20, 150, 60)
MASK_COLOR = (255, 190, 0)
PANEL = 320
"""Width of every panel in pixels."""


def draw_frame(
    color: np.ndarray,
    mask: np.ndarray | None,
    box: Box2D | None,
    true_box: Box2D | None,
    caption: str,
) -> np.ndarray:
    """Draw one frame with its mask, predicted and true box.

    Args:
        color: uint8 [height, width, 3].
        mask: bool [height, width].
        box: Predicted, in pixels of the frame.
        true_box: True.
        caption: Written below.

    Returns:
        uint8 [height', PANEL, 3].
    """
    from PIL import Image, ImageDraw

    picture = color.copy()
    if mask is not None:
        inner = mask.copy()
        inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        tint = 0.55 * picture[mask] + 0.45 * np.array(MASK_COLOR)
        picture[mask] = tint.astype(np.uint8)
        picture[mask & ~inner] = MASK_COLOR
    scale = PANEL / picture.shape[1]
    image = Image.fromarray(picture).resize((PANEL, round(picture.shape[0] * scale)))
    draw = ImageDraw.Draw(image)
    for corners, tone in ((true_box, TRUE_COLOR), (box, PREDICTED_COLOR)):
        if corners is not None:
            x0, y0, x1, y1 = (value * scale for value in corners)
            draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), None, tone, 2)
    return _captioned(np.asarray(image), caption)


def draw_cloud(
    points: np.ndarray,
    colors: np.ndarray,
    boxes: Sequence[tuple[Box3D | None, tuple[int, int, int]]],
    up: np.ndarray,
    planes: np.ndarray,
    *,
    from_above: bool,
) -> np.ndarray:
    """Draw points in parallel projection with boxes as wires.

    Args:
        points: [n, 3] metres.
        colors: uint8 [n, 3].
        boxes: World boxes and the colours of their wires.
        up: Unit vector.
        planes: `room_planes`; those that would cover what is inside are not drawn.
        from_above: Straight down; otherwise aslant.

    Returns:
        uint8 [PANEL, PANEL, 3].
    """
    from PIL import Image, ImageDraw

    axes = _view_axes(up, from_above)
    shown = ~_hides_the_room(points, planes, axes[2])
    points, colors = points[shown], colors[shown]
    flat = points @ axes.T  # [n, 3]: right, down, towards the eye
    lower, upper = np.quantile(flat[:, :2], 0.005, axis=0), np.quantile(flat[:, :2], 0.995, axis=0)
    scale = (PANEL - 24) / max(float((upper - lower).max()), 1e-6)
    middle = (lower + upper) / 2

    def place(flat_points: np.ndarray) -> np.ndarray:
        placed: np.ndarray = (flat_points[:, :2] - middle) * scale + PANEL / 2
        return placed

    picture = np.full((PANEL, PANEL, 3), 255, np.uint8)
    nearest_last = np.argsort(flat[:, 2], kind="stable")
    x, y = np.round(place(flat[nearest_last])).astype(int).T
    for dx, dy in product((0, 1), (0, 1)):
        inside = (x + dx >= 0) & (x + dx < PANEL) & (y + dy >= 0) & (y + dy < PANEL)
        picture[(y + dy)[inside], (x + dx)[inside]] = colors[nearest_last][inside]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for box, tone in boxes:
        if box is None:
            continue
        corners = np.array(list(product(*zip(box[:3], box[3:], strict=True))))
        spots = place(corners @ axes.T)
        for a, b in _EDGES:
            draw.line((*spots[a], *spots[b]), fill=tone, width=2)
    return np.asarray(image)


def write_overview(
    file: Path, title: str, rows: Sequence[Sequence[np.ndarray]], legend: str
) -> None:
    """Put panels in rows under a title and write a PNG."""
    from PIL import Image, ImageDraw

    bands = [_row(row) for row in rows if len(row)]
    width = max(band.shape[1] for band in bands)
    image = Image.new("RGB", (width, 40 + sum(band.shape[0] for band in bands)), "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), title, fill="black")
    draw.text((8, 22), legend, fill=(90, 90, 90))
    top = 40
    for band in bands:
        image.paste(Image.fromarray(band), (0, top))
        top += band.shape[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def scene_cloud(scene: Any, frames: Sequence[int], step: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return a thin coloured cloud of a scene: points [n, 3] and colours uint8 [n, 3]."""
    import torch

    from scenerl.kernels.unproject import grid_pixels, unproject

    depth_k, color_k = torch.tensor(scene.intrinsics_depth), torch.tensor(scene.intrinsics_color)
    row, column, inside = grid_pixels(scene.depth_size, scene.color_size, depth_k, color_k)
    thin = torch.zeros_like(inside)
    thin[::step, ::step] = inside[::step, ::step]
    points, colors = [], []
    for frame in frames:
        depth_m = torch.tensor(scene.depth_m(frame))[None]
        pose = torch.tensor(scene.camera_to_world(frame))[None]
        found, pixels = unproject(depth_m, thin[None], depth_k, pose)
        v, u = pixels[:, 1], pixels[:, 2]
        points.append(found.numpy())
        colors.append(scene.color(frame)[row[v, u].numpy(), column[v, u].numpy()])
    return np.concatenate(points), np.concatenate(colors)


def pick_frames(
    masks: Mapping[int, np.ndarray], prompted: Sequence[int], known: Sequence[int], count: int
) -> list[int]:
    """Choose frames to show: the prompted ones, then masked ones, then any, in order."""
    chosen = list(dict.fromkeys(prompted))[:count]
    for pool in (sorted(masks), list(known)):
        left = [frame for frame in pool if frame not in chosen]
        need = count - len(chosen)
        if need > 0 and left:
            spots = np.linspace(0, len(left) - 1, min(need, len(left)))
            chosen += [left[int(spot)] for spot in spots]
    return sorted(chosen)


_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]


def _view_axes(up: np.ndarray, from_above: bool) -> np.ndarray:
    """Rows: right, down on the picture, towards the eye."""
    side = np.eye(3)[int(np.argmin(np.abs(up)))]
    forward = np.cross(up, np.cross(side, up))
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if from_above:
        return np.stack([right, -forward, up])
    right, forward = (right + forward) / 2**0.5, (forward - right) / 2**0.5
    eye = 0.75 * up - 0.66 * forward
    eye /= np.linalg.norm(eye)
    return np.stack([right, np.cross(right, eye), eye])


def room_planes(points: np.ndarray) -> np.ndarray:
    """Return the planes that bound a scene's points, float64 [planes, 4], normals inwards."""
    import torch

    from scenerl.kernels.planes import bounding_planes

    return bounding_planes(torch.tensor(points, dtype=torch.float64), tolerance_m=0.05).numpy()


def _hides_the_room(points: np.ndarray, planes: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Mark the ceiling and the walls on this side, which would cover what is inside."""
    facing_away = planes[planes[:, :3] @ eye < -0.1]
    hides: np.ndarray = (points @ facing_away[:, :3].T + facing_away[:, 3] <= 0.08).any(axis=1)
    return hides


def _row(panels: Sequence[np.ndarray]) -> np.ndarray:
    height = max(panel.shape[0] for panel in panels)
    padded = [
        np.pad(p, ((0, height - p.shape[0]), (0, 8), (0, 0)), constant_values=255) for p in panels
    ]
    return np.concatenate(padded, axis=1)


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (picture.shape[1], picture.shape[0] + 18), "white")
    image.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(image).text((4, picture.shape[0] + 2), caption, fill="black")
    return np.asarray(image)
