import math

import pytest
import torch

from scenerl.rollout.sampling import Sampling, sample_tokens


def _generators(count, base=0):
    return [torch.Generator().manual_seed(base + k) for k in range(count)]


def test_draws_follow_the_softmax():
    probs = torch.tensor([0.5, 0.3, 0.2])
    ids, logprobs = sample_tokens(
        probs.log().expand(4000, 3), _generators(4000), Sampling(temperature=1.0)
    )
    shares = torch.bincount(ids, minlength=3) / 4000
    assert torch.allclose(shares, probs, atol=0.03)  # 4 sigma of a share of 0.5 over 4000 draws
    assert torch.allclose(logprobs, probs.log()[ids], atol=1e-6)


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    together, _ = sample_tokens(logits, _generators(6), Sampling(temperature=1.0))
    for row in range(6):
        alone, _ = sample_tokens(
            logits[row : row + 1], _generators(1, base=row), Sampling(temperature=1.0)
        )
        assert alone[0] == together[row]


def test_greedy_takes_the_best_allowed_token_and_reports_the_plain_logprob():
    logits = torch.tensor([[1.0, 5.0, 3.0]])
    sampling = Sampling(temperature=0.0, banned_ids=(1,))
    ids, logprobs = sample_tokens(logits, _generators(1), sampling)
    total = math.log(math.exp(1) + math.exp(5) + math.exp(3))
    assert ids.tolist() == [2]
    assert logprobs.item() == pytest.approx(3 - total, abs=1e-6)


def test_banned_tokens_are_never_drawn():
    logits = torch.zeros(500, 4)
    ids, _ = sample_tokens(logits, _generators(500), Sampling(temperature=1.0, banned_ids=(0, 3)))
    assert set(ids.tolist()) == {1, 2}


def test_top_k_and_top_p_keep_the_likely_tokens():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(500, 4)
    two, _ = sample_tokens(logits, _generators(500), Sampling(temperature=1.0, top_k=2))
    assert set(two.tolist()) == {0, 1}
    # 0.4 + 0.3 reach 0.7 only with the third token when 0.75 is asked for
    three, _ = sample_tokens(logits, _generators(500), Sampling(temperature=1.0, top_p=0.75))
    assert set(three.tolist()) == {0, 1, 2}
