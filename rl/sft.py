"""Supervised cold start: cross-entropy on the replies that the envs write.

It goes through the same packed forward, optimizer and commits as the RL learner. A policy that
starts from random weights also gets the dense loss of `rl/dense.py`.
"""

import dataclasses
import itertools
import logging
import random
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scenerl.configs.schema import RunConfig, TrainConfig
from scenerl.configs.seeding import derive_seed
from scenerl.envs.family import model_family
from scenerl.envs.records import Prompt
from scenerl.envs.tasks import Env, make_env
from scenerl.preprocess.decoding import set_limits
from scenerl.preprocess.records import DataError, Sample
from scenerl.preprocess.store import read_samples
from scenerl.rl.checkpoint import Commit
from scenerl.rl.dense import DenseHeads, DenseTarget, Vocabulary, dense_target
from scenerl.rl.forward import PackedPolicy
from scenerl.rl.metrics import MetricLogger
from scenerl.rl.objective import plan_examples
from scenerl.rl.optimizer import MasterOptimizer
from scenerl.rl.policy import load_policy, plain_weights, save_policy
from scenerl.rl.records import SftExample
from scenerl.rl.run_dir import RunDir
from scenerl.rl.schedule import learning_rate
from scenerl.rollout.encode import Encoder

logger = logging.getLogger(__name__)

Item = tuple[SftExample, DenseTarget | None]


class SftDataset(Dataset[list[Item]]):
    """The batch of every step, a pure function of (seed, step)."""

    def __init__(self, config: RunConfig, model_dir: str) -> None:
        """Read the samples and see which env can ask for which.

        Raises:
            DataError: If an env finds no sample that it can ask for.
        """
        self._config, self._model_dir = config, model_dir
        set_limits(config.data)
        family = model_family(model_dir)
        self._envs: list[Env] = [make_env(env, family) for env in _env_configs(config)]
        samples = read_samples(config.data.path, config.data.train_split, kinds=config.data.kinds)
        samples = samples[: config.data.max_train_samples]
        self._samples: list[list[Sample]] = []
        for env, settings in zip(self._envs, _env_configs(config), strict=True):
            usable = [sample for sample in samples if env.skip_reason(sample) is None]
            if not usable:
                raise DataError(
                    f"none of the {len(samples)} samples of {config.data.path} "
                    f"({config.data.train_split}) can be asked for {settings.name}; check "
                    "data.kinds and sft.envs"
                )
            logger.info("%s: %d of %d samples", settings.name, len(usable), len(samples))
            self._samples.append(usable)

    def __len__(self) -> int:
        """Steps of the run."""
        return self._config.sft.max_steps

    def __getitem__(self, step: int) -> list[Item]:
        """Make the batch of a step (from 0)."""
        count = self._config.sft.batch_size
        items = [self._draw(derive_seed(self._config.seed, "sft", step, k)) for k in range(count)]
        return sorted(items, key=lambda item: len(item[0].encoded.prompt_ids))

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._model_dir, max_prompt_length=self._config.rollout.max_prompt_length)

    def _draw(self, seed: int) -> Item:
        """Draw env, sample and frame until one gives a prompt; a training split has plenty."""
        choice = random.Random(seed)
        for attempt in range(1000):
            which = choice.randrange(len(self._envs))
            sample = choice.choice(self._samples[which])
            env, shown = self._envs[which], derive_seed(seed, attempt)
            prompts = env.prompts(sample, self._config.data.path, seed=shown, supervised=True)
            if prompts:
                return self._example(which, choice.choice(prompts), shown)
        raise DataError(
            f"no prompt in 1000 samples of {self._config.data.path}: the targets have no true box "
            "in the frames of their spans; look at `launch preprocess`'s manifest"
        )

    def _example(self, which: int, prompt: Prompt, seed: int) -> Item:
        sft = self._config.sft
        looseness = sft.label_looseness[which if len(sft.label_looseness) > 1 else 0]
        env = self._envs[which]
        reply = env.reference_completion(prompt, looseness=looseness, seed=seed)
        example = SftExample(
            encoded=self._encoder.encode(prompt), completion_ids=self._encoder.encode_text(reply)
        )
        if sft.dense_weight <= 0:
            return example, None
        object_id = prompt.sample.target.object_id
        return example, dense_target(prompt.media[0], object_id, Vocabulary.of_rooms())


class SftTrainer:
    """Policy, heads and optimizer of a cold start."""

    def __init__(self, config: RunConfig, model_dir: str, *, device: str = "cpu") -> None:
        """Load the policy of `model_dir`."""
        model = dataclasses.replace(config.model, path=model_dir)
        self._config, self._model_dir = config, model_dir
        self._policy = load_policy(
            model, gradient_checkpointing=config.train.gradient_checkpointing, device=device
        )
        self._packed = PackedPolicy(self._policy)
        parameters: list[tuple[str, Any]] = list(self._policy.named_parameters())
        self._heads: DenseHeads | None = None
        if config.sft.dense_weight > 0:
            torch.manual_seed(derive_seed(config.seed, "dense heads"))
            tokenizer = Encoder(model_dir).tokenizer
            self._heads = DenseHeads(self._policy, tokenizer, Vocabulary.of_rooms()).to(device)
            parameters += [(f"dense.{name}", p) for name, p in self._heads.named_parameters()]
        self._train = sft_as_train(config)
        self._optimizer = MasterOptimizer(parameters, self._train)

    def step(self, batch: Sequence[Item], number: int) -> dict[str, float]:
        """Take optimizer step `number` (from 0) on a batch; returns the metrics."""
        self._packed.train()
        target_of = {id(example.encoded): target for example, target in batch}
        examples = [example for example, _ in batch]
        num_tokens = sum(len(example.completion_ids) for example in examples)
        cross_entropy = dense = 0.0
        for packs in plan_examples(examples, self._train.max_tokens_per_micro_batch):
            logprobs, _ = self._packed(packs)
            loss: Tensor = -logprobs.sum() / num_tokens
            cross_entropy += float(loss.detach())
            if self._heads is not None:
                targets = [t for pack in packs if (t := target_of[id(pack.encoded)])]
                extra = self._heads.loss(packs, targets) * (len(packs) / len(batch))
                dense += float(extra.detach())
                loss = loss + self._config.sft.dense_weight * extra
            torch.autograd.backward(loss)
        rate = learning_rate(number, self._train)
        norm = self._optimizer.step(rate)
        metrics = {"sft/loss": cross_entropy, "policy/learning_rate": rate}
        metrics |= {"sft/dense_loss": dense} if self._heads is not None else {}
        return metrics | {"policy/grad_norm": norm}

    def save(self, folder: Path) -> None:
        """Write the policy (model/) and what continuing needs (sft.pt)."""
        with torch.no_grad():
            weights = plain_weights(self._policy)
            save_policy(self._policy, weights, self._model_dir, folder / "model")
        torch.save(self._optimizer.state_dict(), folder / "sft.pt")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; strict."""
        state = torch.load(folder / "sft.pt", weights_only=True)
        self._optimizer.load_state_dict(state)


def train_policy(config: RunConfig, model_dir: str, run_dir: RunDir, logger_: MetricLogger) -> None:
    """Train from the newest commit of the run, or from the start, to `sft.max_steps`.

    Args:
        config: Sections `sft`, `data`, `env`, `model` and the optimizer's part of `train`.
        model_dir: Checkpoint folder to start from.
        run_dir: Gets commits.
        logger_: Gets one row of metrics a step.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = SftTrainer(config, model_dir, device=device)
    commit = run_dir.checkpoints.newest()
    done = commit.step if commit else 0
    run_dir.rewind(done)
    if commit:
        trainer.load(commit.path)
        logger.info("continues after step %d", done)
    started, last = time.monotonic(), config.sft.max_steps
    for number, batch in zip(range(done, last), _batches(config, model_dir, done), strict=True):
        begin = time.perf_counter()
        metrics = trainer.step(batch, number)
        metrics["time/step_s"] = time.perf_counter() - begin
        logger_.log(number + 1, metrics)
        if (number + 1) % 20 == 0 or number + 1 == last:
            left = (time.monotonic() - started) / (number + 1 - done) * (last - number - 1)
            parts = " ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            logger.info("step %d/%d %s, %.0f s left", number + 1, last, parts, left)
        if (number + 1) % config.train.save_steps == 0 or number + 1 == last:
            with run_dir.checkpoints.write(number + 1) as folder:
                trainer.save(folder)


def final_model(run_dir: RunDir) -> Path:
    """Return the checkpoint folder of the newest commit."""
    commit: Commit | None = run_dir.checkpoints.newest()
    assert commit is not None
    return commit.model_dir


def sft_as_train(config: RunConfig) -> TrainConfig:
    """Return the optimizer settings of a cold start: `train` with the schedule of `sft`."""
    sft = config.sft
    return dataclasses.replace(
        config.train,
        max_steps=sft.max_steps,
        learning_rate=sft.learning_rate,
        warmup_steps=sft.warmup_steps,
        lr_scheduler_type=sft.lr_scheduler_type,
    )


def _env_configs(config: RunConfig) -> Sequence[Any]:
    return config.sft.envs or (config.env,)


def _batches(config: RunConfig, model_dir: str, start: int) -> Iterator[list[Item]]:
    """Yield the batches from step `start` on, made ahead by worker processes."""
    loader = DataLoader(
        SftDataset(config, model_dir),
        batch_size=None,
        sampler=range(start, config.sft.max_steps),
        num_workers=config.sft.num_workers,
        prefetch_factor=4 if config.sft.num_workers else None,
    )
    yield from itertools.islice(loader, config.sft.max_steps - start)
