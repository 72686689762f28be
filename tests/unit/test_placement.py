import dataclasses

import pytest

from scenerl.configs.schema import ClusterConfig, RolloutConfig, RunConfig
from scenerl.launch.engines import spread_prompts
from scenerl.launch.placement import Slot, layout, seat_wide_engines
from scenerl.launch.plan import make_plan
from scenerl.launch.waits import ResourceError


def config(*, engines: int = 1, width: int = 1, **cluster: object) -> RunConfig:
    rollout = RolloutConfig(num_engines=engines, tensor_parallel_size=width)
    return dataclasses.replace(
        RunConfig(),
        rollout=rollout,
        cluster=ClusterConfig(**cluster),  # type: ignore[arg-type]
    )


def test_without_gpus_every_actor_has_a_bundle_of_its_own() -> None:
    run = config(num_encoders=2)
    where = layout(run, make_plan(run), with_learner=True)
    assert where.bundles == ({"CPU": 1.0},) * 4
    slots = [slot.bundle for slot in (*where.learners, *where.engines, *where.encoders)]
    assert slots == [0, 1, 2, 3]


def test_evaluation_reserves_nothing_for_a_learner() -> None:
    run = config()
    where = layout(run, make_plan(run), with_learner=False)
    assert where.learners == ()
    assert len(where.bundles) == 2


def test_colocated_engine_and_learner_share_each_gpu() -> None:
    run = config(engines=2, num_learners=2, gpus_per_node=2)
    where = layout(run, make_plan(run), with_learner=True)
    assert where.learners == tuple(Slot(bundle=i, cpus=1.0, gpus=0.5) for i in range(2))
    assert where.engines == where.learners
    assert [bundle["GPU"] for bundle in where.bundles[:2]] == [1.0, 1.0]
    assert "GPU" not in where.bundles[2]


def test_colocated_wide_engine_uses_the_gpus_of_its_learners() -> None:
    run = config(engines=2, width=2, num_learners=4, gpus_per_node=4)
    where = layout(run, make_plan(run), with_learner=True)
    assert where.engine_learners == ((0, 1), (2, 3))
    assert [slot.bundle for slot in where.engines] == [0, 2]
    assert all(slot.gpus == 0 for slot in where.engines)
    few = config(engines=2, width=2, num_learners=2, gpus_per_node=4)
    with pytest.raises(ResourceError, match=r"cluster\.num_learners to 4"):
        layout(few, make_plan(few), with_learner=True)


def test_a_wide_engine_gets_learners_of_one_node() -> None:
    run = config(engines=2, width=2, num_learners=4, gpus_per_node=2, nnodes=2)
    where = layout(run, make_plan(run), with_learner=True)
    mixed = seat_wide_engines(where, dict(enumerate("abab")))
    assert mixed.engine_learners == ((0, 2), (1, 3))
    assert [slot.bundle for slot in mixed.engines] == [0, 1]
    assert seat_wide_engines(where, dict(enumerate("aaaa"))) == where
    with pytest.raises(ResourceError, match=r"GPUs lie 1 \+ 3 on 2 nodes"):
        seat_wide_engines(where, dict(enumerate("abbb")))


def test_separate_engines_have_gpus_of_their_own() -> None:
    run = config(engines=1, width=2, num_learners=2, gpus_per_node=4, colocate=False)
    where = layout(run, make_plan(run), with_learner=True)
    assert [bundle.get("GPU") for bundle in where.bundles] == [1.0, 1.0, 2.0, None]
    assert where.engines == (Slot(bundle=2, cpus=1.0, gpus=2),)


def test_prompts_are_spread_by_length_and_none_is_lost() -> None:
    shares = spread_prompts([10, 500, 20, 400, 30], 2)
    assert shares == [[1], [0, 2, 3, 4]]
    assert spread_prompts([5], 3) == [[0], [], []]
