import dataclasses

import pytest
import torch
from tiny_checkpoint import smooth_frames, tiny_checkpoint, tiny_prompts

from scenerl.configs.schema import ModelConfig, RolloutConfig
from scenerl.rl.fleet import WeightSyncError, check_sync
from scenerl.rl.forward import Pack, PackedPolicy
from scenerl.rollout.encode import Encoder, EncodingError
from scenerl.rollout.engine import EngineError, make_engine
from scenerl.rollout.weights import WeightError, hub_state_dict

ROLLOUT = RolloutConfig(engine="transformers", max_prompt_length=512, max_completion_length=24)


def _make(folder, rollout=ROLLOUT):
    return make_engine(folder, ModelConfig(path=str(folder)), rollout)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def tiny(request, tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    encoder = Encoder(folder, frames=smooth_frames)
    prompts = tiny_prompts(32 if request.param == "qwen3_vl" else 28).values()
    return folder, [encoder.encode(prompt) for prompt in prompts]


def test_logprobs_are_the_learners(tiny):
    from transformers import AutoModelForImageTextToText

    folder, prompts = tiny
    engine = _make(folder)
    policy = PackedPolicy(AutoModelForImageTextToText.from_pretrained(folder).eval())
    groups = engine.generate(prompts, [[1, 2]] * len(prompts))
    for encoded, group in zip(prompts, groups, strict=True):
        ids = tuple(torch.tensor(completion.completion_ids) for completion in group)
        with torch.no_grad():
            learner, _ = policy([Pack(encoded=encoded, completion_ids=ids)])
        own = torch.tensor([value for one in group for value in one.rollout_logprobs])
        # float32, another order of sums
        assert (own - learner).abs().max() < 1e-5, encoded.prompt.prompt_id
        scored = engine.score([encoded], [ids[0]])[0]
        assert scored == pytest.approx(group[0].rollout_logprobs, abs=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def prompts(folder):
    encoder = Encoder(folder, frames=smooth_frames)
    return [encoder.encode(prompt) for prompt in tiny_prompts().values()]


def test_a_completion_depends_on_its_own_seed_only(folder, prompts):
    engine = _make(folder)
    together = engine.generate(prompts, [[1, 2, 3]] * len(prompts))
    small = _make(folder, dataclasses.replace(ROLLOUT, max_num_seqs=2))
    turned = small.generate(prompts[::-1], [[3, 1]] * len(prompts))[::-1]
    for whole, part in zip(together, turned, strict=True):
        assert [one.completion_ids for one in (whole[2], whole[0])] == [
            one.completion_ids for one in part
        ]
    assert len({one.completion_ids for group in together for one in group}) > len(prompts)


def test_greedy_ignores_the_seed_and_flags_truncation(folder, prompts):
    engine = _make(folder)
    group = engine.generate(prompts[:1], [[1, 2]], temperature=0.0)[0]
    assert group[0] == group[1]
    for completion in group:
        ended = completion.completion_ids[-1] in Encoder(folder).eos_ids
        assert completion.is_truncated != ended
        assert len(completion.completion_ids) <= 24
        assert not completion.is_truncated or len(completion.completion_ids) == 24


def test_vision_tokens_are_never_sampled(folder, prompts):
    banned = set(Encoder(folder).tokens.banned_ids)
    engine = _make(folder, dataclasses.replace(ROLLOUT, temperature=5.0, max_num_seqs=64))
    group = engine.generate(prompts[:1], [list(range(64))])[0]
    drawn = {token for completion in group for token in completion.completion_ids}
    assert len(drawn) > 200  # nearly uniform over 264 tokens
    assert not drawn & banned


def test_new_weights_are_in_use_and_completions_say_so(folder, prompts):
    from transformers import AutoModelForImageTextToText

    engine = _make(folder)
    before = engine.checksum()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    engine.load_weights(hub_state_dict(model), 1)
    assert engine.checksum() == before
    with torch.no_grad():
        model.model.visual.merger.mlp[2].weight.mul_(1.1)  # only images change
    engine.load_weights(hub_state_dict(model), 2)
    assert engine.checksum() != before
    completion = engine.generate(prompts[1:2], [[7]])[0][0]
    assert completion.policy_version == engine.policy_version == 2
    with torch.no_grad():
        learner, _ = PackedPolicy(model.eval())(
            [Pack(encoded=prompts[1], completion_ids=(torch.tensor(completion.completion_ids),))]
        )
    assert learner.tolist() == pytest.approx(completion.rollout_logprobs, abs=1e-5)
    stale = _make(folder)
    with pytest.raises(WeightSyncError, match="checksums"):
        check_sync([2, 2], [engine.checksum(), stale.checksum()], 2)


def test_bad_weights_and_bad_prompts_are_refused(folder, prompts, tmp_path):
    from transformers import AutoModelForImageTextToText

    engine = _make(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with pytest.raises(WeightError, match="missing"):
        engine.load_weights(list(hub_state_dict(model))[1:], 1)
    assert engine.policy_version == 0
    changed = dataclasses.replace(prompts[1], pixel_values=prompts[1].pixel_values + 1)
    with pytest.raises(EncodingError, match="changed after encoding"):
        engine.generate([changed], [[1]])
    with pytest.raises(EngineError, match=r"set model\.path"):
        make_engine(tmp_path, ModelConfig(path=str(tmp_path)), ROLLOUT)
