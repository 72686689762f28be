"""Records with tensors go between processes as arrays, and come out as they went in."""

import dataclasses
import pickle

import pytest
import torch
from tiny_qwen import train_group

from scenerl.rl.records import TrainGroup


def _parts(group: TrainGroup) -> list[object]:
    """Return every value of a group and its prompt, tuples opened."""
    values = [
        getattr(record, field.name)
        for record in (group, group.encoded)
        for field in dataclasses.fields(record)
    ]
    return [part for value in values for part in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(0, 0)])
def test_a_group_comes_back_with_tensors_of_its_own(rows: slice) -> None:
    made = train_group("image")
    assert made.encoded.pixel_values is not None
    encoded = dataclasses.replace(made.encoded, pixel_values=made.encoded.pixel_values[rows])
    sent = dataclasses.replace(made, encoded=encoded)
    came = pickle.loads(pickle.dumps(sent, protocol=5))
    for before, after in zip(_parts(sent), _parts(came), strict=True):
        assert type(before) is type(after)
        if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
            assert before.dtype == after.dtype
            assert torch.equal(before, after)
            after.zero_()  # writable, and not the sender's


def test_tensors_cost_no_archives() -> None:
    group = train_group("text")
    archives = sum(len(pickle.dumps(part, protocol=5)) for part in _parts(group))
    assert len(pickle.dumps(group, protocol=5)) < archives / 2
