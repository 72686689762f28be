"""Input of `launch bench lift`: a camera circles one piece of furniture in a synthetic room.

Depth has a sensor's noise and flying pixels at outlines; masks bleed over the outline and now and
then mark a blob somewhere else, as a tracker's do. The true box is known.
"""

from dataclasses import dataclass

import numpy as np

from scenerl.kernels.views import Camera, View
from scenerl.preprocess.records import Box3D
from scenerl.preprocess.rooms_layout import Piece, Room, furnish, look_at
from scenerl.preprocess.rooms_render import RoomRenderer

BOX_SHARE = 0.08
"""Share of the image that the piece's box covers; its mask covers about 5 %."""
BLEED_PX, BLOB_SHARE, BLOB_PX = 4, 0.1, 14
"""Masks grow by up to so many pixels (at 640 x 480) to one side; this share of the frames has a
false blob of this radius."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """Frames in memory, masks of one object, and its true box."""

    views: list[View]
    masks: list[np.ndarray]
    """bool [height, width], one per view."""
    true_masks: list[np.ndarray]
    """Without bleed and blobs."""
    camera: Camera
    true_box: Box3D


def make_recording(num_frames: int, size: tuple[int, int], seed: int = 0) -> Recording:
    """Render a recording of the piece that is best to walk around.

    Args:
        num_frames: Frames, evenly on the circle.
        size: (width, height).
        seed: Decides room, noise and faults.
    """
    rng = np.random.default_rng(seed)
    room = furnish(rng, objects=(5, 7))
    renderer = RoomRenderer(room, rng, width=size[0], height=size[1])
    piece = _central_piece(room)
    tile = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    views, masks, true_masks = [], [], []
    for pose in _circle(room, piece, renderer.intrinsics[0, 0], size, num_frames):
        exact, instance = renderer.depth(pose)
        true = instance == piece.object_id
        color = np.roll(tile, int(rng.integers(size[0])), axis=1)
        views.append(
            View(
                depth_m=_sensed(exact, rng), camera_to_world=pose, color=np.ascontiguousarray(color)
            )
        )
        true_masks.append(true)
        masks.append(_tracked(true, rng))
    return Recording(
        views=views,
        masks=masks,
        true_masks=true_masks,
        camera=Camera.of(size, renderer.intrinsics),
        true_box=piece.box_world,
    )


def _central_piece(room: Room) -> Piece:
    middle = np.array(room.size[:2]) / 2
    standing = [piece for piece in room.pieces if piece.stands_on is None]
    return min(
        standing, key=lambda piece: float(np.linalg.norm(piece.footprint.mean(axis=0) - middle))
    )


def _circle(
    room: Room, piece: Piece, focal: float, size: tuple[int, int], num_frames: int
) -> list[np.ndarray]:
    """Place cameras on a circle inside the room from which the piece has the wanted size."""
    low, high = np.array(piece.box_world).reshape(2, 3)
    middle, side = (low + high) / 2, high - low
    area = (side[0] + side[1]) / 2 * side[2]
    radius = focal * np.sqrt(area / (BOX_SHARE * size[0] * size[1]))
    poses = []
    for angle in np.linspace(0, 2 * np.pi, num_frames, endpoint=False):
        eye = middle + radius * np.array([np.cos(angle), np.sin(angle), 0.35])
        eye = np.clip(eye, 0.25, np.array(room.size) - 0.25)
        poses.append(look_at(eye, middle))
    return poses


def _sensed(exact: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise that grows with the square of depth, and mix depths where they jump."""
    depth = exact + rng.normal(0, 1, exact.shape).astype(np.float32) * 0.0012 * exact**2
    beside = np.roll(exact, 1, axis=1)
    jump = np.abs(exact - beside) > 0.1
    jump[:, 0] = False
    share = rng.uniform(0, 1, exact.shape).astype(np.float32)
    depth = np.where(jump, share * exact + (1 - share) * beside, depth)
    return np.asarray(np.round(depth * 1000) / 1000, np.float32)


def _tracked(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let a mask bleed to one side, and sometimes mark a blob elsewhere."""
    height, width = true.shape
    scale = width / 640
    mask = true.copy()
    dx, dy = (int(v) for v in np.round(rng.uniform(-1, 1, 2) * BLEED_PX * scale))
    mask |= np.roll(true, (dy, dx), axis=(0, 1))
    if rng.uniform() < BLOB_SHARE:
        v, u = np.ogrid[:height, :width]
        cv, cu = rng.uniform(0, height), rng.uniform(0, width)
        mask |= (v - cv) ** 2 + (u - cu) ** 2 < (BLOB_PX * scale) ** 2
    return mask
