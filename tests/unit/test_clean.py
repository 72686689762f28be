"""Voxels, neighbours, components, views, boxes and planes."""

import pytest
import torch

from scenerl.kernels.box_fit import fit_box
from scenerl.kernels.clean import components, keep_strong_components, view_votes
from scenerl.kernels.neighbors import neighbor_distances
from scenerl.kernels.planes import bounding_planes, on_planes
from scenerl.kernels.unproject import flying_pixels, grid_pixels
from scenerl.kernels.voxel import voxel_downsample, voxel_index


def line(start: float, count: int) -> torch.Tensor:
    points = torch.zeros(count, 3, dtype=torch.float64)
    points[:, 0] = start + 0.05 * torch.arange(count)
    return points


def test_a_voxel_is_the_mean_of_its_points():
    points = torch.tensor([[0.1, 0, 0], [0.3, 0, 0], [1.2, 0, 0]])
    colors = torch.tensor([[0.0, 0, 0], [10, 0, 0], [7, 7, 7]])
    means, mean_colors = voxel_downsample(points, 1.0, colors, origin=torch.zeros(3))
    assert torch.allclose(means, torch.tensor([[0.2, 0, 0], [1.2, 0, 0]]))
    assert torch.allclose(mean_colors, torch.tensor([[5.0, 0, 0], [7, 7, 7]]))


def test_negative_cells_and_counts():
    cells, inverse, counts = voxel_index(
        torch.tensor([[-0.5, 0, 0], [0.5, 0, 0], [-0.1, 0, 0]]), 1.0, torch.zeros(3)
    )
    assert cells.tolist() == [[-1, 0, 0], [0, 0, 0]]
    assert inverse.tolist() == [0, 1, 0]
    assert counts.tolist() == [2, 1]


def test_a_voxel_edge_must_be_positive():
    with pytest.raises(ValueError, match="voxel_m is 0"):
        voxel_index(torch.zeros(2, 3), 0)


def test_two_lines_apart_are_two_components_and_the_longer_stays():
    points = torch.cat([line(0, 5), line(1, 9)])
    label = components(points, 0.06)
    assert label.tolist() == [0] * 5 + [5] * 9
    assert keep_strong_components(points, 0.06).tolist() == [False] * 5 + [True] * 9
    heavy = torch.tensor([10.0] * 5 + [1.0] * 9)
    assert keep_strong_components(points, 0.06, heavy).tolist() == [True] * 5 + [False] * 9
    assert keep_strong_components(points, 0.06, min_share=0.5).all()


def test_no_points_have_no_components():
    assert len(components(torch.zeros(0, 3), 0.1)) == 0
    assert len(keep_strong_components(torch.zeros(0, 3), 0.1)) == 0


def test_neighbour_distances_equal_those_of_all_pairs():
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(700, 3, generator=generator, dtype=torch.float64)
    points[:40] *= 30  # far points need larger cells than the rest
    expected = torch.cdist(points, points).sort(dim=1).values[:, :9]
    # cdist of the reference goes through a matrix product, which loses half of the digits near 0
    assert torch.allclose(neighbor_distances(points, 9), expected, atol=1e-6)


def test_views_vote_see_through_and_occlude():
    K = torch.tensor([[10.0, 0, 2], [0, 10, 2], [0, 0, 1]], dtype=torch.float64)
    depth = torch.full((1, 5, 5), 2.0)
    mask = torch.ones(1, 5, 5, dtype=torch.bool)
    pose = torch.eye(4, dtype=torch.float64)[None]
    points = torch.tensor([[0.0, 0, 2], [0, 0, 1], [0, 0, 3], [0, 0, -1], [9, 0, 2]]).double()
    could_see, marks = view_votes(points, depth, mask, K, pose, 0.05)
    assert could_see.tolist() == [1, 1, 0, 0, 0]  # surface, free space, hidden, behind, aside
    assert marks.tolist() == [1, 0, 0, 0, 0]


def test_flying_pixels_are_those_behind_a_nearer_neighbour():
    depth = torch.tensor([[[1.0, 1.0, 2.0, 2.0, 0.0]]])
    assert flying_pixels(depth, 0.5).tolist() == [[[False, False, True, False, False]]]


def test_a_smaller_depth_image_finds_its_colour_pixels():
    color = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]).double()
    depth = torch.diag(torch.tensor([0.5, 0.5, 1.0]).double()) @ color
    row, column, inside = grid_pixels((50, 40), (100, 80), depth, color)
    assert (row[3, 7], column[3, 7]) == (6, 14)
    assert inside.all()


def test_boxes_trim_by_weight():
    points = torch.arange(10.0)[:, None].expand(10, 3)
    assert fit_box(points).tolist() == [0, 0, 0, 9, 9, 9]
    assert fit_box(points, 0.15).tolist() == [1, 1, 1, 8, 8, 8]
    weights = torch.ones(10)
    weights[0] = 100
    assert fit_box(points, 0.05, weights).tolist() == [0, 0, 0, 4, 4, 4]


@pytest.mark.parametrize("trim", [-0.1, 0.5])
def test_trim_outside_its_range_is_refused(trim):
    with pytest.raises(ValueError, match="trim"):
        fit_box(torch.zeros(3, 3), trim)


def test_a_floor_bounds_the_room_and_a_table_top_does_not():
    generator = torch.Generator().manual_seed(0)
    floor, table = torch.rand(2, 2000, 3, generator=generator, dtype=torch.float64)
    floor[:, 2] = 0
    table[:, 2] = 0.7
    walls = torch.rand(2000, 3, generator=generator, dtype=torch.float64) * 3
    points = torch.cat([floor, table, walls])
    planes = bounding_planes(points, 0.01)
    marked = on_planes(points, planes, 0.01)
    assert marked[:2000].all()
    assert not marked[2000:4000].any()
