"""`launch sft`: supervised cold start of a policy, or training of a SAM2 tracker."""

import argparse
import logging
from pathlib import Path

from scenerl.configs.load import load_config, to_yaml
from scenerl.configs.schema import RunConfig
from scenerl.launch.exit_codes import DONE, exit_code
from scenerl.launch.logs import set_up_logging

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Train with supervision before RL: a policy with cross-entropy on the replies that the envs write
(`sft.task: policy`), or a SAM2 tracker from boxes and instance images (`sft.task: tracker`).
Stopped runs continue with the same command."""
EPILOG = """\
examples:
  launch sft --config sft_tiny_policy                    the embedded policy, from random weights
  launch sft --config sft_tiny_policy_loose             then its cold start on loose labels
  launch sft --config sft_tiny_tracker                   the embedded tracker
  launch sft --config stage1 sft.learning_rate=1e-5 name=warm    Qwen2.5-VL on your own spans
"""


def main(argv: list[str], command: str) -> int:
    """Train; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings")
    parser.add_argument("--dry-run", action="store_true", help="print the settings, then end")
    arguments = parser.parse_intermixed_args(argv)
    set_up_logging()
    try:
        config = load_config(arguments.config, arguments.overrides)
        if arguments.dry_run:
            print(to_yaml(config))
            return DONE
        if config.sft.task == "tracker":
            from scenerl.rl.sft_tracker import train_tracker

            train_tracker(config)
            return DONE
        print(train_sft(config))
        return DONE
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code


def train_sft(config: RunConfig) -> Path:
    """Train a policy in its run directory and return the folder of the final checkpoint."""
    import torch

    from scenerl.launch.environment import describe_environment
    from scenerl.launch.session import policy_folder
    from scenerl.rl.metrics import MetricLogger
    from scenerl.rl.run_dir import RunDir
    from scenerl.rl.sft import final_model, train_policy
    from scenerl.rl.trackers import make_trackers

    torch.set_num_threads(config.cluster.threads_per_actor)
    run_dir = RunDir(config, "sft")
    try:
        run_dir.write_environment(describe_environment())
        if config.model.path == "tiny-random":
            from scenerl.rollout.tiny_policy import make_tiny_policy

            model_dir = str(run_dir.path / "init")
            if not (run_dir.path / "init" / "config.json").is_file():
                make_tiny_policy(model_dir, seed=config.seed)
        else:
            model_dir = policy_folder(config.model.path)
        trackers = make_trackers(
            config.log.trackers, run_dir.path, project=config.log.project, config={}, resume_step=0
        )
        metric_logger = MetricLogger(run_dir, trackers)
        try:
            train_policy(config, model_dir, run_dir, metric_logger)
        finally:
            metric_logger.close()
        run_dir.write_exit(DONE, "done")
        return final_model(run_dir)
    finally:
        run_dir.close()
