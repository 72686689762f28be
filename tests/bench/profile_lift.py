"""Where the time of the lift on a GPU goes, kernel by kernel: profile_lift.py FRAMES DEVICE."""

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from scenerl.configs.schema import LiftConfig
from scenerl.launch.bench_lift_gpu import fuse, lift, make_device_recording


def main(frames: int, device: str) -> None:
    size = (640, 480) if device == "cuda" else (96, 72)
    recording = make_device_recording(frames, size, device)
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    for name, run in (
        ("fused pass", lambda: fuse(recording, LiftConfig())),
        ("masks to box", lambda: lift(recording, LiftConfig())),
    ):
        run()
        with profile(activities=activities) as trace:
            for _ in range(5):
                run()
            if device == "cuda":
                torch.cuda.synchronize()
        order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        table = trace.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
        sys.stdout.write(f"{name}, 5 calls\n{table}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
