import pytest
import torch

from scenerl.kernels.attention import attend, attend_backward, attend_plain, attend_plain_backward
from scenerl.rl.packed_attention import PackedRow, packed_attention

ROWS = (PackedRow(prompt=5, completions=(3, 0, 1, 4)), PackedRow(prompt=9, completions=(2,)))


def masked(query, key, value, rows, scale):
    """One softmax over all visible keys, by a mask."""
    outputs = torch.zeros_like(query)
    for place, row in enumerate(rows):
        blocks = torch.cat(
            [torch.full((n,), k) for k, n in enumerate((row.prompt, *row.completions))]
        )
        seen = (blocks[None] == 0) | (blocks[None] == blocks[:, None])
        seen &= torch.ones_like(seen).tril()
        end = len(blocks)
        k, v = (x[place, :, :end].repeat_interleave(2, dim=0) for x in (key, value))
        scores = query[place, :, :end] @ k.transpose(1, 2) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs = outputs.index_put(
            (torch.tensor(place),),
            torch.nn.functional.pad(weights @ v, (0, 0, 0, query.shape[2] - end)),
        )
    return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_parts_are_one_softmax_over_what_a_token_sees(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 14, 16), (2, 2, 14, 16), (2, 2, 14, 16))
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    results = []
    for function, wide in ((packed_attention, False), (masked, True)):
        own = [(x.float() if wide else x).clone().requires_grad_() for x in inputs]
        out = function(*own, ROWS, scale=0.25) if not wide else function(*own, ROWS, 0.25)
        (out.float() * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        results.append([out.float(), *(x.grad.float() for x in own)])
    tolerance = 2e-6 if dtype == torch.float32 else 0.05
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_the_fast_kernel_is_its_formula_forward_and_backward(causal):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(3, 4, 7, 16, generator=generator)
    key, value = torch.randn(2, 3, 2, 7, 16, generator=generator)
    grad = torch.randn(3, 4, 7, 16, generator=generator)
    fast = attend(query, key, value, scale=0.3, causal=causal)
    plain = attend_plain(query, key, value, scale=0.3, causal=causal)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    both = [
        function(grad, (query, key, value), *plain, scale=0.3, causal=causal)
        for function in (attend_backward, attend_plain_backward)
    ]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpus_kernels_agree_with_the_cpus(dtype):
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 4, 14, 64), (2, 2, 14, 64), (2, 2, 14, 64))
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    results = []
    for device in ("cpu", "cuda"):
        own = [x.to(device, copy=True).requires_grad_() for x in inputs]
        out = packed_attention(*own, ROWS, scale=0.125)
        out.float().square().sum().backward()
        results.append([out.cpu().float(), *(x.grad.cpu().float() for x in own)])
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
