"""`launch eval`: how good a policy is on held-out samples, every answer kept."""

import argparse
import dataclasses
import hashlib
import logging
import textwrap
from pathlib import Path

from scenerl.configs.load import load_config
from scenerl.configs.schema import RunConfig
from scenerl.envs.benchmark_prompts import ASKING
from scenerl.launch.exit_codes import DONE, StopSignal, exit_code
from scenerl.launch.logs import set_up_logging
from scenerl.launch.plan import Plan, format_plan, make_plan

logger = logging.getLogger(__name__)

BENCHMARK_NAMES = textwrap.fill(", ".join(ASKING), 96, initial_indent="  ", subsequent_indent="  ")
DESCRIPTION = """\
With the name of a benchmark first: ask its questions and score the replies as `launch score` does;
`launch eval BENCHMARK --help` has the options. Benchmarks:

{benchmarks}

Without: answer a split greedily and measure: temporal IoU and recalls, box IoU, or exact match, by
the env of the settings. Every prompt's answer goes to a file of lines as it is made; a command that
was interrupted continues there. Boxes are asked for in the true spans."""
EPILOG = """\
examples:
  launch eval --config stage1_tiny                               model.path on the test split
  launch eval --config stage1_tiny --model runs/stage1_tiny      the best checkpoint of a run
  launch eval --config stage2_1gpu --model /models/mine --split val --limit 200 --output runs/look
  launch eval vsibench --model Qwen/Qwen2.5-VL-7B-Instruct --data data/vsibench \\
      --references test.jsonl --output runs/vsibench env.num_frames=32
  launch eval scanqa --model http://localhost:8000/v1 --model-name qwen --data data/scanqa \\
      --references ScanQA_v1.0_val.json
"""


def main(argv: list[str], command: str) -> int:
    """Evaluate and print the means, or a benchmark's numbers."""
    if argv and not argv[0].startswith("-") and "=" not in argv[0]:
        from scenerl.launch.eval_benchmark import main as ask_benchmark

        return ask_benchmark(argv, command)
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION.format(benchmarks=BENCHMARK_NAMES),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML file, or the name of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings")
    parser.add_argument("--model", help="checkpoint folder, hub name or run directory")
    parser.add_argument("--split", help="default: data.eval_split")
    parser.add_argument("--limit", type=int, help="samples; default: data.max_eval_samples")
    parser.add_argument("--output", type=Path, help="folder; default: output_dir/NAME-eval")
    parser.add_argument("--no-ray", action="store_true", help="everything in this process")
    arguments = parser.parse_intermixed_args(argv)
    set_up_logging()
    try:
        config = load_config(arguments.config, arguments.overrides)
        if arguments.model is not None:
            model = dataclasses.replace(config.model, path=arguments.model)
            config = dataclasses.replace(config, model=model)
        plan = make_plan(config)
        return evaluate_policy(config, plan, arguments)
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code


def evaluate_policy(config: RunConfig, plan: Plan, arguments: argparse.Namespace) -> int:
    """Start an engine, answer the split, write and print."""
    from scenerl.launch.session import open_fleet, open_task, policy_folder, read_split
    from scenerl.rl.durable import write_json
    from scenerl.rl.evaluate import evaluate

    stop = StopSignal()
    split = arguments.split or config.data.eval_split
    limit = config.data.max_eval_samples if arguments.limit is None else arguments.limit
    out = arguments.output or Path(config.output_dir) / f"{config.name}-eval"
    folder = policy_folder(config.model.path)
    task = open_task(config, read_split(config, split, limit))
    logger.debug("%s", format_plan(plan))
    fleet = open_fleet(config, plan, use_ray=not arguments.no_ray, with_learner=False)
    stop.install()
    try:
        result = evaluate(
            fleet,
            task,
            out / f"{split}.jsonl",
            policy=f"{arguments.model or config.model.path} {fingerprint(folder)}",
            should_stop=lambda: stop.reason,
        )
    finally:
        fleet.close()
    write_json(out / f"{split}.json", {"model": folder, "split": split, **result.summary()})
    for name, value in result.summary().items():
        print(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value}")
    print(f"answers: {out / f'{split}.jsonl'}")
    return DONE


def fingerprint(folder: str) -> str:
    """Return a short hash over names, sizes and times of a checkpoint's files."""
    files = sorted(Path(folder).glob("*")) if Path(folder).is_dir() else []
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
