"""`--submit slurm | k8s | ray`: hand a run to a cluster, or print what would be handed over.

The script or manifest is rendered from the settings and the plan that `--dry-run` prints; the run
directory gets a copy of both. Nothing secret is written into it: secrets go by file or reference.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scenerl.configs.load import to_yaml
from scenerl.configs.schema import ConfigError, RunConfig
from scenerl.launch.exit_codes import DONE, NO_RESOURCES, STOPPED

TARGETS = ("slurm", "k8s", "ray")
TOOL_TIMEOUT_S = 300.0
"""Longest run of sbatch, kubectl or `ray job`."""
STATUS_EVERY_S = 30.0
"""Between two questions to Ray whether a job still runs."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a cluster needs to know of a run."""

    command: str
    """stage1 or stage2."""
    config: RunConfig
    more: tuple[str, ...] = ()
    """Further words of the command line, for example --allow-config-change KEY."""

    @property
    def name(self) -> str:
        """A name that every scheduler takes."""
        kept = [c if c.isalnum() else "-" for c in self.config.name.lower()]
        return ("scenerl-" + "".join(kept)).strip("-")[:50]

    @property
    def run(self) -> Path:
        """The run directory."""
        return Path(self.config.output_dir).absolute() / self.config.name

    def words(self, config_file: str) -> list[str]:
        """Return the command line that the job runs."""
        return ["launch", self.command, "--config", config_file, *self.more]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a cluster to the parser of a training command."""
    group = parser.add_argument_group("cluster")
    add = group.add_argument
    add("--nnodes", type=int, metavar="N", help="machines; the same as cluster.nnodes=N")
    add("--gpus-per-node", type=int, metavar="G", help="the same as cluster.gpus_per_node=G")
    add("--submit", choices=TARGETS, help="hand the run to a cluster instead of running it here")
    add("--print", dest="print_only", action="store_true", help="only print the script or manifest")
    add("--time", default="24:00:00", metavar="H:M:S", help="SLURM, k8s: longest time (24:00:00)")
    add("--partition", help="SLURM: partition")
    add("--account", help="SLURM: account")
    add("--image", help="k8s: container image that has scenerl")
    add("--volume-claim", metavar="PVC", help="k8s: claim that holds data and runs")
    add("--mount", default="/data", metavar="DIR", help="k8s: where it is mounted (/data)")
    add("--namespace", default="default", help="k8s: namespace (default)")
    add(
        "--secret-env",
        action="append",
        default=[],
        metavar="NAME=SECRET:KEY",
        help="k8s: environment variable from a Secret, by reference (may be repeated)",
    )


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that --nnodes and --gpus-per-node stand for."""
    pairs = (("nnodes", arguments.nnodes), ("gpus_per_node", arguments.gpus_per_node))
    return [f"cluster.{name}={value}" for name, value in pairs if value is not None]


def submit(job: Job, arguments: argparse.Namespace) -> int:
    """Render the job and hand it over; returns an exit code.

    Raises:
        ConfigError: If an option that the target needs is missing.
    """
    text = render(job, arguments)
    if arguments.print_only:
        print(text)
        return DONE
    folder = job.run / "submit"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(job.config), encoding="utf-8")
    suffix = {"slurm": "sbatch", "k8s": "yaml", "ray": "sh"}[arguments.submit]
    file = folder / f"job.{suffix}"
    file.write_text(text, encoding="utf-8")
    if arguments.submit == "ray":
        return _run_ray_job(file, job)
    tool, words = {
        "slurm": ("sbatch", ["sbatch", str(file)]),
        "k8s": ("kubectl", ["kubectl", "apply", "-f", str(file)]),
    }[arguments.submit]
    if shutil.which(tool) is None:
        print(f"{tool} is not on this machine; hand over {file} where it is", file=sys.stderr)
        return NO_RESOURCES
    code, _ = run_tool(words)
    print(f"`launch status {job.run}` says where it stands")
    return DONE if code == 0 else NO_RESOURCES


def render(job: Job, arguments: argparse.Namespace) -> str:
    """Return the script or manifest of a job."""
    if arguments.submit == "slurm":
        from scenerl.launch.submit_slurm import render_slurm

        return render_slurm(job, arguments)
    if arguments.submit == "k8s":
        from scenerl.launch.submit_k8s import render_rayjob

        return render_rayjob(job, arguments)
    return render_ray_job(job)


def render_ray_job(job: Job) -> str:
    """Return the `ray job submit` command for the cluster that RAY_ADDRESS names."""
    config = job.run / "submit" / "config.yaml"
    return quoted(["ray", "job", "submit", "--no-wait", "--", *job.words(str(config))]) + "\n"


def quoted(words: Sequence[str]) -> str:
    """Return words as a shell reads them back."""
    import shlex

    return shlex.join(words)


def _run_ray_job(file: Path, job: Job) -> int:
    """Submit to a running Ray cluster and wait; the exit code is that of the run.

    Ray's own exit code of a job is 0 or 1, so the run's comes from its exit.json. A job that ended
    without one was killed, and can continue.
    """
    if not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "--submit ray: RAY_ADDRESS names no cluster; set it to the dashboard of yours, for "
            "example http://127.0.0.1:8265"
        )
    ended = job.run / "exit.json"
    ended.unlink(missing_ok=True)
    code, said = run_tool(["bash", str(file)])
    named = re.search(r"raysubmit_\w+", said)
    if code or named is None:
        return NO_RESOURCES
    submission = named.group()
    print(f"submitted; `launch logs {job.run} -f` follows it, `launch stop {job.run}` ends it")
    asked, gone = time.monotonic(), False
    while not ended.is_file():
        if gone:
            print(f"Ray's job {submission} ended without a word, to be continued", file=sys.stderr)
            return STOPPED
        if time.monotonic() - asked > STATUS_EVERY_S:
            gone, asked = _job_has_ended(submission), time.monotonic()
        time.sleep(1)
    code = int(json.loads(ended.read_text(encoding="utf-8"))["code"])
    print(f"{job.run} ended with {code}" + (", to be continued" if code == STOPPED else ""))
    return code


def run_tool(words: Sequence[str], *, quiet: bool = False) -> tuple[int, str]:
    """Run a scheduler's tool; one that hangs counts as failed.

    Returns:
        Its exit code, and what it said.
    """
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TOOL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        print(f"`{quoted(words)}` did not end within {TOOL_TIMEOUT_S:g} s", file=sys.stderr)
        return NO_RESOURCES, ""
    if not quiet:
        print(done.stdout, end="")
    return done.returncode, done.stdout


def _job_has_ended(submission: str) -> bool:
    """Ask Ray whether a job is over; no answer is no."""
    said = run_tool(["ray", "job", "status", submission], quiet=True)[1]
    return re.search(r"\b(failed|stopped|succeeded)\b", said, re.IGNORECASE) is not None
