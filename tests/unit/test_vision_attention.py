import pytest
import torch

from scenerl.rl.vision_attention import segment_attention


def one_by_one(query, key, value, lengths, scale):
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = [(q @ k.transpose(2, 3) * scale).softmax(-1) @ v for q, k, v in parts]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


@pytest.mark.parametrize("lengths", [[6], [4, 4, 4], [4, 2, 4, 1, 2, 4]])
def test_each_segment_attends_to_itself_only_and_keeps_its_place(lengths):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 2, sum(lengths), 8)
    results = []
    for attend in (lambda *a: segment_attention(*a[:4], scale=a[4]), one_by_one):
        own = torch.randn(shape, generator=generator.manual_seed(0)).requires_grad_()
        out = attend(*own, lengths, 0.3)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        results.append((out, own.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
