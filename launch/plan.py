"""The placement plan: who runs where, and whether it fits, before anything is loaded.

`--dry-run` prints it and `launch/actors.py` places by it, so what is shown is what runs.
"""

import dataclasses
import json
import math
import os
from pathlib import Path

from scenerl.configs.schema import RunConfig
from scenerl.rollout.checkpoints import checkpoint_shapes

GIB = 1024**3

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # When memory runs out the kernel decides, and it takes reward plug-ins first (they ask for it);
    # Ray's own monitor knows only its workers and would end a learner for a plug-in's appetite.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_oom_score_adjustment": "100",
}
"""Of every process of a run's own Ray."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSize:
    """What the memory arithmetic needs to know of a policy."""

    parameters: float
    vision_parameters: float
    hidden_size: int
    num_layers: int
    vocab_size: int
    max_tensor_parallel: int
    """Tensor parallelism cuts heads and MLPs of text model and tower; this divides all of them."""


_KNOWN: dict[str, ModelSize] = {
    "Qwen/Qwen2-VL-2B-Instruct": ModelSize(2.21e9, 0.67e9, 1536, 28, 151936, 4),
    "Qwen/Qwen2-VL-7B-Instruct": ModelSize(8.29e9, 0.68e9, 3584, 28, 152064, 4),
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelSize(3.75e9, 0.67e9, 2048, 36, 151936, 4),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelSize(8.29e9, 0.68e9, 3584, 28, 152064, 4),
    "Qwen/Qwen3-VL-4B-Instruct": ModelSize(4.44e9, 0.42e9, 2560, 36, 151936, 16),
    "Qwen/Qwen3-VL-8B-Instruct": ModelSize(8.77e9, 0.58e9, 4096, 36, 151936, 16),
}
"""Sizes of common checkpoints, for a plan without their files."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One kind of actor."""

    name: str
    count: int
    cpus: float
    gpus: float
    """Per actor; 0.5 when two roles share one GPU."""
    memory: tuple[tuple[str, float], ...]
    """(what, bytes) on each GPU of the actor, or in main memory without GPUs."""

    @property
    def bytes_per_device(self) -> float:
        """Sum of the memory table."""
        return sum(size for _, size in self.memory)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Roles, where they go, and why they do not fit if they do not."""

    roles: tuple[Role, ...]
    colocate: bool
    total_gpus: int
    total_cpus: int
    device_bytes: float
    problems: tuple[str, ...]

    def role(self, name: str) -> Role:
        """Return the role with that name."""
        return next(role for role in self.roles if role.name == name)


def make_plan(config: RunConfig) -> Plan:
    """Lay out the actors of a run and do the memory arithmetic.

    Args:
        config: The run; ``cluster`` says what there is, ``train`` and ``rollout`` what is wanted.

    Returns:
        The plan; ``problems`` is empty when it fits.
    """
    cluster = config.cluster
    gpus = cluster.nnodes * cluster.gpus_per_node
    cpus = cluster.cpus or os.cpu_count() or 1
    size = model_size(config.model.path)
    share = 0.5 if cluster.colocate and gpus else 1.0
    on_gpu = gpus > 0
    learner = Role(
        name="learner",
        count=cluster.num_learners,
        cpus=cluster.threads_per_actor,
        gpus=share if on_gpu else 0,
        memory=_learner_memory(config, size),
    )
    engine = Role(
        name="engine",
        count=config.rollout.num_engines,
        cpus=cluster.threads_per_actor,
        gpus=config.rollout.tensor_parallel_size * share if on_gpu else 0,
        memory=_engine_memory(config, size, on_gpu),
    )
    device_bytes = cluster.gpu_memory_gib * GIB if on_gpu else _main_memory()
    problems = [*_count_problems(config, gpus), *_width_problems(config, size)]
    if size is not None:
        problems += _memory_problems(config, learner, engine)
    return Plan(
        roles=(learner, engine),
        colocate=cluster.colocate,
        total_gpus=gpus,
        total_cpus=cpus,
        device_bytes=device_bytes,
        problems=tuple(problems),
    )


def model_size(path: str) -> ModelSize | None:
    """Read the size of a policy from its folder, or from the table of common checkpoints.

    Returns:
        None when it is neither a folder nor known; then memory is not checked.

    Raises:
        ConfigError: If the folder holds no weights that can be read.
    """
    folder = Path(__file__).parent.parent / "configs" / "tiny_policy" if path == "tiny" else path
    file = Path(folder) / "config.json"
    if not file.is_file():
        return _KNOWN.get(path)
    values = json.loads(file.read_text())
    text, vision = values.get("text_config", values), values.get("vision_config", {})
    counts = {name: math.prod(shape) for name, shape in checkpoint_shapes(folder).items()}
    heads, inner = int(text["num_attention_heads"]), int(text["intermediate_size"])
    ratio, width = vision.get("mlp_ratio", 0), vision.get("embed_dim", 0)  # of Qwen2-VL
    tower = vision.get("intermediate_size") or ratio * width
    return ModelSize(
        parameters=float(sum(counts.values())),
        vision_parameters=float(sum(n for name, n in counts.items() if "visual." in name)),
        hidden_size=int(text["hidden_size"]),
        num_layers=int(text["num_hidden_layers"]),
        vocab_size=int(text["vocab_size"]),
        max_tensor_parallel=math.gcd(heads, inner, int(vision.get("num_heads", 0)), int(tower)),
    )


def format_plan(plan: Plan) -> str:
    """Write the plan as the table that `--dry-run` prints."""
    where = f"{plan.total_gpus} GPU" if plan.total_gpus else "no GPU, main memory"
    lines = [f"placement: {plan.total_cpus} CPU, {where}, {_gib(plan.device_bytes)} per device"]
    for role in plan.roles:
        device = f"{role.gpus:g} GPU" if role.gpus else f"{role.cpus:g} CPU"
        lines.append(f"  {role.name} x {role.count}, {device} each: {_gib(role.bytes_per_device)}")
        lines += [f"    {what:<34} {_gib(size):>10}" for what, size in role.memory]
    layout = "share their devices" if plan.colocate else "have devices of their own"
    lines.append(f"  learners and engines {layout}")
    if not plan.roles[0].memory:
        lines.append("  memory not estimated: the size of model.path is not known here")
    lines += [f"does not fit: {problem}" for problem in plan.problems] or ["fits"]
    return "\n".join(lines)


def _learner_memory(config: RunConfig, size: ModelSize | None) -> tuple[tuple[str, float], ...]:
    """Bytes on each learner device: weights, gradients, Adam, activations, logits."""
    if size is None:
        return ()
    model, train, ranks = config.model, config.train, config.cluster.num_learners
    width = 2 if model.dtype == "bfloat16" else 4
    trained = size.parameters - (size.vision_parameters if model.freeze_vision_tower else 0)
    if model.lora_r:
        adapters = len(model.lora_target_modules) * 2 * size.hidden_size * model.lora_r
        trained = float(size.num_layers * adapters)
    stage = train.zero_stage if train.learner == "deepspeed" else 0
    # Adam keeps two fp32 moments, and bf16 weights have an fp32 master copy.
    optimizer = trained * (8 if width == 4 else 12)
    tokens = _tokens_per_group(config)
    per_layer = 1 if train.gradient_checkpointing else 16
    activations = tokens * size.hidden_size * size.num_layers * width * per_layer
    completion = config.rollout.group_size * config.rollout.max_completion_length
    rows = [
        ("weights", size.parameters * width / (ranks if stage >= 3 else 1)),
        ("gradients", trained * width / (ranks if stage >= 2 else 1)),
        ("optimizer states", optimizer / (ranks if stage >= 1 else 1)),
        (f"activations of {tokens:,} tokens", float(activations)),
        ("logits of the completions", float(min(completion, 2048) * size.vocab_size * 4 * 2)),
    ]
    if train.beta and not model.lora_r:
        rows.append(("reference weights", size.parameters * width / (ranks if stage >= 3 else 1)))
    return tuple(rows)


def _tokens_per_group(config: RunConfig) -> int:
    """Largest packed group: one prompt and its completions."""
    env, rollout = config.env, config.rollout
    pixels = env.image_max_pixels if env.name == "image_grounding" else env.video_total_pixels // 2
    prompt = min(rollout.max_prompt_length, pixels // (28 * 28) + 512)
    return int(prompt + rollout.group_size * rollout.max_completion_length)


def _engine_memory(
    config: RunConfig, size: ModelSize | None, on_gpu: bool
) -> tuple[tuple[str, float], ...]:
    if size is None:
        return ()
    rollout = config.rollout
    width = 2 if config.model.dtype == "bfloat16" else 4
    weights = size.parameters * width / rollout.tensor_parallel_size
    if on_gpu:
        total = rollout.gpu_memory_utilization * config.cluster.gpu_memory_gib * GIB
        return (("weights", weights), ("KV cache and workspace", total - weights))
    return (("weights", weights), ("KV cache", rollout.cpu_kv_cache_gib * GIB))


def _count_problems(config: RunConfig, gpus: int) -> list[str]:
    cluster, rollout = config.cluster, config.rollout
    problems = []
    engine_gpus = rollout.num_engines * rollout.tensor_parallel_size
    if gpus:
        needed = (
            max(cluster.num_learners, engine_gpus)
            if cluster.colocate
            else cluster.num_learners + engine_gpus
        )
        if needed > gpus:
            sign = "max of" if cluster.colocate else "sum of"
            problems.append(
                f"{needed} GPUs needed ({sign} {cluster.num_learners} learners and "
                f"{rollout.num_engines} engines x {rollout.tensor_parallel_size}), {gpus} present; "
                "lower cluster.num_learners, rollout.num_engines or "
                "rollout.tensor_parallel_size"
            )
    if cluster.num_learners > 1 and config.train.learner == "torch":
        problems.append(
            f"cluster.num_learners is {cluster.num_learners}, but train.learner=torch is one "
            "process; set train.learner=deepspeed"
        )
    return problems


def _width_problems(config: RunConfig, size: ModelSize | None) -> list[str]:
    """Check what an engine over several GPUs asks of the model and of a node."""
    width, gpus = config.rollout.tensor_parallel_size, config.cluster.gpus_per_node
    problems = []
    if size is not None and size.max_tensor_parallel % width:
        limit = size.max_tensor_parallel
        fitting = ", ".join(str(n) for n in range(1, limit + 1) if limit % n == 0)
        problems.append(
            f"rollout.tensor_parallel_size={width} does not divide the heads and MLP widths of "
            f"{config.model.path}; set it to one of {fitting}"
        )
    if 0 < gpus < width:
        problems.append(
            f"rollout.tensor_parallel_size={width}, but an engine's GPUs have to be on one node, "
            f"and cluster.gpus_per_node is {gpus}; lower the former"
        )
    return problems


def _memory_problems(config: RunConfig, learner: Role, engine: Role) -> list[str]:
    cluster = config.cluster
    on_gpu = cluster.gpus_per_node > 0
    device = cluster.gpu_memory_gib * GIB if on_gpu else _main_memory()
    if on_gpu and not cluster.colocate:
        loads = {"a learner": learner.bytes_per_device, "an engine": engine.bytes_per_device}
    elif on_gpu:
        loads = {"a learner and an engine": learner.bytes_per_device + engine.bytes_per_device}
    else:
        total = learner.count * learner.bytes_per_device + engine.count * engine.bytes_per_device
        loads = {"all actors": total}
    problems = [
        f"{who} on one device: {_gib(load)} needed, {_gib(device)} present ("
        + " + ".join(_gib(size) for role in (learner, engine) for _, size in role.memory)
        + "); use more learners with a higher train.zero_stage, LoRA (model.lora_r), "
        "train.gradient_checkpointing=true or a lower rollout.gpu_memory_utilization"
        for who, load in loads.items()
        if load > device
    ]
    if on_gpu and engine.memory and engine.memory[1][1] <= 0:
        problems.append(
            f"engine weights take {_gib(engine.memory[0][1])}, more than "
            f"rollout.gpu_memory_utilization={config.rollout.gpu_memory_utilization:g} of a GPU "
            "leaves (0 GiB for the KV cache); raise it or rollout.tensor_parallel_size"
        )
    return problems


def _main_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
