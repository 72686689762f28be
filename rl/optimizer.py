"""AdamW with float32 master weights, whatever the dtype of the policy."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scenerl.configs.schema import TrainConfig


class MasterOptimizer:
    """Optimizes float32 copies of weights kept in a lower precision.

    At learning rates of RL an AdamW step is smaller than half a bfloat16 ulp and would be lost.
    Gradients are added up in float32 too. Float32 weights are optimized in place.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig):
        """Take all parameters that require a gradient; matrices decay, vectors do not."""
        self.parameters = {name: p for name, p in named_parameters if p.requires_grad}
        if not self.parameters:
            raise ValueError(
                "no weight of the policy is trainable; unfreeze the model or set model.lora_r"
            )
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self.parameters.items()
        }
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                self.masters[name].grad = torch.zeros_like(self.masters[name])
                hook = self._widen(self.masters[name])
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        self.adamw = torch.optim.AdamW(
            adamw_groups(self.masters.values(), config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
        )
        self.max_grad_norm = config.max_grad_norm

    @staticmethod
    def _widen(master: nn.Parameter) -> Any:
        def move_gradient(parameter: Tensor) -> None:
            assert master.grad is not None
            assert parameter.grad is not None
            master.grad += parameter.grad
            parameter.grad = None

        return move_gradient

    def step(self, lr: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping.

        Raises:
            FloatingPointError: If the norm is not finite; the weights are left as they were.
        """
        masters = list(self.masters.values())
        for master in masters:
            if master.grad is None:  # unused in this step; moments decay, as in a sharded optimizer
                master.grad = torch.zeros_like(master)
        max_norm = self.max_grad_norm if self.max_grad_norm > 0 else float("inf")
        norm = check_gradient_norm(float(torch.nn.utils.clip_grad_norm_(masters, max_norm)))
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        self.clear_gradients()
        return norm

    def clear_gradients(self) -> None:
        """Forget what was accumulated."""
        for name, master in self.masters.items():
            if master is self.parameters[name]:
                master.grad = None
            elif master.grad is not None:
                master.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the master weights by name and AdamW's state."""
        return {
            "masters": {name: p.detach() for name, p in self.masters.items()},
            "adamw": self.adamw.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore weights and AdamW's state.

        Raises:
            ValueError: If the names are not exactly those of the trainable weights.
        """
        missing = sorted(self.masters.keys() - state["masters"].keys())
        unexpected = sorted(state["masters"].keys() - self.masters.keys())
        if missing or unexpected:
            raise ValueError(
                f"the checkpoint lacks the weights {missing} and has left-over weights "
                f"{unexpected}; resume with the model settings the run was started with"
            )
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state["masters"][name])
                self.parameters[name].copy_(master)
        self.adamw.load_state_dict(state["adamw"])


def check_gradient_norm(norm: float) -> float:
    """Return the norm, or raise FloatingPointError when it is not finite."""
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient norm is {norm}, expected a finite number; look for NaN rewards or "
            "log-probs in the rollouts of this step, or lower train.learning_rate"
        )
    return norm


def adamw_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Split weights into those that decay (matrices) and those that do not."""
    everything = list(parameters)
    groups = [
        {"params": [p for p in everything if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
