"""Times of ScanNet frames: from their stamps, or from their indices where stamps say nothing."""

import pytest

from scenerl.preprocess.scannet_scene import frame_times


def test_stamps_that_increase_are_microseconds() -> None:
    times, source = frame_times([(0, 5_000_000), (15, 5_500_000), (45, 6_500_001)])
    assert times == {0: 0.0, 15: 0.5, 45: 1.500001}
    assert source == "time stamps"


@pytest.mark.parametrize(
    "stamps",
    [
        (0, 0, 0),  # never set
        (2_000_000, 1_000_000, 3_000_000),  # go back
        (0, 15, 45),  # frame numbers
        (0, 500_000_000, 1_500_000_000),  # nanoseconds
    ],
)
def test_other_stamps_give_thirty_frames_a_second(stamps: tuple[int, int, int]) -> None:
    times, source = frame_times(list(zip((30, 45, 75), stamps, strict=True)))
    assert times == {30: 0.0, 45: 0.5, 75: 1.5}
    assert source == "30 frames a second"
