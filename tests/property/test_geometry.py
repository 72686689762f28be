"""Laws of boxes and cameras."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou as torchvision_iou
from torchvision.ops import generalized_box_iou as torchvision_giou

from scenerl.kernels.iou import box3d_iou, box_giou, box_iou
from scenerl.kernels.unproject import project, unproject

coordinate = st.integers(-50, 50)
box = st.tuples(*[coordinate] * 6)


@given(box, box, st.tuples(*[coordinate] * 3))
@settings(deadline=None, max_examples=100)
def test_iou_is_symmetric_bounded_and_unmoved_by_shifts(a, b, shift):
    value = box3d_iou(a, b)
    assert 0 <= value <= 1
    assert value == box3d_iou(b, a)
    moved = [[x + by for x, by in zip(one, shift * 2, strict=True)] for one in (a, b)]
    assert value == box3d_iou(*moved)


@given(st.tuples(*[coordinate] * 4), st.tuples(*[coordinate] * 4))
@settings(deadline=None, max_examples=100)
def test_giou_is_at_most_iou_and_at_least_minus_one(a, b):
    value = box_giou(a, b)
    assert -1 <= value <= box_iou(a, b)
    assert value == box_giou(b, a)


@given(st.tuples(*[coordinate] * 4), st.tuples(*[coordinate] * 4))
@settings(deadline=None, max_examples=100)
def test_iou_and_giou_are_torchvisions(a, b):
    first, second = (
        (*box[:2], box[0] + abs(box[2]) + 1, box[1] + abs(box[3]) + 1) for box in (a, b)
    )
    table = torch.tensor([[first], [second]], dtype=torch.float64)
    assert box_iou(first, second) == pytest.approx(float(torchvision_iou(*table)), abs=1e-12)
    assert box_giou(first, second) == pytest.approx(float(torchvision_giou(*table)), abs=1e-12)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_lift_then_project_is_the_identity(seed):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(2, 6, 8, generator=generator, dtype=torch.float64) * 5 + 0.2
    mask = torch.rand(2, 6, 8, generator=generator) < 0.5
    intrinsics = torch.tensor([[9.0, 0, 4.2], [0, 8.0, 2.9], [0, 0, 1]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    pose[:, :3, :3] = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator).double()).Q
    pose[:, :3, 3] = torch.randn(2, 3, generator=generator).double()
    points, pixels = unproject(depth, mask, intrinsics, pose)
    assert len(points) == int(mask.sum())
    for point, (frame, v, u) in zip(points, pixels, strict=True):
        uv, z = project(point[None], intrinsics, pose[frame])
        assert torch.allclose(uv[0], torch.stack([u, v]).double(), atol=1e-8)
        assert torch.allclose(z[0], depth[frame, v, u], atol=1e-9)
