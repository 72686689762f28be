"""Which object a pixel shows: a square in front of a wall, and what the sensor measured."""

import numpy as np
import pytest
from recording import small_room
from scans import room_mesh

from scenerl.preprocess.scannet_frames import output_intrinsics
from scenerl.preprocess.scannet_views import MAX_RAYS, FrameGrid, InstanceViews
from scenerl.preprocess.sens import SensHeader

K = np.array([[10.0, 0, 9.5], [0, 10, 9.5], [0, 0, 1]])
"""20x20 pixels; a pixel at 2 m is 0.2 m wide."""


def square(side: float, z: float) -> np.ndarray:
    return np.array([[-side, -side, z], [side, -side, z], [side, side, z], [-side, side, z]])


def scene() -> InstanceViews:
    """A square of 0.8 m (object 3) at 2 m before a wall of 8 m (object 1) at 4 m."""
    points = np.concatenate([square(0.4, 2), square(4, 4)]).astype(np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    return InstanceViews(points, triangles, np.array([3, 3, 3, 3, 1, 1, 1, 1], np.uint32))


def view(depth_m: np.ndarray) -> np.ndarray:
    grid = FrameGrid(K, (20, 20), K, (20, 20))
    return grid.see(scene(), np.eye(4), depth_m)


def test_the_nearest_surface_is_seen() -> None:
    ids = view(np.zeros((20, 20), np.float32))
    expected = np.ones((20, 20), np.uint16)
    expected[8:12, 8:12] = 3  # 0.8 m at 0.2 m a pixel, in the middle
    np.testing.assert_array_equal(ids, expected)


def test_a_pixel_where_the_sensor_sees_something_else_shows_no_object() -> None:
    depth = np.full((20, 20), 4.0, np.float32)
    depth[8:12, 8:12] = 2.0
    depth[:, 5] = 1.0  # somebody walks by
    depth[8, 8] = 4.0  # the wall is seen where the mesh has the square
    depth[9, 9] = 0.0  # nothing measured
    ids = view(depth)
    assert not ids[:, 5].any()
    assert ids[8, 8] == 0
    assert ids[9, 9] == 3
    assert np.count_nonzero(ids == 3) == 15
    assert np.count_nonzero(ids == 1) == 400 - 20 - 16


def test_noise_of_the_sensor_hides_nothing() -> None:
    depth = np.full((20, 20), 4.25, np.float32)  # within 0.1 + 5 % of 4 m
    depth[8:12, 8:12] = 1.85
    assert np.count_nonzero(view(depth) == 0) == 0


def test_a_moved_camera_sees_the_square_elsewhere() -> None:
    pose = np.eye(4)
    pose[0, 3] = 0.6  # 3 pixels at 2 m
    grid = FrameGrid(K, (20, 20), K, (20, 20))
    ids = grid.see(scene(), pose, np.zeros((20, 20), np.float32))
    rows, columns = np.nonzero(ids == 3)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (5, 8, 8, 11)


def test_a_large_frame_is_seen_through_every_second_pixel() -> None:
    width, height = 1296, 968
    large = np.array([[1000.0, 0, 647.5], [0, 1000, 483.5], [0, 0, 1]])
    grid = FrameGrid(large, (width, height), K, (20, 20))
    assert grid.stride == 2
    assert grid.rays.shape[0] * grid.rays.shape[1] <= MAX_RAYS
    ids = grid.see(scene(), np.eye(4), np.zeros((20, 20), np.float32))
    assert ids.shape == (height, width)
    rows, columns = np.nonzero(ids == 3)
    # 0.4 m at 2 m are 200 pixels to each side of the middle, even numbers from the doubling.
    assert (columns.min(), columns.max() + 1) == (448, 848)
    assert (rows.min(), rows.max() + 1) == (284, 684)


def test_colour_and_depth_cameras_may_differ() -> None:
    depth_camera = np.array([[5.0, 0, 4.5], [0, 5, 4.5], [0, 0, 1]])  # 10x10 pixels
    grid = FrameGrid(K, (20, 20), depth_camera, (10, 10))
    depth = np.full((10, 10), 4.0, np.float32)
    depth[4:6, 4:6] = 2.0
    depth[:, 0] = 1.0
    ids = grid.see(scene(), np.eye(4), depth)
    assert np.count_nonzero(ids == 3) == 16
    # Columns 0 and 1 meet depth column 0 (x * 5 + 4.5 = -0.25 and 0.25).
    assert not ids[:, :2].any()
    assert ids[0, 2] == 1


def test_the_rooms_own_instance_images_come_back() -> None:
    room, rendered = small_room()
    points, triangles, owners = room_mesh()
    owners = np.where(owners > len(room.pieces), 0, owners)
    piece_ids = np.array([0, *(piece.object_id for piece in room.pieces)])
    views = InstanceViews(
        points.astype(np.float32), triangles.astype(np.int32), piece_ids[owners].astype(np.uint32)
    )
    height, width = rendered.depth_mm[0].shape
    grid = FrameGrid(rendered.intrinsics, (width, height), rendered.intrinsics, (width, height))
    for number in range(0, len(rendered.depth_mm), 4):
        depth_m = rendered.depth_mm[number].astype(np.float32) / 1000
        ids = grid.see(views, rendered.camera_to_world[number], depth_m)
        # Pixels on an edge may go to either side.
        assert (ids == rendered.instance[number]).mean() > 0.985


def test_a_resize_moves_the_principal_point_by_half_pixels() -> None:
    color = np.eye(4, dtype=np.float32)
    color[:2, :3] = [[1000, 0, 647.5], [0, 1000, 483.5]]  # the middle of 1296x968
    header = SensHeader(
        intrinsic_color=color,
        intrinsic_depth=color,
        extrinsic_color=np.eye(4),
        extrinsic_depth=np.eye(4),
        color_size=(1296, 968),
        depth_size=(640, 480),
    )
    resized, depth = output_intrinsics(header, (648, 242))
    np.testing.assert_allclose(resized, [[500, 0, 323.5], [0, 250, 120.5], [0, 0, 1]])
    np.testing.assert_array_equal(depth, color[:3, :3])
    same, _ = output_intrinsics(header, None)
    np.testing.assert_array_equal(same, color[:3, :3])


@pytest.mark.parametrize("corners", [(3, 3, 1), (1, 3, 3), (3, 1, 3)])
def test_a_triangle_takes_the_object_of_most_corners(corners: tuple[int, int, int]) -> None:
    points = np.array([[-9, -9, 2], [9, -9, 2], [0, 9, 2]], np.float32)
    views = InstanceViews(points, np.array([[0, 1, 2]], np.int32), np.array(corners, np.uint32))
    ids, depth_m = views.cast(np.array([[0, 0, 1]], np.float32), np.eye(4))
    assert (ids.tolist(), depth_m.tolist()) == ([3], [2.0])
