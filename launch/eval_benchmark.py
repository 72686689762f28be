"""`launch eval BENCHMARK`: the options, and the order in which things happen."""

import argparse
import logging
from pathlib import Path

from scenerl.configs.load import load_config
from scenerl.configs.schema import ConfigError
from scenerl.envs.benchmark_prompts import asking
from scenerl.launch.exit_codes import BAD_DATA, BUG, DONE, exit_code
from scenerl.launch.logs import set_up_logging
from scenerl.rewards.benchmark import Benchmark
from scenerl.rewards.benchmarks import BENCHMARKS, load_benchmark

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Ask a model a benchmark's questions in the benchmark's own words and score the replies as
`launch score` does. Every answer is kept as it is made: the same command continues after a kill.
OUT/traces.jsonl has, for each item, what was asked, the frames shown, the raw replies, what they
were read as and their scores; OUT/predictions.jsonl what `launch score` reads; OUT/score.json the
numbers."""
EPILOG = """\
examples:
  launch eval {name} --model Qwen/Qwen2.5-VL-7B-Instruct --data data/{name} \\
      --references official_file --output runs/{name} env.num_frames=32
  launch eval {name} --model http://localhost:8000/v1 --model-name qwen --data data/{name} \\
      --references official_file                          any OpenAI-compatible endpoint
  launch eval {name} --data data/{name} --write-ids ids.txt --limit 250 --seed 0
  launch eval {name} --model M --data data/{name} --references R --ids ids.txt
  launch eval {name} --model M --data data/{name} --references R \\
      --samples-per-question 8 --temperature 0.7          mean, pass@k and the named oracle
  launch eval {name} --model M --data data/{name} --shards 4 --shard 0 --output runs/x
  launch eval {name} --merge --references R --output runs/x          after all four jobs"""
CHAIN_EXAMPLE = """
  launch eval {name} --chain --config stage2_tiny --data data/{name} --references R \\
      ground.stage1=runs/stage1_tiny ground.stage2=runs/stage2_tiny"""


def main(argv: list[str], command: str) -> int:
    """Ask, keep, score; return the exit code."""
    set_up_logging()
    try:
        name = "beacon3d-qa" if argv[0] == "beacon3d" else argv[0]
        asking(name)  # it is known
        benchmark = load_benchmark(name) if name in BENCHMARKS else None
        arguments = make_parser(name, benchmark, command).parse_intermixed_args(argv[1:])
        check_options(arguments)
        return run(name, benchmark, arguments)
    except SystemExit as stop:
        return 64 if stop.code else DONE
    except Exception as error:
        code = exit_code(error)
        if code == BUG and isinstance(error, OSError):  # a file that cannot be read
            code = BAD_DATA
        logger.error("%s: %s", type(error).__name__, error, exc_info=code == BUG)
        return code


def make_parser(name: str, benchmark: Benchmark | None, command: str) -> argparse.ArgumentParser:
    """Return the parser of one benchmark, its scorer's options included."""
    is_box = asking(name).payload in ("box", "boxes")
    parser = argparse.ArgumentParser(
        prog=f"launch {command} {name}",
        description=DESCRIPTION + ("" if benchmark is None else f"\n\n{benchmark.title}"),
        epilog=(EPILOG + (CHAIN_EXAMPLE if is_box else "")).format(name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="settings, e.g. env.num_frames=32")
    add("--model", help="checkpoint folder, hub name, run directory, or http(s)://host/v1")
    add("--data", type=Path, help="prepared data folder (launch preprocess)")
    add("--references", type=Path, help="the benchmark's official file; without it: no score")
    add("--config", help="YAML file or recipe with the settings; default: the defaults")
    add("--split", help="default: the folder's only split, else data.eval_split")
    add("--output", type=Path, help=f"folder; default: output_dir/{name}-eval")
    add("--prompts", choices=("benchmark", "api", "policy"), help="whose words (benchmark)")
    add("--max-tokens", type=int, help="new tokens of a reply; default: the benchmark's")
    add("--no-ray", action="store_true", help="everything in this process")
    _add_lists(parser)
    _add_endpoint(parser)
    if is_box:
        add("--chain", action="store_true", help="ground with span, box, tracker and lifting")
        add("--device", default="cpu", help="torch device of the tracker (cpu)")
    _add_scoring(parser, benchmark)
    return parser


def _add_lists(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which items, how often")
    add = group.add_argument
    add("--ids", type=Path, help="file of item ids, one a line; its SHA-256 goes into the result")
    add("--write-ids", type=Path, help="write such a file and end")
    add("--limit", type=int, help="this many items, chosen by a hash of seed and id")
    add("--seed", type=int, default=0, help="of --limit, of the replies and of the intervals (0)")
    add("--samples-per-question", type=int, default=1, metavar="K", help="replies to each item (1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    add("--shards", type=int, default=1, metavar="N", help="parts; alone: N engines, all parts (1)")
    add("--shard", type=int, metavar="I", help="only part I of N, for separate jobs")
    add("--merge", action="store_true", help="only put the parts in --output together and score")


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model behind an address")
    add = group.add_argument
    add("--model-name", help="its name there")
    add("--api-key-env", metavar="VAR", help="environment variable that holds the key")
    add("--media", choices=("frames", "video"), default="frames", help="JPEG parts or MP4 (frames)")
    add("--concurrency", type=int, default=8, help="requests at a time (8)")
    add("--timeout", type=float, default=120.0, help="of one request, seconds (120)")
    add("--retries", type=int, default=5, help="after time-outs, 429 and 5xx (5)")


def _add_scoring(parser: argparse.ArgumentParser, benchmark: Benchmark | None) -> None:
    group = parser.add_argument_group("scoring (launch score)")
    add = group.add_argument
    add("--allow-missing", action="store_true", help="items without an answer count as wrong")
    add("--bootstrap", type=int, default=1000, help="resamples of the intervals; 0: none (1000)")
    for option in () if benchmark is None else benchmark.options:
        if option.is_switch:
            add(option.flag, action="store_true", help=option.help)
        else:
            choices = option.choices or None
            add(option.flag, default=option.default, choices=choices, help=option.help)


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigError: Says which, and what to do.
    """
    count, temperature = arguments.samples_per_question, arguments.temperature
    is_chain = getattr(arguments, "chain", False)
    is_endpoint = is_address(arguments.model)
    if arguments.merge and arguments.output is None:
        raise ConfigError("--merge needs --output, the folder of the parts")
    asks = not arguments.merge and arguments.write_ids is None
    if asks and not is_chain and arguments.model is None:
        raise ConfigError("--model is missing: a checkpoint, a run directory or http(s)://host/v1")
    if not arguments.merge and arguments.data is None:
        raise ConfigError("--data is missing: the folder that `launch preprocess` wrote")
    if arguments.shard is not None and not 0 <= arguments.shard < arguments.shards:
        raise ConfigError(f"--shard {arguments.shard} of --shards {arguments.shards}: use 0..N-1")
    if arguments.shards < 1 or count < 1 or temperature < 0:
        raise ConfigError("--shards and --samples-per-question start at 1, --temperature at 0")
    if count > 1 and temperature == 0:
        raise ConfigError(
            f"--samples-per-question {count} with --temperature 0 gives {count} equal replies; "
            "give a temperature, for example --temperature 0.7"
        )
    if is_endpoint and arguments.model_name is None:
        raise ConfigError("--model-name is missing: the model's name at the endpoint")
    if is_chain and (count > 1 or is_endpoint or arguments.prompts is not None):
        raise ConfigError("--chain answers greedily with policies of ours, in their own words")


def is_address(model: str | None) -> bool:
    """Say whether --model is an endpoint."""
    return model is not None and model.startswith(("http://", "https://"))


def run(name: str, benchmark: Benchmark | None, arguments: argparse.Namespace) -> int:
    """Do what the options say: merge, write a list of ids, or ask and score."""
    from scenerl.launch.eval_items import choose_items, write_ids
    from scenerl.launch.eval_run import answer_shards
    from scenerl.launch.eval_score import finish, read_references, without_left_out

    if arguments.merge:
        return finish(name, benchmark, arguments, arguments.output)
    config = load_config(arguments.config, arguments.overrides)
    items = choose_items(config, name, arguments)
    if arguments.write_ids is not None:
        print(f"{write_ids(arguments.write_ids, items.ids)}  {arguments.write_ids}")
        print(f"{len(items.ids)} of {items.available} items")
        return DONE
    if arguments.references is not None and benchmark is not None:
        items = without_left_out(items, benchmark, arguments)
        read_references(benchmark, arguments, items.ids, is_whole=items.is_whole)
    out = arguments.output or Path(config.output_dir) / f"{name}-eval"
    failed = answer_shards(name, config, items, arguments, out)
    if arguments.shard is not None:
        print(f"shard {arguments.shard} of {arguments.shards} is answered: {out}")
        print(f"when all are: launch eval {name} --merge --output {out} --references FILE")
        return BAD_DATA if failed and not arguments.allow_missing else DONE
    return finish(name, benchmark, arguments, out)
