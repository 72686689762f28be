"""One rank of the DeepSpeed tests: `zero_worker.py FOLDER RANK WORLD_SIZE PORT STAGE...`."""

import sys
from pathlib import Path

import torch
from tiny_qwen import rollout_group, sft_examples, zero_batch

from scenerl.configs.schema import ModelConfig, RolloutConfig, TrainConfig
from scenerl.rl.learner_deepspeed import DeepSpeedLearner


def run(folder: Path, rank: int, world_size: int, port: int, stage: int) -> None:
    def learner(dtype="float32", lora_r=0, adam_epsilon=1.0):
        return DeepSpeedLearner(
            ModelConfig(path=str(folder / "model"), dtype=dtype, lora_r=lora_r),
            TrainConfig(
                learning_rate=0.5 if adam_epsilon == 1.0 else 1e-3,
                adam_epsilon=adam_epsilon,
                zero_stage=stage,
                beta=0.1,
                num_iterations=2,
                gradient_accumulation_steps=2,
                max_grad_norm=0.5,
            ),
            RolloutConfig(max_completion_length=8),
            rank=rank,
            world_size=world_size,
            address=f"127.0.0.1:{port}",
        )

    groups = [rollout_group(group) for group in zero_batch().groups]
    subject = learner()
    before = subject.logprobs(groups)
    first = subject.update([zero_batch()])
    middle = dict(subject.weights())
    torch.save(subject.state_dict(), folder / f"state{stage}-{rank}.pt")
    second = subject.update([zero_batch()])
    end = dict(subject.weights())
    subject.save_model(folder / f"saved{stage}")
    supervised = subject.update_sft(sft_examples())

    resumed = learner()
    saved = torch.load(folder / f"state{stage}-{rank}.pt", weights_only=True)
    resumed.load_state_dict(saved)
    again = resumed.update([zero_batch()])
    resumed_end = dict(resumed.weights())

    adapted = learner("bfloat16" if stage else "float32", lora_r=4, adam_epsilon=1e-8)
    kl = [adapted.update([zero_batch()]).metrics["policy/kl"] for _ in range(2)]
    if rank == 0:
        torch.save(
            {
                "before": before,
                "middle": middle,
                "end": end,
                "resumed_end": resumed_end,
                "metrics": [r.metrics for r in (first, second, supervised, again)],
                "lora_kl": kl,
                "lora_weights": dict(adapted.weights()),
            },
            folder / f"result{stage}.pt",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    this_rank, ranks, port_number = (int(argument) for argument in sys.argv[2:5])
    for zero_stage in sys.argv[5:]:
        run(root, this_rank, ranks, port_number, int(zero_stage))
