"""`launch doctor`: is this machine like the one that scenerl was tested on?"""

import argparse
import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass

DESCRIPTION = """\
Compare the installed packages with the tested version matrix, and look at what a run needs from
the machine. Every finding names its fix. Exit code 0 when a run can start, 69 otherwise."""
EPILOG = """\
examples:
  launch doctor              check this machine
  launch doctor --extra gpu  check against the matrix of GPU machines
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the check."""

    level: str
    """ok, warn or fail."""
    subject: str
    text: str
    fix: str = ""


def main(argv: list[str], command: str) -> int:
    """Print the findings and return 0, or 69 when something fails."""
    parser = argparse.ArgumentParser(
        prog=f"launch {command}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found = "gpu" if shutil.which("nvidia-smi") else "cpu"
    parser.add_argument(
        "--extra", choices=("cpu", "gpu"), default=found, help=f"which matrix (here: {found})"
    )
    arguments = parser.parse_args(argv)
    findings = [*check_machine(), *check_packages(arguments.extra)]
    if arguments.extra == "gpu":
        findings += check_gpu()
    for finding in findings:
        print(f"{finding.level:<5} {finding.subject:<22} {finding.text}")
        if finding.fix:
            print(f"      {'':<22} fix: {finding.fix}")
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    print(f"\n{len(findings) - failed - warned} ok, {warned} warnings, {failed} failures")
    return 69 if failed else 0


def tested_versions(extra: str) -> dict[str, str]:
    """Return package -> pinned version of an extra, from scenerl's own metadata."""
    versions: dict[str, str] = {}
    for line in importlib.metadata.requires("scenerl") or ():
        requirement, _, marker = line.partition(";")
        match = re.fullmatch(r"\s*([\w.-]+)(?:\[[^\]]*\])?==([\w.+]+)\s*", requirement)
        wanted = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if match and wanted and wanted.group(1) in ("common", extra):
            versions[match.group(1)] = match.group(2)
    return versions


def check_packages(extra: str) -> list[Finding]:
    """Compare each package of the matrix with what is installed."""
    findings = []
    install = f'uv pip install --no-build-isolation -e ".[{extra}]" in the repository'
    for name, wanted in tested_versions(extra).items():
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(level="fail", subject=name, text=f"missing, tested {wanted}", fix=install)
            )
            continue
        if have.partition("+")[0] == wanted:
            findings.append(_local_build(name, have))
        else:
            text = f"found {have}, tested {wanted}"
            fix = f"uv pip install '{name}=={wanted}'"
            findings.append(Finding(level="warn", subject=name, text=text, fix=fix))
    return findings


def _local_build(name: str, have: str) -> Finding:
    """Accept a matching version, but not a CPU-only torch beside the registry's torchvision."""
    if name == "torch" and have.endswith("+cpu"):
        return Finding(
            level="fail",
            subject=name,
            text=f"found {have}: torchvision cannot be imported with it "
            "(operator torchvision::nms does not exist)",
            fix="uv pip install --reinstall torch==" + have.partition("+")[0],
        )
    return Finding(level="ok", subject=name, text=have)


def check_machine() -> list[Finding]:
    """Look at Python, system libraries, memory and shared memory."""
    version = platform.python_version()
    known = (3, 11) <= sys.version_info[:2] <= (3, 12)
    findings = [
        Finding(
            level="ok" if known else "fail",
            subject="python",
            text=version if known else f"found {version}, tested 3.11 and 3.12",
            fix="" if known else "make a new .venv with PYTHON=python3.11 make setup",
        )
    ]
    try:
        ctypes.CDLL("libusb-1.0.so.0")
        findings.append(Finding(level="ok", subject="libusb", text="found (open3d needs it)"))
    except OSError:
        findings.append(
            Finding(
                level="fail",
                subject="libusb",
                text="missing: import open3d fails without it",
                fix="apt-get install libusb-1.0-0",
            )
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    findings.append(
        Finding(
            level="ok" if memory >= 8 else "warn",
            subject="memory",
            text=f"{memory:.0f} GiB, {os.cpu_count()} cores",
            fix="" if memory >= 8 else "the tiny recipes need about 8 GiB",
        )
    )
    shared = shutil.disk_usage("/dev/shm").free / 1024**3
    findings.append(
        Finding(
            level="ok" if shared >= 1 else "warn",
            subject="/dev/shm",
            text=f"{shared:.1f} GiB free (Ray's object store)",
            fix="" if shared >= 1 else "start the container with --shm-size=8g",
        )
    )
    findings.append(_check_namespaces())
    return findings


def _check_namespaces() -> Finding:
    """Say whether plug-ins and decoders can be kept from the network and from the run."""
    from scenerl.preprocess.worker import Worker, WorkerFault, WorkerSpec

    try:
        worker = Worker(WorkerSpec(module="scenerl.rewards.child"))
    except WorkerFault as fault:
        text = f"the process of a plug-in does not start: {fault}"
        return Finding(level="fail", subject="namespaces", text=text, fix="see its last output")
    worker.kill()
    if worker.isolated:
        text = "plug-ins and decoders get their own (no network, no foreign processes)"
        return Finding(level="ok", subject="namespaces", text=text)
    return Finding(
        level="warn",
        subject="namespaces",
        text=f"plug-ins and decoders share this machine's: {worker.why_not}",
        fix="allow user namespaces (user.max_user_namespaces, the container's seccomp profile)",
    )


def check_gpu() -> list[Finding]:
    """Look at the GPUs through torch."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        fix = "check the driver with nvidia-smi, or use the cpu extra"
        return [Finding(level="fail", subject="gpu", text="torch sees no GPU", fix=fix)]
    findings = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        text = f"{properties.name}, {properties.total_memory / 1024**3:.0f} GiB"
        findings.append(Finding(level="ok", subject=f"gpu {index}", text=text))
    return findings
