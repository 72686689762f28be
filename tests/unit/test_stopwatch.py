import pytest

from scenerl.rl.stopwatch import overhead

SECONDS = {
    "time/step_s": 10.0,
    "time/rollout_s": 4.0,
    "time/wait_s": 1.0,
    "time/forward_backward_s": 3.0,
    "time/optimizer_s": 1.0,
}


@pytest.mark.parametrize(("overlapped", "left"), [(False, 2.0), (True, 5.0)])
def test_what_is_left_of_a_step_is_overhead(overlapped, left):
    found = overhead(SECONDS, overlapped=overlapped)
    assert found == {"time/overhead_s": left, "time/overhead_fraction": left / 10}
