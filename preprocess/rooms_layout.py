"""Furnish a room: its size, what stands where, and the path of the camera.

World axes are metres with z up; the floor is z = 0 and the room spans [0, width] x [0, depth].
"""

from dataclasses import dataclass

import numpy as np

from scenerl.preprocess.rooms_furniture import (
    COLORS,
    FURNITURE,
    TABLETOP_SCALE,
    Part,
    build_furniture,
)

WALL_GAP_M = 0.06
PIECE_GAP_M = 0.15


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """One placed piece of furniture."""

    object_id: int
    label: str
    color: str
    parts: tuple[Part, ...]
    """In world axes."""
    footprint: np.ndarray
    """float64 [4, 2]: corners of its rectangle on the floor, counter-clockwise."""
    stands_on: int | None = None
    """Object id of the table it stands on; None is the floor."""

    @property
    def vertices(self) -> np.ndarray:
        """All vertices, float32 [n, 3]."""
        return np.concatenate([part.vertices for part in self.parts])

    @property
    def box_world(self) -> tuple[float, float, float, float, float, float]:
        """Axis-aligned box of the whole geometry."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        x0, y0, z0, x1, y1, z1 = (round(float(v), 4) for v in (*low, *high))
        return (x0, y0, z0, x1, y1, z1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """The camera's way: it circles around a point and looks across it while panning one way."""

    center: tuple[float, float]
    radius_m: float
    height_m: float
    yaw_start: float
    """Radians, counter-clockwise from +x."""
    sweep: float
    """Signed total pan, radians."""
    ease: float
    """Unevenness of the pan, in (-1, 1)."""
    lag: float
    """Angle between looking direction and the line through the centre, radians."""
    pitch: float
    """Downwards, radians."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Room:
    """A furnished room."""

    size: tuple[float, float, float]
    """(width, depth, height), metres."""
    pieces: tuple[Piece, ...]
    walk: Walk


def draw_walk(size: tuple[float, float, float], rng: np.random.Generator) -> Walk:
    """Draw a camera path that turns by 150 to 260 degrees, so nothing is seen all the time."""
    direction = 1 if rng.random() < 0.5 else -1
    return Walk(
        center=(size[0] / 2 + rng.uniform(-0.25, 0.25), size[1] / 2 + rng.uniform(-0.25, 0.25)),
        radius_m=rng.uniform(0.55, 0.95),
        height_m=rng.uniform(1.35, 1.6),
        yaw_start=rng.uniform(0, 2 * np.pi),
        sweep=direction * np.radians(rng.uniform(150, 260)),
        ease=rng.uniform(-0.35, 0.35),
        lag=rng.uniform(-0.35, 0.35),
        pitch=np.radians(rng.uniform(17, 23)),
    )


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return camera_to_world of a level camera that looks at a point: [4, 4], OpenCV axes.

    Args:
        eye: [3], where the camera stands, not straight above or below the target.
        target: [3].
    """
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def walk_poses(walk: Walk, num_frames: int) -> np.ndarray:
    """Return camera_to_world of each frame, float64 [frames, 4, 4], OpenCV camera axes."""
    s = np.linspace(0, 1, num_frames)
    yaw = walk.yaw_start + walk.sweep * (s + walk.ease * np.sin(2 * np.pi * s) / (2 * np.pi))
    radius = walk.radius_m * (1 + 0.12 * np.sin(2 * np.pi * s))
    positions = np.stack(
        [
            walk.center[0] - radius * np.cos(yaw + walk.lag),
            walk.center[1] - radius * np.sin(yaw + walk.lag),
            walk.height_m + 0.02 * np.sin(2 * np.pi * 7 * s),
        ],
        axis=1,
    )
    pitch = walk.pitch + 0.035 * np.sin(2 * np.pi * 1.5 * s + walk.yaw_start)
    zero = np.zeros_like(yaw)
    right = np.stack([np.sin(yaw), -np.cos(yaw), zero], axis=1)
    forward = np.stack(
        [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)], axis=1
    )
    poses = np.zeros((num_frames, 4, 4))
    poses[:, :3, 0] = right
    poses[:, :3, 1] = np.cross(forward, right)
    poses[:, :3, 2] = forward
    poses[:, :3, 3] = positions
    poses[:, 3, 3] = 1
    return poses


def _draw_kinds(count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw (label, color) pairs with distractors: same class in another colour and vice versa."""
    labels, colors = list(FURNITURE), list(COLORS)
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        label, color = str(rng.choice(labels)), str(rng.choice(colors))
        if kinds and rng.random() < 0.4:
            label = kinds[int(rng.integers(len(kinds)))][0]
        elif kinds and rng.random() < 0.3:
            color = kinds[int(rng.integers(len(kinds)))][1]
        crowded = sum(other == label for other, _ in kinds) >= (
            2 if label in ("bed", "sofa") else 3
        )
        repeated = (label, color) in kinds and rng.random() < 0.7
        if not crowded and not repeated:
            kinds.append((label, color))
    return kinds


def _place(parts: list[Part], yaw: float, position: tuple[float, float, float]) -> list[Part]:
    cos, sin = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return [
        Part(
            vertices=(part.vertices @ rotation.T + position).astype(np.float32),
            triangles=part.triangles,
            color=part.color,
            glow=part.glow,
        )
        for part in parts
    ]


def _footprint(parts: list[Part], yaw: float, position: tuple[float, float]) -> np.ndarray:
    vertices = np.concatenate([part.vertices for part in parts])
    (x0, y0), (x1, y1) = vertices[:, :2].min(axis=0), vertices[:, :2].max(axis=0)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.asarray(corners @ np.array([[cos, sin], [-sin, cos]]) + position)


def footprint_gap_m(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance between two rectangles on the floor; 0 when they touch or overlap.

    Args:
        a: float [4, 2], counter-clockwise corners.
        b: float [4, 2], counter-clockwise corners.
    """
    for one, two in ((a, b), (b, a)):
        edges = np.roll(one, -1, axis=0) - one
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        if ((two[None] - one[:, None]) @ normals[..., None]).min(axis=(1, 2)).max() > 0:
            return min(_corner_gap(a, b), _corner_gap(b, a))
    return 0.0


def _corner_gap(corners: np.ndarray, rectangle: np.ndarray) -> float:
    edges = np.roll(rectangle, -1, axis=0) - rectangle
    offset = corners[:, None] - rectangle[None]
    share = np.clip((offset * edges).sum(-1) / (edges**2).sum(-1), 0, 1)
    return float(np.linalg.norm(offset - share[..., None] * edges, axis=-1).min())


def _spot(
    size: tuple[float, float, float],
    walk: Walk,
    extent: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[float, tuple[float, float]]:
    """Draw a yaw and a position in the part of the room that the camera pans over."""
    margin = np.radians(8)
    turn = rng.uniform(-margin, abs(walk.sweep) + margin) * np.sign(walk.sweep)
    angle = walk.yaw_start + turn
    direction = np.array([np.cos(angle), np.sin(angle)])
    limits = np.where(direction > 0, np.array(size[:2]) - walk.center, -np.array(walk.center))
    reach = limits / np.where(np.abs(direction) < 1e-6, 1e-6, direction)
    wall = int(np.argmin(reach))
    if rng.random() < 0.7:  # back to the wall
        inward = np.zeros(2)
        inward[wall] = -np.sign(direction[wall])
        point = walk.center + direction * reach[wall] + inward * (extent[1] / 2 + WALL_GAP_M)
        facing = np.arctan2(inward[1], inward[0])
    else:
        point = walk.center + direction * reach[wall] * rng.uniform(0.55, 0.9)
        facing = angle + np.pi + rng.uniform(-0.6, 0.6)
    return float(facing - np.pi / 2), (float(point[0]), float(point[1]))


def _fits(
    footprint: np.ndarray, room: tuple[float, float, float], walk: Walk, placed: list[Piece]
) -> bool:
    low, high = footprint.min(axis=0), footprint.max(axis=0)
    if low.min() < WALL_GAP_M / 2 or (high > np.array(room[:2]) - WALL_GAP_M / 2).any():
        return False
    near = 0.05 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + walk.center
    if footprint_gap_m(footprint, near) < walk.radius_m + 0.35:
        return False
    return all(footprint_gap_m(footprint, piece.footprint) >= PIECE_GAP_M for piece in placed)


def _stand_on_table(
    object_id: int, kind: tuple[str, str], placed: list[Piece], rng: np.random.Generator
) -> Piece | None:
    """Put a small version of the piece on a free table, or return None."""
    taken = {piece.stands_on for piece in placed}
    tables = [p for p in placed if p.label == "table" and p.object_id not in taken]
    if not tables or kind[0] not in TABLETOP_SCALE:
        return None
    table = tables[int(rng.integers(len(tables)))]
    parts = build_furniture(kind[0], TABLETOP_SCALE[kind[0]] * rng.uniform(0.9, 1.1), rng)
    x, y = table.footprint.mean(axis=0)
    yaw = rng.uniform(0, 2 * np.pi)
    return Piece(
        object_id=object_id,
        label=kind[0],
        color=kind[1],
        parts=tuple(_place(parts, yaw, (x, y, table.box_world[5]))),
        footprint=_footprint(parts, yaw, (x, y)),
        stands_on=table.object_id,
    )


def furnish(rng: np.random.Generator, *, objects: tuple[int, int]) -> Room:
    """Draw a room with non-overlapping furniture.

    Args:
        rng: Source of every choice.
        objects: Fewest and most pieces to try; one that finds no free spot is left out.

    Returns:
        The room, pieces numbered from 1.
    """
    size = (rng.uniform(4.7, 6.2), rng.uniform(4.5, 5.8), rng.uniform(2.5, 2.8))
    walk = draw_walk(size, rng)
    kinds = _draw_kinds(int(rng.integers(objects[0], objects[1] + 1)), rng)
    order = ("bed", "sofa", "table", "tv", "shelf")
    kinds.sort(key=lambda kind: order.index(kind[0]) if kind[0] in order else len(order))
    placed: list[Piece] = []
    for kind in kinds:
        object_id = len(placed) + 1
        small = _stand_on_table(object_id, kind, placed, rng) if rng.random() < 0.45 else None
        if small is not None:
            placed.append(small)
            continue
        parts = build_furniture(kind[0], rng.uniform(0.85, 1.2), rng)
        vertices = np.concatenate([part.vertices for part in parts])
        extent = vertices.max(axis=0) - vertices.min(axis=0)
        for _ in range(60):
            yaw, position = _spot(size, walk, (float(extent[0]), float(extent[1])), rng)
            footprint = _footprint(parts, yaw, position)
            if _fits(footprint, size, walk, placed):
                piece = Piece(
                    object_id=object_id,
                    label=kind[0],
                    color=kind[1],
                    parts=tuple(_place(parts, yaw, (*position, 0.0))),
                    footprint=footprint,
                )
                placed.append(piece)
                break
    return Room(size=size, pieces=tuple(placed), walk=walk)
