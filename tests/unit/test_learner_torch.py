import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from tiny_qwen import (
    FAMILIES,
    MEDIA,
    encoded_prompt,
    numbers_of,
    random_completions,
    rollout_group,
    tiny_folder,
    train_group,
)

from scenerl.configs.schema import ModelConfig, RolloutConfig, TrainConfig
from scenerl.rl.learner_torch import TorchLearner
from scenerl.rl.records import SftExample, TrainBatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def learner(folder, *, rollout=None, **train):
    model = {name: train.pop(name) for name in list(train) if name in ModelConfig.__slots__}
    return TorchLearner(
        ModelConfig(path=folder, **model),
        TrainConfig(**{"learning_rate": 1e-3, **train}),
        rollout or RolloutConfig(max_completion_length=8),
        seed=0,
    )


def batch():
    return TrainBatch(
        groups=(
            train_group("text", (4, 2, 6), seed=0),
            train_group("image", (3, 5), seed=1),
            train_group("video", (1, 7, 2, 2), seed=2),
        )
    )


def weights(subject):
    return {name: tensor.clone() for name, tensor in subject.weights()}


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def test_update_raises_log_probs_of_good_completions(folder):
    subject = learner(folder, importance_sampling_correction="none")
    group = train_group("image", (4, 4), seed=5)
    group = dataclasses.replace(group, advantages=torch.tensor([1.0, -1.0]))
    groups = [rollout_group(group)]
    before = subject.logprobs(groups)[0]
    result = subject.update([TrainBatch(groups=(group,))])
    after = subject.logprobs(groups)[0]
    assert after[0].sum() > before[0].sum()
    assert after[1].sum() < before[1].sum()
    assert result.policy_version == subject.policy_version == 1
    assert result.metrics["policy/clip_fraction"] == 0.0  # on-policy: the ratio is exactly 1


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "gspo"])
def test_micro_batches_and_splits_change_no_update(folder, loss_type):
    settings = {"loss_type": loss_type, "epsilon_high": 5.0 if loss_type == "cispo" else 0.28}
    settings |= {"beta": 0.1, "entropy_coef": 0.01}
    results, updated = [], []
    for cut in (
        {},
        {"gradient_accumulation_steps": 3},
        {"max_tokens_per_micro_batch": 20},
    ):
        subject = learner(folder, **settings, **cut)
        results.append(subject.update([batch()]))
        updated.append(weights(subject))
    for result, after in zip(results[1:], updated[1:], strict=True):
        assert result.loss == pytest.approx(results[0].loss, abs=1e-6)
        # Adam turns a gradient of rounding size into a full step; hence the loose end
        assert largest_difference(after, updated[0]) < 2e-4
        assert numbers_of(result.metrics) == pytest.approx(
            numbers_of(results[0].metrics), rel=1e-3, abs=1e-5
        )


def test_second_iteration_sees_the_first_as_old_policy(folder):
    subject = learner(folder, num_iterations=3, learning_rate=0.02)
    result = subject.update([batch()])
    assert result.policy_version == 1
    assert result.metrics["policy/clip_fraction"] > 0.0


def test_save_and_load_continues_bit_identically(folder, tmp_path):
    options = {"lora_r": 4, "lora_dropout": 0.1, "lr_scheduler_type": "cosine", "max_steps": 4}
    straight = learner(folder, **options)
    straight.update([batch()])
    torch.save(straight.state_dict(), tmp_path / "state.pt")
    expected = [numbers_of(straight.update([batch()]).metrics) for _ in range(2)]
    resumed = learner(folder, **options)
    torch.manual_seed(99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [numbers_of(resumed.update([batch()]).metrics) for _ in range(2)] == expected
    assert largest_difference(weights(resumed), weights(straight)) == 0.0


def test_checkpoint_of_other_settings_is_refused(folder):
    with pytest.raises(ValueError, match="the checkpoint lacks the weights"):
        learner(folder).load_state_dict(learner(folder, lora_r=4).state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_have_the_names_of_a_saved_checkpoint(tmp_path, family):
    subject = learner(tiny_folder(tmp_path / "in", family))
    subject.save_model(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == load_file(tmp_path / "in" / "model.safetensors").keys()
    assert largest_difference(weights(subject), saved) == 0.0


def test_saved_model_scores_like_the_learner_with_lora_merged(folder, tmp_path):
    subject = learner(folder, lora_r=4)
    subject.update([batch()])
    subject.update([batch()])
    subject.save_model(tmp_path / "merged")
    groups = [rollout_group(group) for group in batch().groups]
    merged = learner(str(tmp_path / "merged"))
    assert largest_difference(weights(subject), weights(merged)) == 0.0
    assert largest_difference(weights(subject), weights(learner(folder))) > 1e-4
    for ours, theirs in zip(subject.logprobs(groups), merged.logprobs(groups), strict=True):
        torch.testing.assert_close(torch.cat(ours), torch.cat(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora_r", [0, 4])
def test_kl_to_the_reference_grows_from_zero(folder, lora_r):
    subject = learner(folder, beta=0.5, lora_r=lora_r, learning_rate=1e-2)
    kl = [subject.update([batch()]).metrics["policy/kl"] for _ in range(3)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[2] > 1e-4


def test_frozen_vision_tower_stays(folder):
    subject = learner(folder, freeze_vision_tower=True)
    before = weights(subject)
    subject.update([batch()])
    after = weights(subject)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert not any("visual" in name for name in changed)


def test_gradient_checkpointing_changes_no_update(folder):
    plain, recomputed = learner(folder), learner(folder, gradient_checkpointing=True)
    assert plain.update([batch()]).loss == recomputed.update([batch()]).loss
    assert largest_difference(weights(plain), weights(recomputed)) < 1e-6


def test_bfloat16_keeps_steps_smaller_than_its_rounding(folder):
    exact = learner(folder, learning_rate=1e-5)
    subject = learner(folder, learning_rate=1e-5, dtype="bfloat16")
    for _ in range(20):
        loss = subject.update([batch()]).loss
        expected = exact.update([batch()]).loss
    assert loss == pytest.approx(expected, abs=0.1)
    before = learner(folder, dtype="bfloat16").state_dict()["optimizer"]["masters"]
    after = subject.state_dict()["optimizer"]["masters"]
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    moved = (after[name] - before[name]).abs().max()
    assert 1e-5 < float(moved) < 3e-4  # 20 steps of 1e-5; an ulp of the largest weights is 1e-3
    assert subject.logprobs([rollout_group(batch().groups[0])])[0][0].dtype == torch.float32


def test_supervised_steps_learn_a_reply(folder):
    subject = learner(folder, learning_rate=3e-3)
    examples = [
        SftExample(
            encoded=encoded_prompt(media=MEDIA[kind], seed=seed),
            completion_ids=random_completions((5,), seed=seed)[0],
        )
        for seed, kind in enumerate(MEDIA)
    ]
    first = subject.update_sft(examples).loss
    for _ in range(15):
        last = subject.update_sft(examples).loss
    assert last < first / 2


def test_supervised_extra_loss_is_added(folder):
    subject = learner(folder, learning_rate=1e-2)
    example = SftExample(encoded=encoded_prompt(), completion_ids=random_completions((3,))[0])
    before = weights(subject)
    result = subject.update_sft(
        [example], lambda policy: policy.model.visual.merger.mlp[0].weight.sum()
    )
    after = weights(subject)
    name = next(name for name in before if name.endswith("visual.merger.mlp.0.weight"))
    # gradient 1 everywhere, Adam's first step is the learning rate
    torch.testing.assert_close(after[name], before[name] - 1e-2)
    assert result.metrics["sft/extra_loss"] == pytest.approx(float(before[name].sum()), rel=1e-4)


def test_incomplete_checkpoint_is_refused(folder, tmp_path):
    from safetensors.torch import save_file

    learner(folder).save_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in tensors if "down_proj" in name))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fill the model exactly.*down_proj"):
        learner(str(tmp_path))


def test_tensors_that_changed_after_encoding_are_refused(folder):
    group = train_group("image", (2, 2))
    encoded = dataclasses.replace(group.encoded, pixel_values=group.encoded.pixel_values + 0.01)
    changed = dataclasses.replace(group, encoded=encoded)
    with pytest.raises(ValueError, match=r"its tensors changed after encoding"):
        learner(folder).update([TrainBatch(groups=(changed,))])
    with pytest.raises(ValueError, match=r"its tensors changed after encoding"):
        learner(folder).logprobs([rollout_group(changed)])


def test_exploding_gradient_is_refused_with_the_weights_untouched(folder):
    subject = learner(folder)
    before = weights(subject)
    group = train_group("text", (3, 3))
    broken = dataclasses.replace(group, advantages=torch.tensor([float("inf"), 0.0]))
    with pytest.raises(FloatingPointError, match=r"the gradient norm is (nan|inf), expected"):
        subject.update([TrainBatch(groups=(broken,))])
    assert largest_difference(weights(subject), before) == 0.0
    assert subject.policy_version == 0
