"""Every setting of a run, with its default, unit and check.

Names are those of TRL's GRPOConfig where TRL has the thing; `configs/load.py` also accepts TRL's
flat spelling for the few that live elsewhere here (``num_generations`` is ``rollout.group_size``).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from scenerl.configs.chain import GroundConfig as GroundConfig
from scenerl.configs.chain import LiftConfig as LiftConfig
from scenerl.configs.chain import TrackerConfig as TrackerConfig


class ConfigError(ValueError):
    """A setting that cannot work: says what was found, what is expected and what to do."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The policy."""

    path: str = "tiny"
    """Folder or hub name of a Qwen-VL checkpoint, or a run directory; "tiny" is the embedded
    policy, "tiny-random" its architecture with random weights (for `launch sft`)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    trust_remote_code: bool = False
    freeze_vision_tower: bool = False
    lora_r: int = 0
    """LoRA rank; 0 trains all weights."""
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The samples."""

    path: str = "data/rooms"
    """Folder that `launch preprocess` wrote."""
    train_split: str = "train"
    eval_split: str = "test"
    kinds: tuple[str, ...] = ()
    """Only these kinds of queries (attribute, relation, ...); empty takes all."""
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    decode_timeout_s: float = 120.0
    """Longest time for one read of a medium, after which its samples count as broken."""
    max_decode_memory_gib: float = 8.0
    """Address space of the process that decodes, and most bytes of the frames of one read."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing can be read."""
        for name in ("decode_timeout_s", "max_decode_memory_gib"):
            value = getattr(self, name)
            _require(value > 0, f"data.{name} is {value}, expected a number above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvConfig:
    """The task: how a sample becomes a prompt, and a reply an answer."""

    name: Literal["temporal_grounding", "image_grounding", "video_qa"] = "temporal_grounding"
    template: Literal["reference", "short"] = "reference"
    """"reference" is the prompt of the reference systems; "short" is for very small policies."""
    num_frames: int | None = None
    """Frames of a video; None samples at `fps`."""
    fps: float = 2.0
    max_frames: int = 768
    video_min_pixels: int = 16 * 28 * 28
    """Per frame."""
    video_total_pixels: int = 3584 * 28 * 28
    """Over all frames of a video, counted as Qwen does: two frames share one temporal patch."""
    image_min_pixels: int = 4 * 28 * 28
    image_max_pixels: int = 1280 * 28 * 28
    frames_per_span: int = 1
    """Image grounding: frames of the span that are asked about, each a prompt of its own."""
    coordinates: Literal["auto", "absolute", "relative_1000"] = "auto"
    """"auto": pixels of the resized frame for Qwen2.5-VL, 0..1000 for Qwen2-VL and Qwen3-VL."""

    def __post_init__(self) -> None:
        """Refuse counts and rates that show nothing."""
        for name, value in (
            ("num_frames", 1 if self.num_frames is None else self.num_frames),
            ("fps", self.fps),
            ("max_frames", self.max_frames),
            ("frames_per_span", self.frames_per_span),
        ):
            _require(value > 0, f"env.{name} is {value}, expected a number above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """How completions are made."""

    engine: Literal["vllm", "transformers"] = "vllm"
    group_size: int = 8
    """Completions per prompt (TRL: num_generations)."""
    max_prompt_length: int = 8192
    max_completion_length: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    num_engines: int = 1
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.5
    enforce_eager: bool = False
    enable_prefix_caching: bool = False
    """Off gives bit-identical rollouts whatever the batch; on saves prefill."""
    enable_sleep_mode: bool = False
    """vLLM gives its GPU memory to the learner during an update (colocated, max_staleness 0);
    vLLM's CPU build has no such mode, there it changes nothing."""
    cpu_kv_cache_gib: float = 1.0
    max_num_seqs: int = 128

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        _require(
            self.group_size >= 2,
            f"rollout.group_size is {self.group_size}, but a group-relative advantage needs at "
            "least 2 completions per prompt; set rollout.group_size >= 2",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """One entry of the rewards list."""

    name: str | None = None
    """A built-in reward or an entry point."""
    path: str | None = None
    """FILE.py:FUNCTION or package.module:FUNCTION of a plug-in."""
    weight: float = 1.0
    """0 only logs it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0
    """Longest time of one call of a plug-in, which scores the completions of one prompt."""
    on_error: Literal["raise", "none", "zero"] = "raise"
    """"raise" stops the run, "none" leaves the rollout unscored, "zero" counts it and gives 0."""
    max_memory_gib: float | None = None
    """Address space of a plug-in's process; None sets no limit."""
    network: bool = False
    """Whether a plug-in's process keeps the machine's network, for a judge over HTTP."""

    def __post_init__(self) -> None:
        """Refuse an entry that names nothing, or two things."""
        _require(
            (self.name is None) != (self.path is None),
            f"a reward needs either name or path, found name={self.name!r}, path={self.path!r}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The update: GRPO and the optimizer."""

    max_steps: int = 100
    prompts_per_step: int = 8
    learning_rate: float = 1e-6
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    beta: float = 0.0
    """Weight of the KL to the reference; 0 loads no reference."""
    epsilon: float = 0.2
    epsilon_high: float | None = None
    """Upper clip; None equals epsilon (clip-higher: 0.28)."""
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "gspo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    num_iterations: int = 1
    """Optimizer steps per batch of rollouts."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step, at least; the loss is exactly that of one batch."""
    max_tokens_per_micro_batch: int = 16384
    """Padded tokens that go through the policy at once; larger groups are split, exactly."""
    importance_sampling_correction: Literal["none", "token_truncate", "sequence_truncate"] = (
        "token_truncate"
    )
    importance_sampling_cap: float = 3.0
    mask_truncated_completions: bool = False
    entropy_coef: float = 0.0
    zero_spread_tolerance: float = 1e-6
    """A group whose rewards have a standard deviation at most this is dropped."""
    max_refills: int = 1
    """How often a step asks for more prompts to replace dropped groups."""
    max_staleness: int = 0
    """Updates by which rollouts may lag; 0 is on-policy."""
    logprob_gate_steps: int = 10
    """Compare engine and learner log-probs at step 0 and every so many steps; 0 never."""
    logprob_gate_tolerance: float = 0.05
    """Largest allowed mean absolute difference."""
    gradient_checkpointing: bool = False
    learner: Literal["torch", "deepspeed"] = "torch"
    zero_stage: Literal[0, 1, 2, 3] = 2
    deepspeed_config: str | None = None
    """DeepSpeed JSON file; None derives it from this section."""
    max_quarantined_fraction: float = 0.1
    """The run stops when more than this share of the drawn samples has broken data."""
    save_steps: int = 50
    save_total_limit: int = 2
    eval_steps: int = 0
    """Evaluate greedily every so many steps; 0 only at the start and the end."""

    def __post_init__(self) -> None:
        """Refuse a clip that would silence the loss."""
        _require(
            self.loss_type != "cispo" or (self.epsilon_high or 0.0) >= 1.0,
            f"train.loss_type cispo caps the ratio itself at train.epsilon_high, found "
            f"{self.epsilon_high}, which cuts every token; set train.epsilon_high >= 1 (TRL: 5.0)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SftConfig:
    """Supervised cold start: cross-entropy on reference completions."""

    task: Literal["policy", "tracker"] = "policy"
    """"tracker" trains the SAM2 tracker by the section `tracker_sft` instead."""
    envs: tuple[EnvConfig, ...] = ()
    """Tasks that are mixed, each prompt drawn from one of them."""
    max_steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    label_looseness: tuple[float, ...] = (0.0,)
    """Each edge of a target lies outside the truth by a random share, up to this, of its length: a
    cold start on labels as a quick annotator draws them. One number, or one for each of `envs`."""
    dense_weight: float = 0.0
    """Weight of the auxiliary per-patch loss (class, colour, box, time) from instance images."""
    num_workers: int = 1
    """Processes that decode and encode ahead; 0 does it in the training process."""

    def __post_init__(self) -> None:
        """Refuse a list of the wrong length."""
        _require(
            len(self.label_looseness) in (1, max(len(self.envs), 1)),
            f"sft.label_looseness has {len(self.label_looseness)} numbers for {len(self.envs)} "
            "envs; give one for all, or one each",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerSftConfig:
    """Supervised training of a SAM2 tracker: boxes alone, single frames, then clips."""

    config: str = "tiny"
    """SAM2 model YAML, or "tiny"."""
    checkpoint: str | None = None
    """Weights to start from; None starts from random ones."""
    box_steps: int = 250
    """First optimizer steps, without any image: the mask of a box is the filled box. A fresh
    decoder that also sees images learns to ignore the box for long."""
    boxes_per_step: int = 32
    balance_steps: int = 200
    """Over these first steps the mask loss goes from equal weight of object and background, without
    which a fresh model answers "nothing" for long, to the true one."""
    image_steps: int = 500
    """Then optimizer steps on single frames: box to mask."""
    images_per_step: int = 8
    objects_per_image: int = 4
    clip_steps: int = 600
    """Then optimizer steps on short clips with memory."""
    clips_per_step: int = 2
    clip_frames: int = 4
    absent_share: float = 0.0
    """Share of the clips that are chosen for an object that leaves the view."""
    score_weight: float = 0.5
    """Weight of the loss of "the object is in this frame"."""
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    box_jitter: float = 0.15
    """Largest shift of a box edge as a share of the box, for most prompts."""
    min_pixels: int = 40
    """An object with fewer pixels in a frame is not prompted there."""
    num_eval_objects: int = 40
    """Held-out objects that are tracked through their rooms to measure the result."""
    log_steps: int = 20
    save_steps: int = 200

    def __post_init__(self) -> None:
        """Refuse clips without a frame to propagate to."""
        _require(
            self.clip_frames >= 2,
            f"tracker_sft.clip_frames is {self.clip_frames}, but the memory is trained on the "
            "frames after the prompted one; set it to at least 2",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Who runs where."""

    num_learners: int = 1
    nnodes: int = 1
    gpus_per_node: int = 0
    colocate: bool = True
    """Engines share the learners' GPUs (they take turns)."""
    gpu_memory_gib: float = 80.0
    """Memory of one GPU, for the plan."""
    cpus: int | None = None
    """CPU cores to use; None takes all."""
    threads_per_actor: int = 1
    num_encoders: int = 1
    """Processes that decode media and run the processor."""
    frame_cache_gib: float = 1.0
    """Memory of each encoder for resized frames, so that a video is decoded once per run."""
    object_store_gib: float | None = None
    """Shared memory for pixels and weights on their way; None lets Ray take its share."""
    start_timeout_s: float = 300.0
    """Longest wait for Ray, and for an actor to load."""
    placement_timeout_s: float | None = None
    """Longest wait for a place for all actors, also when a node is gone and another has to take its
    place; None takes start_timeout_s."""
    step_timeout_s: float = 1800.0
    """Longest wait for one answer of an actor: an update, a weight sync, a prompt's tensors."""
    rollout_timeout_s: float | None = None
    """Longest wait for the completions of a step, after which an engine counts as hanging and is
    replaced; None takes step_timeout_s."""
    max_recoveries: int = 3
    """Losses of an actor in a row, without a step in between, after which the run stops; before
    that it starts all actors anew and goes on from its newest commit. Also how often one call may
    replace engines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is written besides the run directory."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    project: str = "scenerl"
    rollout_steps: int = 1
    """Write the rollouts of every so many steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run."""

    name: str = "run"
    output_dir: str = "runs"
    """The run directory is output_dir/name."""
    seed: int = 0
    from_run: str | None = None
    """Stage 1 run whose checkpoint and predicted spans stage 2 takes (`--from`)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: tuple[RewardConfig, ...] = ()
    train: TrainConfig = field(default_factory=TrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    tracker_sft: TrackerSftConfig = field(default_factory=TrackerSftConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    ground: GroundConfig = field(default_factory=GroundConfig)
    log: LogConfig = field(default_factory=LogConfig)
