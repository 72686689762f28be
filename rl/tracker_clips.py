"""Training clips of a tracker: frames, sloppy box prompts and true masks from instance images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scenerl.configs.schema import TrackerSftConfig
from scenerl.envs.sam2_model import frame_tensor
from scenerl.preprocess.records import Box2D
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.store import read_samples

MAX_GAP = 12
"""Largest number of frames left out between the prompted frame and the rest of a clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipShape:
    """Which frames the clips of one batch take, the same for all of them."""

    offsets: tuple[int, ...]
    """Position of each frame of the clip relative to the first, in frames of the recording."""
    prompted: tuple[int, ...]
    """Indices into `offsets` of the frames that get a box; the first one always does."""
    stride: int = 1
    """Recorded frames per position; negative plays the recording backwards."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClipBatch:
    """Clips of one shape with some objects in each."""

    shape: ClipShape
    images: Tensor
    """float32 [clips, frames, 3, size, size], normalised."""
    clip_of: Tensor
    """int64 [objects]: the clip of each object."""
    boxes: Tensor
    """float32 [objects, prompted, 4] in pixels of the model's square input."""
    targets: Tensor
    """float32 [objects, frames, size / 2, size / 2]: share of each cell that the object covers."""
    pixels: Tensor
    """int64 [objects, frames]: pixels of the object in the recorded frame."""

    def to(self, device: torch.device) -> "ClipBatch":
        """Return the batch on a device."""
        return ClipBatch(
            shape=self.shape,
            images=self.images.to(device),
            clip_of=self.clip_of.to(device),
            boxes=self.boxes.to(device),
            targets=self.targets.to(device),
            pixels=self.pixels.to(device),
        )


def single_frame() -> ClipShape:
    """Return the shape of one prompted frame."""
    return ClipShape(offsets=(0,), prompted=(0,))


def draw_shape(rng: np.random.Generator, num_frames: int) -> ClipShape:
    """Draw forward or backward, near or after a gap, one or two prompted frames."""
    gap = int(rng.integers(1, MAX_GAP)) if rng.random() < 0.3 else 0
    offsets = (0, *(n + gap for n in range(1, num_frames)))
    second = (int(rng.integers(1, num_frames)),) if rng.random() < 0.25 else ()
    stride = 2 if gap == 0 and rng.random() < 0.25 else 1
    return ClipShape(
        offsets=offsets, prompted=(0, *second), stride=stride if rng.random() < 0.5 else -stride
    )


def sloppy_box(rng: np.random.Generator, box: Box2D, jitter: float, size: tuple[int, int]) -> Box2D:
    """Return a box as a policy might give it: exact, shifted at each edge, or too loose.

    Args:
        rng: Random generator.
        box: The true box, pixels.
        jitter: Largest shift of an edge as a share of the box's side.
        size: (width, height) of the frame, to which the result is clipped.
    """
    kind = rng.random()
    if kind < 0.15:
        return box
    if kind < 0.8:
        return jittered_box(rng, box, jitter, size)
    width, height = box[2] - box[0], box[3] - box[1]
    shift = rng.uniform(0.0, 2 * jitter, 4) * (-width, -height, width, height)
    return _clip_box(np.array(box) + shift, size)


def draw_boxes(rng: np.random.Generator, count: int, image_size: int) -> ClipBatch:
    """Draw boxes of 5 to 50 % of the frame's side whose targets are the filled boxes."""
    centers = rng.uniform(0, image_size, (count, 2))
    sides = image_size * np.exp(rng.uniform(np.log(0.05), np.log(0.5), (count, 2)))
    corners = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    boxes = torch.from_numpy(np.clip(corners, 0, image_size).astype(np.float32))
    low, high = boxes[:, :2, None] / 2, boxes[:, 2:, None] / 2  # in cells of two pixels
    edges = torch.arange(image_size // 2)
    cover = torch.minimum(edges + 1, high) - torch.maximum(edges, low)
    cover = cover.clamp(0, 1)  # [boxes, 2, cells]
    targets = cover[:, 1, :, None] * cover[:, 0, None, :]
    return ClipBatch(
        shape=single_frame(),
        images=torch.empty(0),
        clip_of=torch.zeros(count, dtype=torch.int64),
        boxes=boxes[:, None],
        targets=targets[:, None],
        pixels=(4 * targets.sum(dim=(1, 2))).long()[:, None],
    )


def jittered_box(
    rng: np.random.Generator, box: Box2D, jitter: float, size: tuple[int, int]
) -> Box2D:
    """Return a box with each edge moved by up to `jitter` times the box's side."""
    width, height = box[2] - box[0], box[3] - box[1]
    shift = rng.uniform(-jitter, jitter, 4) * (width, height, width, height)
    return _clip_box(np.array(box) + shift, size)


def _clip_box(box: np.ndarray, size: tuple[int, int]) -> Box2D:
    x0, y0, x1, y1 = np.clip(box, 0, [size[0], size[1], size[0], size[1]])
    return (float(x0), float(y0), float(x1), float(y1))


def mask_box(mask: np.ndarray) -> Box2D:
    """Return the tight box of a non-empty mask; right and lower edges are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


class ClipSampler:
    """Draws batches of clips from the rooms of a split."""

    def __init__(self, root: str, split: str, config: TrackerSftConfig, image_size: int) -> None:
        """List the scenes of a split; each is opened when it is first drawn.

        Raises:
            ValueError: If the split has no scene.
        """
        self.config = config
        self.image_size = image_size
        names = {sample.media.scene for sample in read_samples(root, split)}
        self.paths = [Path(root) / name for name in sorted(filter(None, names))]
        self.opened: dict[int, Scene] = {}
        if not self.paths:
            raise ValueError(
                f"{root}: split {split!r} has no scene; "
                "a tracker is trained on `launch preprocess rooms --output DIR`"
            )

    def scene(self, number: int) -> Scene:
        """Return a scene of the split, opened once."""
        if number not in self.opened:
            self.opened[number] = Scene.open(self.paths[number])
        return self.opened[number]

    def draw(
        self, rng: np.random.Generator, shape: ClipShape, num_clips: int, num_objects: int
    ) -> ClipBatch:
        """Draw clips, each with up to `num_objects` objects that are seen when prompted."""
        clips = [self._draw_clip(rng, shape, num_objects) for _ in range(num_clips)]
        counts = [len(boxes) for _, boxes, _, _ in clips]
        return ClipBatch(
            shape=shape,
            images=torch.stack([images for images, _, _, _ in clips]),
            clip_of=torch.repeat_interleave(torch.arange(num_clips), torch.tensor(counts)),
            boxes=torch.cat([boxes for _, boxes, _, _ in clips]),
            targets=torch.cat([targets for _, _, targets, _ in clips]),
            pixels=torch.cat([pixels for _, _, _, pixels in clips]),
        )

    def _draw_clip(
        self, rng: np.random.Generator, shape: ClipShape, num_objects: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        can_leave = len(shape.offsets) > 1 and len(shape.prompted) == 1
        share = self.config.absent_share if can_leave else 0.0
        must_leave = share > 0 and rng.random() < share
        for _ in range(1000):
            scene = self.scene(int(rng.integers(len(self.paths))))
            frames = self._frames(rng, scene, shape)
            if frames is None:
                continue
            ids = np.stack([_instances(scene, frame) for frame in frames])
            objects = self._seen_when_prompted(ids, shape)
            if must_leave:
                objects = [k for k in objects if not (ids == k).any(axis=(1, 2)).all()]
            if objects:
                chosen = rng.permutation(objects)[:num_objects]
                return self._clip(rng, scene, frames, ids, chosen, shape)
        raise ValueError(
            f"no object with {self.config.min_pixels} pixels in 1000 drawn clips of "
            f"{len(shape.offsets)} frames; lower tracker_sft.min_pixels or make longer rooms"
        )

    def _frames(
        self, rng: np.random.Generator, scene: Scene, shape: ClipShape
    ) -> tuple[int, ...] | None:
        usable = scene.frame_indices
        start = int(rng.integers(len(usable)))
        places = [start + shape.stride * offset for offset in shape.offsets]
        if min(places) < 0 or max(places) >= len(usable):
            return None
        return tuple(usable[place] for place in places)

    def _seen_when_prompted(self, ids: np.ndarray, shape: ClipShape) -> list[int]:
        seen: set[int] | None = None
        for n in shape.prompted:
            values, counts = np.unique(ids[n], return_counts=True)
            here = {
                int(v) for v, c in zip(values, counts, strict=True) if c >= self.config.min_pixels
            }
            seen = here if seen is None else seen & here
        return sorted((seen or set()) - {0})

    def _clip(
        self,
        rng: np.random.Generator,
        scene: Scene,
        frames: tuple[int, ...],
        ids: np.ndarray,
        objects: np.ndarray,
        shape: ClipShape,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        colors = [scene.color(frame) for frame in frames]
        if rng.random() < 0.5:
            colors = [np.ascontiguousarray(color[:, ::-1]) for color in colors]
            ids = ids[:, :, ::-1]
        images = torch.stack([frame_tensor(color, self.image_size) for color in colors])
        images = images * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.15, 0.15))
        masks = ids[None] == objects[:, None, None, None]  # [objects, frames, height, width]
        half = self.image_size // 2
        targets = F.adaptive_avg_pool2d(torch.from_numpy(masks.astype(np.float32)), (half, half))
        boxes = [
            [self._prompt(rng, masks[k, n]) for n in shape.prompted] for k in range(len(masks))
        ]
        pixels = torch.from_numpy(masks.sum(axis=(2, 3)))
        return images, torch.tensor(boxes, dtype=torch.float32), targets, pixels

    def _prompt(self, rng: np.random.Generator, mask: np.ndarray) -> list[float]:
        height, width = mask.shape
        box = sloppy_box(rng, mask_box(mask), self.config.box_jitter, (width, height))
        scale = np.array([self.image_size / width, self.image_size / height] * 2)
        return [float(value) for value in np.array(box) * scale]


def _instances(scene: Scene, index: int) -> np.ndarray:
    ids = scene.instances(index)
    if ids is None:
        raise ValueError(
            f"{scene.path}: frame {index} has no instance image; a tracker is trained on rooms "
            "with instance images, as `launch preprocess rooms --output DIR` makes them"
        )
    return ids


def eval_objects(
    scenes: list[Scene], limit: int, min_pixels: int
) -> Iterator[tuple[Scene, int, int, dict[int, np.ndarray]]]:
    """Yield (scene, object id, prompted frame, true masks of all frames) of held-out objects.

    The prompted frame is the one in the middle of those that show the object; rooms take turns,
    so that few objects come from many rooms.
    """
    per_scene = [list(_tracks(scene, min_pixels)) for scene in scenes]
    turns = [tracks[n] for n in range(32) for tracks in per_scene if n < len(tracks)]
    yield from turns[:limit]


def _tracks(
    scene: Scene, min_pixels: int
) -> Iterator[tuple[Scene, int, int, dict[int, np.ndarray]]]:
    images = {index: _instances(scene, index) for index in scene.frame_indices}
    for item in scene.objects:
        masks = {n: ids == item.object_id for n, ids in images.items()}
        shown = [n for n, mask in masks.items() if mask.sum() >= min_pixels]
        if len(shown) >= 3:
            yield scene, item.object_id, shown[len(shown) // 2], masks
