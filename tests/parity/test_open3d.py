"""Ours against Open3D on the same input."""

import numpy as np
import pytest
import torch

from scenerl.kernels.clean import components, dbscan, keep_radius, keep_statistical
from scenerl.kernels.unproject import unproject
from scenerl.kernels.voxel import voxel_downsample
from scenerl.launch.bench_lift import exact_config, lift, lift_open3d
from scenerl.launch.bench_lift_scene import make_recording

o3d = pytest.importorskip("open3d", reason="open3d is not installed")


def cloud(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    points[:, 2] *= 0.1
    return points


def as_open3d(points: torch.Tensor):
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.numpy()))


def ordered(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(9).T)]


def test_unprojection_equals_open3d():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 4, (24, 32)).astype(np.float32)
    depth[3:6, 4:9] = 0
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, [1.0, -2.0, 0.5]
    camera = o3d.camera.PinholeCameraIntrinsic(32, 24, 30.0, 31.0, 15.5, 11.25)
    theirs = o3d.geometry.PointCloud.create_from_depth_image(
        o3d.geometry.Image(depth), camera, np.linalg.inv(pose), depth_scale=1.0, depth_trunc=100.0
    )
    ours, _ = unproject(
        torch.tensor(depth)[None],
        torch.ones(1, 24, 32, dtype=torch.bool),
        torch.tensor(camera.intrinsic_matrix),
        torch.tensor(pose)[None],
    )
    assert len(ours) == 24 * 32 - 15
    assert np.allclose(ours.numpy(), np.asarray(theirs.points), atol=1e-9)


@pytest.mark.parametrize("voxel_m", [0.03, 0.11])
def test_voxels_equal_open3d(voxel_m):
    points = cloud(3000, 1)
    theirs = np.asarray(as_open3d(points).voxel_down_sample(voxel_m).points)
    ours, _ = voxel_downsample(points, voxel_m)
    assert ours.shape == theirs.shape
    assert np.allclose(ordered(ours.numpy()), ordered(theirs), atol=1e-9)


@pytest.mark.parametrize(("count", "neighbors", "ratio"), [(2000, 16, 2.0), (500, 8, 1.0)])
def test_statistical_outliers_equal_open3d(count, neighbors, ratio):
    points = cloud(count, 2)
    _, kept = as_open3d(points).remove_statistical_outlier(neighbors, ratio)
    ours = keep_statistical(points, neighbors, ratio)
    assert 0 < len(kept) < count
    assert ours.nonzero()[:, 0].tolist() == list(kept)


@pytest.mark.parametrize("radius_m", [0.02, 0.03, 0.2])
def test_components_equal_dbscan_with_one_point(radius_m):
    points = cloud(2000, 3)
    theirs = np.array(as_open3d(points).cluster_dbscan(radius_m, 1))
    ours = components(points, radius_m).numpy()
    pairs = set(zip(ours.tolist(), theirs.tolist(), strict=True))
    assert len(pairs) == len(set(ours.tolist())) == len(set(theirs.tolist()))


@pytest.mark.parametrize(("neighbors", "radius_m"), [(1, 0.03), (4, 0.03), (9, 0.06)])
def test_radius_outliers_equal_open3d(neighbors, radius_m):
    points = cloud(2000, 4)
    _, kept = as_open3d(points).remove_radius_outlier(neighbors, radius_m)
    ours = keep_radius(points, neighbors, radius_m)
    assert 0 < len(kept) < 2000
    assert ours.nonzero()[:, 0].tolist() == list(kept)


@pytest.mark.parametrize(("radius_m", "min_points"), [(0.02, 3), (0.03, 4), (0.04, 10), (0.2, 5)])
def test_dbscan_equals_open3d_label_for_label(radius_m, min_points):
    points = cloud(2000, 5)
    theirs = np.asarray(as_open3d(points).cluster_dbscan(radius_m, min_points))
    assert dbscan(points, radius_m, min_points).tolist() == theirs.tolist()


def test_points_that_coincide_are_outliers_as_in_open3d():
    points = cloud(300, 6)
    points[:20] = points[0]
    _, kept = as_open3d(points).remove_statistical_outlier(8, 1.0)
    assert keep_statistical(points, 8, 1.0).nonzero()[:, 0].tolist() == list(kept)


def test_the_exact_recipe_gives_the_box_of_the_open3d_pipeline():
    recording = make_recording(24, (160, 120))
    theirs = lift_open3d(recording, 0.02)
    assert lift(recording, exact_config(0.02)) == pytest.approx(theirs, abs=1e-8)
