"""Synthetic furnished rooms with true labels, in the layout that real scenes are prepared in."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from scenerl.configs.seeding import derive_seed
from scenerl.preprocess.records import Media, Sample, SceneObject, Target
from scenerl.preprocess.rooms_layout import Piece, Room, furnish
from scenerl.preprocess.rooms_queries import Query, Sighting, room_queries
from scenerl.preprocess.rooms_render import RenderedRoom, RoomRenderer, Views
from scenerl.preprocess.scene_writer import SceneWriter, folder_hash
from scenerl.preprocess.store import SceneEntry, Skipped, write_samples
from scenerl.preprocess.visibility import instance_boxes, visible_spans

logger = logging.getLogger(__name__)

DATASET = "rooms"
PROVENANCE = "synthetic_geometry"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomsConfig:
    """What to make."""

    rooms: tuple[tuple[str, int], ...] = (("train", 200), ("test", 40))
    """(split, number of rooms)."""
    num_frames: int = 32
    fps: float = 2.0
    width: int = 224
    height: int = 168
    seed: int = 0
    objects: tuple[int, int] = (6, 9)
    """Fewest and most pieces of furniture."""
    min_pixels: int = 60
    """A piece is visible in a frame with at least this many pixels (at 224 x 168; scaled) ..."""
    min_visible_share: float = 0.3
    """... and this share of its whole silhouette, counting what is hidden or outside the image."""
    min_targets: int = 4
    """A room with fewer pieces seen in one stretch is drawn again."""
    attribute_limit: int = 8
    relation_limit: int = 5
    superlative_limit: int = 3
    question_limit: int = 3
    """Of each of count, existence and color."""
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.num_frames < 4 or self.fps <= 0 or self.width < 32 or self.height < 32:
            raise ValueError(
                f"found {self.num_frames} frames of {self.width}x{self.height} at {self.fps} fps; "
                "expected at least 4 frames, 32x32 pixels and fps > 0"
            )
        if not any(count > 0 for _, count in self.rooms) or min(n for _, n in self.rooms) < 0:
            raise ValueError(f"found room counts {dict(self.rooms)}; ask for at least one room")

    @property
    def limits(self) -> dict[str, int]:
        """Most queries of each kind in a room."""
        questions = dict.fromkeys(("count", "existence", "color"), self.question_limit)
        return {
            "attribute": self.attribute_limit,
            "relation": self.relation_limit,
            "superlative": self.superlative_limit,
            **questions,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeRoom:
    """What one room yields."""

    scene: SceneEntry
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]
    attempts: int


def room_id(split: str, number: int) -> str:
    """Return the scene id of a room."""
    return f"room_{split}_{number:05d}"


def _sightings(room: Room, seen: Views | RenderedRoom, config: RoomsConfig) -> list[Sighting]:
    frames = [instance_boxes(image) for image in seen.instance]
    times = [number / config.fps for number in range(len(frames))]
    min_pixels = config.min_pixels * config.width * config.height / (224 * 168)
    sightings = []
    for piece in room.pieces:
        shares = seen.visible_share[piece.object_id]
        glimpses, boxes = {}, {}
        for number, found in enumerate(frames):
            if piece.object_id not in found:
                continue
            box, pixels = found[piece.object_id]
            glimpses[number] = box
            if pixels >= min_pixels and shares[number] >= config.min_visible_share:
                boxes[number] = box
        spans = visible_spans([number in boxes for number in range(len(frames))], times)
        sightings.append(Sighting(piece=piece, boxes_px=boxes, spans_s=spans, glimpses=glimpses))
    return sightings


def _is_good(sightings: list[Sighting], config: RoomsConfig) -> bool:
    """Whether enough pieces are seen in one stretch and none is shown all the time."""
    shares = [len(s.boxes_px) / config.num_frames for s in sightings if s.is_target]
    return sum(0.1 <= share <= 0.8 for share in shares) >= config.min_targets


def draw_room(config: RoomsConfig, split: str, number: int) -> tuple[Room, RenderedRoom, int]:
    """Draw and render a room, again while too little of it is seen.

    Returns:
        The room, its frames, and how many attempts it took.
    """
    for attempt in range(1, 51):
        rng = np.random.default_rng(derive_seed(config.seed, "room", split, number, attempt))
        room = furnish(rng, objects=config.objects)
        renderer = RoomRenderer(room, rng, width=config.width, height=config.height)
        views = renderer.look(config.num_frames)
        if _is_good(_sightings(room, views, config), config):
            return room, renderer.render(views), attempt
    raise RuntimeError(
        f"no room with {config.min_targets} well seen pieces in 50 attempts; lower min_targets or "
        f"raise objects, which is {config.objects}"
    )


def _sample(query: Query, sighting: Sighting | None, scene_id: str, split: str, n: int) -> Sample:
    target = Target(answers=query.answers)
    if sighting is not None:
        target = Target(
            spans_s=sighting.spans_s,
            boxes_px=sighting.boxes_px,
            box_world=sighting.piece.box_world,
            object_id=sighting.piece.object_id,
            label=sighting.piece.label,
        )
    return Sample(
        sample_id=f"{scene_id}-{n:02d}",
        dataset=DATASET,
        split=split,
        question=query.question,
        media=Media(kind="video", scene=f"scenes/{scene_id}"),
        target=target,
        scene_id=scene_id,
        kind=query.kind,
        provenance=PROVENANCE,
    )


def _scene_object(piece: Piece) -> SceneObject:
    return SceneObject(
        object_id=piece.object_id,
        label=piece.label,
        box_world=piece.box_world,
        attributes={"color": piece.color},
    )


def _appearances(sightings: list[Sighting]) -> dict[str, dict[str, object]]:
    """Return what appearances.json holds: where each piece is seen well."""
    return {
        str(s.piece.object_id): {
            "spans_s": [list(span) for span in s.spans_s],
            "boxes_px": {str(frame): list(box) for frame, box in s.boxes_px.items()},
        }
        for s in sightings
        if s.boxes_px
    }


def _write_room(
    folder: Path,
    room: Room,
    rendered: RenderedRoom,
    sightings: list[Sighting],
    config: RoomsConfig,
) -> None:
    with SceneWriter(folder, scene_id=folder.name) as writer:
        writer.write_intrinsics(rendered.intrinsics, rendered.intrinsics)
        for number in range(config.num_frames):
            writer.write_frame(
                number,
                color=rendered.color[number],
                depth=rendered.depth_mm[number],
                camera_to_world=rendered.camera_to_world[number],
                time_s=number / config.fps,
            )
            writer.write_instance(number, rendered.instance[number])
        objects = [_scene_object(piece) for piece in room.pieces]
        writer.write_labels(objects, provenance=PROVENANCE, up=(0, 0, 1))
        writer.write_json("appearances.json", _appearances(sightings))


def make_room(output: Path, config: RoomsConfig, split: str, number: int) -> MadeRoom:
    """Make one room: its scene folder and its samples.

    The result is a function of (seed, split, number) and the sizes alone.
    """
    scene_id = room_id(split, number)
    room, rendered, attempts = draw_room(config, split, number)
    folder = output / "scenes" / scene_id
    sightings = _sightings(room, rendered, config)
    _write_room(folder, room, rendered, sightings, config)
    rng = np.random.default_rng(derive_seed(config.seed, "queries", split, number))
    by_id = {s.piece.object_id: s for s in sightings}
    samples = [
        _sample(query, by_id.get(query.object_id or 0), scene_id, split, n)
        for n, query in enumerate(room_queries(sightings, rng, limits=config.limits))
    ]
    skipped = [
        Skipped(
            dataset=DATASET,
            scene_id=scene_id,
            item=f"object {s.piece.object_id}, {s.name}",
            reason="never seen well" if not s.spans_s else "seen in several stretches",
        )
        for s in sightings
        if not s.is_target
    ]
    return MadeRoom(
        scene=SceneEntry(
            scene_id=scene_id,
            dataset=DATASET,
            sha256=folder_hash(folder),
            frames=config.num_frames,
        ),
        samples=tuple(samples),
        skipped=tuple(skipped),
        attempts=attempts,
    )


def _make_job(job: tuple[Path, RoomsConfig, str, int]) -> MadeRoom:
    return make_room(*job)


def _made(jobs: list[tuple[Path, RoomsConfig, str, int]], workers: int) -> Iterator[MadeRoom]:
    if workers <= 1:
        yield from map(_make_job, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make_job, jobs, chunksize=2)


def make_rooms(
    output: str | Path,
    config: RoomsConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Make a data folder of synthetic rooms.

    Args:
        output: The data folder; rooms already there are replaced.
        config: What to make. The files are the same for any number of workers.
        progress: Called with (rooms done, rooms in all) after every room.

    Returns:
        All samples, as written.
    """
    root = Path(output)
    (root / "scenes").mkdir(parents=True, exist_ok=True)
    jobs = [(root, config, split, n) for split, count in config.rooms for n in range(count)]
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    scenes: list[SceneEntry] = []
    attempts = 0
    for done, made in enumerate(_made(jobs, config.workers), start=1):
        samples += made.samples
        skipped += made.skipped
        scenes.append(made.scene)
        attempts += made.attempts
        if progress is not None:
            progress(done, len(jobs))
    write_samples(root, samples, skipped, scenes)
    logger.info("%d rooms in %d attempts, %d samples", len(jobs), attempts, len(samples))
    return samples
