"""Scores from hidden states against log_softmax; Triton passes against their torch twins."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from scenerl.kernels import head_scores as module
from scenerl.kernels.head_scores import Running, head_scores


def plain(hidden, weight, ids, temperature):
    log_p = torch.log_softmax((hidden @ weight.T).float() / temperature, dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, ids[:, None])[:, 0], entropy, log_p.argmax(-1)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "CPU_TILE", 64)


def inputs(tokens, vocab, dtype=torch.float32):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 2 * 24, generator=generator).to(dtype)[:, ::2]  # not contiguous
    weight = (0.5 * torch.randn(vocab, 24, generator=generator)).to(dtype)
    return hidden, weight, torch.randint(0, vocab, (tokens,), generator=generator)


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("vocab", [64, 193, 300])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.usefixtures("small_tiles")
def test_scores_and_gradients_are_those_of_log_softmax(tokens, vocab, temperature):
    hidden, weight, ids = inputs(tokens, vocab)
    found = []
    for function in (head_scores, plain):
        a, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprobs, entropy, best = function(a, w, ids, temperature)
        (torch.linspace(-1, 1, tokens) * (logprobs + 0.3 * entropy)).sum().backward()
        found.append((logprobs, entropy, best, a.grad, w.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.usefixtures("small_tiles")
def test_a_frozen_head_gives_the_same_gradient_of_hidden_states(temperature, entropy_weight):
    hidden, weight, ids = inputs(5, 300)
    found = []
    for function in (head_scores, plain):
        own = hidden.clone().requires_grad_()
        logprobs, entropy, _ = function(own, weight, ids, temperature)
        loss = (torch.linspace(-1, 1, 5) * logprobs).sum()
        (loss + entropy_weight * entropy.sum() if entropy_weight else loss).backward()
        found.append(own.grad)
    assert weight.grad is None
    torch.testing.assert_close(*found, atol=2e-6, rtol=1e-5)


def test_a_sure_token_keeps_its_small_gradient_in_bfloat16():
    """1 - p(id) is 2e-5 here, far below a rounding of p to bfloat16."""
    hidden = torch.tensor([[10.8125]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    logprobs, _, _ = head_scores(hidden, weight, torch.tensor([0]))
    logprobs.sum().backward()
    assert float(hidden.grad) == pytest.approx(1 / (1 + math.exp(10.8125)), rel=0.01)


@pytest.mark.usefixtures("small_tiles")
def test_bfloat16_inputs_give_float32_scores_and_bfloat16_gradients():
    hidden, weight, ids = inputs(6, 200, torch.bfloat16)
    hidden.requires_grad_()
    weight.requires_grad_()
    logprobs, entropy, _ = head_scores(hidden, weight, ids)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    expected, expected_entropy, _ = plain(hidden.float(), weight.float(), ids, 1.0)
    # logits of this size are rounded to bfloat16 by up to 0.03
    torch.testing.assert_close(logprobs, expected, atol=0.05, rtol=0)
    torch.testing.assert_close(entropy, expected_entropy, atol=0.05, rtol=0)


def test_logits_far_apart_neither_overflow_nor_vanish():
    hidden = torch.tensor([[300.0], [-300.0]])
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    logprobs, entropy, best = head_scores(hidden, weight, torch.tensor([0, 0]))
    assert logprobs.tolist() == [0.0, -600.0]
    assert entropy.tolist() == [0.0, 0.0]
    assert best.tolist() == [0, 1]


def passes_side_by_side():
    """Compare every pass; runs where TRITON_INTERPRET is set before triton is imported."""
    from scenerl.kernels import head_scores_triton as triton_module

    device = "cuda" if torch.cuda.is_available() else "cpu"
    triton_module.BLOCK = 64
    worst = {}
    for dtype in (torch.float32, torch.bfloat16):
        differences = []
        for tokens, width in ((1, 1), (3, 64), (5, 130)):
            generator = torch.Generator().manual_seed(width)
            tiles = [
                (3 * torch.randn(tokens, width, generator=generator)).to(device, dtype)
                for _ in range(2)
            ]
            ids = torch.randint(0, 2 * width, (tokens,), generator=generator).to(device)
            states = []
            for module_ in (module, triton_module):
                running = Running(tokens, torch.device(device))
                for number, tile in enumerate(tiles):
                    kept = module_.take_tile(
                        running, tile.clone(), ids, number * width, 0.8, keep=True
                    )
                rows = (
                    running.maximum + running.total.log(),
                    running.weighted / running.total,
                    torch.linspace(-1, 1, tokens, device=device),
                    torch.linspace(0.3, 1, tokens, device=device),
                )
                grad = module_.tile_gradient(tiles[1].clone(), ids, width, 0.8, rows)
                states.append([running.total, running.weighted, running.chosen, grad.float()])
                states[-1] += [running.best.float(), kept.float()]
            for ours, twin in zip(*states, strict=True):
                differences.append(float(((ours - twin).abs() / (1 + twin.abs())).max()))
        worst[str(dtype)] = max(differences)
    return worst


def test_triton_passes_are_their_torch_twins_under_the_interpreter():
    pytest.importorskip("triton")
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_head_scores as t; "
        "print(json.dumps(t.passes_side_by_side()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    check(json.loads(run.stdout.splitlines()[-1]))


def check(worst):
    assert worst["torch.float32"] < 1e-5  # sums in another order
    assert worst["torch.bfloat16"] < 2**-7  # a gradient may round to its neighbour


def test_the_triton_kernels_compile_for_a_gpu_that_is_not_there():
    """The interpreter is laxer than the compiler: a name may change its shape in a loop there."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scenerl.kernels import head_scores_triton as kernels

    floats = ("maximum", "total", "weighted", "chosen", "entropy")
    floats += ("log_normalizer", "grad_logprob", "grad_entropy")
    types = dict.fromkeys(floats, "*fp32") | {"logits": "*bf16", "ids": "*i64", "best": "*i64"}
    types |= {"start": "i32", "width": "i32", "inverse_t": "fp32"}
    for kernel, constants in (
        (kernels._take_tile_kernel, {"keep": True, "block": 1024}),
        (kernels._take_tile_kernel, {"keep": False, "block": 1024}),
        (kernels._tile_gradient_kernel, {"block": 1024}),
    ):
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        assert "cubin" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_triton_passes_are_their_torch_twins_on_the_gpu():
    check(passes_side_by_side())
