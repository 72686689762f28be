"""How good a box Open3D's functions can give: many recipes on the cloud of `launch bench lift`."""

import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scenerl.launch.bench_lift import box_of_largest, iou, open3d_cloud

if TYPE_CHECKING:
    from scenerl.launch.bench_lift_scene import Recording

logger = logging.getLogger(__name__)

OUTLIERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda cloud: cloud,
    "statistical 20, 2": lambda cloud: cloud.remove_statistical_outlier(20, 2.0)[0],
    "statistical 50, 0.5": lambda cloud: cloud.remove_statistical_outlier(50, 0.5)[0],
    "radius 16 in 5 cm": lambda cloud: cloud.remove_radius_outlier(16, 0.05)[0],
    "radius 30 in 5 cm": lambda cloud: cloud.remove_radius_outlier(30, 0.05)[0],
    "radius 45 in 5 cm": lambda cloud: cloud.remove_radius_outlier(45, 0.05)[0],
}
CLUSTERS = ((0.03, 5), (0.05, 10), (0.05, 30))
"""(eps, min_points) of DBSCAN."""
SHOWN = 3


def recipe_notes(recording: "Recording", voxel_m: float) -> list[str]:
    """Return what the best recipes' boxes are worth, and how many were tried."""
    return rank(recipe_ious(recording, voxel_m))


def recipe_ious(recording: "Recording", voxel_m: float) -> dict[str, float]:
    """Return recipe -> IoU of its box with the true one; each is outliers out, then DBSCAN."""
    import numpy as np

    voxels = open3d_cloud(recording).voxel_down_sample(voxel_m)
    found = {}
    for (name, clean), (eps, least) in itertools.product(OUTLIERS.items(), CLUSTERS):
        cloud = clean(voxels)
        box = box_of_largest(np.asarray(cloud.points), np.asarray(cloud.cluster_dbscan(eps, least)))
        recipe = f"outliers {name}; DBSCAN {100 * eps:g} cm, {least}"
        found[recipe] = iou(box, recording.true_box)
    logger.info("tried %d recipes of Open3D", len(found))
    return found


def rank(ious: dict[str, float]) -> list[str]:
    """Write the best recipes, best first."""
    best = sorted(ious, key=lambda recipe: -ious[recipe])[:SHOWN]
    return [
        f"of {len(ious)} Open3D recipes, number {place + 1}: box IoU {ious[recipe]:.3f}, {recipe}"
        for place, recipe in enumerate(best)
    ]
