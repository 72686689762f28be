import pytest
import torch
from tiny_checkpoint import tiny_checkpoint

from scenerl.rollout.weights import (
    CheckedWeights,
    Sync,
    WeightError,
    assign_hub_weights,
    check_followed,
    checkpoint_shapes,
    hub_state_dict,
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
