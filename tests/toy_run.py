"""A training run of milliseconds: the real loop and run directory around four weights.

Engine, learner, encoder and env are the smallest that keep their protocols: a completion is a
function of weights, prompt and seed, and an update is a function of the batch and of a momentum.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rollouts import FAMILY, encoded_text, reply
from safetensors.torch import save_file
from torch import Tensor

from scenerl.configs.schema import EnvConfig, LogConfig, RewardConfig, RunConfig, TrainConfig
from scenerl.envs.records import Answer, ParseError, Prompt
from scenerl.envs.tasks import make_env
from scenerl.preprocess.records import Sample, Span
from scenerl.rewards.canary import canary_prompt
from scenerl.rewards.scorer import Scorer
from scenerl.rl.experience import ExperienceConfig, ExperienceMaker, Task
from scenerl.rl.fleet import LocalFleet
from scenerl.rl.loop import Parts, Trainer
from scenerl.rl.metrics import WALL_CLOCK, MetricLogger
from scenerl.rl.records import SftExample, TrainBatch, UpdateResult
from scenerl.rl.run_dir import RunDir
from scenerl.rollout.records import Completion, EncodedPrompt, Group

PROMPT = canary_prompt("temporal_grounding")
SAMPLES = tuple(
    dataclasses.replace(PROMPT.sample, sample_id=f"q{number}", question=f"chair {number}")
    for number in range(5)
)


class ToyEnv:
    """One prompt a sample."""

    def skip_reason(self, sample: Sample) -> str | None:
        return "left out" if sample.sample_id == "q3" else None

    def prompts(
        self,
        sample: Sample,
        data_root: str | Path,
        *,
        span_s: Span | None = None,
        seed: int = 0,
        supervised: bool = False,
    ) -> list[Prompt]:
        return [dataclasses.replace(PROMPT, prompt_id=sample.sample_id, sample=sample)]

    def parse(self, text: str, prompt: Prompt) -> Answer | ParseError:
        return make_env(EnvConfig(), FAMILY).parse(text, prompt)

    def reference_completion(self, prompt: Prompt, *, looseness: float = 0.0, seed: int = 0) -> str:
        return reply("1s to 3s")


class ToyEncoder:
    """Tensors that name their prompt."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        return encoded_text(prompt, hashlib.sha256(prompt.prompt_id.encode()).hexdigest())

    def frame_counts(self) -> dict[str, float]:
        return {}


class ToyEngine:
    """Spans drawn from (weights, prompt, seed)."""

    def __init__(self) -> None:
        self.policy_version = 0
        self._weights = torch.zeros(4)

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        return [
            [self._complete(prompt, seed) for seed in group]
            for prompt, group in zip(prompts, seeds, strict=True)
        ]

    def _complete(self, prompt: EncodedPrompt, seed: int) -> Completion:
        dice = random.Random(f"{self.checksum()} {prompt.content_hash} {seed}")
        start = dice.randint(0, 2)
        ids = tuple(dice.randint(10, 99) for _ in range(4))
        return Completion(
            completion_ids=ids,
            rollout_logprobs=tuple(-dice.random() for _ in ids),
            text=reply(f"{start}s to {start + dice.randint(1, 2)}s"),
            finish_reason="stop",
            policy_version=self.policy_version,
        )

    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Tensor]
    ) -> list[list[float]]:
        return [[float(self._weights.sum())] * len(ids) for ids in completions]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> str:
        self._weights = dict(weights)["w"].clone()
        self.policy_version = policy_version
        return self.checksum()

    def checksum(self) -> str:
        return hashlib.sha256(self._weights.numpy().tobytes()).hexdigest()

    def sleep(self) -> bool:
        return False

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass


class ToyLearner:
    """Four weights with a momentum and a generator of its own."""

    def __init__(self) -> None:
        self.policy_version = 0
        self._weights, self._momentum = torch.zeros(4), torch.zeros(4)
        self._generator = torch.Generator().manual_seed(7)

    def logprobs(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        return [
            [torch.tensor(rollout.completion.rollout_logprobs) for rollout in group.rollouts]
            for group in groups
        ]

    def update(self, batches: Sequence[TrainBatch]) -> UpdateResult:
        for batch in batches:
            for group in batch.groups:
                for ids, advantage in zip(group.completion_ids, group.advantages, strict=True):
                    noise = torch.rand(4, generator=self._generator)
                    self._momentum = 0.9 * self._momentum + advantage * noise * ids / 100
            self._weights = self._weights + 0.1 * self._momentum
        self.policy_version += 1
        return UpdateResult(policy_version=self.policy_version, loss=float(self._weights.sum()))

    def update_sft(self, examples: Sequence[SftExample], extra_loss: Any = None) -> UpdateResult:
        raise NotImplementedError

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "w", self._weights

    def save_model(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({"w": self._weights}, folder / "model.safetensors")

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": self.policy_version,
            "weights": self._weights,
            "momentum": self._momentum,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy_version = state["version"]
        self._weights, self._momentum = state["weights"], state["momentum"]
        self._generator.set_state(state["generator"])

    def close(self) -> None:
        pass


class ForgetfulLearner(ToyLearner):
    """The fault that a comparison has to notice: the generator is not restored."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({**state, "generator": self._generator.get_state()})


def toy_config(root: Path, **train: Any) -> RunConfig:
    settings = {
        "max_steps": 3,
        "prompts_per_step": 2,
        "save_steps": 1,
        "logprob_gate_steps": 0,
        "mask_truncated_completions": False,
        **train,
    }
    return RunConfig(
        output_dir=str(root),
        name="toy",
        train=TrainConfig(**settings),
        log=LogConfig(rollout_steps=1),
    )


def train_toy(
    root: Path,
    learner: Callable[[], ToyLearner] = ToyLearner,
    engine: Callable[[], ToyEngine] = ToyEngine,
    **train: Any,
) -> Path:
    """Train to the end, from wherever the run directory stands; return the directory."""
    config = toy_config(root, **train)
    run_dir = RunDir(config, "stage1")
    fleet = LocalFleet(ToyEncoder(), engine(), learner(), max_prompt_length=100)
    scorer = Scorer([RewardConfig(name="temporal_iou")], max_steps=config.train.max_steps)
    maker = ExperienceMaker(
        Task(env=ToyEnv(), data_root=root, samples=SAMPLES),
        fleet,
        scorer,
        ExperienceConfig(
            seed=config.seed,
            prompts_per_step=config.train.prompts_per_step,
            group_size=3,
            max_refills=1,
            zero_spread_tolerance=1e-6,
        ),
    )
    try:
        trainer = Trainer(
            Parts(
                fleet=fleet,
                maker=maker,
                run_dir=run_dir,
                logger=MetricLogger(run_dir),
                should_stop=lambda: "STOP file" if run_dir.stop_requested else None,
            ),
            config.train,
        )
        trainer.resume(run_dir.checkpoints.newest())
        trainer.run()
    finally:
        fleet.close()
        run_dir.close()
    return run_dir.path


def what_a_toy_run_did(run: Path) -> dict[str, Any]:
    """Return everything of a finished toy run that an interruption may not change."""
    metrics = [
        {key: value for key, value in json.loads(line).items() if not key.startswith(WALL_CLOCK)}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    newest = max((run / "checkpoints").glob("step_*"))
    files = [*newest.glob("*/*"), newest / "ledger.jsonl", newest / "trainer.json"]
    files += [run / "ledger.jsonl", *(run / "rollouts").iterdir()]
    contents = {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    return {"metrics": metrics, "left": sorted((run / "journal").iterdir()), **contents}
