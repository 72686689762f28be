import numpy as np

from scenerl.preprocess.visibility import instance_boxes, mask_box, visible_spans


def test_box_is_tight_with_exclusive_ends() -> None:
    mask = np.zeros((10, 20), bool)
    mask[3:5, 7:12] = True
    assert mask_box(mask) == (7, 3, 12, 5)
    assert mask_box(np.zeros((4, 4), bool)) is None


def test_instances_below_the_pixel_limit_are_left_out() -> None:
    image = np.zeros((6, 6), np.uint16)
    image[0, 0] = 3
    image[2:4, 1:6] = 300
    assert instance_boxes(image) == {3: ((0, 0, 1, 1), 1), 300: ((1, 2, 6, 4), 10)}
    assert instance_boxes(image, min_pixels=2).keys() == {300}


def test_a_span_ends_where_the_next_frame_begins() -> None:
    times = [0.0, 0.5, 1.0, 1.5]
    assert visible_spans([False, True, True, False], times) == ((0.5, 1.5),)
    assert visible_spans([False, False, False, True], times) == ((1.5, 2.0),)
    assert visible_spans([False] * 4, times) == ()


def test_only_gaps_shorter_than_the_limit_are_bridged() -> None:
    times = [0.5 * n for n in range(6)]
    one_hidden = [True, False, True, True, False, False]
    assert visible_spans(one_hidden, times) == ((0.0, 2.0),)
    two_hidden = [True, False, False, True, True, False]
    assert visible_spans(two_hidden, times) == ((0.0, 0.5), (1.5, 2.5))


def test_uneven_times_are_respected() -> None:
    assert visible_spans([True, True, False], [0.0, 0.2, 3.0]) == ((0.0, 3.0),)
