"""Any bytes give frames or a located error, never another exception, a crash or much memory."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_folders import block, deflate

from scenerl.preprocess.arkitscenes import find_pincam, read_pincam, read_trajectory
from scenerl.preprocess.arkitscenes_boxes import read_boxes
from scenerl.preprocess.iphone_depth import FLOAT_BYTES, SHORT_BYTES, DepthStream
from scenerl.preprocess.safe_files import FileError, local_path
from scenerl.preprocess.scannetpp_poses import PoseSource, read_track
from scenerl.preprocess.sceneparser_reader import TsvReader
from scenerl.preprocess.sceneparser_records import parse_record, to_annotation, to_record
from scenerl.preprocess.sceneparser_tsv import Line, convert_line

T = TypeVar("T")
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def attempt(run: Callable[[], T]) -> tuple[T | None, FileError | None]:
    """Return what a call gives, or the error that it raises."""
    try:
        return run(), None
    except FileError as error:
        return None, error


def lz4_block(content: bytes) -> bytes:
    import lz4.block

    return bytes(lz4.block.compress(content, store_size=False))


PLAIN = np.arange(SHORT_BYTES // 2, dtype="<u2").tobytes()
GOOD = [block(lz4_block(PLAIN)), block(deflate(np.ones(FLOAT_BYTES // 4, "<f4").tobytes()))]
PIECES = st.one_of(
    st.sampled_from([*GOOD, block(b"x"), block(b""), b"\xff\xff\xff\xff", deflate(PLAIN)]),
    st.sampled_from([block(deflate(bytes(n))) for n in (FLOAT_BYTES - 1, FLOAT_BYTES + 1, 9**7)]),
    st.binary(max_size=12),
)


@QUICK
@given(st.lists(PIECES, max_size=4), st.integers(0, 40), st.integers(-1, 5000), st.integers(0, 255))
def test_any_depth_stream_gives_frames_or_located_errors(
    pieces: list[bytes], cut: int, spot: int, value: int
) -> None:
    content = bytearray(b"".join(pieces))
    del content[len(content) - cut :]
    if 0 <= spot < len(content):
        content[spot] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "depth.bin"
        path.write_bytes(content)
        stream, error = attempt(lambda: DepthStream(path))
        if stream is None:
            assert error is not None
            assert error.code == "depth_encoding"
            return
        wanted = [0, 1, 3, 9]
        found = list(stream.frames(wanted))
    assert [index for index, _ in found] == wanted
    for _, item in found:
        if isinstance(item, FileError):
            assert str(path) in str(item)
        else:
            assert item.shape == (192, 256)
            assert item.dtype == np.uint16


@QUICK
@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4))
def test_good_blocks_are_all_read(kinds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "depth.bin"
        path.write_bytes(b"".join(GOOD[kind] for kind in kinds))
        stream = DepthStream(path)
        found = [item for _, item in stream.frames(range(len(kinds)))]
    for kind, item in zip(kinds, found, strict=True):
        assert isinstance(item, np.ndarray)
        assert item.tobytes() == PLAIN if kind == 0 else (item == 1000).all()


def mutated(content: Any, path: list[int], value: Any) -> Any:
    """Return a JSON value with one place replaced: the way to it is given by numbers."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    if isinstance(content, dict):
        keys = sorted(content)
        key = keys[path[0] % len(keys)]
        return {**content, key: mutated(content[key], path[1:], value)}
    place = path[0] % len(content)
    return [*content[:place], mutated(content[place], path[1:], value), *content[place + 1 :]]


POSES: dict[PoseSource, Any] = {
    "imu": {
        "frame_000000": {
            "aligned_pose": np.eye(4).tolist(),
            "intrinsic": np.eye(3).tolist(),
            "timestamp": 1.0,
        }
    },
    "nerfstudio": {
        **dict.fromkeys(("fl_x", "fl_y", "cx", "cy", "w", "h", "k1"), 10.0),
        "frames": [{"file_path": "frame_000000.jpg", "transform_matrix": np.eye(4).tolist()}],
    },
}
NAMES: dict[PoseSource, str] = {
    "imu": "pose_intrinsic_imu.json",
    "nerfstudio": "nerfstudio/transforms.json",
}


@QUICK
@given(
    st.sampled_from(["imu", "nerfstudio"]),
    st.lists(st.integers(0, 9), max_size=5),
    JSON,
    st.integers(0, 3),
)
def test_any_pose_file_gives_finite_cameras_or_a_named_error(
    source: PoseSource, path: list[int], value: Any, cut: int
) -> None:
    text = json.dumps(mutated(POSES[source], path, value))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / NAMES[source]
        place.parent.mkdir(exist_ok=True)
        place.write_text(text[: len(text) - cut])
        track, error = attempt(lambda: read_track(Path(folder), source))
    if track is None:
        assert place.name in str(error)
        return
    for frame in track.frames.values():
        assert frame.camera_to_world.shape == (4, 4)
        assert np.isfinite(frame.intrinsics).all()


@QUICK
@given(st.text(alphabet="0123456789.e-+ naif\n\t\x00é", max_size=120))
def test_any_trajectory_and_pincam_give_numbers_or_a_named_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1_1.000.pincam"
        path.write_text(text)
        poses, faults = read_trajectory(path)
        assert all(pose.shape == (4, 4) for pose in poses.values())
        assert all("line" in fault.detail for fault in faults)
        camera, error = attempt(lambda: read_pincam(find_pincam(Path(folder), "1", "1.001")))
    assert (camera is None) == (error is not None)
    assert camera is None or camera.intrinsics[0, 0] > 0


BOX = {"centroid": [0, 0, 0], "axesLengths": [1, 1, 1], "normalizedAxes": [1, 0, 0] * 3}
BOXES = {"skipped": False, "data": [{"label": "sofa", "segments": {"obbAligned": BOX}}]}


@QUICK
@given(st.lists(st.integers(0, 9), max_size=6), JSON)
def test_any_box_file_gives_finite_boxes_or_a_named_error(path: list[int], value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "boxes.json"
        place.write_text(json.dumps(mutated(BOXES, path, value)))
        found, error = attempt(lambda: read_boxes(place))
    if found is None:
        assert "boxes.json" in str(error)
        return
    assert all(np.isfinite(item.box_world or ()).all() for item in found[0])


RECORD = {
    "image_path": "a.jpg",
    "objects": [
        {
            "phrase": "mug",
            "object_bbox": [1, 2, 3, 4],
            "parts": [
                {
                    "part_name": "handle",
                    "part_bbox": [1, 2, 3, 4],
                    "affordances": [{"action": "grasp", "sampled_points": [[1, 2]]}],
                }
            ],
        }
    ],
}


@QUICK
@given(st.lists(st.integers(0, 9), max_size=9), JSON, st.integers(0, 3))
def test_any_record_is_converted_or_named_and_comes_back_from_its_annotation(
    path: list[int], value: Any, cut: int
) -> None:
    text = json.dumps(mutated(RECORD, path, value))
    line = Line(number=1, offset=0, content=text[: len(text) - cut].encode())
    with tempfile.TemporaryDirectory() as folder:
        made = convert_line(line, images=Path(folder), copy_jpeg=False)
    assert made.error is not None  # there are no images
    annotation, _ = attempt(lambda: to_annotation(parse_record(line.content)))
    if annotation is None:
        return
    again = to_annotation(to_record(annotation, "a.jpg"))
    assert json.dumps(again) == json.dumps(annotation)


@QUICK
@given(st.binary(max_size=60), st.binary(max_size=60), st.lists(st.integers(0, 70), max_size=4))
def test_any_tsv_gives_records_or_located_errors(
    annotations: bytes, images: bytes, offsets: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "annotations.tsv").write_bytes(annotations + b'\n0\t{"objects": []}\n')
        (root / "images.tsv").write_bytes(images)
        text = "".join(f"{offset}\n" for offset in offsets)
        (root / "annotations.tsv.lineidx").write_text(text)
        with TsvReader(root) as reader:
            for index in range(len(reader)):
                found, error = attempt(functools.partial(reader.__getitem__, index))
                assert found is not None or "byte" in str(error)


@QUICK
@given(st.text(max_size=40) | JSON)
def test_no_text_is_a_path_out_of_the_folder(text: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, _ = attempt(lambda: local_path(text, Path(folder)))
    assert path is None  # the folder is empty
