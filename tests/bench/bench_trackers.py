"""Compare the two trackers on held-out rooms, from one true or sloppy box per object.

    python tests/bench/bench_trackers.py --data data/tracker_rooms --objects 20

Prints a Markdown table: IoU in the prompted frame, mean IoU over the other frames that show the
object, share of the frames without it that get a mask, and time per tracked frame.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from scenerl.configs.schema import TrackerConfig
from scenerl.envs.tracking import make_tracker
from scenerl.preprocess.scene import Scene
from scenerl.preprocess.store import read_samples
from scenerl.rl.sft_tracker import evaluate_tracker

MIN_PIXELS = 40


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of `launch preprocess rooms`")
    parser.add_argument("--split", default="test")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--jitter", type=float, default=0.15, help="of the sloppy boxes")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    names = {sample.media.scene for sample in read_samples(arguments.data, arguments.split)}
    scenes = [Scene.open(Path(arguments.data) / name) for name in sorted(filter(None, names))]
    sys.stdout.write(
        "| tracker | box | prompted IoU | propagated IoU | false masks | ms per frame |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for name in ("sam2", "reproject"):
        tracker = make_tracker(TrackerConfig(name=name))
        for jitter in (0.0, arguments.jitter):
            start = time.perf_counter()
            scores = evaluate_tracker(
                tracker, scenes, arguments.objects, MIN_PIXELS, box_jitter=jitter
            )
            frame_ms = 1000 * (time.perf_counter() - start) / scores.num_frames
            box = f"edges off by up to {jitter:.0%}" if jitter else "true"
            sys.stdout.write(
                f"| {name} | {box} | {scores.prompted_iou:.2f} | {scores.propagated_iou:.2f} "
                f"| {scores.false_positive_rate:.2f} | {frame_ms:.0f} |\n"
            )
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
