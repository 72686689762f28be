"""Our loss and advantages against TRL's own code, run on the same tensors."""

import collections
import inspect
import math
import textwrap
import types

import pytest
import torch

from scenerl.rl.advantages import group_advantages
from scenerl.rl.loss import LossInputs, LossSettings, Normalizers, correction_weights, policy_loss

trl = pytest.importorskip("trl.trainer.grpo_trainer")

BATCH, SEQ, MAX_COMPLETION = 6, 9, 12
LOSSES = {  # ours -> TRL's loss_type, importance_sampling_level, epsilon_high
    "grpo": ("grpo", "token", 0.28),
    "dr_grpo": ("dr_grpo", "token", 0.28),
    "dapo": ("dapo", "token", 0.28),
    "bnpo": ("bnpo", "token", 0.28),
    "cispo": ("cispo", "token", 1.1),
    "gspo": ("grpo", "sequence", 0.28),
}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    lengths = torch.tensor([9, 4, 7, 1, 5, 6])
    mask = torch.arange(SEQ) < lengths[:, None]
    mask[4] = False  # truncated and masked: counts as a sequence, has no token
    logprobs = -1.5 + 0.5 * draw(BATCH, SEQ)
    return types.SimpleNamespace(
        mask=mask,
        logprobs=logprobs,
        old=logprobs + 0.6 * draw(BATCH, SEQ),
        rollout=logprobs + 0.5 * draw(BATCH, SEQ),
        reference=logprobs + 0.4 * draw(BATCH, SEQ),
        entropy=draw(BATCH, SEQ).abs(),
        advantages=draw(BATCH),
    )


def source_between(function, start, stop):
    """Cut a passage out of TRL's source, so that its very code can run by itself."""
    lines = inspect.getsource(function).splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip() == start)
    last = next(i for i, line in enumerate(lines) if i > first and line.strip() == stop)
    return textwrap.dedent("\n".join(lines[first:last]))


def trl_importance_ratio(data, mode, cap):
    code = source_between(
        trl.GRPOTrainer._generate_and_score_completions,
        "if self.use_vllm and self.vllm_importance_sampling_correction:",
        "# Compute the per-token log probabilities for the reference model",
    )
    scope = {
        "torch": torch,
        "math": math,
        "self": types.SimpleNamespace(
            use_vllm=True,
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_min=None,
            vllm_importance_sampling_clip_max=cap,
        ),
        "completion_mask": data.mask.int(),
        "tool_mask": None,
        "old_per_token_logps": data.old,
        "sampling_per_token_logps": data.rollout,
    }
    exec(code, scope)
    return scope["vllm_importance_sampling_ratio"]


def trl_loss(data, logprobs, *, loss_type, beta, correction, entropy_coef):
    kind, level, epsilon_high = LOSSES[loss_type]
    trainer = object.__new__(trl.GRPOTrainer)
    trainer.__dict__.update(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        loss_type=kind,
        epsilon_low=0.2,
        epsilon_high=epsilon_high,
        use_vllm=correction != "none",
        vllm_importance_sampling_correction=correction != "none",
        max_completion_length=MAX_COMPLETION,
        current_gradient_accumulation_steps=1,
        entropy_coef=entropy_coef,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=entropy_coef != 0,
        model=types.SimpleNamespace(training=True),
        args=types.SimpleNamespace(
            use_bias_correction_kl=False, delta=None, steps_per_generation=1
        ),
        accelerator=types.SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, data.entropy, None),
    )
    inputs = {
        "prompt_ids": torch.zeros(BATCH, 1),
        "prompt_mask": torch.ones(BATCH, 1),
        "completion_ids": torch.zeros(BATCH, SEQ),
        "completion_mask": data.mask.int(),
        "advantages": data.advantages,
        "old_per_token_logps": data.old,
        "ref_per_token_logps": data.reference,
        "num_items_in_batch": data.mask.sum(),
    }
    if correction != "none":
        inputs["importance_sampling_ratio"] = trl_importance_ratio(data, correction, 1.5)
    return trainer._compute_loss(trainer.model, inputs), trainer._metrics["train"]


def our_loss(data, logprobs, *, loss_type, beta, correction, entropy_coef):
    return policy_loss(
        LossInputs(
            logprobs=logprobs,
            entropy=data.entropy,
            old_logprobs=data.old,
            rollout_logprobs=data.rollout,
            reference_logprobs=data.reference if beta else None,
            completion_mask=data.mask,
            advantages=data.advantages,
        ),
        LossSettings(
            loss_type=loss_type,
            epsilon=0.2,
            epsilon_high=LOSSES[loss_type][2],
            beta=beta,
            correction=correction,
            correction_cap=1.5,
            entropy_coef=entropy_coef,
            max_completion_length=MAX_COMPLETION,
        ),
        Normalizers(sequences=BATCH, tokens=int(data.mask.sum())),
    )


@pytest.mark.parametrize("entropy_coef", [0.0, 0.01])
@pytest.mark.parametrize("correction", ["none", "token_truncate", "sequence_truncate"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_loss_and_gradient_are_those_of_trl(loss_type, beta, correction, entropy_coef):
    data = tensors()
    options = {
        "loss_type": loss_type,
        "beta": beta,
        "correction": correction,
        "entropy_coef": entropy_coef,
    }
    theirs, ours = data.logprobs.clone().requires_grad_(), data.logprobs.clone().requires_grad_()
    expected, metrics = trl_loss(data, theirs, **options)
    expected.backward()
    output = our_loss(data, ours, **options)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5)
    assert ours.grad.abs().sum() > 0
    tokens = float(data.mask.sum())
    if beta:
        assert float(output.sums["kl"]) / tokens == pytest.approx(metrics["kl"][0], rel=1e-5)
    if loss_type in ("grpo", "dr_grpo", "dapo", "bnpo"):
        low = float(output.sums["clip_low"]) / tokens
        high = float(output.sums["clip_high"]) / tokens
        assert low == pytest.approx(metrics["clip_ratio/low_mean"][0])
        assert high == pytest.approx(metrics["clip_ratio/high_mean"][0])
        assert low > 0
        assert high > 0


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate"])
def test_importance_weights_are_those_of_trl(mode):
    data = tensors(seed=1)
    settings = LossSettings(
        loss_type="grpo",
        epsilon=0.2,
        epsilon_high=0.2,
        beta=0.0,
        correction=mode,
        correction_cap=1.2,
        entropy_coef=0.0,
        max_completion_length=MAX_COMPLETION,
    )
    ours = correction_weights((data.old - data.rollout) * data.mask, settings)
    theirs = trl_importance_ratio(data, mode, 1.2)
    torch.testing.assert_close(ours, theirs)
    assert (theirs == 1.2).any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(scale):
    rewards = torch.tensor(
        [
            [0.1, 0.9, 0.4, 0.4],
            [1.0, 1.0, 1.0, 1.0],
            [0.0, math.nan, 2.0, 0.5],
            [3.0, -1.0, 0.2, 0.0],
        ]
    )
    code = source_between(
        trl.GRPOTrainer._generate_and_score_completions,
        'if self.multi_objective_aggregation == "sum_then_normalize":',
        'elif self.multi_objective_aggregation == "normalize_then_sum":',
    )
    scope = {
        "torch": torch,
        "nanstd": trl.nanstd,
        "self": types.SimpleNamespace(
            multi_objective_aggregation="sum_then_normalize",
            reward_weights=torch.ones(1),
            scale_rewards=scale,
        ),
        "rewards_per_func": rewards.reshape(-1, 1),
        "unscorable_mask": rewards.flatten().isnan(),
        "num_generations": rewards.shape[1],
        "device": "cpu",
    }
    exec(code, scope)
    torch.testing.assert_close(
        group_advantages(rewards, scale),
        scope["advantages"].view_as(rewards),
        equal_nan=True,
        atol=1e-6,
        rtol=1e-5,
    )
