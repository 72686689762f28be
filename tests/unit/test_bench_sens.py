"""`launch bench sens` compares the same work."""

from pathlib import Path

import numpy as np
from PIL import Image

from scenerl.launch.bench_sens import convert, reencode, write_recording


def test_both_sides_write_the_same_depth_and_poses(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "scene0000_00.sens", 2)
    assert 400_000 < path.stat().st_size / 2 < 1_000_000
    convert(path, tmp_path / "ours", 1)
    assert reencode(path, tmp_path / "peer") == 2
    ours = tmp_path / "ours" / "scenes" / "scene0000_00"
    for number in range(2):
        depths = [
            np.asarray(Image.open(folder / "depth" / f"{number}.png"))
            for folder in (ours, tmp_path / "peer")
        ]
        np.testing.assert_array_equal(depths[0], depths[1])
        assert (depths[0] > 0).mean() > 0.9
        poses = [
            np.loadtxt(folder / "pose" / f"{number}.txt") for folder in (ours, tmp_path / "peer")
        ]
        np.testing.assert_allclose(poses[0], poses[1], atol=1e-6)
        with Image.open(ours / "color" / f"{number}.jpg") as image:
            assert image.size == (1296, 968)
