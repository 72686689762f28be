"""`launch stage1` and `launch stage2`: train a policy with GRPO, measured before and after."""

import argparse
import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenerl.configs.load import load_config, to_dict, to_yaml
from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.launch.exit_codes import DONE, NO_RESOURCES, STOPPED, StopSignal, exit_code
from scenerl.launch.logs import log_to_file, set_up_logging
from scenerl.launch.plan import Plan, format_plan, make_plan
from scenerl.launch.submit import Job, add_options, overrides_of, submit
from scenerl.launch.waits import ActorLostError, PlaceLostError, PlacementError

logger = logging.getLogger(__name__)

DESCRIPTION = {
    "stage1": """\
Train temporal grounding (or video question answering) with GRPO: a video and an expression in, a
span of seconds out. At its end the run holds the spans that its best checkpoint predicts for the
training and the evaluation split, which stage 2 trains on.""",
    "stage2": """\
Train image grounding with GRPO: frames of a span and an expression in, a box out. With --from RUN
it starts from that run's best checkpoint and looks into the spans that it predicted; without, it
starts from model.path and looks into the true spans.""",
}
EPILOG = """\
examples:
  launch {command} --config {command}_tiny                        a tiny policy on two CPU cores
  launch {command} --config {command} --dry-run                   settings, placement, memory; touches nothing
  launch {command} --config {command}_1gpu_lora rollout.group_size=16 train.learning_rate=2e-5
  launch {command} --config {command}_tiny name=mine --from runs/stage1_tiny
  launch {command} --config {command}_tiny                        again: continues exactly where it stopped
  launch {command} --config {command}_tiny train.max_steps=60 --allow-config-change train.max_steps
  launch {command} --config {command} --nnodes 4 --gpus-per-node 8 --submit slurm --print     the batch script
  launch stop runs/{command}_tiny                             ends the run after its step; it can continue

exit codes: 0 done, 64 settings, 65 data, 69 machines, 70 a bug, 75 stopped (run the same command
to continue), 77 refused (another process works in the run directory)
"""  # noqa: E501


def main(argv: list[str], command: str) -> int:
    """Train; the exit code is also in the run directory's exit.json."""
    arguments = parse_arguments(argv, command)
    set_up_logging()
    try:
        config = resolve_config(arguments, command)
        plan = make_plan(config)
        if arguments.dry_run:
            print(to_yaml(config))
            print(format_plan(plan))
            return NO_RESOURCES if plan.problems else DONE
        if plan.problems:
            print(format_plan(plan), file=sys.stderr)
            return NO_RESOURCES
        if arguments.submit:
            allowed = [f"--allow-config-change={key}" for key in arguments.allow_config_change]
            return submit(Job(command=command, config=config, more=tuple(allowed)), arguments)
        return train(config, plan, command, arguments)
    except Exception as error:
        code = exit_code(error)
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == 70)
        return code


def parse_arguments(argv: list[str], command: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION[command],
        epilog=EPILOG.format(command=command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, help="YAML file, or the name of a recipe")
    add(
        "overrides", nargs="*", metavar="key=value", help="settings, for example train.max_steps=50"
    )
    add(
        "--from",
        dest="from_run",
        metavar="RUN",
        help="run directory whose best policy to start from",
    )
    add("--dry-run", action="store_true", help="print settings and placement plan, then end")
    add(
        "--allow-config-change",
        action="append",
        default=[],
        metavar="KEY",
        help="continue a run although this setting differs (may be repeated)",
    )
    add_options(parser)
    add("--no-ray", action="store_true", help="one process: transformers or vLLM and torch, no Ray")
    return parser.parse_intermixed_args(argv)


def resolve_config(arguments: argparse.Namespace, command: str) -> RunConfig:
    """Return the settings with what `--from` brings.

    Raises:
        ConfigError: If the settings are wrong or belong to the other stage.
    """
    overrides = [*arguments.overrides, *overrides_of(arguments)]
    config = load_config(arguments.config, overrides)
    if arguments.from_run is not None:
        config = dataclasses.replace(config, from_run=str(arguments.from_run))
    if (config.env.name == "image_grounding") != (command == "stage2"):
        other = "stage1" if command == "stage2" else "stage2"
        raise ConfigError(
            f"env.name is {config.env.name}, which is what `launch {other}` trains; use that "
            f"command, or a recipe of {command}"
        )
    if config.from_run is None:
        return config
    given = {text.partition("=")[0].strip() for text in overrides}
    from scenerl.launch.session import take_from_run

    return take_from_run(config, model_is_given=bool(given & {"model.path", "model_name_or_path"}))


def train(config: RunConfig, plan: Plan, command: str, arguments: argparse.Namespace) -> int:
    """Open the run directory, train in it and leave exit.json whatever happens."""
    from scenerl.launch.environment import describe_environment
    from scenerl.rl.run_dir import RunDir

    run_dir = RunDir(config, command, allow_config_changes=arguments.allow_config_change)
    try:
        if is_finished(run_dir.path, config):
            logger.info("%s is finished; its numbers are in summary.json", run_dir.path)
            run_dir.write_exit(DONE, "was finished already")
            return DONE
        run_dir.write_environment(describe_environment())
        with log_to_file(run_dir.path):
            reason = _train_through_losses(run_dir, config, plan, use_ray=not arguments.no_ray)
    except BaseException as error:
        run_dir.write_exit(exit_code(error), f"{type(error).__name__}: {error}")
        raise
    finally:
        run_dir.close()
    code = DONE if reason is None else STOPPED
    if reason is not None:
        logger.warning("stopped (%s); the same command continues the run", reason)
    run_dir.write_exit(code, reason or "done")
    return code


def is_finished(path: Path, config: RunConfig) -> bool:
    """Whether the summary of a run covers all its steps."""
    file = path / "summary.json"
    return file.is_file() and json.loads(file.read_text())["steps"] >= config.train.max_steps


def _train_through_losses(
    run_dir: Any, config: RunConfig, plan: Plan, *, use_ray: bool
) -> str | None:
    """Train; after the loss of an actor start all of them anew and go on from the newest commit.

    Raises:
        ActorLostError: After `cluster.max_recoveries` losses in a row without a step in between,
            or when no node takes the place of one that is gone (`cluster.placement_timeout_s`).
        PlacementError: If there was no place to begin with.
    """
    from scenerl.rl.durable import read_lines

    in_a_row, best = 0, -1
    while True:
        try:
            return _train_in(run_dir, config, plan, use_ray=use_ray)
        except PlacementError as error:
            if in_a_row == 0:
                raise
            raise PlaceLostError(f"a node is gone, and nothing took its place: {error}") from error
        except ActorLostError as error:
            steps = len(read_lines(run_dir.path / "metrics.jsonl"))
            in_a_row, best = (1, steps) if steps > best else (in_a_row + 1, best)
            if in_a_row > config.cluster.max_recoveries or isinstance(error, PlaceLostError):
                raise
            logger.warning("%s", error)
            logger.warning(
                "generation %d lost an actor after step %d; starting all anew from the newest "
                "commit (loss %d in a row of at most %d)",
                run_dir.generation, steps, in_a_row, config.cluster.max_recoveries,
            )  # fmt: skip
            run_dir.begin_generation({"step": steps, "lost": str(error)})


def _train_in(run_dir: Any, config: RunConfig, plan: Plan, *, use_ray: bool) -> str | None:
    """Train in an open run directory; returns why it stopped, or None at the end."""
    from scenerl.launch.session import open_fleet, open_task, read_split
    from scenerl.launch.stage_data import stage_spans, write_span_report
    from scenerl.rl.experience import ExperienceMaker
    from scenerl.rl.loop import Parts, Trainer

    stop = StopSignal()

    def should_stop() -> str | None:
        return stop.reason or ("STOP file" if run_dir.stop_requested else None)

    started = time.monotonic()
    samples = read_split(config, config.data.train_split, config.data.max_train_samples)
    held_out = read_split(config, config.data.eval_split, config.data.max_eval_samples)
    spans_s = stage_spans(config)
    task, eval_task = open_task(config, samples, spans_s), open_task(config, held_out)
    if spans_s is not None:
        write_span_report(run_dir.path, samples, spans_s)
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(_scorer(config))
        fleet = open_fleet(config, plan, use_ray=use_ray, on_loss=run_dir.append_fault)
        stack.callback(fleet.close)
        stop.install()
        logger.info("engines and learners are ready after %.0f s", time.monotonic() - started)
        measure = Measurement(run_dir, config, fleet, should_stop)
        commit = run_dir.checkpoints.newest()
        metric_logger = stack.enter_context(_logger(run_dir, config, commit.step if commit else 0))
        parts = Parts(
            fleet=fleet,
            maker=ExperienceMaker(task, fleet, scorer, _experience_config(config)),
            run_dir=run_dir,
            logger=metric_logger,
            should_stop=should_stop,
            evaluate=lambda step: measure.during(eval_task, step),
        )
        trainer = Trainer(parts, config.train)
        if commit is None:
            measure.whole(eval_task, "before", "start")
        trainer.resume(commit)
        reason = trainer.run()
        if reason is None:
            measure.finish(task, eval_task, trainer.step_number)
        return reason


def _experience_config(config: RunConfig) -> Any:
    from scenerl.rl.experience import ExperienceConfig

    return ExperienceConfig(
        seed=config.seed,
        prompts_per_step=config.train.prompts_per_step,
        group_size=config.rollout.group_size,
        max_refills=config.train.max_refills,
        zero_spread_tolerance=config.train.zero_spread_tolerance,
    )


@contextlib.contextmanager
def _scorer(config: RunConfig) -> Iterator[Any]:
    """Start the rewards and try each once."""
    from scenerl.rewards.scorer import Scorer

    scorer = Scorer(
        config.rewards,
        task=config.env.name,
        tracker=config.tracker,
        lift=config.lift,
        max_steps=config.train.max_steps,
    )
    try:
        scorer.canary()
        yield scorer
    finally:
        scorer.close()


@contextlib.contextmanager
def _logger(run_dir: Any, config: RunConfig, step: int) -> Iterator[Any]:
    from scenerl.rl.metrics import MetricLogger
    from scenerl.rl.trackers import make_trackers

    trackers = make_trackers(
        config.log.trackers,
        run_dir.path,
        project=config.log.project,
        config=to_dict(config),
        resume_step=step,
    )
    metric_logger = MetricLogger(run_dir, trackers)
    try:
        yield metric_logger
    finally:
        metric_logger.close()


class Measurement:
    """The greedy evaluations of a run and what is written at its end."""

    def __init__(self, run_dir: Any, config: RunConfig, fleet: Any, should_stop: Any) -> None:
        """Measure a fleet's policy into a run directory."""
        self._run_dir, self._config, self._fleet = run_dir, config, fleet
        self._should_stop = should_stop

    def whole(self, task: Any, name: str, policy: str) -> Any:
        """Evaluate and write eval/NAME.json beside the single answers in eval/NAME.jsonl."""
        from scenerl.rl.durable import write_json
        from scenerl.rl.evaluate import PRIMARY_METRIC, evaluate

        folder = self._run_dir.path / "eval"
        result = evaluate(
            self._fleet,
            task,
            folder / f"{name}.jsonl",
            policy=policy,
            should_stop=self._should_stop,
        )
        values = result.summary()
        if "temporal_iou" in values:
            values["miou"] = values["temporal_iou"]
        write_json(folder / f"{name}.json", values)
        primary = PRIMARY_METRIC[self._config.env.name]
        logger.info("%s: %s %.4f", name, primary, values.get(primary, float("nan")))
        return result

    def during(self, task: Any, step: int) -> Any:
        """Evaluate after a step, for the choice of the best checkpoint."""
        from scenerl.rl.evaluate import PRIMARY_METRIC
        from scenerl.rl.loop import Evaluation

        result = self.whole(task, f"step_{step:06d}", f"step {step}")
        return Evaluation(metrics=result.metrics, primary=PRIMARY_METRIC[self._config.env.name])

    def finish(self, task: Any, eval_task: Any, step: int) -> None:
        """Measure the best checkpoint, predict spans with it, and write summary.json."""
        from scenerl.launch.session import write_predictions

        best = self._run_dir.checkpoints.best()
        if best.step != step:
            logger.info("the best checkpoint is that of step %d", best.step)
            self._fleet.load(best.path)
        policy = f"step {best.step}"
        after = self.whole(eval_task, "after", policy)
        if self._config.env.name == "temporal_grounding":
            path, data = self._run_dir.path, self._config.data
            write_predictions(path, self._config, data.eval_split, after.rows, policy)
            trained = self.whole(task, f"predict_{data.train_split}", policy)
            write_predictions(path, self._config, data.train_split, trained.rows, policy)
        self._summarize(after, best.step, step)

    def _summarize(self, after: Any, best_step: int, steps: int) -> None:
        from scenerl.rl.durable import read_lines, write_json
        from scenerl.rl.evaluate import PRIMARY_METRIC

        path, primary = self._run_dir.path, PRIMARY_METRIC[self._config.env.name]
        rows = read_lines(path / "metrics.jsonl")
        before = json.loads((path / "eval" / "before.json").read_text())
        values = {
            "env": self._config.env.name,
            "primary": primary,
            "before": before.get(primary),
            "after": after.metrics.get(primary),
            "steps": steps,
            "best_step": best_step,
            "eval_prompts": len(after.rows),
            "train_seconds": sum(row["time/step_s"] for row in rows),
            "seed": self._config.seed,
        }
        write_json(path / "summary.json", values)
        logger.info("%s %s -> %s, %s", primary, values["before"], values["after"], path)
