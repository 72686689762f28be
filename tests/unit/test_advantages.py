import math

import pytest
import torch

from scenerl.rl.advantages import group_advantages, reward_spread


def test_group_scale_by_hand():
    # mean 2, deviations (-2, 0, 2), std with divisor n - 1 is 2
    advantages = group_advantages(torch.tensor([[0.0, 2.0, 4.0]]), "group", eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 0.0, 1.0]]))


def test_none_scale_only_centres():
    advantages = group_advantages(torch.tensor([[0.0, 2.0, 4.0]]), "none")
    torch.testing.assert_close(advantages, torch.tensor([[-2.0, 0.0, 2.0]]))


def test_batch_scale_divides_every_group_by_the_same_number():
    rewards = torch.tensor([[0.0, 2.0], [10.0, 16.0]])
    advantages = group_advantages(rewards, "batch", eps=0.0)
    std = rewards.flatten().std()
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 1.0], [-3.0, 3.0]]) / std)


def test_equal_rewards_give_zero_advantage():
    assert group_advantages(torch.full((2, 4), 0.7)).abs().max() == 0.0


def test_unscored_rollouts_do_not_move_their_siblings():
    with_gap = group_advantages(torch.tensor([[0.0, math.nan, 2.0, 4.0]]))
    without = group_advantages(torch.tensor([[0.0, 2.0, 4.0]]))
    torch.testing.assert_close(with_gap[:, [0, 2, 3]], without)
    assert with_gap[0, 1].isnan()


def test_spread_of_fewer_than_two_rewards_is_nan():
    spread = reward_spread(torch.tensor([[1.0, math.nan], [math.nan, math.nan], [1.0, 3.0]]))
    assert spread[:2].isnan().all()
    assert spread[2] == pytest.approx(math.sqrt(2.0))


def test_group_of_one_is_refused():
    with pytest.raises(ValueError, match=r"group size is 1, .* set rollout.group_size >= 2"):
        group_advantages(torch.ones(3, 1))
