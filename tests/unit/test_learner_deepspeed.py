"""Two ranks over gloo against one torch learner on the same batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_qwen import numbers_of, rollout_group, sft_examples, tiny_folder, zero_batch

from scenerl.configs.schema import ConfigError, ModelConfig, RolloutConfig, TrainConfig
from scenerl.rl.learner_deepspeed import DeepSpeedLearner
from scenerl.rl.learner_torch import TorchLearner
from scenerl.rl.zero_state import zero_config

WORKER = Path(__file__).parents[1] / "zero_worker.py"


def run_ranks(folder, stages, world_size=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), str(world_size), str(port)]
            + [str(stage) for stage in stages],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        for rank, process in enumerate(ranks):
            output, _ = process.communicate(timeout=420)
            assert process.returncode == 0, f"rank {rank}:\n{output[-6000:]}"
    finally:
        for process in ranks:
            process.kill()


def torch_run(folder):
    learner = TorchLearner(
        ModelConfig(path=str(folder / "model")),
        TrainConfig(
            learning_rate=0.5,
            adam_epsilon=1.0,  # keeps the step proportional to the gradient, so noise stays noise
            beta=0.1,
            num_iterations=2,
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
        ),
        RolloutConfig(max_completion_length=8),
    )
    groups = [rollout_group(group) for group in zero_batch().groups]
    before = learner.logprobs(groups)
    first = learner.update([zero_batch()])
    middle = {name: tensor.clone() for name, tensor in learner.weights()}
    second = learner.update([zero_batch()])
    end = {name: tensor.clone() for name, tensor in learner.weights()}
    supervised = learner.update_sft(sft_examples())
    return before, middle, end, [r.metrics for r in (first, second, supervised)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    tiny_folder(folder / "model")
    return torch_run(folder)


def check_stage(folder, stage, expected):
    before, middle, end, metrics = expected
    found = torch.load(folder / f"result{stage}.pt", weights_only=True)
    for ours, theirs in zip(found["before"], before, strict=True):
        torch.testing.assert_close(torch.cat(ours), torch.cat(theirs), atol=1e-5, rtol=0)
    initial = load_file(folder / "model" / "model.safetensors")
    for name, reference in ((found["middle"], middle), (found["end"], end)):
        assert name.keys() == reference.keys() == initial.keys()
        moved = torch.cat([(reference[k] - initial[k]).flatten() for k in initial])
        difference = torch.cat([(name[k] - reference[k]).flatten() for k in initial])
        assert float(moved.abs().max()) > 1e-3
        assert float(difference.abs().max()) < 1e-6
    for ours, theirs in zip(found["metrics"][:3], metrics, strict=True):
        assert numbers_of(ours) == pytest.approx(numbers_of(theirs), rel=1e-3, abs=1e-5)
    assert numbers_of(found["metrics"][3]) == numbers_of(
        found["metrics"][1]
    )  # resumed, bit-identical
    assert all(torch.equal(found["resumed_end"][k], found["end"][k]) for k in end)
    saved = load_file(folder / f"saved{stage}" / "model.safetensors")
    assert all(torch.equal(saved[k], found["end"][k]) for k in end)
    assert found["lora_kl"][1] > found["lora_kl"][0] >= 0.0
    assert found["lora_weights"].keys() == end.keys()


def test_two_ranks_update_like_one_learner(tmp_path, expected):
    tiny_folder(tmp_path / "model")
    run_ranks(tmp_path, [0, 2, 3])
    for stage in (0, 2, 3):
        check_stage(tmp_path, stage, expected)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 3])
def test_other_numbers_of_ranks_and_stage_1(tmp_path, expected, world_size):
    tiny_folder(tmp_path / "model")
    run_ranks(tmp_path, [1, 3], world_size)
    for stage in (1, 3):
        check_stage(tmp_path, stage, expected)


def test_deepspeed_file_is_merged_and_checked(tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(
        json.dumps(
            {"zero_optimization": {"stage": 3, "overlap_comm": True}, "train_batch_size": "auto"}
        )
    )
    train = TrainConfig(deepspeed_config=str(file), zero_stage=3, max_grad_norm=0.7)
    config = zero_config(train, num_parameters=1000, bfloat16=True)
    assert config["zero_optimization"]["overlap_comm"] is True
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["gradient_clipping"] == 0.7
    assert config["bf16"] == {"enabled": True}
    assert "train_batch_size" not in config
    with pytest.raises(ConfigError, match=r"found ZeRO stage 3, but train.zero_stage is 2"):
        zero_config(TrainConfig(deepspeed_config=str(file)), num_parameters=1, bfloat16=False)
    file.write_text(json.dumps({"optimizer": {"type": "Adam"}}))
    with pytest.raises(ConfigError, match=r"found optimizer, which .* remove it"):
        zero_config(train, num_parameters=1, bfloat16=False)


def test_stage_0_in_bfloat16_is_refused():
    with pytest.raises(ConfigError, match=r"set train.zero_stage to 1, 2 or 3"):
        DeepSpeedLearner(ModelConfig(dtype="bfloat16"), TrainConfig(zero_stage=0), RolloutConfig())
