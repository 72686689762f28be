"""TRL's reward functions run unchanged, and give what TRL's own trainer gets from them."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rollouts import group, reply

from scenerl.configs.schema import RewardConfig
from scenerl.rewards.columns import group_columns
from scenerl.rewards.loading import load_function
from scenerl.rewards.scorer import Scorer

trl = pytest.importorskip("trl", reason="trl is not installed")

STYLES = """
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

overlong = get_soft_overlong_punishment(max_completion_len=6, soft_punish_cache=4)
repetition = get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0)

def column(completions, span_s, **kwargs):
    return [span[1] - span[0] + len(c[0]["content"]) for c, span in zip(completions, span_s)]

def some(prompts, completions, completion_ids, question, trainer_state, **kwargs):
    assert trainer_state.global_step == 5
    return [None if i % 2 else len(ids) for i, ids in enumerate(completion_ids)]

async def waits(completions, **kwargs):
    return [float("know" in c[0]["content"]) for c in completions]
"""
REPLIES = [
    "<think>\na b a b a b\n</think>\n1s to 3s",
    reply("1s to 2s"),
    "I do not know what I do not know what I do not know",
    "no",
]


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trl_styles") / "trl_styles.py"
    file.write_text(STYLES)
    return file


@pytest.fixture
def trainer() -> Iterator[SimpleNamespace]:
    """What GRPOTrainer._calculate_rewards reads from its trainer."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=True),
        state=SimpleNamespace(global_step=5),
        _log_completion_extra=lambda *_: None,
        _log_metric=lambda *_: None,
        environments=None,
        async_loop=loop,
        _metrics={"train": {}},
        model=SimpleNamespace(training=True),
    )
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def by_trl(trainer: SimpleNamespace, paths: list[str], columns: dict[str, Any]) -> torch.Tensor:
    """Score with TRL's trainer code."""
    import trl.trainer.grpo_trainer as grpo_trainer

    trainer.reward_funcs = [load_function(path) for path in paths]
    trainer.reward_processing_classes = [None] * len(paths)
    trainer.reward_func_names = [path.rpartition(":")[2] for path in paths]
    names = [name for name in columns if name not in ("prompts", "completions", "completion_ids")]
    inputs = [
        {name: columns[name][at] for name in names} for at in range(len(columns["completions"]))
    ]
    found: torch.Tensor = grpo_trainer.GRPOTrainer._calculate_rewards(
        trainer, inputs, columns["prompts"], columns["completions"], columns["completion_ids"]
    )
    return found


def test_trls_trainer_and_our_scorer_give_the_same(
    styles: Path, trainer: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = sys.modules["trl.import_utils"]
    monkeypatch.setattr(imports, "is_vllm_available", lambda *_, **__: False)
    import trl.trainer.grpo_trainer as grpo_trainer  # a minute quicker without vLLM

    class NoTiming:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(grpo_trainer, "profiling_context", NoTiming)
    monkeypatch.setattr(grpo_trainer, "gather", lambda tensor: tensor)
    names = ["overlong", "repetition", "column", "some", "waits"]
    paths = [*(f"{styles}:{name}" for name in names), "trl.rewards:think_format_reward"]
    subject = group(REPLIES)
    expected = by_trl(trainer, paths, group_columns(subject))
    scorer = Scorer([RewardConfig(path=path) for path in paths])
    (scores,) = scorer.score([subject], step=5)
    scorer.close()
    ours = [
        [float("nan") if part is None else part for part in score.parts.values()]
        for score in scores
    ]
    torch.testing.assert_close(torch.tensor(ours), expected, equal_nan=True)
    totals = [score.value for score in scores]
    assert totals == pytest.approx(expected.nansum(dim=1).tolist())  # TRL's weighted sum
    assert len({tuple(row) for row in expected.nan_to_num().tolist()}) == len(REPLIES)
