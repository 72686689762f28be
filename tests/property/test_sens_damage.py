"""No damage of a `.sens` file makes the reader do anything but read it or say what is wrong."""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sens_inputs import read_everything, small_sens

from scenerl.preprocess.records import DataError
from scenerl.preprocess.sens import SensFile, SensHeader
from scenerl.preprocess.sens_images import read_depth
from scenerl.preprocess.sens_writer import SensFrame, write_sens, zlib_depth

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def base() -> bytes:
    return small_sens()


def outcome(data: bytes) -> str:
    """Return "read", "damaged" or "refused"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sens"
        path.write_bytes(data)
        try:
            return read_everything(path)
        except DataError:
            return "refused"


def test_the_whole_file_is_read(base: bytes) -> None:
    assert outcome(base) == "read"


@quick
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_never_taken_for_whole(base: bytes, share: float) -> None:
    assert outcome(base[: int(share * len(base))]) in ("damaged", "refused")


@quick
@given(data=st.data())
def test_flipped_bits_are_survived(base: bytes, data: st.DataObject) -> None:
    changed = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the flips go to the headers, which are a small part of the file.
        limit = 420 if data.draw(st.booleans()) else len(base)
        place = data.draw(st.integers(0, limit - 1))
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    outcome(bytes(changed))


@quick
@given(head=st.binary(max_size=500), version=st.sampled_from([b"\4\0\0\0", b"\3\0\0\0", b""]))
def test_random_files_are_survived(head: bytes, version: bytes) -> None:
    assert outcome(version + head) in ("damaged", "refused")


@quick
@given(name=st.binary(max_size=20), fields=st.binary(min_size=292, max_size=292), rest=st.binary())
def test_random_headers_are_survived(name: bytes, fields: bytes, rest: bytes) -> None:
    outcome(b"\4\0\0\0" + len(name).to_bytes(8, "little") + name + fields + rest)


@quick
@given(stored=st.binary(min_size=1, max_size=300), wrap=st.sampled_from([bytes, zlib.compress]))
def test_random_depth_is_decoded_or_refused(stored: bytes, wrap: Callable[[bytes], bytes]) -> None:
    frame = SensFrame(camera_to_world=np.eye(4), color=b"x", depth=wrap(stored))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sens"
        write_sens(path, _header(8, 6), [frame])
        with SensFile(path) as sens:
            if wrap is zlib.compress and len(stored) == 96:
                assert read_depth(sens, 0).tobytes() == stored
            else:
                with pytest.raises(DataError):
                    read_depth(sens, 0)


def _header(width: int, height: int) -> SensHeader:
    eye = np.eye(4, dtype=np.float32)
    return SensHeader(
        intrinsic_color=eye,
        intrinsic_depth=eye,
        extrinsic_color=eye,
        extrinsic_depth=eye,
        color_size=(width, height),
        depth_size=(width, height),
    )


@quick
@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    count=st.integers(0, 4),
    seed=st.integers(0, 1000),
    level=st.integers(0, 9),
)
def test_writing_then_reading_gives_the_same(
    sizes: tuple[int, int], count: int, seed: int, level: int
) -> None:
    rng = np.random.default_rng(seed)
    depths = [rng.integers(0, 65536, sizes[::-1], dtype=np.uint16) for _ in range(count)]
    poses = [rng.normal(size=(4, 4)).astype(np.float32) for _ in range(count)]
    frames = [
        SensFrame(camera_to_world=pose, color=b"c" * (n + 1), depth=zlib_depth(depth, level=level))
        for n, (pose, depth) in enumerate(zip(poses, depths, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sens"
        assert write_sens(path, _header(*sizes), frames) == count
        with SensFile(path) as sens:
            assert len(sens) == count
            again = [
                SensFrame(
                    camera_to_world=sens.frames[n]["camera_to_world"],
                    color=sens.color_bytes(n),
                    depth=sens.depth_bytes(n),
                )
                for n in range(count)
            ]
            for n, depth in enumerate(depths):
                np.testing.assert_array_equal(read_depth(sens, n), depth)
            write_sens(Path(folder) / "b.sens", sens.header, again)
        assert (Path(folder) / "b.sens").read_bytes() == path.read_bytes()
