from pathlib import Path

import pytest
from tiny_checkpoint import tiny_checkpoint

from scenerl.configs.load import load_config
from scenerl.configs.schema import ConfigError
from scenerl.launch.plan import GIB, format_plan, make_plan, model_size


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


def test_a_width_that_does_not_divide_the_model_is_refused() -> None:
    few = ["cluster.num_learners=8", "rollout.num_engines=1"]
    assert make_plan(load_config("stage1", [*few, "rollout.tensor_parallel_size=4"])).problems == ()
    problems = make_plan(load_config("stage1", [*few, "rollout.tensor_parallel_size=8"])).problems
    assert any("Qwen2.5-VL-7B-Instruct; set it to one of 1, 2, 4" in p for p in problems)


def test_an_engine_does_not_span_nodes() -> None:
    more = ["cluster.nnodes=4", "cluster.gpus_per_node=2", "rollout.num_engines=1"]
    config = load_config("stage1", [*more, "rollout.tensor_parallel_size=4"])
    assert any("have to be on one node" in p for p in make_plan(config).problems)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_size_of_a_folder_is_that_of_its_weights(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForImageTextToText

    size = model_size(str(tiny_checkpoint(tmp_path, family)))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert size is not None
    assert size.parameters == model.num_parameters()
    assert size.vision_parameters == sum(p.numel() for p in model.model.visual.parameters())
    assert size.max_tensor_parallel == 2


def test_a_folder_without_readable_weights_is_a_wrong_setting(tmp_path: Path) -> None:
    config = Path("configs/tiny_policy/config.json")
    (tmp_path / "config.json").write_text(config.read_text())
    with pytest.raises(ConfigError, match=r"holds no \*\.safetensors; set model\.path"):
        model_size(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigError, match="copy the checkpoint again"):
        model_size(str(tmp_path))
