"""One micro-batch through policy and loss: what the two learners have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scenerl.configs.schema import RolloutConfig, TrainConfig
from scenerl.rl.forward import Pack, split_pack
from scenerl.rl.loss import (
    MAXIMUM_NAMES,
    SUM_NAMES,
    LossInputs,
    LossOutput,
    LossSettings,
    Normalizers,
    loss_metrics,
    policy_loss,
)
from scenerl.rl.micro_batch import MicroBatch, collate, group_pack, pad_flat
from scenerl.rl.records import SftExample, TrainBatch
from scenerl.rl.stopwatch import Stopwatch
from scenerl.rollout.records import Group


def loss_settings(train: TrainConfig, rollout: RolloutConfig) -> LossSettings:
    """Take the settings of the loss out of the config."""
    return LossSettings(
        loss_type=train.loss_type,
        epsilon=train.epsilon,
        epsilon_high=train.epsilon if train.epsilon_high is None else train.epsilon_high,
        beta=train.beta,
        correction=train.importance_sampling_correction,
        correction_cap=train.importance_sampling_cap,
        entropy_coef=train.entropy_coef,
        max_completion_length=rollout.max_completion_length,
    )


def batch_normalizers(batch: TrainBatch) -> Normalizers:
    """Count over the whole optimizer step."""
    return Normalizers(sequences=batch.num_sequences, tokens=batch.num_trained_tokens)


@dataclass(kw_only=True, slots=True, eq=False)
class FixedLogprobs:
    """Log-probs of one micro-batch that stay the same over the iterations of an update."""

    old: Tensor | None = None
    """[batch, seq]; None until the first iteration has run, whose own they then are."""
    reference: Tensor | None = None
    """[batch, seq]; None without KL."""


@dataclass(kw_only=True, slots=True, eq=False)
class StepTotals:
    """Loss and sums for the log, added up over micro-batches and optimizer steps."""

    loss: float = 0.0
    steps: int = 0
    grad_norm: float = 0.0
    seconds: Stopwatch = field(default_factory=Stopwatch)
    """Of this rank: "forward_backward" and "optimizer"."""
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUM_NAMES, 0.0))
    maxima: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MAXIMUM_NAMES, 0.0))

    def add(self, output: LossOutput) -> None:
        """Add one micro-batch."""
        self.loss += float(output.loss.detach())
        for name, value in output.sums.items():
            self.sums[name] += float(value)
        for name, value in output.maxima.items():
            self.maxima[name] = max(self.maxima[name], float(value))

    def reduce(self, device: str) -> None:
        """Combine the totals of all ranks of the process group."""
        sums = torch.tensor([self.loss, *self.sums.values()], dtype=torch.float32, device=device)
        maxima = torch.tensor(list(self.maxima.values()), dtype=torch.float32, device=device)
        torch.distributed.all_reduce(sums)
        torch.distributed.all_reduce(maxima, op=torch.distributed.ReduceOp.MAX)
        self.loss, *added = sums.tolist()
        self.sums = dict(zip(self.sums, added, strict=True))
        self.maxima = dict(zip(self.maxima, maxima.tolist(), strict=True))

    def metrics(self) -> dict[str, float]:
        """Return means over tokens and steps."""
        steps = max(self.steps, 1)
        return {
            "policy/loss": self.loss / steps,
            "policy/grad_norm": self.grad_norm / steps,
            **loss_metrics(self.sums, self.maxima),
            **self.seconds.seconds,
        }


def grpo_micro_batch(
    policy: nn.Module,
    micro_batch: MicroBatch,
    fixed: FixedLogprobs,
    settings: LossSettings,
    normalizers: Normalizers,
    run_vision: bool | None = None,
) -> LossOutput:
    """Run a micro-batch forward and return its share of the step's loss.

    Fills `fixed.old` when it is None: on the first iteration the policy is the old policy.
    """
    packs = [group_pack(group) for group in micro_batch]
    flat_logprobs, flat_entropy = policy(packs, run_vision=run_vision)
    targets = collate(micro_batch, flat_logprobs.device)
    logprobs = pad_flat(flat_logprobs, micro_batch)
    if fixed.old is None:
        fixed.old = logprobs.detach() if targets.old_logprobs is None else targets.old_logprobs
    inputs = LossInputs(
        logprobs=logprobs,
        entropy=pad_flat(flat_entropy, micro_batch),
        old_logprobs=fixed.old,
        rollout_logprobs=targets.rollout_logprobs,
        reference_logprobs=fixed.reference,
        completion_mask=targets.completion_mask,
        advantages=targets.advantages,
    )
    return policy_loss(inputs, settings, normalizers)


def score_micro_batch(
    policy: nn.Module, micro_batch: MicroBatch, run_vision: bool | None = None
) -> Tensor:
    """Return the log-probs of a micro-batch, [batch, seq], without gradient."""
    with torch.no_grad():
        logprobs, _ = policy([group_pack(group) for group in micro_batch], run_vision=run_vision)
    return pad_flat(logprobs, micro_batch)


def scoring_packs(groups: Sequence[Group], max_tokens: int) -> list[Pack]:
    """Return packs of at most `max_tokens` that hold all completions of all groups, in order."""
    return [
        pack
        for group in groups
        for pack in split_pack(
            Pack(
                encoded=group.encoded,
                completion_ids=tuple(
                    torch.tensor(rollout.completion.completion_ids) for rollout in group.rollouts
                ),
            ),
            max_tokens,
        )
    ]


def per_rollout(flat: Tensor, groups: Sequence[Group]) -> list[list[Tensor]]:
    """Cut the scores of `scoring_packs` into one row per rollout."""
    lengths = [[len(r.completion.completion_ids) for r in group.rollouts] for group in groups]
    rows = iter(torch.split(flat, [length for group in lengths for length in group]))
    return [[next(rows) for _ in group] for group in lengths]


def plan_examples(examples: Sequence[SftExample], max_tokens: int) -> list[list[Pack]]:
    """Cut supervised examples into micro-batches of at most `max_tokens` padded tokens."""
    filled: list[list[Pack]] = []
    current: list[Pack] = []
    longest = 0
    for example in examples:
        pack = Pack(encoded=example.encoded, completion_ids=(example.completion_ids,))
        longest = max(longest, pack.num_tokens)
        if current and longest * (len(current) + 1) > max_tokens:
            filled.append(current)
            current, longest = [], pack.num_tokens
        current.append(pack)
    return [*filled, current] if current else filled
