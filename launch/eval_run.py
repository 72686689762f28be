"""Answer the shards of a benchmark with engines, an endpoint, or the grounding chain."""

import argparse
import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.envs.benchmark_prompts import asking
from scenerl.envs.benchmark_task import BenchmarkTask
from scenerl.launch.eval_items import Items, read_ids, write_ids
from scenerl.launch.eval_model import Model, describe_model
from scenerl.launch.exit_codes import StopSignal
from scenerl.rl.answer_log import AnswerLog, ShardHeader, ids_sha256, shard_file, shard_ids
from scenerl.rl.benchmark_run import Drawing, Questions, answer_shard
from scenerl.rl.metrics import plain
from scenerl.rollout.replies import Answerer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """The shards of an evaluation that one command answers."""

    out: Path
    items: Items
    total: int
    chosen: tuple[int, ...]
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    def ids(self, shard: int) -> list[str]:
        """Return the item ids of a shard."""
        return shard_ids(self.items.ids, shard, self.total)

    def open_log(self, shard: int, what: str = "answers") -> AnswerLog:
        """Open the file of a shard, for its answers or for a step of the chain."""
        header = ShardHeader(
            identity=self.identity, shard=shard, shards=self.total, about=self.about
        )
        return AnswerLog(shard_file(self.out, shard, self.total, what), header, self.ids(shard))

    def questions(self, shard: int, task: BenchmarkTask) -> Questions:
        """Return what is asked in a shard."""
        samples = {item: self.items.samples[item] for item in self.ids(shard)}
        return Questions(task=task, data_root=self.items.data_root, samples=samples)


def open_shards(
    out: Path,
    items: Items,
    arguments: argparse.Namespace,
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Shards:
    """Prepare the output folder: the id list, and no parts of another division.

    Raises:
        ConfigError: If the folder holds another evaluation.
    """
    total = arguments.shards
    parts = list((out / "shards").glob("*.answers.jsonl"))
    others = sorted(file.name for file in parts if f"-of-{total:04d}." not in file.name)
    if others:
        raise ConfigError(
            f"{out} holds parts of another number of shards ({others[0]}), found --shards {total}; "
            "give the same number, or another --output"
        )
    listed = out / "ids.txt"
    if listed.is_file() and parts and read_ids(listed) != items.ids:
        raise ConfigError(
            f"{out} holds an evaluation of another id list ({len(read_ids(listed))} ids, here "
            f"{len(items.ids)}); give the same --ids, --limit and --seed, or another --output"
        )
    write_ids(listed, items.ids)
    chosen = range(total) if arguments.shard is None else (arguments.shard,)
    return Shards(
        out=out,
        items=items,
        total=total,
        chosen=tuple(chosen),
        identity=identity,
        about=about,
    )


def answer_shards(
    name: str, config: RunConfig, items: Items, arguments: argparse.Namespace, out: Path
) -> int:
    """Answer the shards that the options name; return how many items could not be asked.

    The model is started only when something is left to answer.
    """
    if getattr(arguments, "chain", False):
        from scenerl.launch.eval_chain import answer_chain_shards

        return answer_chain_shards(name, config, items, arguments, out)
    model = describe_model(config, asking(name), arguments)
    task = BenchmarkTask(
        benchmark=name,
        config=config.env,
        family=model.family,
        style=arguments.prompts or "benchmark",
    )
    drawing = Drawing(
        samples_per_question=arguments.samples_per_question,
        temperature=arguments.temperature,
        seed=arguments.seed,
        chunk=max(32, 2 * arguments.concurrency),
    )
    identity = common_identity(name, items) | model_identity(config, task, model, drawing)
    shards = open_shards(out, items, arguments, identity, {"model": model.where})
    return _answer(shards, task, model, drawing)


def _answer(shards: Shards, task: BenchmarkTask, model: Model, drawing: Drawing) -> int:
    stop = StopSignal()
    answerer: Answerer | None = None
    failed = 0
    try:
        for shard in shards.chosen:
            with closing(shards.open_log(shard)) as log:
                questions = shards.questions(shard, task)
                if answerer is None and len(log.rows) < len(questions.samples):
                    logger.info("starting %s (%s)", model.where, model.engine)
                    answerer = model.open()
                    stop.install()
                if answerer is None:
                    log.write_errors({})
                    continue
                failed += len(
                    answer_shard(answerer, questions, log, drawing, should_stop=lambda: stop.reason)
                )
    finally:
        if answerer is not None:
            answerer.close()
    return failed


def common_identity(name: str, items: Items) -> dict[str, Any]:
    """Return what every answer depends on, whoever gives it."""
    return {
        "benchmark": name,
        "ids_sha256": ids_sha256(items.ids),
        "data_sha256": items.data_sha256,
        "is_part": not items.is_whole,
        "payload": asking(name).payload,
    }


def model_identity(
    config: RunConfig, task: BenchmarkTask, model: Model, drawing: Drawing
) -> dict[str, Any]:
    """Return what the answers of a model depend on."""
    return {
        "policy": model.policy,
        "engine": model.engine,
        "dtype": config.model.dtype,
        "prompts": task.style,
        "words_sha256": value_sha256(plain(task.how))[:12],
        "max_tokens": model.max_tokens,
        "max_prompt_length": config.rollout.max_prompt_length,
        "samples_per_question": drawing.samples_per_question,
        "temperature": drawing.temperature,
        "top_p": config.rollout.top_p,
        "top_k": config.rollout.top_k,
        "seed": drawing.seed,
        **settings("env", config.env, without=("name", "frames_per_span", "coordinates")),
    }


def settings(section: str, config: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a section of the settings under dotted names."""
    values = dataclasses.asdict(config)
    return {f"{section}.{key}": plain(v) for key, v in values.items() if key not in without}


def value_sha256(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
