import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recording import SMALL, small_room

from scenerl.preprocess.rooms import RoomsConfig, make_rooms
from scenerl.preprocess.rooms_furniture import COLORS, FURNITURE, build_furniture
from scenerl.preprocess.rooms_layout import draw_walk, footprint_gap_m, furnish, walk_poses
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.store import read_manifest, read_samples
from scenerl.preprocess.validate import check_content
from scenerl.preprocess.visibility import instance_boxes

TINY = RoomsConfig(rooms=(("train", 2), ("test", 1)), num_frames=16, width=96, height=72, seed=5)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root, TINY)
    return root


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(
    rooms: Path, tmp_path: Path
) -> None:
    import dataclasses

    make_rooms(tmp_path, dataclasses.replace(TINY, workers=2))
    assert digests(tmp_path) == digests(rooms)
    make_rooms(tmp_path / "other", dataclasses.replace(TINY, seed=6, rooms=(("train", 1),)))
    one = "scenes/room_train_00000/color/0.jpg"
    assert digests(tmp_path / "other")[one] != digests(rooms)[one]


def test_no_room_is_in_two_splits(rooms: Path) -> None:
    train, test = read_samples(rooms, "train"), read_samples(rooms, "test")
    assert not {s.scene_id for s in train} & {s.scene_id for s in test}
    # Different names alone prove nothing: the pictures differ too.
    pictures = [
        hashlib.sha256(b"".join(p.read_bytes() for p in sorted((scene / "depth").iterdir())))
        for scene in (rooms / "scenes").iterdir()
    ]
    assert len({picture.hexdigest() for picture in pictures}) == 3


def test_every_grounding_sample_is_true_in_its_instance_images(rooms: Path) -> None:
    for split in ("train", "test"):
        for sample in read_samples(rooms, split):
            if sample.target.object_id is None:
                continue
            scene = Scene.open(rooms / str(sample.media.scene))
            assert sample.target.boxes_px is not None
            assert sample.target.spans_s is not None
            for index, box in sample.target.boxes_px.items():
                instance = scene.instances(index)
                assert instance is not None
                assert instance_boxes(instance)[sample.target.object_id][0] == box
                (start, end), time_s = sample.target.spans_s[0], scene.times_s(index)
                assert start <= time_s < end
            assert len(sample.target.spans_s) == 1


def test_masks_through_depth_and_poses_stay_inside_the_true_box(rooms: Path) -> None:
    for folder in (rooms / "scenes").iterdir():
        scene = Scene.open(folder)
        K = scene.intrinsics_depth
        for item in scene.objects:
            assert item.box_world is not None
            low, high = np.array(item.box_world[:3]), np.array(item.box_world[3:])
            for index in scene.frame_indices[::5]:
                instance = scene.instances(index)
                assert instance is not None
                v, u = np.nonzero(instance == item.object_id)
                z = scene.depth_m(index)[v, u]
                camera = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], 1)
                pose = scene.camera_to_world(index)
                world = camera @ pose[:3, :3].T + pose[:3, 3]
                # Depth noise is 1.2 mm at 1 m and grows with the square: 10 cm is over 4 sigma.
                assert (world > low - 0.1).all()
                assert (world < high + 0.1).all()


def test_prepared_rooms_pass_the_content_checks(rooms: Path) -> None:
    for folder in (rooms / "scenes").iterdir():
        assert check_content(Scene.open(folder)) == []


def test_the_manifest_lists_every_room(rooms: Path) -> None:
    manifest = read_manifest(rooms)
    assert [row["scene_id"] for row in manifest["scenes"]] == [
        "room_test_00000",
        "room_train_00000",
        "room_train_00001",
    ]
    assert manifest["splits"]["train"]["samples"] == len(read_samples(rooms, "train"))
    kinds = Counter(s.kind for s in read_samples(rooms, "train"))
    assert manifest["splits"]["train"]["kinds"] == dict(sorted(kinds.items()))


def test_pieces_are_seen_for_a_part_of_the_video_from_several_places() -> None:
    room, rendered = small_room()
    shown = [(rendered.instance == piece.object_id).any(axis=(1, 2)) for piece in room.pieces]
    assert all(frames.mean() < 0.9 for frames in shown)
    assert np.median([frames.mean() for frames in shown]) > 0.15
    for frames in shown:
        places = rendered.camera_to_world[frames][:, :3, 3]
        if len(places) > 3:
            assert np.linalg.norm(places[-1] - places[0]) > 0.15


def test_visible_share_is_one_for_a_piece_in_full_view() -> None:
    room, rendered = small_room()
    best = max(rendered.visible_share[piece.object_id].max() for piece in room.pieces)
    assert best > 0.9
    for piece in room.pieces:
        hidden = ~(rendered.instance == piece.object_id).any(axis=(1, 2))
        assert (rendered.visible_share[piece.object_id][hidden] == 0).all()


def test_furniture_does_not_overlap_and_stays_in_the_room() -> None:
    for seed in range(20):
        room = furnish(np.random.default_rng(seed), objects=(6, 9))
        on_floor = [piece for piece in room.pieces if piece.stands_on is None]
        for one, two in itertools.combinations(on_floor, 2):
            assert footprint_gap_m(one.footprint, two.footprint) > 0.1
        for piece in room.pieces:
            x0, y0, z0, x1, y1, z1 = piece.box_world
            assert min(x0, y0) > 0
            assert x1 < room.size[0]
            assert y1 < room.size[1]
            assert z1 < room.size[2]
            tables = [p for p in on_floor if p.object_id == piece.stands_on]
            assert z0 == pytest.approx(tables[0].box_world[5] if tables else 0.0, abs=1e-3)


def test_every_class_has_its_colour_and_stands_on_the_floor() -> None:
    for label in FURNITURE:
        for seed in range(5):
            parts = build_furniture(label, 1.0, np.random.default_rng(seed))
            low = min(part.vertices[:, 2].min() for part in parts)
            assert low == pytest.approx(0.0, abs=1e-6), label
            assert any(part.color == "main" for part in parts)
            assert all(part.triangles.max() < len(part.vertices) for part in parts)
    assert len(COLORS) == 8


def test_gap_between_rectangles() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert footprint_gap_m(square, square + np.array([3.0, 0])) == pytest.approx(2.0)
    assert footprint_gap_m(square, square + np.array([2.0, 2.0])) == pytest.approx(2**0.5)
    assert footprint_gap_m(square, square + np.array([0.5, 0.5])) == 0.0
    turned = np.array([[0.5, -1.5], [1.0, -1.0], [0.5, -0.5], [0.0, -1.0]])
    assert footprint_gap_m(square, turned) == pytest.approx(0.5)


def test_the_camera_looks_down_a_little_and_turns_one_way() -> None:
    walk = draw_walk((5.0, 5.0, 2.6), np.random.default_rng(0))
    poses = walk_poses(walk, 40)
    np.testing.assert_allclose(
        poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1),
        np.tile(np.eye(3), (40, 1, 1)),
        atol=1e-9,
    )
    assert np.linalg.det(poses[:, :3, :3]) == pytest.approx(np.ones(40))
    assert (poses[:, 2, 2] < 0).all()  # forward points below the horizon
    assert (poses[:, 2, 1] < -0.8).all()  # image y points down
    yaw = np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))
    assert (np.diff(yaw) * np.sign(walk.sweep) > 0).all()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one room"):
        RoomsConfig(rooms=())
    with pytest.raises(ValueError, match="at least 4 frames"):
        RoomsConfig(num_frames=1)
    assert SMALL.limits["count"] == SMALL.question_limit
