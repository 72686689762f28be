"""The compiled lift against its torch twin: the same voxels to the last digit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.configs.schema import LiftConfig
from scenerl.envs.lift import lift_patches
from scenerl.kernels.clean import components, dbscan, keep_radius, keep_statistical
from scenerl.kernels.fuse import cut_patch, cut_patches, fuse_objects, lowest_corner
from scenerl.kernels.neighbors import neighbor_distances, neighbors_within
from scenerl.kernels.unproject import project
from scenerl.kernels.views import Camera, FuseSettings, Patch, View, Voxels

FIELDS = ("points", "colors", "counts", "could_see", "marks", "views")
SETTINGS = FuseSettings(voxel_m=0.2, min_depth_m=0.6, max_depth_m=3.5, edge_jump_m=1.5)


def frames(seed: int, num: int, size: tuple[int, int], color: bool = True) -> list[View]:
    """Random depth with holes, NaN and infinity, random poses."""
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(num):
        depth = rng.uniform(0.5, 4, size[::-1]).astype(np.float32)
        depth[rng.random(depth.shape) < 0.1] = 0
        depth.flat[:: max(1, depth.size // 3)] = rng.choice([np.nan, np.inf, -1.0])
        pose = np.eye(4)
        pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        pose[:3, 3] = rng.normal(size=3)
        image = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8) if color else None
        views.append(View(depth_m=depth, camera_to_world=pose, color=image))
    return views


def camera(size: tuple[int, int]) -> Camera:
    return Camera.of(size, np.array([[30.0, 0, size[0] / 2], [0, 31, size[1] / 2], [0, 0, 1]]))


def masks(seed: int, num: int, size: tuple[int, int], share: float = 0.5) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {view: rng.random(size[::-1]) < share for view in range(num)}


def same(ours: list[Voxels], twin: list[Voxels]) -> None:
    for one, two in zip(ours, twin, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(two, field), field)


@pytest.mark.parametrize("size", [(32, 24), (33, 25), (7, 3), (1, 1)])
@pytest.mark.parametrize("num", [1, 5, 70])
def test_compiled_voxels_and_votes_equal_the_twins(size: tuple[int, int], num: int) -> None:
    views, cam = frames(num, num, size), camera(size)
    objects = [cut_patches(masks(seed, num, size), cam) for seed in (0, 1, 2)]
    same(
        fuse_objects(views, objects, cam, SETTINGS, backend="numba"),
        fuse_objects(views, objects, cam, SETTINGS, backend="torch"),
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_digit(threads: int) -> None:
    views, cam = frames(0, 9, (32, 24)), camera((32, 24))
    objects = [cut_patches(masks(0, 9, (32, 24)), cam)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        threaded = fuse_objects(views, objects, cam, SETTINGS, backend="numba")
    finally:
        torch.set_num_threads(before)
    same(threaded, fuse_objects(views, objects, cam, SETTINGS, backend="torch"))


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_nothing_marked_and_nothing_measured_give_no_voxels(backend) -> None:
    size = (16, 12)
    views, cam = frames(0, 3, size, color=False), camera(size)
    blank = [View(depth_m=np.zeros((12, 16), np.float32), camera_to_world=np.eye(4))] * 3
    empty = cut_patches(masks(0, 3, size, share=0.0), cam, backend)
    full = cut_patches(masks(0, 3, size), cam, backend)
    for given_views, patches in ((views, empty), (views, []), (blank, full), ([], [])):
        (cloud,) = fuse_objects(given_views, [patches], cam, SETTINGS, backend=backend)
        assert len(cloud.points) == 0
        (lifted,) = lift_patches(given_views, [patches], cam, LiftConfig(), backend=backend)
        assert lifted.box_world is None
        assert lifted.views == ()


def test_memory_layout_and_dtype_of_the_input_do_not_matter() -> None:
    size = (32, 24)
    views, cam = frames(3, 4, size), camera(size)
    turned = [
        View(
            depth_m=np.asfortranarray(view.depth_m).astype(np.float64),
            camera_to_world=np.asfortranarray(view.camera_to_world),
            color=np.asfortranarray(view.color),
        )
        for view in views
    ]
    mine = masks(3, 4, size)
    strided = {n: np.repeat(mask, 2, axis=1)[:, ::2] for n, mask in mine.items()}
    same(
        fuse_objects(turned, [cut_patches(strided, cam)], cam, SETTINGS, backend="numba"),
        fuse_objects(views, [cut_patches(mine, cam)], cam, SETTINGS, backend="torch"),
    )


def test_colour_frames_of_another_size_are_looked_up_where_they_lie() -> None:
    size, large = (16, 12), (40, 30)
    K = np.array([[12.0, 0, 7.5], [0, 12.0, 5.5], [0, 0, 1]])
    wide = np.diag([2.5, 2.5, 1]) @ K
    cam = Camera.of(size, K, large, wide)
    rng = np.random.default_rng(0)
    mask = rng.random((30, 40)) < 0.5
    patch = cut_patch(mask, 0, cam)
    for v in range(12):
        for u in range(16):
            row, column = cam.color_row[v], cam.color_column[u]
            inside = 0 <= v - patch.top < len(patch.mask)
            inside &= 0 <= u - patch.left < patch.mask.shape[1]
            marked = inside and bool(patch.mask[v - patch.top, u - patch.left])
            assert marked == (row >= 0 and column >= 0 and bool(mask[row, column]))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_cut_holds_every_marked_pixel_and_no_row_too_many(width, height, seed) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    marked = rng.integers(0, [height, width], (int(rng.integers(0, 4)), 2))
    mask[marked[:, 0], marked[:, 1]] = True
    patch = cut_patch(mask, 0, camera((width, height)), "numba")
    again = np.zeros_like(mask)
    rows, columns = patch.mask.shape
    again[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.mask
    np.testing.assert_array_equal(again, mask)
    assert rows == (np.ptp(marked[:, 0]) + 1 if len(marked) else 0)


def test_smeared_depth_behind_an_edge_makes_no_voxels() -> None:
    # A plate at 1 m before a wall at 2 m, and between them a column as a sensor smears it.
    depth = np.full((12, 16), 2.0, np.float32)
    depth[:, :6], depth[:, 6] = 1.0, 1.5
    view, cam = View(depth_m=depth, camera_to_world=np.eye(4)), camera((16, 12))
    patch = cut_patch(np.ones((12, 16), bool), 0, cam)
    for jump, steps in ((0.1, {1.0, 2.0}), (0.0, {1.0, 1.5, 2.0})):
        chosen = FuseSettings(voxel_m=0.01, edge_jump_m=jump)
        (cloud,) = fuse_objects([view], [[patch]], cam, chosen)
        assert set(np.round(cloud.points[:, 2], 6).tolist()) == steps
    # The pixels of the wall beside the smear are behind it by more than the jump: left out too.
    (cloud,) = fuse_objects([view], [[patch]], cam, FuseSettings(voxel_m=0.01, edge_jump_m=0.1))
    assert cloud.counts.sum() == 12 * 6 + 12 * 8


def test_a_thousand_views_of_one_voxel_are_each_remembered() -> None:
    view = View(depth_m=np.ones((1, 1), np.float32), camera_to_world=np.eye(4))
    patches = [Patch(view=k, top=0, left=0, mask=np.ones((1, 1), np.uint8)) for k in range(1000)]
    (cloud,) = fuse_objects([view] * 1000, [patches], camera((1, 1)), FuseSettings(voxel_m=1.0))
    assert cloud.counts.tolist() == cloud.marks.tolist() == [1000]
    assert cloud.seen_by(np.array([True])) == list(range(1000))


def test_a_cloud_beyond_the_reach_of_the_keys_is_refused() -> None:
    view = View(depth_m=np.full((2, 2), 3.0, np.float32), camera_to_world=np.eye(4))
    patch = Patch(view=0, top=0, left=0, mask=np.ones((2, 2), np.uint8))
    with pytest.raises(ValueError, match="more than 1 m from the first camera"):
        fuse_objects([view], [[patch]], camera((2, 2)), FuseSettings(voxel_m=1e-6), backend="numba")


def test_the_lowest_corner_equals_the_twins() -> None:
    views, cam = frames(5, 6, (20, 15)), camera((20, 15))
    patches = cut_patches(masks(5, 6, (20, 15)), cam)
    twin = lowest_corner(views, patches, cam, SETTINGS, backend="torch")
    assert lowest_corner(views, patches, cam, SETTINGS, backend="numba") == twin


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_permuting_the_frames_changes_nothing(seed: int) -> None:
    size, cam = (20, 15), camera((20, 15))
    views, mine = frames(seed, 6, size), masks(seed, 6, size)
    order = np.random.default_rng(seed).permutation(6).tolist()
    config = LiftConfig(voxel_m=0.3, component_radius_m=0.7, min_view_share=0.2)
    (one,) = lift_patches(views, [cut_patches(mine, cam)], cam, config)
    shuffled = {place: mine[old] for place, old in enumerate(order)}
    (two,) = lift_patches([views[old] for old in order], [cut_patches(shuffled, cam)], cam, config)
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(one.colors, two.colors)
    assert one.box_world == two.box_world
    assert sorted(order[view] for view in two.views) == list(one.views)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_lifting_one_pixel_and_projecting_it_is_the_identity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, cam = (20, 15), camera((20, 15))
    (view,) = frames(seed, 1, size)
    view.depth_m[:] = rng.uniform(1, 3)
    v, u = int(rng.integers(15)), int(rng.integers(20))
    mask = np.zeros((15, 20), bool)
    mask[v, u] = True
    (cloud,) = fuse_objects([view], [[cut_patch(mask, 0, cam)]], cam, FuseSettings(voxel_m=0.02))
    uv, z = project(
        torch.from_numpy(cloud.points),
        torch.from_numpy(cam.intrinsics),
        torch.from_numpy(view.camera_to_world),
    )
    # Offsets are kept in steps of 2^-32 m.
    assert uv[0].tolist() == pytest.approx([u, v], abs=1e-6)
    assert float(z[0]) == pytest.approx(float(view.depth_m[v, u]), abs=1e-8)
    assert cloud.counts.tolist() == cloud.could_see.tolist() == cloud.marks.tolist() == [1]


def test_many_objects_at_once_are_each_as_if_alone() -> None:
    views, cam = frames(8, 5, (32, 24)), camera((32, 24))
    objects = [cut_patches(masks(seed, 5, (32, 24), 0.3), cam) for seed in range(6)]
    together = fuse_objects(views, objects, cam, SETTINGS)
    same(together, [fuse_objects(views, [one], cam, SETTINGS)[0] for one in objects])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 40, 900])
def test_compiled_neighbour_searches_equal_their_twins(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    points = torch.rand(count, 3, generator=generator, dtype=dtype)
    points[: count // 20] *= 40
    k = min(7, count)
    found = neighbor_distances(points, k, backend="numba")
    assert torch.allclose(found, neighbor_distances(points, k, backend="torch"), atol=1e-6)
    for radius_m in (0.05, 0.3):
        for function in (
            lambda backend, r=radius_m: neighbors_within(points, r, backend),
            lambda backend, r=radius_m: neighbors_within(points, r, backend, enough=3) >= 3,
            lambda backend, r=radius_m: components(points, r, backend=backend),
            lambda backend, r=radius_m: components(points, r, closed=False, backend=backend),
            lambda backend, r=radius_m: dbscan(points, r, 4, backend),
            lambda backend, r=radius_m: keep_radius(points, 3, r, backend),
        ):
            assert torch.equal(function("numba"), function("torch"))
    ours = keep_statistical(points, 6, 1.5, backend="numba")
    assert torch.equal(ours, keep_statistical(points, 6, 1.5, backend="torch"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(33, 400), side=st.integers(1, 12))
def test_equal_distances_are_all_counted(seed: int, count: int, side: int) -> None:
    points = np.random.default_rng(seed).integers(0, side, (count, 3)) * 0.1
    expected = np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, :20]
    found = neighbor_distances(torch.from_numpy(points), 20, backend="numba")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_a_wall_along_an_axis_has_room() -> None:
    """All cells agree in one coordinate; many of them would want the same places."""
    size = (640, 480)
    view = View(depth_m=np.full(size[::-1], 2.0, np.float32), camera_to_world=np.eye(4))
    cam = Camera.of(size, np.array([[300.0, 0, 320], [0, 300, 240], [0, 0, 1]]))
    patches = cut_patches({0: np.ones(size[::-1], bool)}, cam)
    chosen = FuseSettings(voxel_m=0.01, tolerance_m=None)
    ours = fuse_objects([view], [patches], cam, chosen, backend="numba")
    same(ours, fuse_objects([view], [patches], cam, chosen, backend="torch"))
    assert len(ours[0].points) > 130_000


def test_an_image_too_wide_for_the_compiled_sums_is_refused() -> None:
    view = View(depth_m=np.ones((1, 8193), np.float32), camera_to_world=np.eye(4))
    cam = Camera.of((8193, 1), np.eye(3))
    patches = cut_patches({0: np.ones((1, 8193), bool)}, cam)
    with pytest.raises(ValueError, match="8193 pixels wide; the compiled lift takes at most 8192"):
        fuse_objects([view], [patches], cam, SETTINGS, backend="numba")


SMALL = (((5, 3), 3, True), ((1, 1), 1, False), ((130, 2), 1, True), ((2, 34), 1, False))
"""Size, frames, colour: within one tile, one pixel, and over the edges of tiles."""
LARGE = (((640, 480), 3, True), ((333, 77), 70, True), ((64, 96), 130, False))


def triton_equals_the_twin(device: str, cases: tuple = SMALL) -> None:
    for size, num, color in cases:
        views, cam = frames(num, num, size, color), camera(size)
        objects = [cut_patches(masks(num, num, size), cam), []]
        for chosen in (SETTINGS, FuseSettings(voxel_m=0.3, max_vote_views=2)):
            same(
                fuse_objects(views, objects, cam, chosen, device, backend="triton"),
                fuse_objects(views, objects, cam, chosen, device, backend="torch"),
            )


def triton_neighbours_equal_the_twins(device: str, counts: tuple[int, ...]) -> None:
    for count in counts:
        generator = torch.Generator().manual_seed(count)
        points = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        points[: count // 20] *= 40
        points, k = points.to(device), min(7, count)
        found = neighbor_distances(points, k, backend="triton")
        assert torch.allclose(found, neighbor_distances(points, k, backend="torch"), atol=1e-9)
        for radius_m in (0.05, 0.3):
            for closed in (True, False):
                ours = components(points, radius_m, closed, backend="triton")
                assert torch.equal(ours, components(points, radius_m, closed, backend="torch"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", ["triton_equals_the_twin('cpu')", "triton_neighbours_equal_the_twins('cpu', (1, 90))"]
)
def test_triton_kernels_equal_the_twin_under_the_interpreter(check: str) -> None:
    # The interpreter has to be chosen before Triton is imported: a process of its own.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_fuse import *; {check}"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_triton_kernels_equal_the_twin_on_a_gpu() -> None:
    triton_equals_the_twin("cuda", SMALL + LARGE)
    triton_neighbours_equal_the_twins("cuda", (1, 90, 3000))
