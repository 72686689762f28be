"""The recipes of Open3D that `launch bench lift` tries, and how they are ranked."""

import numpy as np
import pytest

from scenerl.launch.bench_lift import box_of_largest, judge
from scenerl.launch.bench_lift_recipes import rank
from scenerl.launch.bench_lift_scene import make_recording


def test_the_box_is_that_of_the_largest_cluster_and_noise_is_none():
    points = np.array([[0.0, 0, 0], [5, 5, 5], [6, 7, 8], [9, 9, 9]])
    assert box_of_largest(points, np.array([0, 1, 1, -1])) == (5, 5, 5, 6, 7, 8)
    assert box_of_largest(points, np.full(4, -1)) is None


def test_the_best_recipes_come_first():
    notes = rank({"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.2})
    assert [note.split(", ")[-1] for note in notes] == ["b", "c", "d"]
    assert notes[0].startswith("of 4 Open3D recipes, number 1: box IoU 0.900")


def test_a_run_is_judged_by_its_box_and_its_processor_time():
    note = judge("ours", lambda: (0.0, 0, 0, 1, 1, 1), (0.0, 0, 0, 1, 1, 2))
    assert note.startswith("ours: box IoU with the truth 0.500, 0.0")


def test_recipes_run_on_a_small_recording():
    pytest.importorskip("open3d")
    from scenerl.launch.bench_lift_recipes import CLUSTERS, OUTLIERS, recipe_ious

    ious = recipe_ious(make_recording(6, (80, 60)), 0.05)
    assert len(ious) == len(OUTLIERS) * len(CLUSTERS)
    assert all(0 <= value <= 1 for value in ious.values())
