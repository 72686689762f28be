"""The learning rate as a pure function of the step."""

import math

from scenerl.configs.schema import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of update number `step`, counted from 0.

    It rises linearly over `warmup_steps` (the first update already moves), then stays ("constant")
    or falls to zero at `max_steps`, in a straight line ("linear") or half a cosine ("cosine").
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    span = max(config.max_steps - config.warmup_steps, 1)
    done = min((step - config.warmup_steps) / span, 1.0)
    if config.lr_scheduler_type == "linear":
        return config.learning_rate * (1.0 - done)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
