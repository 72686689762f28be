"""However completions are spread over micro-batches and ranks, the losses add up."""

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.rl.advantages import group_advantages
from scenerl.rl.loss import LossInputs, LossSettings, Normalizers, policy_loss

LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "gspo"]


@settings(max_examples=40, deadline=None)
@given(
    loss_type=st.sampled_from(LOSS_TYPES),
    correction=st.sampled_from(["none", "token_truncate", "sequence_truncate"]),
    lengths=st.lists(st.integers(0, 7), min_size=2, max_size=8),
    cut=st.integers(1, 7),
    seed=st.integers(0, 2**16),
)
def test_shards_add_up_to_the_whole(loss_type, correction, lengths, cut, seed):
    generator = torch.Generator().manual_seed(seed)
    batch, seq = len(lengths), 7
    mask = torch.arange(seq) < torch.tensor(lengths)[:, None]
    draw = lambda: torch.randn(batch, seq, generator=generator, dtype=torch.float64)  # noqa: E731
    logprobs = draw().requires_grad_()
    whole = LossInputs(
        logprobs=logprobs,
        entropy=draw(),
        old_logprobs=logprobs.detach() + 0.3 * draw(),
        rollout_logprobs=logprobs.detach() + 0.3 * draw(),
        reference_logprobs=draw(),
        completion_mask=mask,
        advantages=draw()[:, 0],
    )
    options = LossSettings(
        loss_type=loss_type,
        epsilon=0.2,
        epsilon_high=1.2,
        beta=0.1,
        correction=correction,
        correction_cap=1.5,
        entropy_coef=0.02,
        max_completion_length=seq,
    )
    counts = Normalizers(sequences=batch, tokens=int(mask.sum()))
    cut = min(cut, batch - 1)

    def shard(rows):
        fields = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
        return LossInputs(**{name: value[rows] for name, value in fields.items()})

    expected = policy_loss(whole, options, counts).loss
    (gradient,) = torch.autograd.grad(expected, logprobs)
    parts = [
        policy_loss(shard(rows), options, counts).loss for rows in (slice(0, cut), slice(cut, None))
    ]
    (gradient_of_parts,) = torch.autograd.grad(sum(parts), logprobs)
    torch.testing.assert_close(sum(parts), expected)
    torch.testing.assert_close(gradient_of_parts, gradient)


@settings(max_examples=50, deadline=None)
@given(
    rewards=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=4),
    shift=st.floats(-10, 10),
    scale=st.sampled_from(["group", "batch", "none"]),
)
def test_shifting_all_rewards_changes_no_advantage(rewards, shift, scale):
    table = torch.tensor(rewards, dtype=torch.float64)
    torch.testing.assert_close(
        group_advantages(table + shift, scale), group_advantages(table, scale), atol=1e-6, rtol=0
    )
