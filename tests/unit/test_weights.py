import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import tiny_checkpoint

from scenerl.rollout.checkpoints import checkpoint_shapes
from scenerl.rollout.weights import (
    CheckedWeights,
    Sync,
    WeightError,
    assign_hub_weights,
    check_followed,
    hub_state_dict,
    in_chunks,
    shared_weights,
)

SHAPES = {"a": (2,), "b": (3, 1)}
GOOD = [("a", torch.zeros(2)), ("b", torch.ones(3, 1))]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (GOOD[:1], "1 of 2 weights are missing \\(b"),
        ([*GOOD, ("c", torch.zeros(1))], "weight c is not in the checkpoint"),
        ([*GOOD, GOOD[0]], "weight a came twice"),
        ([("a", torch.zeros(3)), GOOD[1]], "weight a has shape \\(3,\\), expected \\(2,\\)"),
    ],
)
def test_anything_but_exactly_the_checkpoint_is_refused(weights, message):
    with pytest.raises(WeightError, match=message):
        _pass(weights)


def _pass(weights):
    checked = CheckedWeights(weights, SHAPES)
    list(checked)
    return checked.finish()


def test_a_loader_that_stops_early_is_noticed():
    checked = CheckedWeights(GOOD, SHAPES)
    next(iter(checked))
    with pytest.raises(WeightError, match="stopped before weight b"):
        checked.finish()


def test_the_digest_changes_with_any_weight_and_only_then():
    changed = [GOOD[0], ("b", torch.tensor([[1.0], [1.0], [1.0000001]]))]
    assert _pass(GOOD) == _pass([(name, tensor.clone()) for name, tensor in GOOD])
    assert _pass(GOOD) != _pass(changed)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_names_are_those_of_save_pretrained(tmp_path, family):
    from transformers import AutoModelForImageTextToText

    folder = tiny_checkpoint(tmp_path, family)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    shapes = checkpoint_shapes(folder)
    assert {name: tuple(tensor.shape) for name, tensor in hub_state_dict(model)} == shapes
    other = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assign_hub_weights(model, hub_state_dict(other), shapes)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_nothing_is_copied_when_a_weight_is_missing(tmp_path):
    from transformers import AutoModelForImageTextToText

    folder = tiny_checkpoint(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in hub_state_dict(model)}
    weights = [(name, tensor + 1) for name, tensor in before.items()][:-1]
    with pytest.raises(WeightError, match="missing"):
        assign_hub_weights(model, weights, checkpoint_shapes(folder))
    assert all(torch.equal(tensor, before[name]) for name, tensor in hub_state_dict(model))


def test_an_engine_whose_probe_does_not_move_is_stale():
    first = Sync(digest=1, checksum="x")
    check_followed(None, first)
    check_followed(first, first)
    check_followed(first, Sync(digest=2, checksum="y"))
    with pytest.raises(WeightError, match="does not run these weights"):
        check_followed(first, Sync(digest=2, checksum="x"))
    with pytest.raises(WeightError, match="did not change"):
        check_followed(first, Sync(digest=1, checksum="y"))


READER = """
import pickle, sys, torch
torch.save(dict(pickle.load(sys.stdin.buffer)), sys.argv[1])
"""


@pytest.mark.parametrize("chunk_bytes", [1, 20, 1 << 30])
def test_other_processes_read_shared_weights_while_they_are_there(tmp_path, chunk_bytes):
    whole = torch.arange(12.0).reshape(4, 3)
    weights = [
        ("columns", whole.T),  # not contiguous
        ("first", whole[:2]),  # two slices of one storage
        ("second", whole[2:]),
        ("half", whole.to(torch.bfloat16)),
        ("scalar", torch.tensor(3)),
        ("empty", torch.zeros(0, 2)),
        ("trained", torch.nn.Parameter(whole + 1)),
    ]
    assert [pair for chunk in in_chunks(weights, chunk_bytes) for pair in chunk] == weights
    with shared_weights(weights, chunk_bytes) as shared:
        message = pickle.dumps(shared)
        command = [sys.executable, "-c", READER, str(tmp_path / "read.pt")]
        subprocess.run(command, input=message, check=True)
        assert all(Path(file).exists() for file in shared.files)
    arrived = torch.load(tmp_path / "read.pt", weights_only=True)
    assert arrived.keys() == dict(weights).keys()
    for name, tensor in weights:
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(arrived[name], tensor.detach()), name
    assert len(message) < 1000
    assert not any(Path(file).exists() for file in shared.files)
