import dataclasses
import math

import pytest
import torch

from scenerl.configs.schema import ConfigError, TrainConfig
from scenerl.rl.loss import LossInputs, LossSettings, Normalizers, loss_metrics, policy_loss

SETTINGS = LossSettings(
    loss_type="grpo",
    epsilon=0.2,
    epsilon_high=0.2,
    beta=0.0,
    correction="none",
    correction_cap=2.0,
    entropy_coef=0.0,
    max_completion_length=10,
)


def inputs(ratio, advantages, mask, *, reference=None):
    """Completions with the given token ratios; old log-probs are all -1."""
    old = torch.full_like(ratio, -1.0)
    return LossInputs(
        logprobs=old + ratio.log(),
        entropy=torch.ones_like(ratio),
        old_logprobs=old,
        rollout_logprobs=old,
        reference_logprobs=reference,
        completion_mask=mask,
        advantages=advantages,
    )


TWO = inputs(
    torch.tensor([[1.0, 1.5, 0.5], [1.1, 0.5, 9.9]]),
    torch.tensor([2.0, -1.0]),
    torch.tensor([[True, True, True], [True, True, False]]),
)
COUNTS = Normalizers(sequences=2, tokens=5)
# token losses: -min(r A, clip A): -(2, 2.4, 1) and (1.1, 0.8)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", (-(2 + 2.4 + 1) / 3 + (1.1 + 0.8) / 2) / 2),
        ("dapo", (-5.4 + 1.9) / 5),
        ("bnpo", (-5.4 + 1.9) / 5),
        ("dr_grpo", (-5.4 + 1.9) / (2 * 10)),
    ],
)
def test_token_losses_by_hand(loss_type, expected):
    settings = dataclasses.replace(SETTINGS, loss_type=loss_type)
    output = policy_loss(TWO, settings, COUNTS)
    assert float(output.loss) == pytest.approx(expected, rel=1e-6)
    assert float(output.sums["clip_high"]) == 1.0
    assert float(output.sums["clip_low"]) == 1.0


def test_gspo_has_one_ratio_per_completion():
    output = policy_loss(TWO, dataclasses.replace(SETTINGS, loss_type="gspo"), COUNTS)
    first = (1.0 * 1.5 * 0.5) ** (1 / 3)  # inside the clip
    second = max((1.1 * 0.5) ** 0.5, 0.8)  # a bad completion is clipped from below
    assert float(output.loss) == pytest.approx((-first * 2 + second) / 2, rel=1e-6)


def test_cispo_caps_the_weight_but_keeps_the_gradient():
    ratio = torch.tensor([[3.0]])
    data = inputs(ratio, torch.tensor([1.0]), torch.tensor([[True]]))
    logprobs = data.logprobs.clone().requires_grad_()
    settings = dataclasses.replace(SETTINGS, loss_type="cispo", epsilon_high=2.0)
    counts = Normalizers(sequences=1, tokens=1)
    policy_loss(dataclasses.replace(data, logprobs=logprobs), settings, counts).loss.backward()
    assert float(logprobs.grad) == pytest.approx(-2.0)


def test_clip_higher_leaves_room_upwards():
    data = inputs(torch.tensor([[1.25]]), torch.tensor([1.0]), torch.tensor([[True]]))
    counts = Normalizers(sequences=1, tokens=1)
    clipped = policy_loss(data, SETTINGS, counts)
    free = policy_loss(data, dataclasses.replace(SETTINGS, epsilon_high=0.28), counts)
    assert float(clipped.loss) == pytest.approx(-1.2)
    assert float(free.loss) == pytest.approx(-1.25)


def test_kl_is_k3():
    data = inputs(
        torch.ones(1, 1),
        torch.zeros(1),
        torch.tensor([[True]]),
        reference=torch.tensor([[-1.0 + math.log(2.0)]]),
    )
    counts = Normalizers(sequences=1, tokens=1)
    output = policy_loss(data, dataclasses.replace(SETTINGS, beta=0.5), counts)
    assert float(output.loss) == pytest.approx(0.5 * (2.0 - math.log(2.0) - 1.0), rel=1e-5)


def test_masked_completion_gives_no_gradient_whatever_stands_there():
    data = inputs(
        torch.tensor([[1.0, 1.0], [1.0, 1.0]]),
        torch.tensor([1.0, 5.0]),
        torch.tensor([[True, True], [False, False]]),
    )
    logprobs = data.logprobs.clone()
    logprobs[1] = math.nan
    logprobs.requires_grad_()
    for loss_type in ("grpo", "gspo", "dapo", "dr_grpo"):
        logprobs.grad = None
        settings = dataclasses.replace(SETTINGS, loss_type=loss_type)
        output = policy_loss(dataclasses.replace(data, logprobs=logprobs), settings, COUNTS)
        output.loss.backward()
        assert logprobs.grad[0].abs().min() > 0
        assert logprobs.grad[1].abs().max() == 0


def test_metrics_are_means_over_trained_tokens():
    output = policy_loss(TWO, SETTINGS, COUNTS)
    metrics = loss_metrics(
        {name: float(v) for name, v in output.sums.items()},
        {name: float(v) for name, v in output.maxima.items()},
    )
    assert metrics["policy/clip_fraction"] == pytest.approx(2 / 5)
    assert metrics["policy/entropy"] == pytest.approx(1.0)
    assert metrics["policy/importance_ratio_mean"] == pytest.approx(1.0)
    assert metrics["policy/logprob_diff_max"] == 0.0


def test_cispo_without_a_cap_is_refused():
    with pytest.raises(ConfigError, match=r"set train.epsilon_high >= 1"):
        TrainConfig(loss_type="cispo")
