"""`launch status | logs | stop | resume | audit RUN`: look at a run and steer it, from its files.

Nothing is asked of the run's processes: what they are doing stands in the run directory, so these
work on a shared disk from any machine, and on runs that died.
"""

import argparse
import dataclasses
import fcntl
import importlib
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from scenerl.configs.schema import ConfigError
from scenerl.launch.exit_codes import BAD_DATA, BUG, DONE, STOPPED, exit_code

DESCRIPTION = {
    "status": """\
Say where runs stand: working, done, stopped or dead, their step, newest commit, reward and time
left. Exit code 0 when done or working, 75 when it can be continued, else the run's own code.""",
    "logs": "Show the log of a run; -f follows it until the run ends.",
    "stop": """\
Ask a run to end after its step and to commit; the same command, or `launch resume RUN`, continues
it. Works over a shared disk. With --wait the exit code is that of the run (75: stopped).""",
    "resume": """\
Continue a run with the settings that its directory holds. Nothing is given again but the
directory; a finished run is left alone.""",
    "audit": """\
Prove from files alone that nothing was lost or trained twice: for every epoch trained + without
a spread + skipped + quarantined = drawn rows, in the order that the seed gives, and every commit
has the SHA-256 that its manifest states. Exit code 0 when all of it holds, 65 when something does
not.""",
}
EPILOG = {
    "status": "examples:\n  launch status runs/stage1\n  launch status runs/* --json",
    "logs": "examples:\n  launch logs runs/stage1 --lines 50\n  launch logs runs/stage1 -f",
    "stop": "examples:\n  launch stop runs/stage1\n  launch stop runs/stage1 --wait 600",
    "resume": "examples:\n  launch resume runs/stage1\n"
    "  launch resume runs/stage1 train.max_steps=200 --allow-config-change train.max_steps",
    "audit": "examples:\n  launch audit runs/stage1\n  launch audit runs/stage1 --json audit.json",
}


def main(argv: list[str], command: str) -> int:
    """Run one of the commands."""
    arguments, more = make_parser(command).parse_known_args(argv)
    if more and command != "resume":
        make_parser(command).error(f"unrecognized arguments: {' '.join(more)}")
    try:
        if command == "resume":
            return resume(arguments.run, more)
        return int(globals()[command](arguments))
    except (ConfigError, OSError, ValueError) as error:
        print(f"launch {command}: {error}", file=sys.stderr)
        code = exit_code(error)
        return BAD_DATA if code == BUG else code


def make_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION[command],
        epilog=EPILOG[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    many = "+" if command == "status" else None
    parser.add_argument("run", metavar="RUN", type=Path, nargs=many, help="run directory")
    if command == "status":
        parser.add_argument("--json", action="store_true", help="print one JSON object a run")
    elif command == "logs":
        parser.add_argument("--lines", type=int, default=20, help="last lines to show (20)")
        parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    elif command == "stop":
        parser.add_argument("--wait", type=float, metavar="S", help="wait at most S seconds for it")
    elif command == "audit":
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts too")
    return parser


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a run stands."""

    run: str
    command: str
    state: str
    """working, done, stopped, failed, or dead (ended without a word)."""
    step: int
    max_steps: int
    commit: int | None
    """Step of the newest commit."""
    generation: int
    reward: float | None
    seconds_left: float | None
    code: int | None
    reason: str | None


def read_status(run: Path) -> Status:
    """Read where a run stands.

    Raises:
        ConfigError: If the folder is not a run directory.
    """
    from scenerl.rl.durable import read_lines

    command, config = read_config(run)
    rows = read_lines(run / "metrics.jsonl")
    last: dict[str, Any] = rows[-1] if rows else {"step": 0}
    ended = _json(run / "exit.json")
    steps = config["sft" if command == "sft" else "train"]["max_steps"]
    working = is_locked(run)
    state = "working" if working else _ended_state(ended)
    times = [row["time/step_s"] for row in rows[-20:] if "time/step_s" in row]
    left = (steps - last["step"]) * sum(times) / len(times) if working and times else None
    return Status(
        run=str(run),
        command=command,
        state=state,
        step=last["step"],
        max_steps=steps,
        commit=max((_step(p) for p in (run / "checkpoints").glob("step_*")), default=None),
        generation=_json(run / "generation.json").get("generation", 0),
        reward=last.get("reward/mean"),
        seconds_left=left,
        code=None if working else ended.get("code"),
        reason=None if working else ended.get("reason"),
    )


def read_config(run: Path) -> tuple[str, dict[str, Any]]:
    """Return the command and the settings that a run directory holds.

    Raises:
        ConfigError: If it is none.
    """
    import yaml

    file = run / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"{run} is not a run directory (no config.yaml); give the folder that `launch stage1`, "
            "`launch stage2` or `launch sft` wrote, for example runs/stage1"
        )
    text = file.read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("# launch ").strip(), yaml.safe_load(text)


def is_locked(run: Path) -> bool:
    """Whether a process works in a run directory: it holds the lock, which dies with it."""
    file = run / "lock"
    if not file.is_file():
        return False
    with file.open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def status(arguments: argparse.Namespace) -> int:
    """Print where runs stand."""
    runs = [run for run in arguments.run if (run / "config.yaml").is_file()]
    for other in set(arguments.run) - set(runs) if runs else ():  # `runs/*` names others too
        print(f"{other}: not a run directory", file=sys.stderr)
    found = [read_status(run) for run in runs or arguments.run]
    for item in found:
        if arguments.json:
            print(json.dumps(dataclasses.asdict(item)))
        else:
            print(describe(item))
    codes = [item.code if item.code is not None else STOPPED for item in found if _ended(item)]
    return max(codes, default=DONE)


def describe(item: Status) -> str:
    """Write a status as one line."""
    words = [f"{item.run}: {item.command} {item.state}, step {item.step}/{item.max_steps}"]
    words += [f"commit {item.commit}" if item.commit is not None else "no commit yet"]
    if item.reward is not None:
        words.append(f"reward {item.reward:.3f}")
    if item.seconds_left is not None:
        words.append(f"about {time.strftime('%H:%M:%S', time.gmtime(item.seconds_left))} left")
    if item.generation > 1:
        words.append(f"started {item.generation} times")
    if item.state in ("stopped", "dead"):
        words.append(f"`launch resume {item.run}` continues it")
    if item.reason and item.state != "done":
        words.append(f"({item.reason})")
    return ", ".join(words)


def logs(arguments: argparse.Namespace) -> int:
    """Print the end of a run's log, and what is added while it works."""
    read_config(arguments.run)
    file = arguments.run / "log.txt"
    if not file.is_file():
        raise ConfigError(f"{arguments.run} has no log.txt yet")
    with file.open(encoding="utf-8", errors="replace") as log:
        sys.stdout.writelines(deque(log, maxlen=max(arguments.lines, 0)))
        while arguments.follow:
            working = is_locked(arguments.run)
            sys.stdout.writelines(log)
            sys.stdout.flush()
            if not working:
                break
            time.sleep(0.5)
    return DONE


def stop(arguments: argparse.Namespace) -> int:
    """Leave the word to stop, and wait for the end if asked."""
    run: Path = arguments.run
    read_config(run)
    if not is_locked(run):
        print(describe(read_status(run)))
        return DONE
    (run / "STOP").touch()
    if arguments.wait is None:
        print(f"{run} ends after its step; `launch status {run}` says when")
        return DONE
    deadline = time.monotonic() + arguments.wait
    while is_locked(run):
        if time.monotonic() > deadline:
            print(f"{run} has not ended within {arguments.wait:g} s; it still will", flush=True)
            return BUG
        time.sleep(0.2)
    item = read_status(run)
    print(describe(item))
    return STOPPED if item.code is None else item.code


def resume(run: Path, more: list[str]) -> int:
    """Continue a run with its own settings."""
    command, _ = read_config(run)
    from scenerl.launch.cli import COMMANDS

    if command not in COMMANDS:
        raise ConfigError(f"{run}/config.yaml is of `launch {command}`, which cannot be continued")
    module = importlib.import_module(COMMANDS[command][0])
    here = [f"output_dir={run.resolve().parent}", f"name={run.resolve().name}"]
    return int(module.main(["--config", str(run / "config.yaml"), *here, *more], command=command))


def audit(arguments: argparse.Namespace) -> int:
    """Print what the files of a run prove."""
    from scenerl.configs.load import load_config
    from scenerl.launch.session import read_split
    from scenerl.preprocess.records import DataError
    from scenerl.rl.audit import audit_run

    run: Path = arguments.run
    command, _ = read_config(run)
    if command not in ("stage1", "stage2"):
        raise ConfigError(f"{run} is a run of `launch {command}`; audit reads stage1 and stage2")
    config = load_config(str(run / "config.yaml"))
    ids = None
    try:
        samples = read_split(config, config.data.train_split, config.data.max_train_samples)
        ids = [sample.sample_id for sample in samples]
    except (DataError, OSError) as error:
        print(f"the data cannot be read ({error}); the order of the samples is not compared")
    found = audit_run(run, ids, config.seed)
    for epoch in found.epochs:
        parts = " + ".join(f"{n} {name}" for name, n in sorted(epoch.outcomes.items()))
        print(f"epoch {epoch.epoch}: {parts} = {epoch.drawn} of {epoch.rows} rows")
    print(f"{found.steps} steps, whole commits: {list(found.commits)}")
    for problem in found.problems:
        print(f"PROBLEM: {problem}")
    print("all accounted for, once" if found.balanced else f"{len(found.problems)} problems")
    if arguments.json:
        values = {**dataclasses.asdict(found), "balanced": found.balanced}
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return DONE if found.balanced else BAD_DATA


def _ended(item: Status) -> bool:
    return item.state not in ("working", "done")


def _ended_state(ended: dict[str, Any]) -> str:
    if not ended:
        return "dead"
    return {DONE: "done", STOPPED: "stopped"}.get(ended["code"], "failed")


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
