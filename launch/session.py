"""Put a run together from its settings: policy folder, samples, task, engines and learners."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenerl.configs import schema
from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.envs.family import model_family
from scenerl.envs.tasks import make_env
from scenerl.launch.plan import Plan
from scenerl.preprocess.decoding import set_limits
from scenerl.preprocess.records import DataError, Sample, Span
from scenerl.preprocess.store import read_manifest, read_samples
from scenerl.rl.checkpoint import CheckpointStore, Commit
from scenerl.rl.durable import file_sha256, read_lines, write_json, write_lines
from scenerl.rl.experience import Task
from scenerl.rl.fleet import Fleet, LocalFleet

logger = logging.getLogger(__name__)


def policy_folder(path: str) -> str:
    """Return the checkpoint that `model.path` or `--model` names.

    Args:
        path: "tiny" (the embedded policy), a checkpoint folder, a run directory (its best
            checkpoint) or a hub name.

    Raises:
        ConfigError: If a run directory has no commit, or a folder is not a checkpoint.
    """
    if path == "tiny":
        return str(Path(schema.__file__).parent / "tiny_policy")
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        return str(snapshot_download(path))
    if (folder / "config.json").is_file():
        return path
    if (folder / "checkpoints").is_dir():
        return str(best_commit(path).model_dir)
    if (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    raise ConfigError(
        f"{path} is a folder, but neither a checkpoint (config.json) nor a run directory "
        "(checkpoints/); correct model.path"
    )


def best_commit(run: str) -> Commit:
    """Return the best commit of a run directory, verified."""
    folder = Path(run) / "checkpoints"
    commit = CheckpointStore.read_only(folder).best() if folder.is_dir() else None
    if commit is None:
        raise ConfigError(f"{run} has no whole checkpoint; train it first, or name another run")
    return commit


def take_from_run(config: RunConfig, *, model_is_given: bool) -> RunConfig:
    """Start from the best checkpoint of `from_run`, unless a model was named on the command line.

    Raises:
        ConfigError: If that run does not exist or has no checkpoint.
    """
    if config.from_run is None:
        return config
    if not (Path(config.from_run) / "config.yaml").is_file():
        raise ConfigError(
            f"--from {config.from_run}: not a run directory (no config.yaml); give the folder "
            "that `launch stage1` wrote, for example runs/stage1"
        )
    if model_is_given:
        return config
    path = str(best_commit(config.from_run).model_dir)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=path))


def read_split(config: RunConfig, split: str, limit: int | None) -> tuple[Sample, ...]:
    """Read a split; a limit keeps the samples whose id has the smallest hash, in file order."""
    samples = read_samples(config.data.path, split, kinds=config.data.kinds)
    if limit is not None and limit < len(samples):
        chosen = sorted(samples, key=lambda s: hashlib.sha256(s.sample_id.encode()).digest())
        kept = {sample.sample_id for sample in chosen[:limit]}
        samples = [sample for sample in samples if sample.sample_id in kept]
    if not samples:
        raise DataError(f"{config.data.path}: split {split!r} has no samples")
    return tuple(samples)


def open_task(
    config: RunConfig, samples: Sequence[Sample], spans_s: Mapping[str, Span | None] | None = None
) -> Task:
    """Build the task of a run over some samples."""
    set_limits(config.data)
    family = model_family(policy_folder(config.model.path))
    return Task(
        env=make_env(config.env, family),
        data_root=Path(config.data.path),
        samples=tuple(samples),
        spans_s=spans_s,
    )


def open_fleet(
    config: RunConfig,
    plan: Plan,
    *,
    use_ray: bool = True,
    with_learner: bool = True,
    on_loss: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Fleet:
    """Start engines, encoders and learners, over Ray or in this process."""
    set_limits(config.data)
    model = dataclasses.replace(config.model, path=policy_folder(config.model.path))
    config = dataclasses.replace(config, model=model)
    if use_ray:
        from scenerl.launch.fleet import RayFleet

        return RayFleet(config, plan, with_learner=with_learner, on_loss=on_loss)
    if with_learner and (config.cluster.num_learners > 1 or config.rollout.num_engines > 1):
        raise ConfigError(
            "--no-ray runs one learner and one engine in this process; found "
            f"cluster.num_learners={config.cluster.num_learners}, "
            f"rollout.num_engines={config.rollout.num_engines}"
        )
    import torch

    from scenerl.rl.learner_torch import TorchLearner
    from scenerl.rollout.encode import Encoder
    from scenerl.rollout.engine import make_engine

    torch.set_num_threads(config.cluster.threads_per_actor)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learner = None
    if with_learner:
        learner = TorchLearner(model, config.train, config.rollout, seed=config.seed, device=device)
    return LocalFleet(
        Encoder(model.path, frame_cache_bytes=int(config.cluster.frame_cache_gib * 2**30)),
        make_engine(model.path, model, config.rollout, device=device),
        learner,
        max_prompt_length=config.rollout.max_prompt_length,
    )


def write_predictions(
    run: Path, config: RunConfig, split: str, rows: Sequence[Mapping[str, Any]], policy: str
) -> None:
    """Write the spans that a policy predicted for a split, with what they were made from."""
    folder = run / "predictions"
    folder.mkdir(exist_ok=True)
    file = folder / f"{split}.jsonl"
    write_lines(
        file,
        [
            {
                "sample_id": row["sample_id"],
                "span_s": (row["answer"] or {}).get("span_s"),
                "parse_error": row["parse_error"],
                "temporal_iou": row["scores"].get("temporal_iou"),
            }
            for row in rows
        ],
    )
    index = folder / "manifest.json"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    entries[split] = {
        "predictions": len(rows),
        "sha256": file_sha256(file),
        "data_sha256": read_manifest(config.data.path)["splits"][split]["sha256"],
        "policy": policy,
    }
    write_json(index, entries)


def read_predictions(run: str, config: RunConfig, split: str) -> dict[str, Span | None]:
    """Read the spans that an earlier stage predicted for a split of the same data.

    Returns:
        Sample id -> span; None where the reply could not be read.

    Raises:
        DataError: If there are none, or they belong to other data.
    """
    folder = Path(run) / "predictions"
    file, index = folder / f"{split}.jsonl", folder / "manifest.json"
    if not file.is_file() or not index.is_file():
        raise DataError(
            f"{run} has no predictions for split {split!r}; let `launch stage1` finish, it writes "
            "them at its end"
        )
    entry = json.loads(index.read_text(encoding="utf-8")).get(split, {})
    if entry.get("sha256") != file_sha256(file):
        raise DataError(f"{file} is not what the run wrote (SHA-256 differs); run stage1 again")
    found = read_manifest(config.data.path)["splits"].get(split, {}).get("sha256")
    if entry["data_sha256"] != found:
        raise DataError(
            f"{run} predicted spans on other data than {config.data.path} holds now for split "
            f"{split!r}; run stage1 on these data, or set data.path to those of stage 1"
        )
    rows = read_lines(file)
    if len(rows) != entry["predictions"]:
        raise DataError(f"{file}: {len(rows)} predictions, its manifest says {entry}")
    return {
        row["sample_id"]: (float(row["span_s"][0]), float(row["span_s"][1]))
        if row["span_s"]
        else None
        for row in rows
    }
