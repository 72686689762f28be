"""The `launch` command: finds the module of a subcommand and hands it the rest of the line.

Nothing heavy is imported here; `launch --help` answers at once.
"""

import importlib
import sys

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("scenerl.launch.demo", "make rooms, train both stages, ground in 3D, write a report"),
    "preprocess": ("scenerl.launch.preprocess", "raw RGB-D data or synthetic rooms to samples"),
    "sft": ("scenerl.launch.sft", "supervised cold start of a policy or a tracker"),
    "stage1": ("scenerl.launch.train", "train temporal grounding with GRPO"),
    "stage2": ("scenerl.launch.train", "train image grounding with GRPO"),
    "eval": ("scenerl.launch.eval", "measure a policy on held-out samples"),
    "score": ("scenerl.launch.score", "score anybody's predictions on a benchmark"),
    "ground": ("scenerl.launch.ground", "answer queries with a span, boxes, masks and a 3D box"),
    "lift": ("scenerl.launch.lift", "lift anybody's masks to points and 3D boxes"),
    "bench": ("scenerl.launch.bench", "time our fast paths beside the alternatives"),
    "report": ("scenerl.launch.report", "write the HTML report of a run"),
    "doctor": ("scenerl.launch.doctor", "check this machine against the tested versions"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[arguments[0]][0])
        return int(module.main(arguments[1:], command=arguments[0]))
    print("usage: launch COMMAND [options]\n")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<11} {summary}")
    return 0 if not arguments or arguments[0] in ("-h", "--help") else 64


if __name__ == "__main__":
    sys.exit(main())
