"""Objects and boxes of ScanNet scans; the numbers are worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scans import write_ply

from scenerl.preprocess.records import DataError
from scenerl.preprocess.scannet_objects import (
    Group,
    align,
    official_instances,
    read_groups,
    read_mesh,
    read_segments,
    sound_instances,
)

POINTS = np.array(
    [[0, 0, 0], [1, 2, 4], [10, 0, 0], [12, 1, 1], [5, 5, 5], [6, 7, 5], [9, 9, 9]], np.float32
)
SEGMENTS = np.array([17, 17, 4, 4, 90, 90, 3])
NYU40 = {"chair": 5, "table": 7, "wall": 1, "floor": 2, "ceiling": 22}


def group(object_id: int, label: str, *segments: int) -> Group:
    return Group(object_id=object_id, label=label, segments=segments)


def test_a_box_is_center_and_size_of_the_vertices_of_its_segments() -> None:
    groups = (group(0, "chair", 17, 4), group(1, "table", 90))
    for instances in (
        official_instances(POINTS, SEGMENTS, groups, NYU40),
        sound_instances(POINTS, SEGMENTS, groups, NYU40),
    ):
        np.testing.assert_array_equal(instances.vertex_ids, [1, 1, 1, 1, 2, 2, 0])
        np.testing.assert_array_equal(
            instances.boxes, [[6, 1, 2, 12, 2, 4, 5, 0], [5.5, 6, 5, 1, 2, 0, 7, 1]]
        )
        assert instances.faults == ()


def test_walls_floors_and_ceilings_have_no_official_box() -> None:
    groups = (
        group(0, "wall", 17),
        group(1, "floor", 4),
        group(2, "ceiling", 90),
        group(3, "chair", 3),
    )
    kept = official_instances(POINTS, SEGMENTS, groups, NYU40).kept()
    np.testing.assert_array_equal(kept, [[9, 9, 9, 0, 0, 0, 5, 3]])


def test_a_scene_of_one_object_keeps_even_a_wall_as_upstream_does() -> None:
    instances = official_instances(POINTS, SEGMENTS, (group(0, "wall", 17),), NYU40)
    np.testing.assert_array_equal(instances.kept(), [[0.5, 1, 2, 1, 2, 4, 1, 0]])


def test_the_later_group_wins_a_shared_segment_and_soundly_both_have_it() -> None:
    groups = (group(0, "chair", 17, 4), group(1, "table", 90, 4))
    official = official_instances(POINTS, SEGMENTS, groups, NYU40)
    np.testing.assert_array_equal(official.vertex_ids, [1, 1, 2, 2, 2, 2, 0])
    np.testing.assert_array_equal(official.boxes[0], [0.5, 1, 2, 1, 2, 4, 5, 0])
    sound = sound_instances(POINTS, SEGMENTS, groups, NYU40)
    np.testing.assert_array_equal(sound.boxes[0], [6, 1, 2, 12, 2, 4, 5, 0])
    np.testing.assert_array_equal(sound.boxes[1], official.boxes[1])


def test_an_official_class_is_read_after_all_labels_are_painted() -> None:
    # Labels are painted chair (17, 4), then table (90, 17): the first segment of object 0 ends as
    # a table, though object 0 is a chair.
    groups = (group(0, "chair", 17, 4), group(1, "table", 90, 17))
    assert official_instances(POINTS, SEGMENTS, groups, NYU40).boxes[:, 6].tolist() == [7, 7]
    assert sound_instances(POINTS, SEGMENTS, groups, NYU40).boxes[:, 6].tolist() == [5, 7]


def test_labels_are_painted_in_the_order_they_first_occur() -> None:
    # chair is painted before table although the chair of object 2 comes later in the file, so
    # object 2 has its vertices but the table's class.
    groups = (group(0, "chair", 3), group(1, "table", 90), group(2, "chair", 90))
    official = official_instances(POINTS, SEGMENTS, groups, NYU40)
    np.testing.assert_array_equal(official.vertex_ids, [0, 0, 0, 0, 3, 3, 1])
    assert official.boxes[:, 6].tolist() == [5, 0, 7]
    np.testing.assert_array_equal(official.boxes[1], np.zeros(8))


def test_what_the_files_do_not_say_is_listed_and_the_rest_goes_on() -> None:
    groups = (group(0, "chair", 17, 55), group(1, "sofa", 90), group(2, "table"))
    official = official_instances(POINTS, SEGMENTS, groups, NYU40)
    assert official.faults == (
        ("object 0, chair", "segment_missing", "1 of 2, the first is 55"),
        ("object 1, sofa", "label_unknown", "'sofa' is not in the table of labels"),
        ("object 2, table", "no_segments", ""),
    )
    np.testing.assert_array_equal(official.vertex_ids, [1, 1, 0, 0, 2, 2, 0])
    assert official.boxes[:, 6].tolist() == [5, 0, 0]
    assert len(sound_instances(POINTS, SEGMENTS, groups, NYU40).boxes) == 2


def test_of_two_groups_with_one_id_the_last_one_counts() -> None:
    groups = (group(0, "chair", 17), group(1, "table", 90), group(0, "chair", 4))
    official = official_instances(POINTS, SEGMENTS, groups, NYU40)
    assert ("object 0, chair", "duplicate_object", "the last one of the file counts") in (
        official.faults
    )
    np.testing.assert_array_equal(official.vertex_ids, [0, 0, 1, 1, 2, 2, 0])


def test_alignment_is_computed_in_double_and_stored_in_single_precision() -> None:
    matrix = np.array([[0, -1, 0, 0.1], [1, 0, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1.0]])
    moved = align(POINTS[:2], matrix)
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(
        moved, np.array([[0.1, 0, -2], [-2 + 0.1, 1, 2]]).astype(np.float32)
    )
    assert align(POINTS, None) is POINTS


def test_a_mesh_with_colours_and_alpha_is_read_in_order(tmp_path: Path) -> None:
    triangles = np.array([[0, 1, 2], [6, 5, 4]])
    write_ply(tmp_path / "a.ply", POINTS, triangles)
    points, faces = read_mesh(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, POINTS)
    np.testing.assert_array_equal(faces, triangles)


def test_a_damaged_mesh_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, POINTS, np.array([[0, 1, 2], [6, 5, 4]]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cut off"):
        read_mesh(path)
    write_ply(path, POINTS, np.array([[0, 1, 7]]))
    with pytest.raises(DataError, match="a triangle names a vertex"):
        read_mesh(path)
    path.write_bytes(b"not a mesh")
    with pytest.raises(DataError, match="no mesh"):
        read_mesh(path)


BAD_GROUPS = [
    "{",
    "[]",
    '{"segGroups": 3}',
    '{"segGroups": [{"objectId": "0", "label": "chair", "segments": [1]}]}',
    '{"segGroups": [{"objectId": -1, "label": "chair", "segments": [1]}]}',
    '{"segGroups": [{"objectId": 65535, "label": "chair", "segments": [1]}]}',
    '{"segGroups": [{"objectId": true, "label": "chair", "segments": [1]}]}',
    '{"segGroups": [{"objectId": 0, "label": 5, "segments": [1]}]}',
    '{"segGroups": [{"objectId": 0, "label": "chair", "segments": [1.5]}]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", BAD_GROUPS, ids=range(len(BAD_GROUPS)))
def test_a_broken_aggregation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.aggregation.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.aggregation\.json"):
        read_groups(path)


def test_text_that_is_not_utf8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.aggregation.json"
    path.write_bytes(b'{"segGroups": [{"label": "caf\xe9"}]}')
    with pytest.raises(DataError, match="byte 29 is not UTF-8"):
        read_groups(path)


@pytest.mark.parametrize("values", [[1, "2"], [1.5], [None], [1 << 70], [True]])
def test_segments_must_be_whole_numbers(tmp_path: Path, values: list[object]) -> None:
    path = tmp_path / "a.segs.json"
    path.write_text(json.dumps({"segIndices": values}))
    with pytest.raises(DataError, match="whole numbers"):
        read_segments(path)
