"""Small real training runs for the end-to-end tests: rooms, a random checkpoint, a plug-in."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tiny_checkpoint import tiny_checkpoint

from scenerl.rl.metrics import WALL_CLOCK

REWARD = """
def variety(completions, **kwargs):
    return [len(set(text[0]["content"])) / 50 for text in completions]
"""
CONFIG = """
extends: stage1_tiny.yaml
output_dir: {root}/runs
model: {{path: {root}/model}}
data:
  path: {root}/rooms
  kinds: [attribute, relation, superlative]
  max_train_samples: 12
  max_eval_samples: 2
env: {{num_frames: 4}}
rollout: {{engine: transformers, group_size: 3, max_completion_length: 8, max_prompt_length: 1024}}
rewards:
  - {{path: "{root}/reward.py:variety"}}
  - {{name: format, weight: 0.2}}
train:
  max_steps: 4
  prompts_per_step: 2
  save_steps: 2
  learning_rate: 1.0e-3
  lr_scheduler_type: constant
  max_staleness: 0  # tests that overlap say so
"""


def make_inputs(root: Path) -> Path:
    """Write rooms, a checkpoint, a reward and a recipe; return the recipe."""
    from scenerl.launch.cli import main

    rooms = ["preprocess", "rooms", "--output", str(root / "rooms"), "--train", "2", "--test", "1"]
    assert main([*rooms, "--frames", "12", "--width", "112", "--height", "84"]) == 0
    tiny_checkpoint(root / "model")
    (root / "reward.py").write_text(REWARD)
    config = root / "tiny.yaml"
    config.write_text(CONFIG.format(root=root))
    return config


def run_undisturbed(root: Path, *settings: str) -> Path:
    """Run stage 1 on what `make_inputs` wrote, in one process, and return the run."""
    words = ["stage1", "--config", str(root / "tiny.yaml"), "name=whole", "--no-ray", *settings]
    assert run_child(words, root / "whole.log") == 0, (root / "whole.log").read_text()[-3000:]
    return root / "runs" / "whole"


def recorded_steps(run: Path) -> int:
    """Return how many steps a run has on record."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def run_child(arguments: list[str], log: Path, kill_when: Callable[[], bool] | None = None) -> int:
    """Run `launch` in a forked process, without the cost of imports.

    Args:
        arguments: Of `launch`.
        log: Takes its output.
        kill_when: SIGKILL as soon as this is true.

    Returns:
        The exit code, negative for a signal.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
            from scenerl.launch.cli import main

            code = main(arguments)
        finally:
            os._exit(code)
    deadline = time.monotonic() + 300
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if (kill_when is not None and kill_when()) or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            kill_when, deadline = None, time.monotonic() + 60
        time.sleep(0.001)


def what_must_agree(run: Path) -> dict[str, object]:
    """Return everything of a finished run that an interruption may not change."""
    metrics = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        metrics.append({k: v for k, v in row.items() if not k.startswith(WALL_CLOCK)})
    newest = max((run / "checkpoints").glob("step_*"))
    files = [*(newest / "model").glob("*.safetensors"), *(newest / "learner").iterdir()]
    files += [run / "ledger.jsonl", *(run / "rollouts").iterdir(), *(run / "predictions").iterdir()]
    files += [run / "eval" / "after.json", run / "eval" / "before.json"]
    hashes = {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    return {"metrics": metrics, **hashes}
