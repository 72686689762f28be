"""Rollout speed: a group of completions for each of several video prompts, on random weights.

    python tests/bench/bench_rollout.py --engine vllm --max-num-seqs 128

Prints one line of JSON: seconds (wall and CPU) of start, first and second generation, tokens/s.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--model", default=None, help="checkpoint folder; default: random, tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prefix-caching", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    import torch
    from tiny_checkpoint import media_ref, smooth_frames, tiny_checkpoint, tiny_prompt

    from scenerl.configs.schema import ModelConfig, RolloutConfig
    from scenerl.rollout.encode import Encoder
    from scenerl.rollout.engine import make_engine

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rollout = RolloutConfig(
        engine=options.engine,
        max_prompt_length=1024,
        max_completion_length=options.tokens,
        max_num_seqs=options.max_num_seqs,
        enable_prefix_caching=options.prefix_caching,
        cpu_kv_cache_gib=0.5,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.model) if options.model else tiny_checkpoint(Path(scratch))
        encoder = Encoder(folder, frames=smooth_frames)
        # 16 temporal patches of 4 x 3 merged patches: 192 visual tokens
        refs = [
            media_ref("video", (112, 84), num_frames=32, path=str(index))
            for index in range(options.prompts)
        ]
        clock = _Clock()
        prompts = [encoder.encode(tiny_prompt(f"p{ref.path}", (ref,))) for ref in refs]
        report = {"encode": clock.lap()}
        engine = make_engine(folder, ModelConfig(path=str(folder)), rollout)
        report["start"] = clock.lap()
        for name in ("first", "second", "third"):
            seeds = [
                [hash((name, i, j)) % 2**31 for j in range(options.group_size)]
                for i in range(options.prompts)
            ]
            groups = engine.generate(prompts, seeds)
            report[name] = clock.lap()
            count = sum(len(one.completion_ids) for group in groups for one in group)
            report[name] |= {"tokens": count, "tokens_per_s": round(count / report[name]["wall_s"])}
        engine.close()
    settings = dataclasses.asdict(rollout)
    shown = {key: settings[key] for key in ("engine", "max_num_seqs", "enable_prefix_caching")}
    print(json.dumps(shown | {"visual_tokens": prompts[0].num_media_tokens} | report))  # noqa: T201


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        lap = {"wall_s": round(wall - self._wall, 2), "cpu_s": round(cpu - self._cpu, 2)}
        self._wall, self._cpu = wall, cpu
        return lap


if __name__ == "__main__":
    main()
