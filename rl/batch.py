"""Scored groups to training batches: advantages, and which rollouts are left out and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scenerl.configs.schema import TrainConfig
from scenerl.rewards.records import Score
from scenerl.rl.advantages import group_advantages, reward_spread
from scenerl.rl.records import TrainBatch, TrainGroup
from scenerl.rollout.records import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """What became of every group and rollout."""

    num_groups: int
    num_trained_groups: int
    num_zero_spread_groups: int
    """Dropped: all rewards equal, so nothing to learn."""
    num_skipped_groups: int
    """Skipped: fewer than two rollouts have a score."""
    num_rollouts: int
    num_unscored_rollouts: int
    num_truncated_rollouts: int
    advantages: tuple[tuple[float | None, ...], ...]
    """Of every rollout of every group given, in order; None without a score."""

    def metrics(self) -> dict[str, float]:
        """Return the counts as fractions under their names in metrics.jsonl."""
        groups, rollouts = max(self.num_groups, 1), max(self.num_rollouts, 1)
        return {
            "rollout/zero_spread_fraction": self.num_zero_spread_groups / groups,
            "rollout/skipped_group_fraction": self.num_skipped_groups / groups,
            "rollout/unscored_fraction": self.num_unscored_rollouts / rollouts,
            "rollout/truncated_fraction": self.num_truncated_rollouts / rollouts,
        }


def make_batches(
    groups: Sequence[Group], scores: Sequence[Sequence[Score]], config: TrainConfig
) -> tuple[list[TrainBatch], BatchReport]:
    """Turn scored groups into what the learner trains on.

    A rollout without a score is left out of its group, and a group with fewer than two scores is
    skipped. A group whose rewards have a standard deviation of at most
    `config.zero_spread_tolerance` is dropped; the loop may ask for more prompts in its place.

    Args:
        groups: Rollouts of one step.
        scores: One per rollout of each group, in the same order.
        config: `scale_rewards`, `zero_spread_tolerance`, `mask_truncated_completions`.

    Returns:
        One batch with every group that remains, or no batch when none does; and the report.

    Raises:
        ValueError: If the scores do not match the rollouts.
    """
    rewards = _reward_table(groups, scores)
    advantages = group_advantages(rewards, config.scale_rewards)
    spread = reward_spread(rewards)  # [groups], NaN below two scores
    trained = [
        _train_group(group, advantages[index], config.mask_truncated_completions)
        for index, group in enumerate(groups)
        if float(spread[index]) > config.zero_spread_tolerance
    ]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    report = BatchReport(
        num_groups=len(groups),
        num_trained_groups=len(trained),
        num_zero_spread_groups=int((spread <= config.zero_spread_tolerance).sum()),
        num_skipped_groups=int(spread.isnan().sum()),
        num_rollouts=len(rollouts),
        num_unscored_rollouts=sum(score.value is None for row in scores for score in row),
        num_truncated_rollouts=sum(rollout.completion.is_truncated for rollout in rollouts),
        advantages=tuple(
            tuple(None if a != a else a for a in row[: len(group.rollouts)].tolist())
            for row, group in zip(advantages, groups, strict=True)
        ),
    )
    return ([TrainBatch(groups=tuple(trained))] if trained else []), report


def _reward_table(groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> Tensor:
    """Return float32 [groups, largest group], NaN where there is no score."""
    found = [len(row) for row in scores]
    expected = [len(group.rollouts) for group in groups]
    if found != expected:
        raise ValueError(
            f"found {found} scores for groups of {expected} rollouts; a scorer returns one score "
            "per rollout, in order"
        )
    table = torch.full((len(groups), max([2, *expected])), torch.nan)
    for row, group_scores in enumerate(scores):
        for column, score in enumerate(group_scores):
            if score.value is not None:
                table[row, column] = score.value
    return table


def _train_group(group: Group, advantages: Tensor, mask_truncated: bool) -> TrainGroup:
    kept = [
        (rollout.completion, advantages[position])
        for position, rollout in enumerate(group.rollouts)
        if not advantages[position].isnan() and rollout.completion.completion_ids
    ]
    for completion, _ in kept:
        if len(completion.rollout_logprobs) != len(completion.completion_ids):
            raise ValueError(
                f"group {group.group_id}: found {len(completion.rollout_logprobs)} log-probs for "
                f"{len(completion.completion_ids)} completion tokens; the engine must return one "
                "per token"
            )
    return TrainGroup(
        group_id=group.group_id,
        encoded=group.encoded,
        completion_ids=tuple(torch.tensor(c.completion_ids) for c, _ in kept),
        completion_masks=tuple(
            torch.full((len(c.completion_ids),), not (mask_truncated and c.is_truncated))
            for c, _ in kept
        ),
        advantages=torch.stack([advantage for _, advantage in kept]),
        rollout_logprobs=tuple(torch.tensor(c.rollout_logprobs) for c, _ in kept),
    )
