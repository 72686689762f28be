"""The case `lift` of `launch bench` on a GPU: depth, colour and dense masks already lie there.

The peer is the Open3D recipe in torch on the same GPU, since Open3D's own runs on CPUs. The room is
made of boxes and ray-cast in torch: nothing but torch and Triton has to be installed.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scenerl.configs.schema import LiftConfig
from scenerl.launch.bench_lift import MIN_POINTS, NEIGHBORS, RADIUS_M, STD_RATIO, iou
from scenerl.launch.measure import BenchSettings, Comparison, Entry, copy_bandwidth

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scenerl.kernels.fuse_torch import DenseViews
    from scenerl.kernels.views import Camera
    from scenerl.preprocess.records import Box3D

logger = logging.getLogger(__name__)

ROOM = (6.0, 5.0, 2.7)
OBJECT = ((2.68, 2.24, 0.42, 3.32, 2.76, 0.47), (2.74, 2.29, 0.0, 3.26, 2.71, 0.42))
"""A table: a top and a body, (x0, y0, z0, x1, y1, z1) in metres."""
OTHERS = (
    (0.3, 0.3, 0.0, 1.0, 2.0, 1.9),
    (4.9, 0.4, 0.0, 5.6, 1.2, 0.8),
    (0.4, 4.0, 0.0, 2.2, 4.7, 0.5),
    (4.6, 3.9, 0.0, 5.4, 4.6, 1.1),
)
BLEED_PX, BLOB_SHARE, BLOB_PX = 4, 0.1, 14
"""As in `launch/bench_lift_scene.py`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeviceRecording:
    """Frames and masks of one object on a device, and its true box."""

    dense: "DenseViews"
    mask: "Tensor"
    """bool [views, height, width]."""
    camera: "Camera"
    true_box: "Box3D"


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield the fused pass beside its floor, and masks to box beside the recipe in torch.

    Raises:
        ValueError: If the device is a CUDA one and torch sees none.
    """
    import torch

    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    frames, size = (6, (96, 72)) if settings.quick else (400, (640, 480))
    logger.info("rendering %d frames of %dx%d", frames, *size)
    recording = make_device_recording(frames, size, settings.device)
    share = float(recording.mask.float().mean())
    num_bytes = recording.mask.numel() * 5
    bandwidth = copy_bandwidth(settings.device)
    floor_ms = 1000 * num_bytes / bandwidth
    case = f"{frames} frames {size[0]}x{size[1]}, {share:.1%} masked, 2 cm, {settings.device}"
    note = f"copy: {bandwidth / 1e9:.0f} GB/s read and written; floor: {num_bytes / 1e6:.0f} MB"
    config = LiftConfig()
    yield Comparison(
        case=f"masks and depth to voxels and votes, {case}",
        ours=(
            Entry(name="fused", run=lambda: fuse(recording, config), floor_ms=floor_ms),
            Entry(
                name="fused, no colour",
                run=lambda: fuse(recording, config, with_colors=False),
                floor_ms=floor_ms,
            ),
        ),
        notes=(note,),
    )
    runs, peers = _boxes(recording, config)
    faultless = make_device_recording(frames, size, settings.device, faults=False)
    yield Comparison(
        case=f"masks to box, {case}",
        ours=tuple(Entry(name=name, run=run, floor_ms=floor_ms) for name, run in runs.items()),
        peers=tuple(Entry(name=name, run=run) for name, run in peers.items()),
        notes=(
            note,
            *_quality(recording, config, "with the faults of a tracker and a sensor"),
            *_quality(faultless, config, "with true masks and exact depth"),
        ),
        left_out=("Open3D: its outlier removal and clustering run on CPUs; see the case on cpu",),
    )


def _boxes(
    recording: DeviceRecording, config: LiftConfig
) -> "tuple[dict[str, Callable[[], Box3D | None]], dict[str, Callable[[], Box3D | None]]]":
    """Return the ways to a box, ours and the peers'."""
    runs: dict[str, Callable[[], Box3D | None]] = {
        "consensus": lambda: lift(recording, config),
        "consensus, no colour": lambda: lift(recording, config, with_colors=False),
    }
    peers: dict[str, Callable[[], Box3D | None]] = {
        "torch, grid": lambda: lift_torch(recording, 0.02),
        "torch, all pairs": lambda: lift_torch(recording, 0.02, all_pairs=True),
    }
    return runs, peers


def _quality(recording: DeviceRecording, config: LiftConfig, what: str) -> Iterator[str]:
    """Say how good the boxes are; on faultless input a correct peer has to be good too."""
    runs, peers = _boxes(recording, config)
    for name, run in (runs | peers).items():
        yield f"box IoU with the truth, {what}, {name}: {iou(run(), recording.true_box):.3f}"


def fuse(recording: DeviceRecording, config: LiftConfig, *, with_colors: bool = True) -> object:
    """Fuse the masks and count the votes; the result stays on the device."""
    from dataclasses import replace

    from scenerl.envs.lift import fuse_settings
    from scenerl.kernels.fuse_triton import fuse_masks_triton

    dense = recording.dense if with_colors else replace(recording.dense, color=None)
    settings = fuse_settings(config)
    voters = settings.spread(range(len(recording.mask)))
    return fuse_masks_triton(dense, recording.mask, voters, recording.camera, settings)


def lift(
    recording: DeviceRecording, config: LiftConfig, *, with_colors: bool = True
) -> "Box3D | None":
    """Do the whole work from masks on the device to a box."""
    from dataclasses import replace

    from scenerl.envs.lift import lift_device_masks

    dense = recording.dense if with_colors else replace(recording.dense, color=None)
    return lift_device_masks(dense, recording.mask, recording.camera, config).box_world


def lift_torch(
    recording: DeviceRecording, voxel_m: float, *, all_pairs: bool = False
) -> "Box3D | None":
    """Do what the Open3D pipeline of `launch/bench_lift.py` does, in torch on the device.

    Args:
        recording: Frames and masks.
        voxel_m: Edge of a voxel.
        all_pairs: Look for neighbours among all points, a block at a time, instead of in a grid.
    """
    import torch

    from scenerl.kernels.clean import dbscan, keep_statistical
    from scenerl.kernels.unproject import unproject
    from scenerl.kernels.voxel import voxel_downsample

    dense = recording.dense
    points, pixels = unproject(
        dense.depth_m, recording.mask, dense.intrinsics.float(), dense.poses.float()
    )
    assert dense.color is not None
    frame, v, u = pixels.unbind(dim=1)
    origin = points.amin(dim=0) - voxel_m / 2  # where Open3D's grid begins
    points, _ = voxel_downsample(points, voxel_m, dense.color[frame, v, u].float(), origin)
    if all_pairs:
        nearest = [
            torch.cdist(points[k : k + 2048], points).topk(NEIGHBORS, largest=False).values
            for k in range(0, len(points), 2048)
        ]
        distance = torch.cat(nearest).mean(dim=1)
        keep = distance < distance.mean() + STD_RATIO * distance.std()
    else:
        keep = keep_statistical(points, NEIGHBORS, STD_RATIO, backend="torch")
    points = points[keep]
    label = dbscan(points, RADIUS_M, MIN_POINTS, backend="torch")
    if not bool((label >= 0).any()):
        return None
    points = points[label == label[label >= 0].bincount().argmax()]
    low, high = points.amin(dim=0).tolist(), points.amax(dim=0).tolist()
    return (low[0], low[1], low[2], high[0], high[1], high[2])


def make_device_recording(
    num_frames: int, size: tuple[int, int], device: str, seed: int = 0, *, faults: bool = True
) -> DeviceRecording:
    """Ray-cast the room from a circle around the table, with a sensor's and tracker's `faults`."""
    import numpy as np
    import torch

    from scenerl.kernels.fuse_torch import DenseViews
    from scenerl.kernels.views import Camera

    width, height = size
    focal = 0.85 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    poses = torch.from_numpy(_circle(num_frames)).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    v, u = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    rays = torch.stack([(u - K[0, 2]) / focal, (v - K[1, 2]) / focal, torch.ones_like(u)], dim=-1)
    depth_m = torch.zeros(num_frames, height, width, device=device)
    mask = torch.zeros(num_frames, height, width, dtype=torch.bool, device=device)
    for k in range(num_frames):
        exact, true = _render(rays.double(), poses[k])
        depth_m[k] = _sensed(exact, generator) if faults else exact
        mask[k] = _tracked(true, generator, width / 640) if faults else true
    color = torch.randint(
        0,
        256,
        (num_frames, height, width, 3),
        dtype=torch.uint8,
        device=device,
        generator=generator,
    )
    low, high = np.array(OBJECT)[:, :3].min(axis=0), np.array(OBJECT)[:, 3:].max(axis=0)
    x0, y0, z0, x1, y1, z1 = (float(value) for value in (*low, *high))
    return DeviceRecording(
        dense=DenseViews(
            depth_m=depth_m, poses=poses, intrinsics=torch.from_numpy(K).to(device), color=color
        ),
        mask=mask,
        camera=Camera.of(size, K),
        true_box=(x0, y0, z0, x1, y1, z1),
    )


def _circle(num_frames: int) -> "np.ndarray":
    import numpy as np

    from scenerl.preprocess.rooms_layout import look_at

    middle, poses = np.array([3.0, 2.5, 0.24]), []
    for angle in np.linspace(0, 2 * np.pi, num_frames, endpoint=False):
        eye = middle + np.array([2.1 * np.cos(angle), 2.1 * np.sin(angle), 1.15])
        poses.append(look_at(eye, middle))
    return np.stack(poses)


def _render(rays: "Tensor", pose: "Tensor") -> "tuple[Tensor, Tensor]":
    """Return depth along z and where the object is seen; rays have z = 1 in camera axes."""
    import torch

    directions = rays @ pose[:3, :3].T  # [height, width, 3]
    room = torch.tensor((0.0, 0.0, 0.0, *ROOM), dtype=torch.float64, device=rays.device)
    nearest = _slabs(directions, pose[:3, 3], room)[1]
    seen = torch.zeros_like(nearest, dtype=torch.bool)
    for number, corners in enumerate((*OBJECT, *OTHERS)):
        box = torch.tensor(corners, dtype=torch.float64, device=rays.device)
        enter, leave = _slabs(directions, pose[:3, 3], box)
        hit = (enter > 0) & (enter < leave) & (enter < nearest)
        nearest = torch.where(hit, enter, nearest)
        seen = torch.where(hit, torch.full_like(seen, number < len(OBJECT)), seen)
    return nearest, seen


def _slabs(directions: "Tensor", eye: "Tensor", box: "Tensor") -> "tuple[Tensor, Tensor]":
    one, two = (box[:3] - eye) / directions, (box[3:] - eye) / directions
    return one.minimum(two).amax(dim=-1), one.maximum(two).amin(dim=-1)


def _sensed(exact: "Tensor", generator: "object") -> "Tensor":
    """Add noise that grows with the square of depth, and mix depths where they jump."""
    import torch

    noise = torch.randn(exact.shape, device=exact.device, generator=generator)  # type: ignore[call-overload]
    share = torch.rand(exact.shape, device=exact.device, generator=generator)  # type: ignore[call-overload]
    beside = exact.roll(1, dims=1)
    jump = (exact - beside).abs() > 0.1
    jump[:, 0] = False
    mixed = share * exact + (1 - share) * beside
    depth = torch.where(jump, mixed, exact + noise * 0.0012 * exact.square())
    return ((depth * 1000).round() / 1000).float()


def _tracked(true: "Tensor", generator: "object", scale: float) -> "Tensor":
    """Let a mask bleed to one side, and sometimes mark a blob elsewhere."""
    import torch

    height, width = true.shape
    draw = torch.rand(5, device=true.device, generator=generator).tolist()  # type: ignore[call-overload]
    dx, dy = (round((2 * value - 1) * BLEED_PX * scale) for value in draw[:2])
    mask = true | true.roll((dy, dx), dims=(0, 1))
    if draw[2] < BLOB_SHARE:
        v = torch.arange(height, device=true.device)[:, None] - draw[3] * height
        u = torch.arange(width, device=true.device)[None] - draw[4] * width
        mask = mask | (v.square() + u.square() < (BLOB_PX * scale) ** 2)
    return mask
