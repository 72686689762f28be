"""Ray-cast a furnished room: colour, depth, instance ids and how much of each piece is seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scenerl.preprocess.rooms_furniture import ACCENTS, COLORS, Part, box
from scenerl.preprocess.rooms_layout import Room, walk_poses

WALL_TONES = ((196, 190, 178), (176, 184, 190), (190, 182, 186), (180, 188, 174), (170, 168, 166))
FLOOR_TONES = ((150, 126, 102), (128, 116, 106), (120, 122, 124), (160, 146, 126), (108, 96, 86))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surfaces:
    """Look of every part, one row per part."""

    albedo: np.ndarray
    """float32 [parts, 3], linear light."""
    waves: np.ndarray
    """float32 [parts, 3, 3]: wave vectors of the texture, radians per metre."""
    contrast: np.ndarray
    """float32 [parts]."""
    sharpness: np.ndarray
    """float32 [parts]: large makes stripes and tiles, small makes clouds."""
    glow: np.ndarray
    """float32 [parts]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RenderedRoom:
    """All frames of a room."""

    color: np.ndarray
    """uint8 [frames, H, W, 3]."""
    depth_mm: np.ndarray
    """uint16 [frames, H, W]; along the optical axis."""
    instance: np.ndarray
    """uint16 [frames, H, W]."""
    camera_to_world: np.ndarray
    """float64 [frames, 4, 4]."""
    intrinsics: np.ndarray
    """float64 [3, 3]."""
    visible_share: dict[int, np.ndarray]
    """Object id -> float [frames]: seen pixels over the whole, unoccluded, uncropped silhouette."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hits:
    """What the rays of one frame meet first, one row per pixel."""

    directions: np.ndarray
    """float32 [H*W, 3], in world axes, with z = 1 in the camera's."""
    depth: np.ndarray
    """float32 [H*W], metres along the optical axis."""
    parts: np.ndarray
    """int64 [H*W]: the part that is hit."""
    normals: np.ndarray
    """float32 [H*W, 3], in no particular direction."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """The geometry of a walk through a room, without its looks."""

    camera_to_world: np.ndarray
    """float64 [frames, 4, 4]."""
    hits: tuple[Hits, ...]
    instance: np.ndarray
    """uint16 [frames, H, W]."""
    visible_share: dict[int, np.ndarray]
    """See `RenderedRoom`."""


def _quad(corners: list[tuple[float, float, float]], color: str) -> Part:
    return Part(
        vertices=np.array(corners, np.float32),
        triangles=np.array([(0, 1, 2), (0, 2, 3)], np.uint32),
        color=color,
    )


def _shell(room: Room, rng: np.random.Generator) -> list[Part]:
    """Return floor, ceiling, walls, skirting, a door, a window and a rug."""
    w, d, h = room.size
    parts = [
        _quad([(0, 0, 0), (w, 0, 0), (w, d, 0), (0, d, 0)], "floor"),
        _quad([(0, 0, h), (0, d, h), (w, d, h), (w, 0, h)], "ceiling"),
        _quad([(0, 0, 0), (0, 0, h), (w, 0, h), (w, 0, 0)], "wall"),
        _quad([(0, d, 0), (w, d, 0), (w, d, h), (0, d, h)], "wall"),
        _quad([(0, 0, 0), (0, d, 0), (0, d, h), (0, 0, h)], "wall"),
        _quad([(w, 0, 0), (w, 0, h), (w, d, h), (w, d, 0)], "wall"),
        box((w / 2, 0, 0.05), (w, 0.03, 0.1), "trim"),
        box((w / 2, d, 0.05), (w, 0.03, 0.1), "trim"),
        box((0, d / 2, 0.05), (0.03, d, 0.1), "trim"),
        box((w, d / 2, 0.05), (0.03, d, 0.1), "trim"),
    ]
    openings = rng.permutation(4)[:3]
    for number, wall in enumerate(openings):
        along_x = wall < 2
        length = w if along_x else d
        where = rng.uniform(0.25, 0.75) * length
        fixed = 0.0 if wall % 2 == 0 else (d if along_x else w)
        span, bottom, top, color = (
            (0.9, 0.0, 2.05, "door") if number == 0 else (1.3, 1.0, 2.1, "window")
        )
        middle = (bottom + top) / 2
        for grow, name, thick in ((0.14, "trim", 0.04), (0.0, color, 0.06)):
            sizes = (span + grow, thick, top - bottom + grow)
            center = (where, fixed, middle) if along_x else (fixed, where, middle)
            parts.append(box(center, sizes if along_x else (thick, sizes[0], sizes[2]), name))
    if rng.random() < 0.5:
        size = (rng.uniform(1.2, 2.0), rng.uniform(1.0, 1.6), 0.012)
        parts.append(box((*room.walk.center, 0.006), size, "rug"))
    return parts


def _linear(color: tuple[float, ...]) -> np.ndarray:
    return np.asarray((np.array(color) / 255.0) ** 2.2, np.float32)


def _shell_tones(rng: np.random.Generator) -> dict[str, np.ndarray]:
    wall = np.array(WALL_TONES[int(rng.integers(len(WALL_TONES)))]) + rng.uniform(-12, 12, 3)
    floor = np.array(FLOOR_TONES[int(rng.integers(len(FLOOR_TONES)))]) + rng.uniform(-10, 10, 3)
    return {
        "wall": _linear(tuple(wall)),
        "floor": _linear(tuple(floor)),
        "ceiling": _linear((214, 212, 208)),
        "trim": _linear((206, 202, 194)),
        "door": _linear((146, 128, 110)),
        "window": _linear((178, 200, 214)),
        "rug": _linear(tuple(floor * 0.72 + rng.uniform(0, 30, 3))),
    }


def _texture(name: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """Draw (wave vectors, contrast, sharpness) of one part."""
    if name == "floor":
        plank = rng.uniform(16, 30)
        if rng.random() < 0.6:  # boards
            waves = np.array([[plank, 0, 0], [plank * 0.5, 0.8, 0], [1.3, 2.2, 0]])
            return waves, rng.uniform(0.08, 0.16), 3.0
        waves = np.array([[9.0, 0, 0], [0, 9.0, 0], [9.0, 9.0, 0]])
        return waves, rng.uniform(0.06, 0.14), 4.0
    waves = rng.normal(size=(3, 3))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    if name in ("wall", "ceiling", "trim", "window"):
        return waves * rng.uniform(2, 12), rng.uniform(0.01, 0.05), 1.0
    if rng.random() < 0.35:  # stripes
        waves[:] = waves[0] * rng.uniform(25, 60)
        return waves, rng.uniform(0.06, 0.16), 4.0
    return waves * rng.uniform(12, 50), rng.uniform(0.03, 0.12), 1.5


def _surfaces(
    parts: list[Part],
    mains: list[str | None],
    tones: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> Surfaces:
    albedo, waves, contrast, sharpness = [], [], [], []
    for part, main in zip(parts, mains, strict=True):
        if part.color == "main" and main is not None:
            albedo.append(_linear(COLORS[main]))
        elif part.color in ACCENTS:
            albedo.append(_linear(ACCENTS[part.color]))
        else:
            albedo.append(tones[part.color])
        wave, amount, sharp = _texture(part.color, rng)
        waves.append(wave)
        contrast.append(amount)
        sharpness.append(sharp)
    return Surfaces(
        albedo=np.stack(albedo).astype(np.float32),
        waves=np.stack(waves).astype(np.float32),
        contrast=np.array(contrast, np.float32),
        sharpness=np.array(sharpness, np.float32),
        glow=np.array([part.glow for part in parts], np.float32),
    )


def _camera_rays(intrinsics: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return camera-space directions with z = 1 through pixel positions, float32 [..., 3]."""
    x = (u - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1]
    return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)


def _soften(color: np.ndarray) -> np.ndarray:
    """Blur by a lens of about half a pixel, which takes the worst off jagged edges."""
    side = 0.0724
    for axis in (0, 1):
        ends = ((1, 1) if axis == 0 else (0, 0), (1, 1) if axis == 1 else (0, 0), (0, 0))
        wide = np.pad(color, ends, mode="edge")
        before = wide[:-2] if axis == 0 else wide[:, :-2]
        after = wide[2:] if axis == 0 else wide[:, 2:]
        color = (1 - 2 * side) * color + side * (before + after)
    return color


def _tensor(array: np.ndarray) -> Any:
    import open3d as o3d

    return o3d.core.Tensor.from_numpy(np.ascontiguousarray(array))


def _raycaster(meshes: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    for vertices, triangles in meshes:
        scene.add_triangles(_tensor(vertices), _tensor(triangles))
    return scene


def _merge(parts: tuple[Part, ...] | list[Part]) -> tuple[np.ndarray, np.ndarray]:
    vertices, triangles, offset = [], [], 0
    for part in parts:
        vertices.append(part.vertices)
        triangles.append(part.triangles + np.uint32(offset))
        offset += len(part.vertices)
    return np.concatenate(vertices), np.concatenate(triangles)


def room_intrinsics(width: int, height: int, fov: float) -> np.ndarray:
    """Return pinhole intrinsics with square pixels for a horizontal field of view in radians."""
    focal = width / 2 / np.tan(fov / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


class RoomRenderer:
    """Casts the rays of one room; everything random about looks is drawn once, up front."""

    def __init__(self, room: Room, rng: np.random.Generator, *, width: int, height: int) -> None:
        """Build the scene.

        Args:
            room: What to render.
            rng: Source of field of view, textures, lights and sensor noise.
            width: Image width in pixels.
            height: Image height in pixels.
        """
        self.room = room
        self.size = (width, height)
        self.intrinsics = room_intrinsics(width, height, np.radians(rng.uniform(64, 72)))
        shell = _shell(room, rng)
        parts = [*shell, *(part for piece in room.pieces for part in piece.parts)]
        mains: list[str | None] = [None] * len(shell)
        mains += [piece.color for piece in room.pieces for _ in piece.parts]
        self._surfaces = _surfaces(parts, mains, _shell_tones(rng), rng)
        self._part_of_triangle = np.repeat(
            np.arange(len(parts)), [len(part.triangles) for part in parts]
        )
        ids = [0] * len(shell) + [p.object_id for p in room.pieces for _ in p.parts]
        self._object_of_part = np.array(ids, np.uint16)
        self._scene = _raycaster([_merge(parts)])
        w, d, h = room.size
        self._light = np.array(
            [w * rng.uniform(0.3, 0.7), d * rng.uniform(0.3, 0.7), h - 0.15], np.float32
        )
        self._fill = np.array([w * rng.uniform(0, 1), d * rng.uniform(0, 1), h * 0.8], np.float32)
        self._ambient = rng.uniform(0.34, 0.44)
        self._warmth = np.array([1 + rng.uniform(-0.03, 0.05), 1, 1 + rng.uniform(-0.05, 0.04)])
        self._rng = rng

    def _shade(self, points: np.ndarray, normals: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Return linear colours, float32 [n, 3]: ambient, a shadowed lamp and a fill light."""
        looks = self._surfaces
        to_light = self._light - points
        distance = np.linalg.norm(to_light, axis=1)
        facing = np.einsum("ij,ij->i", normals, to_light) / distance
        start = points + normals * 2e-3
        rays = np.concatenate([start, self._light - start], axis=1).astype(np.float32)
        hidden = self._scene.test_occlusions(_tensor(rays), tnear=0.0, tfar=0.98).numpy()
        lamp = np.clip(facing, 0, 1) * ~hidden * 1.5 / (1 + 0.12 * distance**2)
        to_fill = self._fill - points
        fill = np.einsum("ij,ij->i", normals, to_fill) / np.linalg.norm(to_fill, axis=1)
        light = self._ambient * (0.85 + 0.15 * normals[:, 2]) + lamp + 0.22 * np.clip(fill, 0, 1)
        light = np.maximum(light, looks.glow[parts] * 2.0)
        phase = np.einsum("ijk,ik->ij", looks.waves[parts], points)
        pattern = np.tanh(looks.sharpness[parts] * np.sin(phase).mean(axis=1))
        shade = light * (1 + looks.contrast[parts] * pattern)
        return np.asarray(looks.albedo[parts] * shade[:, None] * self._warmth, np.float32)

    def depth(self, camera_to_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return exact geometry: (depth float32 m [H,W], instance uint16 [H,W])."""
        width, height = self.size
        hits = self._cast(camera_to_world)
        return hits.depth.reshape(height, width), self._instance(hits)

    def _instance(self, hits: Hits) -> np.ndarray:
        instance: np.ndarray = self._object_of_part[hits.parts].reshape(self.size[::-1])
        return instance

    def _cast(self, camera_to_world: np.ndarray) -> Hits:
        width, height = self.size
        u, v = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        directions = _camera_rays(self.intrinsics, u, v).reshape(-1, 3)
        world = directions @ camera_to_world[:3, :3].T.astype(np.float32)
        origin = np.broadcast_to(camera_to_world[:3, 3].astype(np.float32), world.shape)
        found = self._scene.cast_rays(_tensor(np.concatenate([origin, world], axis=1)))
        return Hits(
            directions=world,
            depth=found["t_hit"].numpy(),  # directions have z = 1, so this is not distance
            parts=self._part_of_triangle[found["primitive_ids"].numpy()],
            normals=found["primitive_normals"].numpy(),
        )

    def _frame(self, camera_to_world: np.ndarray, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """Return (colour uint8 [H,W,3], depth uint16 mm [H,W])."""
        width, height = self.size
        world, depth = hits.directions, hits.depth
        away = (hits.normals * world).sum(1, keepdims=True) > 0
        normals = np.where(away, -hits.normals, hits.normals)
        origin = camera_to_world[:3, 3].astype(np.float32)
        linear = self._shade(origin + world * depth[:, None], normals, hits.parts)
        color = 255 * np.clip(linear, 0, 1) ** (1 / 2.2)
        color = _soften(color.reshape(height, width, 3))
        color += self._rng.normal(0, 1.5, color.shape)
        noise = self._rng.normal(0, 1, depth.shape) * 0.0012 * depth**2
        depth_mm = np.clip(np.round((depth + noise) * 1000), 0, 65535).astype(np.uint16)
        return (
            np.clip(np.round(color), 0, 255).astype(np.uint8),
            depth_mm.reshape(height, width),
        )

    def look(self, num_frames: int) -> Views:
        """Walk through the room and see what is where; much cheaper than to render it."""
        poses = walk_poses(self.room.walk, num_frames)
        hits = tuple(self._cast(pose) for pose in poses)
        instance = np.stack([self._instance(frame) for frame in hits])
        return Views(
            camera_to_world=poses,
            hits=hits,
            instance=instance,
            visible_share={
                piece.object_id: self._visible_share(piece.parts, piece.object_id, poses, instance)
                for piece in self.room.pieces
            },
        )

    def render(self, views: Views) -> RenderedRoom:
        """Render all frames of a walk; draws the sensor's noise, so once."""
        frames = [
            self._frame(pose, hits)
            for pose, hits in zip(views.camera_to_world, views.hits, strict=True)
        ]
        return RenderedRoom(
            color=np.stack([frame[0] for frame in frames]),
            depth_mm=np.stack([frame[1] for frame in frames]),
            instance=views.instance,
            camera_to_world=views.camera_to_world,
            intrinsics=self.intrinsics,
            visible_share=views.visible_share,
        )

    def _visible_share(
        self, parts: tuple[Part, ...], object_id: int, poses: np.ndarray, instance: np.ndarray
    ) -> np.ndarray:

        vertices, triangles = _merge(parts)
        scene = _raycaster([(vertices, triangles)])
        shares = np.zeros(len(poses))
        grid = (np.arange(24) + 0.5) / 24
        for number, pose in enumerate(poses):
            pixels = int((instance[number] == object_id).sum())
            camera = (vertices - pose[:3, 3]) @ pose[:3, :3]
            if pixels == 0 or camera[:, 2].min() < 0.05:
                continue
            image = camera @ self.intrinsics.T
            image = image[:, :2] / image[:, 2:]
            (x0, y0), (x1, y1) = image.min(axis=0), image.max(axis=0)
            u, v = np.meshgrid(x0 + (x1 - x0) * grid, y0 + (y1 - y0) * grid)
            world = _camera_rays(self.intrinsics, u, v).reshape(-1, 3) @ pose[:3, :3].T
            rays = np.concatenate([np.broadcast_to(pose[:3, 3], world.shape), world], axis=1)
            hit = scene.cast_rays(_tensor(rays.astype(np.float32)))["t_hit"].numpy()
            area = np.isfinite(hit).mean() * (x1 - x0) * (y1 - y0)
            shares[number] = min(1.0, pixels / max(area, 1.0))
        return shares
