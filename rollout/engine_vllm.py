"""vLLM in this process: the same class for the CPU and the GPU build."""

import logging
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import connection
from typing import Any

import torch
from torch import Tensor

from scenerl.rollout.checkpoints import checkpoint_shapes
from scenerl.rollout.encode import Encoder
from scenerl.rollout.engine import EngineError, EngineSpec
from scenerl.rollout.probe import fingerprint, make_probe
from scenerl.rollout.records import Completion, EncodedPrompt
from scenerl.rollout.vllm_inputs import engine_input
from scenerl.rollout.weights import (
    CheckedWeights,
    Sync,
    check_followed,
    shared_weights,
)

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor's own process
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several actors share the cores
}
CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles a helper of its sampler for 15 s otherwise
}
CPU_BATCH_TOKENS = 8192
"""Most tokens of one forward pass on a CPU."""
CPU_BLOCK_TOKENS = 32
"""Tokens of a key-value block on a CPU, the fewest its kernels take. With prefix caching, what lies
behind the last whole block of a prompt is computed again for every completion; vLLM takes 128."""
BAN = -100.0
"""Logit bias of vision placeholder tokens: exp(-100) is zero in a float32 softmax."""


class VllmEngine:
    """Generates with vLLM. See `rollout.engine.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start vLLM and load the checkpoint."""
        extra = {} if torch.cuda.is_available() else CPU_ENVIRONMENT
        for name, value in (ENVIRONMENT | extra).items():
            os.environ.setdefault(name, value)
        self._rollout = spec.rollout
        self._encoder = Encoder(spec.model_dir)
        self._tokens = self._encoder.tokens
        self._shapes = checkpoint_shapes(spec.model_dir)
        self._engine: Any = _start(spec)
        config = self._engine.model_config
        self._max_length = int(config.max_model_len)
        self._probe = make_probe(self._tokens, int(config.get_vocab_size()))
        self.policy_version = spec.policy_version
        self._requests = 0
        self._sync: Sync | None = None
        self._closing = threading.Event()
        if spec.rollout.tensor_parallel_size > 1:
            workers = self._engine.engine_core.engine_core.model_executor.workers
            _end_with(workers, self._closing)

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float | None = None,
    ) -> list[list[Completion]]:
        """Make ``len(seeds[i])`` completions of prompt i, all in one continuous batch."""
        wanted = self._rollout.temperature if temperature is None else temperature
        requests: list[tuple[Any, Any]] = []
        for encoded, group_seeds in zip(prompts, seeds, strict=True):
            prompt = engine_input(encoded, self._tokens)
            for seed in group_seeds:
                requests.append((prompt, self._sampling(encoded, wanted, seed)))
        outputs = iter(self._run(requests))
        return [[self._completion(next(outputs)) for _ in group] for group in seeds]

    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Tensor]
    ) -> list[list[float]]:
        """Return the log-probs of given completions, by vLLM's prompt log-probs."""
        from vllm import SamplingParams

        requests = []
        for encoded, ids in zip(prompts, completions, strict=True):
            params = SamplingParams(
                max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False
            )
            requests.append((engine_input(encoded, self._tokens, ids), params))
        scores = []
        for output, ids in zip(self._run(requests), completions, strict=True):
            rows = output.prompt_logprobs[-len(ids) :]
            scores.append(
                [row[token].logprob for row, token in zip(rows, ids.tolist(), strict=True)]
            )
        return scores

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> str:
        """Replace all weights in memory and drop every cache made with the old ones."""
        before, self._sync = self._sync, None  # unknown again if loading fails halfway
        checked = CheckedWeights(weights, self._shapes)
        try:
            with torch.no_grad(), self._within_reach(checked) as reachable:
                self._engine.collective_rpc(
                    "reload_weights", kwargs={"weights_iterator": reachable}
                )
                self._engine.apply_model(_follow_tied_embeddings)
            digest = checked.finish()
        finally:
            self._reset_caches()
        after = Sync(digest=digest, checksum=self.checksum())
        check_followed(before, after)
        self._sync = after
        self.policy_version = policy_version
        return after.checksum

    def checksum(self) -> str:
        """Return a fingerprint of the engine's log-probs on the probe."""
        encoded, ids = self._probe
        return fingerprint(self.score([encoded], [ids])[0])

    def sleep(self) -> bool:
        """Move the weights to the CPU's memory and drop the key-value cache (GPU build only)."""
        if not self._engine.model_config.enable_sleep_mode:
            return False
        self._reset_caches()
        self._engine.sleep(1)
        return True

    def wake(self) -> None:
        """Bring the weights back."""
        if self._engine.model_config.enable_sleep_mode:
            self._engine.wake_up()

    def close(self) -> None:
        """Shut vLLM down."""
        self._closing.set()
        self._engine.engine_core.shutdown()

    def _within_reach(
        self, weights: CheckedWeights
    ) -> AbstractContextManager[Iterable[tuple[str, Tensor]]]:
        """Bring weights to where the engine's workers can read them."""
        if self._rollout.tensor_parallel_size > 1:  # each worker is a process
            return shared_weights(weights)
        return nullcontext(iter(weights))

    def _reset_caches(self) -> None:
        """Drop what was computed with other weights, in the scheduler and in the worker."""
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        if not self._engine.reset_prefix_cache():
            raise EngineError("the prefix cache is in use; load weights only between generations")

    def _sampling(self, encoded: EncodedPrompt, temperature: float, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self._max_length - len(encoded.prompt_ids)
        if room < 1:
            raise EngineError(
                f"prompt {encoded.prompt.prompt_id} has {len(encoded.prompt_ids)} tokens and "
                f"leaves no room in {self._max_length}; raise rollout.max_prompt_length"
            )
        return SamplingParams(
            temperature=temperature,
            top_p=self._rollout.top_p if temperature > 0 else 1.0,
            top_k=self._rollout.top_k if temperature > 0 else 0,
            seed=seed,
            max_tokens=min(self._rollout.max_completion_length, room),
            stop_token_ids=list(self._encoder.eos_ids),
            logprobs=0,
            logit_bias=dict.fromkeys(self._tokens.banned_ids, BAN),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, requests: Sequence[tuple[Any, Any]]) -> list[Any]:
        """Run requests to their end; return vLLM's outputs in the order of the requests."""
        first = self._requests
        for offset, (prompt, params) in enumerate(requests):
            self._engine.add_request(str(first + offset), prompt, params)
        self._requests += len(requests)
        finished: dict[str, Any] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    finished[output.request_id] = output
        return [finished[str(first + offset)] for offset in range(len(requests))]

    def _completion(self, output: Any) -> Completion:
        [answer] = output.outputs
        ids = tuple(answer.token_ids)
        if answer.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a completion with {answer.finish_reason!r}")
        return Completion(
            completion_ids=ids,
            rollout_logprobs=tuple(
                row[token].logprob for row, token in zip(answer.logprobs, ids, strict=True)
            ),
            text=self._encoder.decode(ids),
            finish_reason=answer.finish_reason,
            policy_version=self.policy_version,
        )


def _start(spec: EngineSpec) -> Any:
    """Start vLLM's engine with the settings that suit rollouts."""
    _shield_llvmlite()
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    rollout = spec.rollout
    settings: dict[str, Any] = {}
    if current_platform.is_cpu():
        settings["kv_cache_memory_bytes"] = int(rollout.cpu_kv_cache_gib * 2**30)
        settings["enforce_eager"] = True
        settings["block_size"] = CPU_BLOCK_TOKENS
        # A prompt cut into chunks rewinds its seeded generator, which CPU generators cannot.
        settings["enable_chunked_prefill"] = False
        settings["max_num_batched_tokens"] = max(_max_model_len(spec), CPU_BATCH_TOKENS)
    else:
        settings["gpu_memory_utilization"] = rollout.gpu_memory_utilization
        settings["enforce_eager"] = rollout.enforce_eager
        settings["enable_sleep_mode"] = rollout.enable_sleep_mode
    if rollout.tensor_parallel_size > 1:
        # Within an actor of a placement group vLLM would ask Ray for GPUs that the actor has.
        settings["distributed_executor_backend"] = "mp"
    arguments = EngineArgs(
        model=str(spec.model_dir),
        dtype=spec.model.dtype,
        trust_remote_code=spec.model.trust_remote_code,
        generation_config="vllm",  # sampling is ours, not the checkpoint's
        max_model_len=_max_model_len(spec),
        hf_overrides=_interleave_qwen3,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel_size=rollout.tensor_parallel_size,
        enable_prefix_caching=rollout.enable_prefix_caching,
        mm_processor_cache_gb=0,  # prompts arrive processed
        mm_device_do_normalize=False,  # pixels arrive normalized
        skip_mm_profiling=True,
        logprobs_mode="raw_logprobs" if rollout.temperature == 1.0 else "processed_logprobs",
        disable_log_stats=True,
        **settings,
    )
    return LLMEngine.from_engine_args(arguments)


def _interleave_qwen3(config: Any) -> Any:
    """Let vLLM rotate positions as transformers does.

    transformers interleaves mRoPE for every Qwen3-VL; vLLM only where the checkpoint's config has
    ``mrope_interleaved: true``. Without it image log-probs are off by 0.03 a token, unnoticed.
    """
    if config.model_type.startswith("qwen3_vl"):
        config.get_text_config().rope_parameters["mrope_interleaved"] = True
    return config


def _max_model_len(spec: EngineSpec) -> int:
    """Prompt and completion at their longest, within what the checkpoint's positions allow."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        str(spec.model_dir), trust_remote_code=spec.model.trust_remote_code
    )
    wanted = spec.rollout.max_prompt_length + spec.rollout.max_completion_length
    return min(wanted, int(config.get_text_config().max_position_embeddings))


def _follow_tied_embeddings(model: Any) -> None:
    """Give a tied output head the new embeddings.

    vLLM's CPU build multiplies by a packed copy of them, which a reload leaves as it was.
    """
    language = getattr(model, "language_model", model)
    head = getattr(language, "lm_head", None)
    if head is None or not getattr(language.config, "tie_word_embeddings", False):
        return
    head.tie_weights(language.model.embed_tokens)
    head.quant_method.process_weights_after_loading(head)


def _end_with(workers: Sequence[Any], closing: threading.Event) -> None:
    """End this process as soon as a worker of the engine dies, unless the engine is closing.

    vLLM would let a call wait for the dead worker's answer, or fail like a bug. A process that ends
    is what whoever started it knows how to make good.
    """

    def watch() -> None:
        connection.wait([worker.proc.sentinel for worker in workers])
        if not closing.is_set():
            logger.error("a worker of the tensor-parallel engine died, and the engine with it")
            os._exit(os.EX_TEMPFAIL)  # 75: can be continued

    threading.Thread(target=watch, daemon=True, name="engine-workers").start()


def _shield_llvmlite() -> None:
    """Let vLLM look through the modules of a process that has run numba.

    vLLM 0.32 asks every object of every module for ``__dict__``; llvmlite's library object answers
    any name, that one too, with a foreign function, and vLLM then fails on it.
    """
    module = sys.modules.get("llvmlite.binding.ffi")
    if module is None:
        return
    kind = type(module.lib)
    answer = kind.__getattr__
    if getattr(answer, "is_shield", False):
        return

    def shielded(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return answer(self, name)

    shielded.is_shield = True  # type: ignore[attr-defined]
    kind.__getattr__ = shielded
