"""The learner in one process: plain torch, one device."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenerl.configs.schema import ModelConfig, RolloutConfig, TrainConfig
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
from scenerl.rl.optimizer import MasterOptimizer
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
from scenerl.rollout.encode import check_encoded
from scenerl.rollout.records import Group


class TorchLearner:
    """Trains the policy in this process. See `rl.learner.Learner`."""

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        rollout: RolloutConfig,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """Load the policy, and the reference when `train.beta` is positive and there is no LoRA.

        Args:
            model: What is trained; `model.path` is a checkpoint folder.
            train: Loss and optimizer.
            rollout: Sampling temperature and the length limit that dr_grpo divides by.
            seed: Seeds LoRA's initial weights and dropout.
            device: "cpu", "cuda", "cuda:1", ...
        """
        self._model, self._train = model, train
        torch.manual_seed(derive_seed(seed, "learner"))
        self._policy = load_policy(
            model, gradient_checkpointing=train.gradient_checkpointing, device=device
        )
        self._packed = PackedPolicy(self._policy, temperature=rollout.temperature)
        self._reference: PackedPolicy | None = None
        if train.beta > 0 and model.lora_r == 0:
            reference = load_reference(model, device=device)
            self._reference = PackedPolicy(reference, temperature=rollout.temperature)
        self._optimizer = MasterOptimizer(self._policy.named_parameters(), train)
        self._settings = loss_settings(train, rollout)
        self.policy_version = 0

    @torch.no_grad()
    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Return float32 [completion] log-probs of every rollout under the current policy."""
        self._packed.eval()
        for group in groups:
            check_encoded(group.encoded)
        packs = scoring_packs(groups, self._train.max_tokens_per_micro_batch)
        flat = torch.cat([self._packed([pack])[0] for pack in packs])
        return per_rollout(flat.cpu(), groups)

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        """Train `num_iterations` optimizer steps on every batch."""
        totals = StepTotals()
        lr = learning_rate(self.policy_version, self._train)
        for batch in batches:
            for group in batch.groups:
                check_encoded(group.encoded)
            [plan] = plan_micro_batches(
                batch.groups,
                max_tokens=self._train.max_tokens_per_micro_batch,
                at_least=self._train.gradient_accumulation_steps,
            )
            with totals.seconds.measure("forward_backward"):
                fixed = [FixedLogprobs(reference=self._reference_logprobs(part)) for part in plan]
            for _ in range(self._train.num_iterations):
                self._optimizer_step(batch, plan, fixed, totals, lr)
        self.policy_version += 1
        metrics = totals.metrics() | {"policy/learning_rate": lr}
        return UpdateResult(
            policy_version=self.policy_version, loss=metrics["policy/loss"], metrics=metrics
        )

    def update_sft(
        self, examples: Sequence[SftExample], extra_loss: ExtraLoss | None = None
    ) -> UpdateResult:
        """Take one optimizer step on the mean cross-entropy per completion token."""
        self._packed.train()
        lr = learning_rate(self.policy_version, self._train)
        num_tokens = sum(len(example.completion_ids) for example in examples)
        total = torch.zeros(())
        for packs in plan_examples(examples, self._train.max_tokens_per_micro_batch):
            logprobs, _ = self._packed(packs)
            loss = -logprobs.sum() / num_tokens
            torch.autograd.backward(loss)
            total += loss.detach().cpu()
        metrics = {"sft/loss": float(total), "policy/learning_rate": lr}
        if extra_loss is not None:
            extra = extra_loss(self._policy)
            torch.autograd.backward(extra)
            metrics["sft/extra_loss"] = float(extra.detach())
        metrics["policy/grad_norm"] = self._optimizer.step(lr)
        self.policy_version += 1
        return UpdateResult(
            policy_version=self.policy_version, loss=metrics["sft/loss"], metrics=metrics
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight under its name in a hub checkpoint, LoRA merged."""
        with torch.no_grad():
            yield from hub_names(self._policy, plain_weights(self._policy)).items()

    def save_model(self, folder: Path) -> None:
        """Write config, weights (LoRA merged), tokenizer and processor."""
        with torch.no_grad():
            save_policy(self._policy, plain_weights(self._policy), self._model.path, folder)

    def state_dict(self) -> dict[str, Any]:
        """Return trainable weights, optimizer, version and random states."""
        return {
            "policy_version": self.policy_version,
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; ValueError when a weight is missing or left over."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.policy_version = int(state["policy_version"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def close(self) -> None:
        """Nothing to release in one process."""

    def _optimizer_step(
        self,
        batch: TrainBatch,
        plan: Sequence[MicroBatch],
        fixed: Sequence[FixedLogprobs],
        totals: StepTotals,
        lr: float,
    ) -> None:
        self._packed.train()
        normalizers = batch_normalizers(batch)
        for micro_batch, logprobs in zip(plan, fixed, strict=True):
            with totals.seconds.measure("forward_backward"):
                output = grpo_micro_batch(
                    self._packed, micro_batch, logprobs, self._settings, normalizers
                )
                torch.autograd.backward(output.loss)
                totals.add(output)  # reads its numbers, so a GPU's work is waited for
        with totals.seconds.measure("optimizer"):
            totals.grad_norm += self._optimizer.step(lr)
        totals.steps += 1

    def _reference_logprobs(self, micro_batch: MicroBatch) -> Tensor | None:
        if self._settings.beta <= 0:
            return None
        if self._reference is not None:
            return score_micro_batch(self._reference, micro_batch)
        self._packed.eval()
        with adapter_disabled(self._policy):
            return score_micro_batch(self._packed, micro_batch)
