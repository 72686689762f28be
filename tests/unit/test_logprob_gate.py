import math

import pytest
import torch
from rollouts import group

from scenerl.rl.logprob_gate import LogprobMismatchError, check_logprobs


def test_equal_logprobs_pass_with_zero() -> None:
    groups = [group(["one two", "three"])]
    learner = [[torch.tensor([-0.5, -0.5]), torch.tensor([-0.5])]]
    assert check_logprobs(groups, learner, 1, 0.0) == {
        "logprob_gate/mean_abs_diff": 0.0,
        "logprob_gate/max_abs_diff": 0.0,
    }


def test_mean_is_over_all_tokens_and_the_worst_is_named() -> None:
    groups = [group(["one two", "three"], group_id="chair#7")]
    learner = [[torch.tensor([-0.5, -0.25]), torch.tensor([-0.75])]]
    values = check_logprobs(groups, learner, 1, 0.2)
    assert values["logprob_gate/mean_abs_diff"] == pytest.approx(0.5 / 3)
    assert values["logprob_gate/max_abs_diff"] == 0.25
    expected = r"chair#7, rollout 0, token 1 \(id 11\): engine -0.5000, learner -0.2500"
    with pytest.raises(LogprobMismatchError, match=expected):
        check_logprobs(groups, learner, 1, 0.1)


def test_logprobs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(LogprobMismatchError, match="nan"):
        check_logprobs([group(["one"])], [[torch.tensor([math.nan])]], 1, 10.0)
