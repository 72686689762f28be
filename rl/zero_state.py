"""DeepSpeed's settings, and its state as plain tensors that load without unpickling code."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenerl.configs.schema import ConfigError, TrainConfig

OWNED_SECTIONS = ("optimizer", "scheduler", "fp16")
"""Sections of a DeepSpeed file that the train section of the run decides."""

LARGEST_BUCKET = 500_000_000


def zero_config(train: TrainConfig, *, num_parameters: int, bfloat16: bool) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    The file that `train.deepspeed_config` names is taken as it is (values "auto" are dropped); the
    train section adds what it decides. Buckets are never larger than the model: the defaults cost
    2.3 GB a rank.

    Raises:
        ConfigError: If the file sets what the train section decides, or another ZeRO stage.
    """
    config: dict[str, Any] = {}
    if train.deepspeed_config is not None:
        config = _without_auto(json.loads(Path(train.deepspeed_config).read_text()))
    taken = [section for section in OWNED_SECTIONS if section in config]
    if taken:
        raise ConfigError(
            f"{train.deepspeed_config}: found {', '.join(taken)}, which the run's train section "
            "decides; remove it from the DeepSpeed file"
        )
    bucket = min(LARGEST_BUCKET, max(num_parameters, 1))
    zero = {
        "stage": train.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket // 10,
        "stage3_max_live_parameters": 2 * bucket,
        **config.get("zero_optimization", {}),
    }
    if zero["stage"] != train.zero_stage:
        raise ConfigError(
            f"{train.deepspeed_config}: found ZeRO stage {zero['stage']}, but train.zero_stage is "
            f"{train.zero_stage}; set both to the same"
        )
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
    }


def zero_state(engine: Any, stage: int) -> dict[str, Any]:
    """Return this rank's part of the float32 weights and of the optimizer's state."""
    optimizer = engine.optimizer
    names = [name for name, p in engine.module.named_parameters() if p.requires_grad]
    if stage == 0:
        weights = [p.detach() for p in engine.module.parameters() if p.requires_grad]
        return {"names": names, "weights": weights, "adamw": optimizer.state_dict()}
    if stage == 3:
        state = optimizer.state_dict()
        weights = [part.detach() for part in state["fp32_flat_groups"]]
        return {"names": names, "weights": weights, "adamw": state["optimizer_state_dict"]}
    weights = [part.detach() for part in optimizer.single_partition_of_fp32_groups]
    return {"names": names, "weights": weights, "adamw": optimizer.optimizer.state_dict()}


def load_zero_state(engine: Any, stage: int, saved: dict[str, Any]) -> None:
    """Restore `zero_state` into an engine of the same model, stage and number of ranks.

    Raises:
        ValueError: If the weights are not those of this engine.
    """
    optimizer = engine.optimizer
    own = zero_state(engine, stage)
    shapes = [tuple(part.shape) for part in own["weights"]]
    saved_shapes = [tuple(part.shape) for part in saved["weights"]]
    if own["names"] != saved["names"] or shapes != saved_shapes:
        missing = sorted(set(own["names"]) - set(saved["names"]))
        unexpected = sorted(set(saved["names"]) - set(own["names"]))
        raise ValueError(
            f"the checkpoint lacks the weights {missing}, has left-over weights {unexpected}, and "
            f"parts of shapes {saved_shapes} where {shapes} are expected; resume with the model, "
            "train.zero_stage and cluster.num_learners the run was started with"
        )
    if stage == 3:
        state = optimizer.state_dict()
        state |= {"fp32_flat_groups": saved["weights"], "optimizer_state_dict": saved["adamw"]}
        ranks = torch.distributed.get_world_size()
        optimizer.load_state_dict([state] * ranks)
        return
    with torch.no_grad():
        for part, values in zip(own["weights"], saved["weights"], strict=True):
            part.copy_(values)
    if stage == 0:
        optimizer.load_state_dict(saved["adamw"])
        return
    optimizer.optimizer.load_state_dict(saved["adamw"])
    optimizer.update_lp_params()


def fill_missing_gradients(module: nn.Module) -> list[Tensor]:
    """Give zero gradients to unused weights, as sharded stages do; return all gradients."""
    gradients = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    return gradients


def _without_auto(section: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if value != "auto"
    }
