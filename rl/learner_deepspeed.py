"""The learner sharded by DeepSpeed ZeRO: one object per rank, the same numbers as in one process.

Every rank is given every batch and takes its share by the same plan, so that only gradients (and,
with ZeRO-3, weights) travel between ranks. All ranks run the same number of micro-batches, each
through the vision tower, or their collectives would not meet.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenerl.configs.schema import ConfigError, ModelConfig, RolloutConfig, TrainConfig
from scenerl.configs.seeding import derive_seed
from scenerl.rl.forward import PackedPolicy
from scenerl.rl.learner import ExtraLoss
from scenerl.rl.micro_batch import MicroBatch, plan_micro_batches
from scenerl.rl.objective import (
    FixedLogprobs,
    StepTotals,
    batch_normalizers,
    grpo_micro_batch,
    loss_settings,
    per_rollout,
    plan_examples,
    score_micro_batch,
    scoring_packs,
)
from scenerl.rl.optimizer import adamw_groups, check_gradient_norm
from scenerl.rl.policy import (
    adapter_disabled,
    hub_names,
    load_policy,
    load_reference,
    plain_weights,
    save_policy,
)
from scenerl.rl.records import SftExample, TrainBatch, UpdateResult
from scenerl.rl.schedule import learning_rate
from scenerl.rl.zero_state import fill_missing_gradients, load_zero_state, zero_config, zero_state
from scenerl.rollout.encode import check_encoded
from scenerl.rollout.records import Group


class DeepSpeedLearner:
    """One rank of a sharded learner. See `rl.learner.Learner`; call every method on all ranks."""

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        rollout: RolloutConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        address: str | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """Join the process group, load the policy and shard it.

        Args:
            model: What is trained; `model.path` is a checkpoint folder.
            train: Loss, optimizer, `zero_stage`, `deepspeed_config`.
            rollout: Sampling temperature and the length limit that dr_grpo divides by.
            seed: Seeds LoRA's initial weights and dropout, the same on all ranks.
            rank: This process, 0 to world_size - 1.
            world_size: Processes.
            address: host:port of rank 0; None is allowed for a single process.
            timeout_s: After which a collective that a rank does not join raises.

        Raises:
            ConfigError: If the settings do not fit ZeRO.
        """
        if train.zero_stage == 0 and model.dtype != "float32":
            raise ConfigError(
                f"train.zero_stage is 0 with model.dtype {model.dtype}, but ZeRO 0 keeps no "
                "float32 master weights; set train.zero_stage to 1, 2 or 3"
            )
        self._model, self._train = model, train
        self._rank, self._world_size = rank, world_size
        self._device = _join(rank, world_size, address, timeout_s)
        torch.manual_seed(derive_seed(seed, "learner"))
        self._policy = load_policy(
            model, gradient_checkpointing=train.gradient_checkpointing, device=self._device
        )
        self._engine = self._shard(PackedPolicy(self._policy, temperature=rollout.temperature))
        self._reference: PackedPolicy | None = None
        if train.beta > 0 and model.lora_r == 0:
            reference = load_reference(model, device=self._device)
            self._reference = PackedPolicy(reference, temperature=rollout.temperature)
        self._settings = loss_settings(train, rollout)
        self.policy_version = 0

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Return float32 [completion] log-probs of every rollout, on every rank."""
        self._engine.eval()
        packs = scoring_packs(groups, self._train.max_tokens_per_micro_batch)
        lengths = [sum(len(ids) for ids in pack.completion_ids) for pack in packs]
        scores = [torch.zeros(length, device=self._device) for length in lengths]
        for start in range(0, len(packs), self._world_size):
            index = start + self._rank
            mine = packs[index] if index < len(packs) else packs[start]
            check_encoded(mine.encoded)
            with torch.no_grad():
                logprobs, _ = self._engine([mine], run_vision=True)
            if index < len(packs):
                scores[index] = logprobs
        flat = torch.cat(scores)
        torch.distributed.all_reduce(flat)
        return per_rollout(flat.cpu(), groups)

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train `num_iterations` optimizer steps on every batch."""
        totals = StepTotals()
        lr = learning_rate(self.policy_version, self._train)
        for batch in batches:
            plan = plan_micro_batches(
                batch.groups,
                max_tokens=self._train.max_tokens_per_micro_batch,
                at_least=self._train.gradient_accumulation_steps,
                num_ranks=self._world_size,
            )
            for group in {id(g.encoded): g for part in plan[self._rank] for g in part}.values():
                check_encoded(group.encoded)
            with totals.seconds.measure("forward_backward"):
                work = [
                    (part, FixedLogprobs(reference=self._reference_logprobs(part or _idle(plan))))
                    for part in plan[self._rank]
                ]
            for _ in range(self._train.num_iterations):
                self._optimizer_step(batch, work, _idle(plan), totals, lr)
        totals.reduce(self._device)
        self.policy_version += 1
        metrics = totals.metrics() | {"policy/learning_rate": lr}
        return UpdateResult(
            policy_version=self.policy_version, loss=metrics["policy/loss"], metrics=metrics
        )

    def update_sft(
        self, examples: Sequence[SftExample], extra_loss: ExtraLoss | None = None
    ) -> UpdateResult:
        """Take one optimizer step on the mean cross-entropy per completion token.

        Raises:
            ConfigError: If there is an extra loss, whose forward pass ZeRO would not see.
        """
        if extra_loss is not None:
            raise ConfigError(
                "an extra supervised loss needs the weights in one process; set train.learner "
                "to torch or sft.dense_weight to 0"
            )
        self._engine.train()
        lr = learning_rate(self.policy_version, self._train)
        num_tokens = sum(len(example.completion_ids) for example in examples)
        plans = [
            plan_examples(
                examples[rank :: self._world_size], self._train.max_tokens_per_micro_batch
            )
            for rank in range(self._world_size)
        ]
        rounds = max(len(plan) for plan in plans)
        total = torch.zeros(1, device=self._device)
        for index in range(rounds):
            is_idle = index >= len(plans[self._rank])
            packs = plans[0][0][:1] if is_idle else plans[self._rank][index]
            logprobs, _ = self._engine(packs, run_vision=True)
            loss = -logprobs.sum() / num_tokens * (0.0 if is_idle else 1.0)
            self._backward(loss, is_last=index == rounds - 1)
            total += loss.detach()
        norm = self._step(lr)
        torch.distributed.all_reduce(total)
        self.policy_version += 1
        return UpdateResult(
            policy_version=self.policy_version,
            loss=float(total),
            metrics={
                "sft/loss": float(total),
                "policy/learning_rate": lr,
                "policy/grad_norm": norm,
            },
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight under its hub name on rank 0, nothing on the others."""
        weights = self._gathered_weights()
        if weights is not None:
            yield from hub_names(self._policy, weights).items()

    def save_model(self, folder: Path) -> None:
        """Write config, weights (LoRA merged), tokenizer and processor on rank 0."""
        weights = self._gathered_weights()
        if weights is not None:
            save_policy(self._policy, weights, self._model.path, folder)

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's share of weights and optimizer, the version and random states."""
        return {
            "policy_version": self.policy_version,
            "zero": zero_state(self._engine, self._train.zero_stage),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore this rank's `state_dict`; ValueError when a weight is missing or left over."""
        load_zero_state(self._engine, self._train.zero_stage, state["zero"])
        self.policy_version = int(state["policy_version"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def close(self) -> None:
        """Leave the process group."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _shard(self, packed: PackedPolicy) -> Any:
        import deepspeed

        trainable = [p for p in packed.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            adamw_groups(trainable, self._train.weight_decay),
            lr=self._train.learning_rate,
            betas=(self._train.adam_beta1, self._train.adam_beta2),
            eps=self._train.adam_epsilon,
        )
        config = zero_config(
            self._train,
            num_parameters=sum(p.numel() for p in packed.parameters()),
            bfloat16=self._model.dtype == "bfloat16",
        )
        engine, *_ = deepspeed.initialize(model=packed, optimizer=optimizer, config=config)
        return engine

    def _optimizer_step(
        self,
        batch: TrainBatch,
        work: Sequence[tuple[MicroBatch, FixedLogprobs]],
        stand_in: MicroBatch,
        totals: StepTotals,
        lr: float,
    ) -> None:
        self._engine.train()
        normalizers = batch_normalizers(batch)
        for index, (micro_batch, fixed) in enumerate(work):
            with totals.seconds.measure("forward_backward"):
                output = grpo_micro_batch(
                    self._engine,
                    micro_batch or stand_in,
                    fixed,
                    self._settings,
                    normalizers,
                    run_vision=True,
                )
                weight = 1.0 if micro_batch else 0.0
                self._backward(output.loss * weight, is_last=index == len(work) - 1)
                if micro_batch:
                    totals.add(output)
        with totals.seconds.measure("optimizer"):
            totals.grad_norm += self._step(lr)
        totals.steps += 1

    def _backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Backpropagate; DeepSpeed averages over ranks, but the shares of a loss add up."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def _step(self, lr: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        norm = None
        if self._train.zero_stage == 0:
            gradients = fill_missing_gradients(self._engine.module)
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        self._engine.step()
        return check_gradient_norm(
            float(self._engine.get_global_grad_norm() if norm is None else norm)
        )

    def _reference_logprobs(self, micro_batch: MicroBatch) -> Tensor | None:
        if self._settings.beta <= 0:
            return None
        if self._reference is not None:
            return score_micro_batch(self._reference, micro_batch)
        self._engine.eval()
        with adapter_disabled(self._policy):
            return score_micro_batch(self._engine, micro_batch, run_vision=True)

    def _gathered_weights(self) -> dict[str, Tensor] | None:
        """Copy the whole model to the memory of rank 0; None on other ranks."""
        import deepspeed

        sharded = list(self._policy.parameters()) if self._train.zero_stage == 3 else []
        gathered = deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded))
        with torch.no_grad(), gathered:
            if self._rank != 0:
                return None
            weights = plain_weights(self._policy)
            return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _idle(plan: Sequence[Sequence[MicroBatch]]) -> MicroBatch:
    """Choose what a rank without work runs, with weight zero, to keep in step."""
    return plan[0][0][:1]


def _join(rank: int, world_size: int, address: str | None, timeout_s: float) -> str:
    """Enter the process group and return this rank's device."""
    if address is None:
        if world_size != 1:
            raise ConfigError(
                f"{world_size} learner ranks were given no address; pass host:port of rank 0"
            )
        address = f"127.0.0.1:{_free_port()}"
    host, port = address.rsplit(":", 1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": os.environ.get("LOCAL_RANK", "0"),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    import deepspeed

    # An op of inference that would be compiled at start; training does not use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    has_cuda = torch.cuda.is_available()
    deepspeed.init_distributed(
        dist_backend="nccl" if has_cuda else "gloo",
        timeout=timedelta(seconds=timeout_s),
        init_method=f"tcp://{address}",
        rank=rank,
        world_size=world_size,
    )
    return f"cuda:{os.environ['LOCAL_RANK']}" if has_cuda else "cpu"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
