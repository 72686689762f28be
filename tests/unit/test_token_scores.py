import pytest
import torch

from scenerl.rl import token_scores as module
from scenerl.rl.token_scores import token_scores


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 33)  # three rows of 11


def plain(logits, ids, temperature):
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_and_gradients_are_those_of_log_softmax(temperature):
    generator = torch.Generator().manual_seed(0)
    ours = (3 * torch.randn(8, 11, generator=generator)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    ids = torch.randint(0, 11, (8,), generator=generator)
    weights = torch.randn(8, generator=generator)
    for logits, function in ((ours, token_scores), (theirs, plain)):
        logprobs, entropy = function(logits, ids, temperature)
        ((logprobs + 0.3 * entropy) * weights).sum().backward()
    for a, b in zip(
        token_scores(ours, ids, temperature), plain(theirs, ids, temperature), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_two_equally_likely_tokens_by_hand():
    logprobs, entropy = token_scores(torch.zeros(1, 2), torch.tensor([1]))
    assert float(logprobs) == pytest.approx(-0.6931472)
    assert float(entropy) == pytest.approx(0.6931472)


def test_bfloat16_logits_are_scored_in_float32():
    logits = torch.randn(4, 11, dtype=torch.bfloat16, requires_grad=True)
    logprobs, _ = token_scores(logits, torch.arange(4))
    logprobs.sum().backward()
    assert logprobs.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
