"""`launch demo`: the whole job on the embedded default, from rooms to a report."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Run the main job end to end on two CPU cores, with nothing but the installed packages: make
synthetic RGB-D rooms, train stage 1 (when) and stage 2 (where) of the embedded tiny policy with
GRPO through Ray and vLLM, answer held-out questions all the way to 3D boxes, write the report.
About a quarter of an hour. Every step is a `launch` command of its own, printed before it runs."""
EPILOG = """\
examples:
  launch demo                                  runs/demo, seed 0
  launch demo --seed 1 --output runs/demo1     another seed: other rooms, other sampling
  launch demo --quick --output runs/look       a few steps and queries, to see that it works
"""
ROOMS_SEED = 1000
"""The embedded policy and tracker were trained on rooms of seed 0; the demo's are others."""


def main(argv: list[str], command: str) -> int:
    """Run the steps; the exit code is that of the first step that fails."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=120, help="held-out queries (default 120)")
    parser.add_argument("--quick", action="store_true", help="2 steps, 4 queries")
    arguments = parser.parse_args(argv)
    out: Path = arguments.output
    if (out / "summary.json").exists():
        print(f"{out} holds a finished demo; give another --output, or delete it")
        return 64
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    times: dict[str, float] = {}
    for name, words in steps(out, arguments.seed, arguments.queries, quick=arguments.quick):
        print(f"\n== {name}: launch {' '.join(words)}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "scenerl.launch.cli", *words]).returncode
        times[name] = time.monotonic() - start
        if code:
            print(f"{name} ended with exit code {code}; run the same command to continue")
            return code
    summary = summarize(out, arguments.seed, times, time.monotonic() - begin)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print("\n" + describe(summary))
    from scenerl.launch.report import write_report

    print(f"open {write_report(out)}")
    return 0


def steps(out: Path, seed: int, queries: int, *, quick: bool) -> list[tuple[str, list[str]]]:
    """Return (name, arguments of `launch`) of every step, in order."""
    data = out / "data"
    rooms = (8, 2) if quick else (96, max(2, -(-queries // 5)))
    limit = 4 if quick else queries
    shared = [f"output_dir={out}", f"data.path={data}", f"seed={seed}"]
    shared += [f"data.max_eval_samples={limit}"]
    shared += ["train.max_steps=2"] if quick else []
    make = ["preprocess", "rooms", "--output", str(data), "--seed", str(ROOMS_SEED + seed)]
    # Stage 1's spans, but the cold start's weights: a policy this small forgets boxes in stage 1.
    taken = ["--from", str(out / "stage1"), "model.path=tiny"]
    # One process: both policies' engines and the lift share the imports, and nothing is trained.
    ground = ["ground", "--no-ray", "--config", "stage2_tiny", "--split", "test"]
    ground += ["--limit", str(limit)]
    ground += ["--output", str(out / "ground"), f"ground.stage1={out / 'stage1'}"]
    return [
        ("rooms", [*make, "--train", str(rooms[0]), "--test", str(rooms[1]), "--workers", "2"]),
        ("stage1", ["stage1", "--config", "stage1_tiny", "name=stage1", *shared]),
        ("stage2", ["stage2", "--config", "stage2_tiny", *taken, "name=stage2", *shared]),
        ("ground", [*ground, f"ground.stage2={out / 'stage2'}", *shared]),
    ]


def summarize(out: Path, seed: int, times: dict[str, float], total: float) -> dict[str, Any]:
    """Collect the headline numbers of the steps.

    Returns:
        The content of ``summary.json``; times in seconds, all else in [0, 1].
    """

    def read(*parts: str) -> dict[str, Any]:
        values = json.loads(out.joinpath(*parts).read_text())
        assert isinstance(values, dict)
        return values

    chain = read("ground", "summary.json")
    return {
        "stage1": {
            "miou_before": read("stage1", "eval", "before.json")["miou"],
            "miou_after": read("stage1", "eval", "after.json")["miou"],
        },
        "stage2": {
            "box_iou_before": read("stage2", "eval", "before.json")["box_iou"],
            "box_iou_after": read("stage2", "eval", "after.json")["box_iou"],
        },
        "chain": {key: chain[key] for key in ("acc25", "acc50", "oracle")},
        "queries": chain["queries"],
        "train_seconds": times["stage1"] + times["stage2"],
        "total_seconds": total,
        "seed": seed,
        "seconds": times,
    }


def describe(summary: dict[str, Any]) -> str:
    """Write the headline numbers as a few lines."""
    one, two, chain = summary["stage1"], summary["stage2"], summary["chain"]
    return "\n".join(
        [
            f"{summary['queries']} queries in rooms that no training has seen:",
            f"  stage 1, mean temporal IoU  {one['miou_before']:.3f} -> {one['miou_after']:.3f}",
            f"  stage 2, mean box IoU       {two['box_iou_before']:.3f} -> "
            f"{two['box_iou_after']:.3f}",
            f"  chain, 3D Acc@0.25 {chain['acc25']:.3f}, Acc@0.5 {chain['acc50']:.3f}",
            f"  training {summary['train_seconds']:.0f} s of {summary['total_seconds']:.0f} s",
        ]
    )
