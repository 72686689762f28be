"""The rewards that come with the package, by the names that a config uses."""

from typing import Final

from scenerl.rewards.grounding import (
    box_giou_reward,
    box_iou_reward,
    temporal_iou_reward,
    temporal_iou_v2_reward,
)
from scenerl.rewards.loading import RewardFunction
from scenerl.rewards.text import (
    answer_exact_reward,
    answer_mra_reward,
    answer_refined_reward,
    format_reward,
    length_reward,
)

BUILTINS: Final[dict[str, RewardFunction]] = {
    "format": format_reward,
    "temporal_iou": temporal_iou_reward,
    "temporal_iou_v2": temporal_iou_v2_reward,
    "box_iou": box_iou_reward,
    "box_giou": box_giou_reward,
    "answer_exact": answer_exact_reward,
    "answer_refined": answer_refined_reward,
    "answer_mra": answer_mra_reward,
    "length": length_reward,
}

LIFTED_IOU: Final = "lifted_iou"
"""Needs a tracker, so `scorer.py` makes it from the run's settings."""
