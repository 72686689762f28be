"""Time one optimizer step's forward and backward: shared prefix against one sequence each.

Run `python tests/bench/bench_shared_prefix.py`; it appends to tests/bench/results.csv. Times are
CPU seconds of this process (one thread), which a busy machine does not distort much.
"""

import argparse
import csv
import datetime
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_qwen import encoded_prompt, random_completions, tiny_config

from scenerl.rl.forward import Pack, PackedPolicy


def demo_sized_model():
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = tiny_config("qwen2_5_vl")
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 192, 512, 5
    text.num_attention_heads, text.num_key_value_heads, text.vocab_size = 6, 2, 1024
    text.layer_types = ["full_attention"] * 5
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [4, 6, 6]}
    vision.hidden_size, vision.intermediate_size, vision.num_heads = 128, 256, 4
    vision.depth, vision.out_hidden_size, vision.fullatt_block_indexes = 4, 192, [1, 3]
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config)


def packed(model, groups, groups_at_once):
    policy = PackedPolicy(model)
    for start in range(0, len(groups), groups_at_once):
        logprobs, _ = policy(groups[start : start + groups_at_once])
        logprobs.sum().backward()


def one_sequence_each(model, groups):
    policy = PackedPolicy(model)
    for group in groups:
        alone = [Pack(encoded=group.encoded, completion_ids=(c,)) for c in group.completion_ids]
        logprobs, _ = policy(alone)  # one padded batch, as trainers without sharing do
        logprobs.sum().backward()


def cpu_seconds(work, rounds):
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--completion", type=int, default=40)
    parser.add_argument("--grid", type=int, nargs=3, default=(16, 8, 8), help="video patches")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = demo_sized_model()
    groups = [
        Pack(
            encoded=encoded_prompt(media=(("video", tuple(options.grid)),), num_text=20, seed=seed),
            completion_ids=random_completions([options.completion] * options.group_size, seed=seed),
        )
        for seed in range(options.groups)
    ]
    packed(model, groups[:1], 1)  # warm-up
    times = {
        f"packed, {n} at once": cpu_seconds(lambda n=n: packed(model, groups, n), options.rounds)
        for n in (1, 4, 16)
        if n <= options.groups
    }
    times["one sequence each"] = cpu_seconds(lambda: one_sequence_each(model, groups), 1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    parameters = sum(p.numel() for p in model.parameters())
    prompt = len(groups[0].encoded.prompt_ids)
    with (Path(__file__).parent / "results.csv").open("a", newline="") as file:
        for name, seconds in times.items():
            row = [
                datetime.date.today().isoformat(), "shared_prefix", name, platform.machine(),
                torch.__version__, commit, parameters, options.groups, options.group_size,
                prompt, options.completion, f"{seconds:.2f}",
            ]  # fmt: skip
            csv.writer(file).writerow(row)
            sys.stdout.write(",".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
