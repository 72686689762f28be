"""The case `lift` of `launch bench`: masks to a 3D box, ours against Open3D's legacy pipeline."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from scenerl.configs.schema import LiftConfig
from scenerl.launch.measure import BenchSettings, Comparison, Entry, read_bandwidth

if TYPE_CHECKING:
    import numpy as np

    from scenerl.launch.bench_lift_scene import Recording
    from scenerl.preprocess.records import Box3D

logger = logging.getLogger(__name__)

PACKAGES = ("open3d", "numba", "triton")
NEIGHBORS, STD_RATIO, RADIUS_M, MIN_POINTS = 20, 2.0, 0.05, 10
"""What the Open3D pipeline is usually given, and our exact variant with it."""


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield one comparison per voxel size: 400 frames of 640 x 480 with 5 % of them masked."""
    if settings.device != "cpu":
        from scenerl.launch.bench_lift_gpu import comparisons as on_device

        yield from on_device(settings)
        return
    from scenerl.launch.bench_lift_recipes import recipe_notes
    from scenerl.launch.bench_lift_scene import make_recording

    frames, size = (24, (160, 120)) if settings.quick else (400, (640, 480))
    logger.info("rendering %d frames of %dx%d", frames, *size)
    recording = make_recording(frames, size)
    share = sum(int(mask.sum()) for mask in recording.masks) / (frames * size[0] * size[1])
    floor_ms = _floor_ms(recording)
    for voxel_m in (0.02, 0.01):
        runs: dict[str, Callable[[], object]] = {
            "consensus": partial(lift, recording, LiftConfig(voxel_m=voxel_m)),
            "consensus, no colour": partial(
                lift, recording, LiftConfig(voxel_m=voxel_m), with_colors=False
            ),
            "exact": partial(lift, recording, exact_config(voxel_m)),
        }
        for run in runs.values():
            run()  # compiled code is loaded before anything is timed
        peers, left_out = _peers(recording, voxel_m)
        yield Comparison(
            case=f"{frames} frames {size[0]}x{size[1]}, {share:.1%} masked, {100 * voxel_m:.0f} cm",
            ours=tuple(Entry(name=name, run=run, floor_ms=floor_ms) for name, run in runs.items()),
            peers=tuple(Entry(name=name, run=run) for name, run in peers.items()),
            left_out=left_out,
            notes=(
                *(judge(name, run, recording.true_box) for name, run in (runs | peers).items()),
                *(recipe_notes(recording, voxel_m) if peers and voxel_m == 0.02 else ()),
            ),
        )


def exact_config(voxel_m: float) -> LiftConfig:
    """Return the settings under which our lift does what the Open3D pipeline does."""
    return LiftConfig(
        recipe="open3d",
        voxel_m=voxel_m,
        outlier_neighbors=NEIGHBORS,
        outlier_std_ratio=STD_RATIO,
        component_radius_m=RADIUS_M,
        cluster_min_points=MIN_POINTS,
    )


def lift(recording: "Recording", config: LiftConfig, *, with_colors: bool = True) -> "Box3D | None":
    """Do the whole work from masks to a box, as `lift_objects` does it for decoded frames."""
    from dataclasses import replace

    from scenerl.envs.lift import lift_patches
    from scenerl.kernels.fuse import cut_patches

    views = recording.views
    if not with_colors:
        views = [replace(view, color=None) for view in views]
    patches = cut_patches(dict(enumerate(recording.masks)), recording.camera)
    return lift_patches(views, [patches], recording.camera, config)[0].box_world


def lift_open3d(recording: "Recording", voxel_m: float) -> "Box3D | None":
    """Do the same with Open3D's legacy point clouds, as its tutorials write it."""
    import numpy as np

    cloud = open3d_cloud(recording).voxel_down_sample(voxel_m)
    cloud, _ = cloud.remove_statistical_outlier(NEIGHBORS, STD_RATIO)
    label = np.asarray(cloud.cluster_dbscan(RADIUS_M, MIN_POINTS))
    return box_of_largest(np.asarray(cloud.points), label)


def open3d_cloud(recording: "Recording") -> Any:
    """Return the masked pixels of all frames as one of Open3D's point clouds."""
    import numpy as np
    import open3d as o3d

    geometry: Any = o3d.geometry
    width, height = recording.camera.size
    K = recording.camera.intrinsics
    pinhole: Any = o3d.camera.PinholeCameraIntrinsic(
        width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    )
    cloud = geometry.PointCloud()
    for view, mask in zip(recording.views, recording.masks, strict=True):
        image = geometry.RGBDImage.create_from_color_and_depth(
            geometry.Image(view.color),
            geometry.Image(np.where(mask, view.depth_m, np.float32(0))),
            depth_scale=1.0,
            depth_trunc=10.0,
            convert_rgb_to_intensity=False,
        )
        cloud += geometry.PointCloud.create_from_rgbd_image(
            image, pinhole, np.linalg.inv(view.camera_to_world)
        )
    return cloud


def box_of_largest(points: "np.ndarray", label: "np.ndarray") -> "Box3D | None":
    """Return the box around the largest cluster, the first of equals; None where there is none."""
    import numpy as np

    if not (label >= 0).any():
        return None
    mine = points[label == np.bincount(label[label >= 0]).argmax()]
    x0, y0, z0, x1, y1, z1 = (float(v) for v in (*mine.min(axis=0), *mine.max(axis=0)))
    return (x0, y0, z0, x1, y1, z1)


def judge(name: str, run: "Callable[[], Box3D | None]", true_box: "Box3D") -> str:
    """Say how good one more run's box is and what processor time of all threads it took."""
    begin = time.process_time()
    box = run()
    seconds = time.process_time() - begin
    return f"{name}: box IoU with the truth {iou(box, true_box):.3f}, {seconds:.2f} CPU s"


def iou(box: "Box3D | None", true_box: "Box3D") -> float:
    """Return the 3D IoU; 0 for no box."""
    from scenerl.envs.chain import world_iou

    return world_iou(box, true_box)


def _peers(
    recording: "Recording", voxel_m: float
) -> tuple[dict[str, Callable[[], Any]], tuple[str, ...]]:
    try:
        import open3d
    except (ImportError, OSError) as error:
        return {}, (f"Open3D: {error}",)
    return {f"Open3D {open3d.__version__}": lambda: lift_open3d(recording, voxel_m)}, ()


def _floor_ms(recording: "Recording") -> float:
    """Return the least time to read the masks, and depth and colour inside their bounding boxes."""
    from scenerl.kernels.fuse import cut_patches

    patches = cut_patches(dict(enumerate(recording.masks)), recording.camera)
    width, height = recording.camera.size
    dense = len(recording.masks) * width * height
    inside = sum(patch.mask.size for patch in patches)
    return 1000 * (dense + inside * (4 + 3)) / read_bandwidth()
