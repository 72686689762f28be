"""vLLM and the learner's forward are the same policy: per-token log-probs on the same tensors."""

import dataclasses
import os

import pytest
import torch
from tiny_checkpoint import smooth_frames, tiny_checkpoint, tiny_prompts

from scenerl.configs.schema import ModelConfig, RolloutConfig
from scenerl.rl.forward import Pack, PackedPolicy
from scenerl.rollout.encode import Encoder
from scenerl.rollout.engine import make_engine
from scenerl.rollout.weights import WeightError, hub_state_dict

ROLLOUT = RolloutConfig(
    max_prompt_length=512,
    max_completion_length=32,
    cpu_kv_cache_gib=0.1,
    max_num_seqs=64,
    enable_prefix_caching=True,
)


@pytest.fixture(
    scope="module",
    params=[
        "qwen2_5_vl",
        pytest.param("qwen2_vl", marks=pytest.mark.slow),
        pytest.param("qwen3_vl", marks=pytest.mark.slow),
    ],
)
def tiny(request, tmp_path_factory):
    """One engine for all tests of a family; each leaves its weights as they were."""
    pytest.importorskip(
        "vllm", reason="vLLM is not installed; it comes with the extras cpu and gpu"
    )
    before = dict(os.environ)
    folder = tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    encoder = Encoder(folder, frames=smooth_frames)
    prompts = tiny_prompts(32 if request.param == "qwen3_vl" else 28)
    encoded = {name: encoder.encode(prompt) for name, prompt in prompts.items()}
    engine = make_engine(folder, ModelConfig(path=str(folder)), ROLLOUT)
    yield folder, encoder, encoded, engine
    engine.close()
    os.environ.clear()
    os.environ.update(before)


def _learner(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def _difference(policy, encoded, group):
    ids = tuple(torch.tensor(completion.completion_ids) for completion in group)
    with torch.no_grad():
        learner, _ = PackedPolicy(policy)([Pack(encoded=encoded, completion_ids=ids)])
    own = torch.tensor([value for one in group for value in one.rollout_logprobs])
    return (own - learner).abs()


def test_logprobs_are_the_learners_for_text_images_and_videos(tiny):
    folder, _, prompts, engine = tiny
    policy = _learner(folder)
    groups = engine.generate(list(prompts.values()), [[1, 2]] * len(prompts))
    for (name, encoded), group in zip(prompts.items(), groups, strict=True):
        difference = _difference(policy, encoded, group)
        assert difference.mean() < 1e-4, name  # float32; measured 3e-7
        assert difference.max() < 1e-3, name
    # the comparison can fail: the same reply to another prompt has other log-probs
    assert _difference(policy, prompts["image"], groups[0]).mean() > 1e-3


def test_tokens_and_logprobs_do_not_depend_on_the_batch(tiny):
    _, _, prompts, engine = tiny
    all_prompts = list(prompts.values())
    together = engine.generate(all_prompts, [[1, 2]] * len(prompts))
    turned = engine.generate(all_prompts[::-1], [[2, 1]] * len(prompts))[::-1]
    cached = [engine.generate([encoded], [[2]])[0][0] for encoded in all_prompts]
    alone = []
    for encoded in all_prompts:
        engine._reset_caches()  # nothing of the prompt is known, as without prefix caching
        alone += engine.generate([encoded], [[2]])[0]
    for group, other, known, single in zip(together, turned, cached, alone, strict=True):
        assert group == other[::-1]  # bit for bit, log-probs included
        assert group[1] == known == single


def test_scores_are_the_logprobs_of_the_same_tokens(tiny):
    _, _, prompts, engine = tiny
    [group] = engine.generate([prompts["video"]], [[5]])
    scored = engine.score([prompts["video"]], [torch.tensor(group[0].completion_ids)])[0]
    assert scored == pytest.approx(group[0].rollout_logprobs, abs=1e-5)


def test_vision_tokens_are_never_sampled_and_ends_are_flagged(tiny):
    _, encoder, prompts, engine = tiny
    [group] = engine.generate([prompts["image"]], [list(range(64))], temperature=2.0)
    drawn = {token for one in group for token in one.completion_ids}
    assert len(drawn) > 150  # of 264
    assert not drawn & set(encoder.tokens.banned_ids)
    for completion in group:
        assert completion.is_truncated != (completion.completion_ids[-1] in encoder.eos_ids)
        assert not completion.is_truncated or len(completion.completion_ids) == 32


def test_the_vision_tower_runs_once_per_medium_of_a_group(tiny):
    _, _, prompts, engine = tiny
    engine._reset_caches()
    counts: list[int] = []

    def count(model):
        original = model.embed_multimodal

        def counting(**arguments):
            features = original(**arguments)
            counts.append(len(features))
            return features

        model.embed_multimodal = counting
        return original

    [original] = engine._engine.apply_model(count)
    try:
        engine.generate([prompts["video"], prompts["video, image, image"]], [[1, 2, 3, 4]] * 2)
    finally:
        engine._engine.apply_model(lambda model: setattr(model, "embed_multimodal", original))
    # eight completions; the same video stands in both prompts, and there are two images
    assert sum(counts) == 3


def test_new_weights_are_in_use_without_a_restart(tiny):
    folder, _, prompts, engine = tiny
    policy = _learner(folder)
    original = {name: tensor.clone() for name, tensor in hub_state_dict(policy)}
    engine.load_weights(original.items(), 1)
    before = engine.checksum()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    engine.load_weights(hub_state_dict(policy), 2)
    assert engine.checksum() != before
    for name in ("text", "image", "video"):
        [group] = engine.generate([prompts[name]], [[3, 4]])
        assert {completion.policy_version for completion in group} == {2}
        assert _difference(policy, prompts[name], group).mean() < 1e-4, name
    engine.load_weights(original.items(), 3)
    assert engine.checksum() == before


def test_an_engine_that_keeps_its_old_weights_is_caught(tiny, monkeypatch):
    folder, _, _, engine = tiny
    policy = _learner(folder)
    engine.load_weights(hub_state_dict(policy), 1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)

    def lose(method, args=(), kwargs=None):
        for _ in (kwargs or {}).get("weights_iterator", ()):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "collective_rpc", lose)
        with pytest.raises(WeightError, match="does not run these weights"):
            engine.load_weights(hub_state_dict(policy), 2)
    assert engine.policy_version == 1
    with pytest.raises(WeightError, match="missing"):
        engine.load_weights(list(hub_state_dict(policy))[:-1], 2)
    engine.load_weights(hub_state_dict(_learner(folder)), 3)


@pytest.mark.parametrize("width", [1, 2])
def test_a_tied_output_head_follows_the_learner(tmp_path, width):
    # vLLM's CPU build multiplies by a packed copy of tied embeddings. Two wide, each worker is a
    # process, and the weights have to get there.
    pytest.importorskip("vllm", reason="vLLM is not installed")
    folder = tiny_checkpoint(tmp_path, tied=True)
    encoded = Encoder(folder, frames=smooth_frames).encode(tiny_prompts(28)["image"])
    before = dict(os.environ)
    rollout = dataclasses.replace(ROLLOUT, tensor_parallel_size=width)
    engine = make_engine(folder, ModelConfig(path=str(folder)), rollout)
    policy = _learner(folder)
    with torch.no_grad():
        embeddings = policy.get_input_embeddings().weight
        noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        embeddings.add_(0.02 * noise)
    engine.load_weights(hub_state_dict(policy), 1)
    [group] = engine.generate([encoded], [[1, 2]])
    engine.close()
    os.environ.clear()
    os.environ.update(before)
    assert _difference(policy, encoded, group).mean() < 1e-4
