import pytest

from scenerl.configs.load import load_config
from scenerl.launch.plan import GIB, format_plan, make_plan


@pytest.mark.parametrize("recipe", ["stage1", "stage2", "stage1_1gpu", "stage1_1gpu_lora"])
def test_the_gpu_recipes_fit_80_gb(recipe: str) -> None:
    plan = make_plan(load_config(recipe))
    assert plan.problems == ()
    assert "fits" in format_plan(plan)
    assert plan.role("learner").bytes_per_device > 10 * GIB


def test_a_full_7b_on_one_gpu_does_not_fit_and_shows_the_arithmetic() -> None:
    config = load_config(
        "stage1",
        ["cluster.gpus_per_node=1", "cluster.num_learners=1", "rollout.num_engines=1"],
    )
    plan = make_plan(config)
    text = format_plan(plan)
    assert len(plan.problems) == 1
    assert "does not fit" in text
    assert "80.0 GiB present" in text
    # 8.29e9 parameters: bf16 weights 15.4 GiB, Adam moments and fp32 master 92.6 GiB.
    assert "15.4 GiB" in text
    assert "92.6 GiB" in text


def test_separate_roles_need_the_sum_of_gpus() -> None:
    config = load_config("stage1", ["cluster.colocate=false"])
    assert any("16 GPUs needed (sum of 8 learners" in p for p in make_plan(config).problems)


def test_two_torch_learners_are_refused() -> None:
    config = load_config("stage1_1gpu", ["cluster.num_learners=2", "cluster.gpus_per_node=2"])
    assert any("train.learner=deepspeed" in p for p in make_plan(config).problems)


def test_engine_weights_larger_than_their_share_are_named() -> None:
    config = load_config("stage1", ["rollout.gpu_memory_utilization=0.1"])
    assert any("0 GiB for the KV cache" in p for p in make_plan(config).problems)


def test_an_unknown_checkpoint_is_planned_without_memory() -> None:
    plan = make_plan(load_config("stage1", ["model.path=somebody/Qwen2.5-VL-99B"]))
    assert "memory not estimated" in format_plan(plan)
    assert plan.problems == ()
