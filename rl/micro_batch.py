"""How an optimizer step is cut into micro-batches, the same on one rank and on many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scenerl.rl.forward import Pack, split_pack
from scenerl.rl.records import TrainGroup

MicroBatch = tuple[TrainGroup, ...]
"""Groups, or parts of groups, that go through the policy together; empty on an idle rank."""


def group_pack(group: TrainGroup) -> Pack:
    """Return the packed sequence of a group."""
    return Pack(encoded=group.encoded, completion_ids=group.completion_ids)


def split_group(group: TrainGroup, max_tokens: int) -> list[TrainGroup]:
    """Cut a group into parts of at most `max_tokens` packed tokens; see `split_pack`."""
    parts, start = [], 0
    for pack in split_pack(group_pack(group), max_tokens):
        stop = start + len(pack.completion_ids)
        old = group.old_logprobs
        parts.append(
            replace(
                group,
                completion_ids=group.completion_ids[start:stop],
                completion_masks=group.completion_masks[start:stop],
                advantages=group.advantages[start:stop],
                rollout_logprobs=group.rollout_logprobs[start:stop],
                old_logprobs=None if old is None else old[start:stop],
            )
        )
        start = stop
    return parts


def plan_micro_batches(
    groups: Sequence[TrainGroup], *, max_tokens: int, at_least: int = 1, num_ranks: int = 1
) -> list[list[MicroBatch]]:
    """Assign groups to ranks and micro-batches.

    A pure function of its arguments, so that all ranks make the same plan without talking. Parts
    go, largest first, to the rank with the fewest tokens so far; every rank gets the same number
    of micro-batches, some of them empty.

    Args:
        groups: All groups of the optimizer step.
        max_tokens: Padded tokens of a micro-batch; larger groups are split.
        at_least: Micro-batches per rank, when there are enough groups.
        num_ranks: Data-parallel ranks.

    Returns:
        The micro-batches of each rank.
    """
    parts = [part for group in groups for part in split_group(group, max_tokens)]
    largest_first = sorted(range(len(parts)), key=lambda i: (-group_pack(parts[i]).num_tokens, i))
    loads = [0] * num_ranks
    assigned: list[list[int]] = [[] for _ in range(num_ranks)]
    for index in largest_first:
        rank = loads.index(min(loads))
        loads[rank] += group_pack(parts[index]).num_tokens
        assigned[rank].append(index)
    plan = [
        _fill([parts[index] for index in sorted(indices)], max_tokens, at_least)
        for indices in assigned
    ]
    longest = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [()] * (longest - len(micro_batches)) for micro_batches in plan]


def _fill(parts: list[TrainGroup], max_tokens: int, at_least: int) -> list[MicroBatch]:
    count = min(at_least, len(parts))
    starts = {len(parts) * place // count for place in range(1, count)}
    filled: list[MicroBatch] = []
    current: list[TrainGroup] = []
    longest = 0
    for place, part in enumerate(parts):
        width = max(longest, group_pack(part).num_tokens)
        if current and (place in starts or width * (len(current) + 1) > max_tokens):
            filled.append(tuple(current))
            current, width = [], group_pack(part).num_tokens
        current.append(part)
        longest = width
    return [*filled, tuple(current)] if current else filled


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Targets:
    """The per-token tensors of a micro-batch that do not depend on the policy, padded."""

    completion_mask: Tensor
    """bool [batch, seq]."""
    advantages: Tensor
    """float32 [batch]."""
    rollout_logprobs: Tensor
    """float32 [batch, seq]."""
    old_logprobs: Tensor | None
    """float32 [batch, seq]."""


def collate(micro_batch: MicroBatch, device: torch.device) -> Targets:
    """Pad the targets of a micro-batch, in the order in which its packs are scored."""
    masks = [mask for group in micro_batch for mask in group.completion_masks]
    rollout = [values for group in micro_batch for values in group.rollout_logprobs]
    old = [values for group in micro_batch for values in group.old_logprobs or ()]
    if old and len(old) != len(masks):
        raise ValueError(
            f"{len(old)} of {len(masks)} completions have old_logprobs; give them for every group "
            "of a batch or for none"
        )
    return Targets(
        completion_mask=pad(masks).to(device),
        advantages=torch.cat([group.advantages for group in micro_batch]).to(device),
        rollout_logprobs=pad(rollout).to(device),
        old_logprobs=pad(old).to(device) if old else None,
    )


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack ragged rows, padded on the right with zeros."""
    return pad_sequence(list(rows), batch_first=True)


def pad_flat(flat: Tensor, micro_batch: MicroBatch) -> Tensor:
    """Cut what the packed forward returns into one padded row per completion, [batch, seq]."""
    lengths = [len(ids) for group in micro_batch for ids in group.completion_ids]
    return pad(torch.split(flat, lengths))
