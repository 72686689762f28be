import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_folders import COLOR_SIZE, to_nerfstudio, write_video

from scenerl.preprocess.arkitscenes import Trajectory, read_trajectory, rotation_matrix
from scenerl.preprocess.arkitscenes_boxes import box_corners
from scenerl.preprocess.gs_reasoner import World, frame_key
from scenerl.preprocess.iphone_depth import to_millimetres
from scenerl.preprocess.records import DataError
from scenerl.preprocess.safe_files import FileError, local_path, open_image, read_json
from scenerl.preprocess.scannetpp_poses import frame_number, from_nerfstudio, rotation_of
from scenerl.preprocess.video import stream_frames


def test_metres_are_cut_to_whole_millimetres_and_what_is_no_depth_becomes_zero() -> None:
    metres = np.array([0.0, 0.0019, 1.2345, 65.535, 65.536, -1, np.nan, np.inf], np.float32)
    assert to_millimetres(metres).tolist() == [0, 1, 1234, 65535, 0, 0, 0, 0]


def test_a_frame_takes_the_pose_of_its_time_else_the_last_within_five_milliseconds(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lowres_wide.traj"
    rows = [(10.0004, 1), (10.1, 2), (10.104, 3), (10.096, 4), (10.0002, 5)]
    path.write_text("".join(f"{time} 0 0 0 {x} 0 0\n" for time, x in rows))
    poses, faults = read_trajectory(path)
    assert not faults
    assert list(poses) == ["10.000", "10.100", "10.104", "10.096"]
    trajectory = Trajectory(poses)

    def x_of(frame: str) -> float | None:
        pose = trajectory.find(frame)
        return None if pose is None else float(-pose[0, 3])

    assert x_of("10.000") == 5  # two lines of one time: the later counts
    assert x_of("10.100") == 2
    assert x_of("10.101") == 3  # 10.100 is nearer, 10.104 stands later; 10.096 is 5 ms away
    assert x_of("10.099") == 4
    assert x_of("10.2") is None


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    turned = rotation_matrix([0, 0, math.pi / 2]) @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-15)
    half = math.sqrt(0.5)
    turned = rotation_of(np.array([half, 0, 0, half])) @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-15)


def test_nerfstudio_poses_come_back_to_the_world_of_the_mesh() -> None:
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix([0.3, -0.7, 1.1])
    pose[:3, 3] = [1, 2, 3]
    stored = to_nerfstudio(pose)
    assert stored[:3, 3].tolist() == [2, 1, -3]
    np.testing.assert_allclose(from_nerfstudio(stored), pose, atol=1e-15)


def test_corners_of_a_turned_box() -> None:
    turned = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # the long side lies along y
    corners = box_corners(np.array([1.0, 1, 1]), np.array([4.0, 2, 1]), turned)
    assert corners.min(axis=0).tolist() == [0, -1, 0.5]
    assert corners.max(axis=0).tolist() == [2, 3, 1.5]


def test_alignment_goes_before_scale() -> None:
    align = np.eye(4)
    align[:3, 3] = [1, 0, 0]
    world = World(align=align, scale=2.0, align_source="", scale_source="")
    pose = np.eye(4)
    pose[:3, 3] = [3, 4, 5]
    assert world.apply(pose)[:3, 3].tolist() == [8, 8, 10]
    np.testing.assert_array_equal(world.apply(pose)[:3, :3], np.eye(3))


@pytest.mark.parametrize(
    ("dataset", "stem", "key"),
    [
        ("scannet", "000120", 120),
        ("scannet", "frame_1", None),
        ("scannetpp", "frame_000060", 60),
        ("arkitscenes", "41069021_6845.706", 6845.706),
        ("arkitscenes", "41069021_6845.7x", None),
    ],
)
def test_frames_are_ordered_by_the_number_in_their_names(
    dataset: str, stem: str, key: float | None
) -> None:
    assert frame_key(dataset, stem) == key


def test_frame_numbers() -> None:
    assert frame_number("iphone/frame_000012.jpg") == 12
    assert frame_number("frame_000012") == 12
    assert frame_number("frame_-1") is None
    assert frame_number(None) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("https://example.com/x.jpg", "url"),
        ("C:/x.jpg", "url"),
        ("../x.jpg", "path_outside"),
        ("a\\..\\x.jpg", "path_outside"),
        ("/etc/passwd", "path_outside"),
        ("link/x.jpg", "link_outside"),
        ("missing.jpg", "file_missing"),
        ("loop", "not_a_path"),
        ("", "not_a_path"),
        ("a\0b", "not_a_path"),
        ("x" * 5000, "not_a_path"),
        (3, "not_a_path"),
        (".", "file_missing"),
    ],
)
def test_a_rows_file_name_cannot_lead_out_of_the_folder(
    tmp_path: Path, text: object, code: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x.jpg").touch()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(FileError) as caught:
        local_path(text, root)
    assert caught.value.code == code


def test_an_image_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (100_000, 1)).save(path)
    with pytest.raises(FileError, match="100000x1") as caught:
        open_image(path, "wide.png")
    assert caught.value.code == "image_size"
    with pytest.raises(FileError, match="at most 100 pixels"):
        open_image(path.read_bytes(), "x", max_side=100_000, max_pixels=100)
    header = bytearray(path.read_bytes())
    header[16:20] = bytes(4)  # no pixels wide
    with pytest.raises(FileError):
        open_image(bytes(header), "x")


def test_json_errors_say_where(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, words in (
        (b'{"a": 1,\n "b": ', "line 2, column 7.*cut off"),
        (b'{"a": \xe9}', "byte 6 is not UTF-8"),
        (b"[1]", "found list, expected an object"),
        (b"[" * 100_000, "recursion"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=words):
            read_json(path, dict)
    path.write_bytes(b'{"a": 1}')
    with pytest.raises(FileError, match="more than 3 bytes"):
        read_json(path, dict, max_bytes=3)


def test_frames_of_a_video_come_one_by_one_and_missing_ones_as_none(tmp_path: Path) -> None:
    path = tmp_path / "rgb.mkv"
    write_video(path)
    found = list(stream_frames(path, [1, 4, 30]))
    assert [index for index, _ in found] == [1, 4, 30]
    assert [None if pixels is None else pixels.shape for _, pixels in found] == [
        (*COLOR_SIZE[::-1], 3),
        (*COLOR_SIZE[::-1], 3),
        None,
    ]
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot be decoded"):
        next(stream_frames(path, [0]))
    with pytest.raises(DataError, match="does not exist"):
        next(stream_frames(tmp_path / "none.mkv", [0]))
