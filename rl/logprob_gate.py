"""The gate that asks whether engine and learner are the same policy."""

import logging
import statistics
from collections.abc import Sequence

from torch import Tensor

from scenerl.rollout.records import Group

logger = logging.getLogger(__name__)


class LogprobMismatchError(RuntimeError):
    """Engine and learner disagree about the probability of the same tokens."""


def check_logprobs(
    groups: Sequence[Group],
    learner_logprobs: Sequence[Sequence[Tensor]],
    step: int,
    tolerance: float,
) -> dict[str, float]:
    """Compare the engine's log-probs of its completions with the learner's.

    Args:
        groups: Rollouts made by the version of the weights that the learner holds.
        learner_logprobs: float32 [completion] of every rollout of every group.
        step: For the message.
        tolerance: Largest allowed mean absolute difference per token.

    Returns:
        ``logprob_gate/mean_abs_diff`` and ``logprob_gate/max_abs_diff``.

    Raises:
        LogprobMismatchError: If the mean exceeds the tolerance or a learner value is not finite.
    """
    differences: list[float] = []
    worst = (0.0, "")
    for group, rows in zip(groups, learner_logprobs, strict=True):
        for rollout, row in zip(group.rollouts, rows, strict=True):
            pairs = zip(rollout.completion.rollout_logprobs, row.tolist(), strict=True)
            for place, (engine, learner) in enumerate(pairs):
                difference = abs(engine - learner)
                differences.append(difference)
                if not difference <= worst[0]:
                    token = rollout.completion.completion_ids[place]
                    worst = (
                        difference,
                        f"{group.group_id}, rollout {rollout.index}, token {place} (id {token}): "
                        f"engine {engine:.4f}, learner {learner:.4f}",
                    )
    mean = statistics.fmean(differences) if differences else 0.0
    if not mean <= tolerance:
        raise LogprobMismatchError(
            f"step {step}: engine and learner differ by {mean:.4f} per token on average over "
            f"{len(differences)} tokens, train.logprob_gate_tolerance is {tolerance:g}; worst: "
            f"{worst[1]}. At step 1 this is a difference of dtype, attention, positions or "
            "processor between the two; later it is a weight sync that did not arrive. Set "
            "model.dtype=float32 to tell rounding from a bug, or raise the tolerance"
        )
    logger.info("log-prob gate at step %d: mean %.2e, largest %.2e", step, mean, worst[0])
    return {"logprob_gate/mean_abs_diff": mean, "logprob_gate/max_abs_diff": worst[0]}
