import math

import pytest
from tiny_qwen import encoded_prompt

from scenerl.configs.schema import TrainConfig
from scenerl.envs.records import ParseError
from scenerl.rewards.records import Score
from scenerl.rl.batch import make_batches
from scenerl.rollout.records import Completion, Group, Rollout


def group(name, finish_reasons):
    return Group(
        group_id=name,
        encoded=encoded_prompt(),
        rollouts=tuple(
            Rollout(
                index=index,
                completion=Completion(
                    completion_ids=(10 + index, 124),
                    rollout_logprobs=(-1.0, -0.5),
                    text="",
                    finish_reason=reason,
                    policy_version=0,
                ),
                answer=ParseError(reason="none", text=""),
            )
            for index, reason in enumerate(finish_reasons)
        ),
    )


def scores(*values):
    return [Score(value=value) for value in values]


def test_groups_are_trained_dropped_or_skipped_and_counted():
    groups = [group(name, ["stop"] * 3) for name in "abcd"]
    batches, report = make_batches(
        groups,
        [
            scores(0.0, 1.0, 2.0),
            scores(0.5, 0.5, 0.5),
            scores(None, None, 3.0),
            scores(1.0, None, 0.0),
        ],
        TrainConfig(),
    )
    [batch] = batches
    assert [g.group_id for g in batch.groups] == ["a", "d"]
    assert [len(g.completion_ids) for g in batch.groups] == [3, 2]
    assert batch.groups[1].completion_ids[1].tolist() == [12, 124]  # index 2: 1 has no score
    assert (report.num_groups, report.num_trained_groups) == (4, 2)
    assert (report.num_zero_spread_groups, report.num_skipped_groups) == (1, 1)
    assert report.num_unscored_rollouts == 3
    assert report.metrics()["rollout/zero_spread_fraction"] == 0.25
    assert report.advantages[0] == pytest.approx((-1 / 1.0001, 0.0, 1 / 1.0001))
    assert report.advantages[1] == (0.0, 0.0, 0.0)
    assert report.advantages[2][:2] == (None, None)
    assert report.advantages[3][1] is None


def test_no_batch_when_nothing_can_be_learned():
    batches, report = make_batches(
        [group("a", ["stop"] * 2)], [scores(1.0, 1.0 + 1e-9)], TrainConfig()
    )
    assert batches == []
    assert report.num_zero_spread_groups == 1


def test_truncated_completions_are_masked_only_when_asked():
    groups = [group("a", ["stop", "length"])]
    for asked, expected in ((False, [True, True]), (True, [True, False])):
        [batch], report = make_batches(
            groups, [scores(0.0, 1.0)], TrainConfig(mask_truncated_completions=asked)
        )
        assert [bool(mask.all()) for mask in batch.groups[0].completion_masks] == expected
        assert report.num_truncated_rollouts == 1
        assert batch.num_sequences == 2
        assert batch.num_trained_tokens == 2 * sum(expected)


def test_batch_scale_uses_the_spread_of_all_rewards():
    rewards = [(0.0, 2.0), (10.0, 16.0)]
    batches, _ = make_batches(
        [group(name, ["stop"] * 2) for name in "ab"],
        [scores(*row) for row in rewards],
        TrainConfig(scale_rewards="batch"),
    )
    std = math.sqrt(sum((r - 7.0) ** 2 for row in rewards for r in row) / 3)
    assert batches[0].groups[1].advantages.tolist() == pytest.approx(
        [-3 / (std + 1e-4), 3 / (std + 1e-4)]
    )


def test_missing_scores_are_refused():
    with pytest.raises(ValueError, match=r"found \[1\] scores for groups of \[2\] rollouts"):
        make_batches([group("a", ["stop"] * 2)], [scores(1.0)], TrainConfig())
