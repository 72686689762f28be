"""Score replies with built-in rewards and rewards of one's own, as a run does.

    python examples/01_custom_reward.py

The two functions stand in `custom_rewards.py`; `custom_rewards.yaml` uses them in a recipe.
Docs: docs/rewards.md.
"""

import sys
from pathlib import Path

from scenerl.configs.schema import RewardConfig
from scenerl.rewards.canary import canary_columns, canary_prompt
from scenerl.rewards.runner import PluginRunner
from scenerl.rewards.scorer import Scorer

HERE = Path(__file__).parent


def main() -> None:
    """Try the list as a run does at its start, then show what the functions gave."""
    configs = [
        RewardConfig(name="temporal_iou"),
        RewardConfig(path=f"{HERE}/custom_rewards.py:early_start", weight=0.5, timeout_s=10.0),
        RewardConfig(path=f"{HERE}/custom_rewards.py:thought", weight=0.0),
    ]
    scorer = Scorer(configs)
    scorer.canary()  # loads every function and calls it once; a broken one is named here
    scorer.close()
    sys.stdout.write(f"the rewards {', '.join(scorer.names)} work\n")

    columns = canary_columns(canary_prompt("temporal_grounding"))
    for name in ("early_start", "thought"):
        runner = PluginRunner(name, f"{HERE}/custom_rewards.py:{name}", {}, timeout_s=10.0)
        (outcome,) = runner.call([columns], {"global_step": 0, "max_steps": 1})
        runner.close()
        for reply, parts in zip(columns["completions"], outcome.parts or (), strict=True):
            sys.stdout.write(f"{name}: {reply[0]['content']!r} -> {parts}\n")


if __name__ == "__main__":
    main()
