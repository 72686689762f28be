"""The weighted list: values, parts, what does not apply, the canary, and what is logged."""

from pathlib import Path

import pytest
from rollouts import group, reply

from scenerl.configs.schema import ConfigError, RewardConfig
from scenerl.envs.templates import TaskName
from scenerl.rewards.builtin import BUILTINS
from scenerl.rewards.canary import canary_prompt
from scenerl.rewards.records import RewardError, Score
from scenerl.rewards.scorer import Scorer, score_metrics

PLUGIN = """
def parts(completions, bonus=1.0):
    return [{"long": bonus, "rare": None} for _ in completions]

def logs(completions, trainer_state, log_extra, log_metric, **kwargs):
    log_extra("words", [len(c[0]["content"].split()) for c in completions])
    log_metric("step", trainer_state.global_step)
    return [None] * len(completions)

def wants_a_colour(completions, colour):
    return [1.0] * len(completions)

def broken(completions):
    return [undefined for _ in completions]

async def waits(completions):
    import asyncio
    await asyncio.sleep(0.3)
    return [0.25] * len(completions)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "plugin_of_scorer.py"
    file.write_text(PLUGIN)
    return file


REPLIES = [reply("1s to 3s"), reply("1s to 2s"), "I do not know"]


def test_the_value_is_the_weighted_sum_and_parts_are_raw() -> None:
    scorer = Scorer(
        [RewardConfig(name="temporal_iou", weight=2.0), RewardConfig(name="format", weight=0.5)]
    )
    (scores,) = scorer.score([group(REPLIES)])
    assert [score.value for score in scores] == [2.5, 1.5, 0.0]
    assert scores[1].parts == {"temporal_iou": 0.5, "format": 1.0}


def test_a_reward_of_weight_zero_is_only_a_metric() -> None:
    scorer = Scorer([RewardConfig(name="format"), RewardConfig(name="temporal_iou", weight=0.0)])
    (scores,) = scorer.score([group(REPLIES)])
    assert [score.value for score in scores] == [1.0, 1.0, 0.0]
    assert scores[0].parts["temporal_iou"] == 1.0


def test_what_does_not_apply_is_left_out_of_the_sum() -> None:
    scorer = Scorer([RewardConfig(name="format"), RewardConfig(name="answer_exact")])
    (scores,) = scorer.score([group(REPLIES[:1])])
    assert scores == [Score(value=1.0, parts={"format": 1.0, "answer_exact": None})]
    assert scorer.counters == {"answer_exact/not_applicable": 1}


def test_a_rollout_to_which_nothing_applies_is_unscored() -> None:
    scorer = Scorer([RewardConfig(name="answer_exact"), RewardConfig(name="format", weight=0.0)])
    (scores,) = scorer.score([group(REPLIES[:1])])
    assert (scores[0].value, scores[0].reason) == (None, "no weighted reward applies")


def test_groups_keep_their_order_and_an_empty_one_its_place() -> None:
    scorer = Scorer([RewardConfig(name="temporal_iou")])
    scores = scorer.score([group(REPLIES[1:2]), group([]), group(REPLIES[:1])])
    assert [[score.value for score in row] for row in scores] == [[0.5], [], [1.0]]
    assert scorer.score([]) == []


def test_plugins_give_parts_logs_and_see_the_step(plugin: Path) -> None:
    scorer = Scorer(
        [
            RewardConfig(path=f"{plugin}:parts", kwargs={"bonus": 3.0}),
            RewardConfig(path=f"{plugin}:parts", weight=0.0),
            RewardConfig(path=f"{plugin}:logs"),
        ]
    )
    (scores,) = scorer.score([group(REPLIES[2:])], step=7)
    scorer.close()
    assert scores[0].value == 3.0
    assert scores[0].parts == {
        "parts": 3.0,
        "parts/long": 3.0,
        "parts/rare": None,
        "parts_2": 1.0,
        "parts_2/long": 1.0,
        "parts_2/rare": None,
        "logs": None,
    }
    assert scores[0].extra == {"logs/words": 4}
    assert scorer.drain_metrics() == {"logs/step": 7.0}
    assert scorer.drain_metrics() == {}


def test_async_calls_of_one_step_run_at_once(plugin: Path) -> None:
    import time

    scorer = Scorer([RewardConfig(path=f"{plugin}:waits")])
    scorer.canary()
    started = time.monotonic()
    scores = scorer.score([group(REPLIES) for _ in range(20)])
    assert time.monotonic() - started < 3.0  # one after the other would take 6 s
    scorer.close()
    assert {score.value for row in scores for score in row} == {0.25}


@pytest.mark.parametrize("task", ["temporal_grounding", "image_grounding", "video_qa"])
def test_the_canary_passes_all_built_in_rewards(task: TaskName) -> None:
    configs = [
        RewardConfig(name=name, kwargs={"max_tokens": 9} if name == "length" else {})
        for name in BUILTINS
    ]
    scorer = Scorer([*configs, RewardConfig(name="lifted_iou")], task=task)
    scorer.canary()
    scorer.canary([canary_prompt(task)])
    assert scorer.counters == {}


def test_the_canary_names_every_broken_reward(plugin: Path) -> None:
    scorer = Scorer(
        [
            RewardConfig(name="format"),
            RewardConfig(name="length"),
            RewardConfig(path=f"{plugin}:wants_a_colour", on_error="zero"),
            RewardConfig(path=f"{plugin}:broken", on_error="none"),
            RewardConfig(path=f"{plugin}:missing"),
            RewardConfig(path="nowhere.py:f"),
            RewardConfig(name="temporal_iou", kwargs={"sharpness": 2}),
        ]
    )
    with pytest.raises(RewardError) as caught:
        scorer.canary()
    text = str(caught.value)
    assert "reward length: it asks for ['max_tokens']" in text
    assert "asks for ['colour'], which is neither a column" in text
    assert "reward broken: raised NameError: name 'undefined' is not defined (line 14 of" in text
    assert "has no 'missing'; it has:" in text
    assert "there is no reward file" in text
    assert "reward temporal_iou: kwargs has ['sharpness']" in text
    assert "reward format" not in text


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'temporal_ioo'.*did you mean temporal_iou\?"):
        Scorer([RewardConfig(name="temporal_ioo")])


def test_a_list_without_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train towards"):
        Scorer([RewardConfig(name="format", weight=0.0)])
    with pytest.raises(ConfigError, match="0 entries"):
        Scorer([])


def test_means_and_spreads_of_a_step() -> None:
    scores = [
        [Score(value=1.0, parts={"a": 1.0}), Score(value=0.0, parts={"a": 0.0})],
        [Score(value=0.5, parts={"a": 0.5}), Score(value=None, parts={"a": None}, reason="x")],
    ]
    assert score_metrics(scores) == {
        "reward/mean": 0.5,
        "reward/unscored_fraction": 0.25,
        "reward/a": 0.5,
        "reward/a/spread": 0.5,
    }
    assert score_metrics([]) == {}
