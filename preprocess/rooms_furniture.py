"""Parametric furniture: boxes, frusta and ellipsoids whose sizes are drawn from ranges.

Local axes: x to the side, +y is the front, z up; the piece stands on z = 0, centred on x = y = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 32, 36),
    "green": (38, 150, 58),
    "blue": (36, 84, 212),
    "yellow": (244, 214, 30),
    "purple": (134, 48, 168),
    "orange": (246, 128, 16),
    "white": (246, 246, 244),
    "black": (24, 24, 27),
}
"""Well separated main colours, sRGB."""

ACCENTS: dict[str, tuple[int, int, int]] = {
    "metal": (118, 120, 124),
    "wood": (134, 106, 78),
    "linen": (214, 208, 196),
    "screen": (44, 52, 64),
    "earth": (96, 78, 62),
}
"""Muted colours of legs, poles, pillows, screens and pots."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """One closed surface of a piece."""

    vertices: np.ndarray
    """float32 [n, 3], metres."""
    triangles: np.ndarray
    """uint32 [m, 3]."""
    color: str
    """"main", or a key of ACCENTS."""
    glow: float = 0.0
    """Share of the colour that shows without any light."""


def box(center: tuple[float, float, float], size: tuple[float, float, float], color: str) -> Part:
    """Return an axis-aligned box."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Part(
        vertices=(corners * size + center).astype(np.float32),
        triangles=np.array(triangles, np.uint32),
        color=color,
    )


def frustum(
    base: tuple[float, float, float], radii: tuple[float, float], height: float, color: str
) -> Part:
    """Return a vertical cylinder or cone: `radii` are (bottom, top)."""
    sides = 14
    angles = 2 * np.pi * np.arange(sides) / sides
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides)], axis=1)
    bottom = ring * radii[0]
    top = ring * max(radii[1], 1e-4) + [0, 0, height]
    vertices = np.concatenate([bottom, top, [[0, 0, 0], [0, 0, height]]]) + base
    triangles = []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [(i, j, sides + j), (i, sides + j, sides + i)]
        triangles += [(j, i, 2 * sides), (sides + i, sides + j, 2 * sides + 1)]
    return Part(
        vertices=vertices.astype(np.float32),
        triangles=np.array(triangles, np.uint32),
        color=color,
    )


def ellipsoid(
    center: tuple[float, float, float], radii: tuple[float, float, float], color: str
) -> Part:
    """Return an ellipsoid of 10 x 6 faces."""
    columns, rows = 10, 6
    longitude, latitude = np.meshgrid(
        2 * np.pi * np.arange(columns) / columns, np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    )
    directions = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=-1,
    ).reshape(-1, 3)
    triangles = []
    for row in range(rows):
        for column in range(columns):
            a, b = row * columns + column, row * columns + (column + 1) % columns
            triangles += [(a, b, b + columns), (a, b + columns, a + columns)]
    return Part(
        vertices=(directions * radii + center).astype(np.float32),
        triangles=np.array(triangles, np.uint32),
        color=color,
    )


def _legs(width: float, depth: float, height: float, thickness: float, color: str) -> list[Part]:
    x, y = width / 2 - thickness / 2, depth / 2 - thickness / 2
    return [
        box((sx * x, sy * y, height / 2), (thickness, thickness, height), color)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def _chair(rng: np.random.Generator) -> list[Part]:
    width, depth = rng.uniform(0.48, 0.58), rng.uniform(0.48, 0.56)
    seat, back = rng.uniform(0.44, 0.52), rng.uniform(0.5, 0.62)
    legs = "main" if rng.random() < 0.5 else "wood"
    parts = [
        *_legs(width, depth, seat, 0.055, legs),
        box((0, 0, seat + 0.03), (width, depth, 0.07), "main"),
        box((0, -depth / 2 + 0.03, seat + back / 2), (width, 0.06, back), "main"),
    ]
    if rng.random() < 0.3:
        arm = (0.06, depth * 0.8, 0.05)
        parts += [box((s * (width / 2 + 0.03), 0, seat + 0.24), arm, "main") for s in (-1, 1)]
    return parts


def _table(rng: np.random.Generator) -> list[Part]:
    height = rng.uniform(0.68, 0.78)
    legs = "main" if rng.random() < 0.6 else "wood"
    if rng.random() < 0.3:
        radius = rng.uniform(0.48, 0.62)
        return [
            frustum((0, 0, 0), (radius * 0.55, 0.06), 0.08, legs),
            frustum((0, 0, 0.05), (0.06, 0.06), height - 0.05, legs),
            frustum((0, 0, height), (radius, radius), 0.06, "main"),
        ]
    width, depth = rng.uniform(1.05, 1.5), rng.uniform(0.7, 0.9)
    return [
        *_legs(width - 0.08, depth - 0.08, height, 0.075, legs),
        box((0, 0, height + 0.03), (width, depth, 0.07), "main"),
    ]


def _sofa(rng: np.random.Generator) -> list[Part]:
    width, depth = rng.uniform(1.55, 2.1), rng.uniform(0.82, 0.95)
    seat, back, arm = 0.44, rng.uniform(0.8, 0.95), rng.uniform(0.56, 0.66)
    inner = width - 0.36
    cushions = 2 if width < 1.85 else 3
    step = inner / cushions
    parts = [
        box((0, 0.0, 0.2), (width, depth, 0.28), "main"),
        box((0, -depth / 2 + 0.12, back / 2 + 0.03), (width, 0.24, back - 0.06), "main"),
        *(
            box((s * (width / 2 - 0.09), 0, arm / 2 + 0.03), (0.18, depth, arm - 0.06), "main")
            for s in (-1, 1)
        ),
        *_legs(width - 0.1, depth - 0.1, 0.07, 0.06, "wood"),
    ]
    for i in range(cushions):
        x = -inner / 2 + (i + 0.5) * step
        parts.append(box((x, 0.1, seat - 0.05), (step - 0.03, depth - 0.26, 0.13), "main"))
    return parts


def _bed(rng: np.random.Generator) -> list[Part]:
    width, length = rng.uniform(1.2, 1.65), rng.uniform(1.95, 2.1)
    head = rng.uniform(0.85, 1.1)
    parts = [
        box((0, 0, 0.16), (width, length, 0.18), "wood"),
        *_legs(width, length, 0.1, 0.1, "wood"),
        box((0, 0.0, 0.37), (width - 0.05, length - 0.08, 0.26), "linen"),
        box((0, 0.25, 0.4), (width + 0.03, length * 0.72, 0.26), "main"),
        box((0, -length / 2 - 0.03, head / 2), (width + 0.04, 0.07, head), "main"),
    ]
    pillows = 1 if width < 1.4 else 2
    step = (width - 0.15) / pillows
    for i in range(pillows):
        x = -(width - 0.15) / 2 + (i + 0.5) * step
        parts.append(box((x, -length / 2 + 0.27, 0.56), (step - 0.08, 0.38, 0.13), "linen"))
    return parts


def _lamp(rng: np.random.Generator) -> list[Part]:
    height, radius = rng.uniform(1.35, 1.65), rng.uniform(0.23, 0.3)
    shade = rng.uniform(0.36, 0.46)
    cone = frustum((0, 0, height - shade), (radius, radius * rng.uniform(0.45, 0.7)), shade, "main")
    return [
        frustum((0, 0, 0), (0.17, 0.15), 0.04, "metal"),
        frustum((0, 0, 0.03), (0.025, 0.025), height - 0.1, "metal"),
        Part(vertices=cone.vertices, triangles=cone.triangles, color="main", glow=0.35),
    ]


def _shelf(rng: np.random.Generator) -> list[Part]:
    width, depth, height = rng.uniform(0.8, 1.1), rng.uniform(0.28, 0.36), rng.uniform(1.35, 1.85)
    boards = int(rng.integers(4, 6))
    parts = [
        *(
            box((s * (width / 2 - 0.025), 0, height / 2), (0.05, depth, height), "main")
            for s in (-1, 1)
        ),
        box((0, -depth / 2 + 0.015, height / 2), (width, 0.03, height), "main"),
    ]
    gap = (height - 0.05) / (boards - 1)
    for i in range(boards):
        parts.append(box((0, 0, 0.025 + i * gap), (width, depth, 0.05), "main"))
        if i == boards - 1:
            break
        x = -width / 2 + 0.07
        while x < width / 2 - 0.2 and rng.random() < 0.85:
            thick, tall = rng.uniform(0.05, 0.12), gap * rng.uniform(0.5, 0.75)
            color = str(rng.choice(["linen", "metal", "earth", "wood"]))
            center = (x + thick / 2, 0.0, 0.05 + i * gap + tall / 2)
            parts.append(box(center, (thick, depth * 0.6, tall), color))
            x += thick + rng.uniform(0.0, 0.12)
    return parts


def _plant(rng: np.random.Generator) -> list[Part]:
    pot, crown = rng.uniform(0.26, 0.36), rng.uniform(0.55, 0.85)
    parts = [
        frustum((0, 0, 0), (0.13, 0.19), pot, "earth"),
        frustum((0, 0, pot - 0.02), (0.03, 0.02), crown * 0.6, "wood"),
    ]
    leaves = int(rng.integers(9, 13))
    for i in range(leaves):
        angle, lift = 2.4 * i, (i + 0.5) / leaves
        reach = 0.22 * (1.15 - 0.75 * lift) * rng.uniform(0.8, 1.2)
        center = (
            reach * np.cos(angle),
            reach * np.sin(angle),
            pot + 0.12 + crown * lift * 0.9,
        )
        radius = rng.uniform(0.1, 0.15)
        parts.append(ellipsoid(center, (radius, radius, radius * 1.15), "main"))
    return parts


def _tv(rng: np.random.Generator) -> list[Part]:
    width = rng.uniform(1.0, 1.35)
    height, desk = width * 0.6, rng.uniform(0.4, 0.5)
    middle = desk + 0.14 + height / 2
    return [
        box((0, 0, desk / 2 + 0.03), (width * 0.9, 0.42, desk - 0.06), "wood"),
        *_legs(width * 0.85, 0.36, 0.06, 0.05, "metal"),
        box((0, 0, desk + 0.015), (0.36, 0.24, 0.03), "main"),
        box((0, -0.02, desk + 0.08), (0.1, 0.06, 0.14), "main"),
        box((0, 0, middle), (width, 0.07, height), "main"),
        box((0, 0.03, middle), (width - 0.22, 0.03, height - 0.22), "screen"),
    ]


def _box(rng: np.random.Generator) -> list[Part]:
    width, depth, height = rng.uniform(0.42, 0.65), rng.uniform(0.4, 0.55), rng.uniform(0.36, 0.55)
    return [
        box((0, 0, height / 2), (width, depth, height), "main"),
        box((0, 0, height - 0.04), (width + 0.05, depth + 0.05, 0.07), "main"),
        box((0, 0, height / 2 + 0.003), (0.07, depth + 0.012, height + 0.006), "linen"),
    ]


def _stool(rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.2, 0.25), rng.uniform(0.52, 0.7)
    return [
        frustum((0, 0, 0), (radius * 0.95, 0.05), 0.06, "metal"),
        frustum((0, 0, 0.04), (0.035, 0.035), height - 0.04, "metal"),
        frustum((0, 0, height - 0.02), (radius * 0.92, radius), 0.12, "main"),
    ]


FURNITURE: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "chair": _chair,
    "table": _table,
    "sofa": _sofa,
    "bed": _bed,
    "lamp": _lamp,
    "shelf": _shelf,
    "plant": _plant,
    "tv": _tv,
    "box": _box,
    "stool": _stool,
}
"""Class name -> builder."""

TABLETOP_SCALE: dict[str, float] = {"lamp": 0.42, "plant": 0.55, "box": 0.6}
"""Classes that also come in a small size standing on a table."""


def build_furniture(label: str, scale: float, rng: np.random.Generator) -> list[Part]:
    """Build one piece of a class at a scale.

    Args:
        label: A key of FURNITURE.
        scale: Uniform factor on all sizes.
        rng: Source of the sizes.

    Returns:
        Its parts in local axes.
    """
    return [
        Part(
            vertices=(part.vertices * scale).astype(np.float32),
            triangles=part.triangles,
            color=part.color,
            glow=part.glow,
        )
        for part in FURNITURE[label](rng)
    ]
