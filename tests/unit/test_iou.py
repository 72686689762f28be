"""Overlap of spans and boxes: numbers worked by hand, and every degenerate input has a value."""

import math

import pytest

from scenerl.kernels.iou import box3d_iou, box_giou, box_iou, span_iou


def test_half_overlapping_spans_have_a_third():
    assert span_iou((0, 2), (1, 3)) == pytest.approx(1 / 3)


def test_boxes_worked_by_hand():
    a, b = (0, 0, 2, 2), (1, 1, 3, 3)
    assert box_iou(a, b) == pytest.approx(1 / 7)
    assert box_giou(a, b) == pytest.approx(1 / 7 - 2 / 9)  # hull 9, union 7


def test_disjoint_boxes_have_negative_giou():
    a, b = (0, 0, 1, 1), (3, 0, 4, 1)
    assert box_iou(a, b) == 0
    assert box_giou(a, b) == pytest.approx(-0.5)  # hull 4, union 2


def test_cubes_that_share_an_octant():
    assert box3d_iou((0, 0, 0, 2, 2, 2), (1, 1, 1, 3, 3, 3)) == pytest.approx(1 / 15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_coordinates_that_are_not_finite_overlap_nothing(bad):
    a, b = (0, 0, bad, 1), (0, 0, 1, 1)
    assert box_iou(a, b) == 0
    assert box_giou(a, b) == -1


def test_empty_and_inverted_boxes_overlap_nothing():
    point, inverted, full = (1, 1, 1, 1), (2, 2, 0, 0), (0, 0, 3, 3)
    assert box_iou(point, point) == 0
    assert box_iou(inverted, full) == 0
    assert box_giou(point, point) == 0
