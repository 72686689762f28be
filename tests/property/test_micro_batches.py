"""Whatever the plan, every completion is trained exactly once."""

import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_qwen import train_group

from scenerl.rl.micro_batch import group_pack, plan_micro_batches

GROUPS = [
    train_group("text", (4, 2, 6), seed=0),
    train_group("image", (3, 5), seed=1),
    train_group("text", (9,), seed=2),
    train_group("video", (1, 7, 2, 2), seed=3),
]


def completions(groups):
    return Counter(
        (group.group_id, tuple(ids.tolist()), float(advantage), len(mask), len(logprobs))
        for group in groups
        for ids, advantage, mask, logprobs in zip(
            group.completion_ids,
            group.advantages,
            group.completion_masks,
            group.rollout_logprobs,
            strict=True,
        )
    )


@settings(max_examples=60, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(range(len(GROUPS))), min_size=1, max_size=7),
    max_tokens=st.integers(1, 200),
    at_least=st.integers(1, 5),
    num_ranks=st.integers(1, 4),
)
def test_every_completion_lands_in_one_micro_batch(chosen, max_tokens, at_least, num_ranks):
    groups = [
        dataclasses.replace(GROUPS[kind], group_id=f"group-{place}")
        for place, kind in enumerate(chosen)
    ]
    plan = plan_micro_batches(groups, max_tokens=max_tokens, at_least=at_least, num_ranks=num_ranks)
    assert len(plan) == num_ranks
    assert len({len(micro_batches) for micro_batches in plan}) == 1
    parts = [part for rank in plan for micro_batch in rank for part in micro_batch]
    assert completions(parts) == completions(groups)
    for micro_batch in (m for rank in plan for m in rank if m):
        tokens = [group_pack(part).num_tokens for part in micro_batch]
        alone = len(micro_batch) == 1 and len(micro_batch[0].completion_ids) == 1
        assert max(tokens) * len(tokens) <= max_tokens or alone
    assert any(plan[0])  # rank 0 always has work


@settings(max_examples=30, deadline=None)
@given(num_groups=st.integers(1, 8), at_least=st.integers(1, 8))
def test_as_many_micro_batches_as_asked_for(num_groups, at_least):
    groups = [dataclasses.replace(GROUPS[0], group_id=str(i)) for i in range(num_groups)]
    [micro_batches] = plan_micro_batches(groups, max_tokens=10_000, at_least=at_least)
    assert min(at_least, num_groups) <= len(micro_batches) <= num_groups


def test_ranks_get_similar_numbers_of_tokens():
    groups = [
        dataclasses.replace(GROUPS[kind], group_id=f"group-{kind}") for kind in (0, 1, 2, 3, 3, 2)
    ]
    plan = plan_micro_batches(groups, max_tokens=10_000, num_ranks=2)
    loads = [sum(group_pack(part).num_tokens for m in rank for part in m) for rank in plan]
    largest = max(group_pack(group).num_tokens for group in groups)
    assert abs(loads[0] - loads[1]) <= largest
