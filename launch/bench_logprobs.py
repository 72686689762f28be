"""The case `logprobs` of `launch bench`: hidden states to log-prob and entropy, and back."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from scenerl.launch.measure import BenchSettings, Comparison, Entry

PACKAGES = ("trl", "liger-kernel")
VOCABULARY = 151_936
"""Of Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""


def comparisons(settings: BenchSettings) -> Iterator[Comparison]:
    """Yield forward and backward at some sizes, with a head that is trained and one that is not."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    sizes = [(8192, 2048)] if device == "cuda" else [(512, 256)]
    vocabulary = 4096 if settings.quick else VOCABULARY
    for tokens, hidden in [(64, 32)] if settings.quick else sizes:
        for trained in (False, True):
            generator = torch.Generator().manual_seed(0)
            inputs = Inputs(
                hidden=torch.randn(tokens, hidden, generator=generator).to(device, dtype),
                weight=(0.05 * torch.randn(vocabulary, hidden, generator=generator))
                .to(device, dtype)
                .requires_grad_(trained),
                ids=torch.randint(0, vocabulary, (tokens,), generator=generator).to(device),
            )
            peers, left_out = _peers(device)
            names: dict[str, Score] = {"scenerl": ours}
            if device == "cuda":
                names["scenerl, torch passes"] = _twin
            count = len(names)
            names |= peers
            check_agreement(inputs, names, atol=0.1 if dtype == torch.bfloat16 else 1e-4)
            entries = [Entry(name=n, run=partial(step, inputs, f)) for n, f in names.items()]
            yield Comparison(
                case=f"{tokens} tokens, hidden {hidden}, vocabulary {vocabulary}, "
                f"{str(dtype).removeprefix('torch.')}, {'trained' if trained else 'frozen'} head",
                ours=tuple(entries[:count]),
                peers=tuple(entries[count:]),
                left_out=left_out,
            )


class Inputs:
    """What every way of scoring is given."""

    def __init__(self, *, hidden: Any, weight: Any, ids: Any) -> None:
        """Take [tokens, hidden], [vocabulary, hidden] and [tokens]."""
        self.hidden, self.weight, self.ids = hidden, weight, ids


Score = Callable[[Any, Any, Any], tuple[Any, Any]]


def step(inputs: Inputs, score: Score) -> Any:
    """Run forward and backward of the mean log-prob; return the log-probs."""
    inputs.weight.grad = None
    hidden = inputs.hidden.detach().requires_grad_()
    logprobs, _ = score(hidden, inputs.weight, inputs.ids)
    logprobs.mean().backward()
    inputs.weight.grad = None
    return logprobs.detach()


def check_agreement(inputs: Inputs, scores: dict[str, Score], *, atol: float) -> None:
    """Compare the log-probs of all with the first's.

    Raises:
        ValueError: If one differs, since its time would then mean nothing.
    """
    import torch

    expected = None
    for name, score in scores.items():
        with torch.no_grad():
            found = score(inputs.hidden[:32], inputs.weight, inputs.ids[:32])[0].float()
        expected = found if expected is None else expected
        worst = float((found - expected).abs().max())
        if worst > atol:
            raise ValueError(f"{name}: log-probs differ by {worst}, allowed are {atol}")


def ours(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    """Score by tiles of the vocabulary; entropy and argmax come along."""
    from scenerl.kernels.head_scores import head_scores

    logprobs, entropy, _ = head_scores(hidden, weight, ids)
    return logprobs, entropy


def _twin(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    """Score as `ours`, with torch's passes over a tile on a GPU too."""
    from scenerl.kernels.head_scores import head_scores

    logprobs, entropy, _ = head_scores(hidden, weight, ids, plain=True)
    return logprobs, entropy


def _naive(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    logprobs = (hidden @ weight.T).float().log_softmax(-1)
    return logprobs.gather(1, ids[:, None])[:, 0], None


def _naive_with_entropy(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    logprobs = (hidden @ weight.T).float().log_softmax(-1)
    entropy = -(logprobs.detach().exp() * logprobs.detach()).sum(-1)
    return logprobs.gather(1, ids[:, None])[:, 0], entropy


def _trl(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    from trl.trainer.utils import selective_log_softmax

    return selective_log_softmax(hidden @ weight.T, ids), None


def _trl_with_entropy(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    return selective_log_softmax_and_entropy(  # type: ignore[no-any-return]
        hidden @ weight.T, ids, entropy_requires_grad=False
    )


def _trl_chunked(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    found = ChunkedLogProbFunction.apply(
        hidden, weight, None, ids, 1.0, CHUNK, None, 1.0, ("entropy",)
    )
    return found[0], found[1]


def _liger(hidden: Any, weight: Any, ids: Any) -> tuple[Any, Any]:
    from liger_kernel.ops.fused_linear_cross_entropy import (
        LigerFusedLinearCrossEntropyFunction,
    )

    found = LigerFusedLinearCrossEntropyFunction.apply(
        hidden, weight, ids, None, None, -100, 0.0, 0.0, "none"
    )
    return -found[0], None


def _peers(device: str) -> tuple[dict[str, Score], tuple[str, ...]]:
    """Return what runs here, and what does not with its reason."""
    if device == "cpu":
        return PEERS, ("liger-kernel: its kernels need a GPU",)
    if importlib.util.find_spec("liger_kernel") is None:
        return PEERS, ("liger-kernel: not installed",)
    return PEERS | {"liger-kernel fused cross-entropy, without entropy": _liger}, ()


PEERS: dict[str, Score] = {
    "log_softmax + gather": _naive,
    "log_softmax + gather + entropy": _naive_with_entropy,
    "TRL selective_log_softmax": _trl,
    "TRL selective_log_softmax_and_entropy": _trl_with_entropy,
    "TRL chunked head": _trl_chunked,
}
