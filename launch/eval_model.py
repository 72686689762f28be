"""The model of an evaluation: engines over a checkpoint, or an endpoint."""

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenerl.configs.schema import RunConfig
from scenerl.envs.benchmark_prompts import Asking
from scenerl.envs.family import ModelFamily, model_family
from scenerl.launch.eval_benchmark import is_address
from scenerl.launch.plan import make_plan
from scenerl.launch.session import open_fleet, policy_folder
from scenerl.rl.answering import FleetAnswerer
from scenerl.rollout.endpoint import EndpointAnswerer, EndpointSpec
from scenerl.rollout.replies import Answerer

PIECES, PIECE_BYTES = 64, 1 << 16
"""How much of each file of a checkpoint goes into its fingerprint."""

ENDPOINT_FAMILY = ModelFamily(
    name="qwen2_5_vl", patch_size=14, merge_size=2, relative_coordinates=True
)
"""Sizes of the frames that an endpoint gets; what it makes of them is its own affair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that is described, and not started yet."""

    policy: str
    """What names its weights."""
    where: str
    family: ModelFamily
    engine: str
    max_tokens: int
    open: Callable[[], Answerer]
    """Start it."""


def describe_model(config: RunConfig, how: Asking, arguments: argparse.Namespace) -> Model:
    """Look up the model of the command line, without loading it.

    Raises:
        ConfigError: If there is no such checkpoint, or a key is missing.
    """
    max_tokens = arguments.max_tokens or how.max_tokens
    if arguments.prompts == "policy" and arguments.max_tokens is None:
        max_tokens = config.rollout.max_completion_length
    if is_address(arguments.model):
        return _endpoint(config, max_tokens, arguments)
    engines = config.rollout.num_engines
    if arguments.shards > 1 and arguments.shard is None and not arguments.no_ray:
        engines = arguments.shards
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, path=arguments.model),
        rollout=dataclasses.replace(
            config.rollout, max_completion_length=max_tokens, num_engines=engines
        ),
    )
    folder = policy_folder(arguments.model)
    plan = make_plan(config)

    def start() -> Answerer:
        fleet = open_fleet(config, plan, use_ray=not arguments.no_ray, with_learner=False)
        # SceneParser's coordinates are special tokens, which an engine's text leaves out.
        decode = _whole_decoder(folder) if how.payload == "objects" else None
        return FleetAnswerer(fleet, decode=decode)

    return Model(
        policy=policy_fingerprint(folder),
        where=arguments.model,
        family=model_family(folder),
        engine=config.rollout.engine,
        max_tokens=max_tokens,
        open=start,
    )


def _endpoint(config: RunConfig, max_tokens: int, arguments: argparse.Namespace) -> Model:
    spec = EndpointSpec(
        url=arguments.model,
        model_name=arguments.model_name,
        api_key_env=arguments.api_key_env,
        media=arguments.media,
        max_tokens=max_tokens,
        top_p=config.rollout.top_p,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        retries=arguments.retries,
    )
    spec.key()  # before anything else is done
    return Model(
        policy=f"endpoint {spec.model_name}",
        where=spec.url,
        family=ENDPOINT_FAMILY,
        engine=f"endpoint, media as {spec.media}",
        max_tokens=max_tokens,
        open=lambda: EndpointAnswerer(spec),
    )


def _whole_decoder(folder: str) -> Callable[[Sequence[int]], str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def decode(ids: Sequence[int]) -> str:
        text = str(tokenizer.decode(list(ids), skip_special_tokens=False))
        return text.removesuffix(str(tokenizer.eos_token))

    return decode


def policy_fingerprint(folder: str) -> str:
    """Return a hash of a checkpoint that its copies share: 12 hex digits.

    Over the name and size of every file and 64 pieces of 64 KiB spread over it, so all of a file
    up to 4 MiB and enough of a larger one to tell training steps apart.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(folder).glob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        last = max(size - PIECE_BYTES, 0)
        starts = sorted({last * piece // (PIECES - 1) for piece in range(PIECES)})
        with file.open("rb") as stream:
            for start in starts:
                stream.seek(start)
                digest.update(stream.read(PIECE_BYTES))
    return digest.hexdigest()[:12]
