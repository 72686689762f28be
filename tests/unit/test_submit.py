import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scenerl.configs.load import load_config, to_dict
from scenerl.launch.cli import main

SECRET = "hf_canary_7f3a"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    command = ["stage1", "--config", "stage1", "data.path=data", "name=my_run", "--print", *words]
    assert main(command) == 0
    return capsys.readouterr().out


def test_the_batch_script_says_what_the_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(
        capsys, "--submit", "slurm", "--nnodes", "4", "--gpus-per-node", "8",
        "--partition", "a100", "--account", "lab", "--time", "12:00:00",
    )  # fmt: skip
    checked = subprocess.run(
        ["bash", "-n"], input=text, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    directives = {line for line in text.splitlines() if line.startswith("#SBATCH")}
    for wanted in (
        "--nodes=4", "--gpus-per-node=8", "--partition=a100", "--account=lab", "--requeue",
        "--time=12:00:00", "--signal=B:USR1@300", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {wanted}" in directives
    assert "ray start" in text
    assert "RAY_AUTH_MODE=token" in text


def test_one_node_starts_its_own_ray(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ray start" not in printed(capsys, "--submit", "slurm")


def test_the_rayjob_holds_settings_volume_token_and_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    text = printed(
        capsys, "--submit", "k8s", "--nnodes", "3", "--gpus-per-node", "8",
        "--image", "lab/scenerl:1", "--volume-claim", "pvc",
        "--secret-env", "HF_TOKEN=hub:token", "--time", "1-02:03:04",
    )  # fmt: skip
    assert SECRET not in text
    config_map, policy, job = yaml.safe_load_all(text)
    config = load_config("stage1", ["data.path=data", "name=my_run", "cluster.nnodes=3"])
    assert yaml.safe_load(config_map["data"]["config.yaml"]) == to_dict(config)
    spec: dict[str, Any] = job["spec"]
    assert spec["entrypoint"] == "launch stage1 --config /etc/scenerl/config.yaml"
    assert spec["activeDeadlineSeconds"] == 26 * 3600 + 3 * 60 + 4
    assert spec["backoffLimit"] >= 1
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == 2
    for template in (cluster["headGroupSpec"]["template"], workers["template"]):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
        reference = {"secretKeyRef": {"name": "hub", "key": "token"}}
        assert {"name": "HF_TOKEN", "valueFrom": reference} in container["env"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
        labels = template["metadata"]["labels"].items()
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--submit", "k8s", "--volume-claim", "pvc"], "needs --image"),
        (["--submit", "k8s", "--image", "i", "--volume-claim", "p", "--time", "1d"], "--time is"),
        (
            ["--submit", "k8s", "--image", "i", "--volume-claim", "p", "--secret-env", "K=value"],
            "is not NAME=SECRET:KEY",
        ),
    ],
)
def test_what_a_target_needs_is_asked_for(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage1", "--config", "stage1", "data.path=data", "--print", *words]) == 64
    assert message in capsys.readouterr().err


def fake_slurm(folder: Path) -> dict[str, str]:
    """Return an environment whose `srun` and `scontrol` do on this machine what SLURM would."""
    folder.mkdir()
    (folder / "scontrol").write_text(
        '#!/bin/bash\nif [ "$1" = show ]; then tr , "\\n" <<< "$3"\n'
        f'else echo "$*" >> {folder}/said; fi\n'
    )
    (folder / "srun").write_text(
        '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'
    )
    for file in folder.iterdir():
        file.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "127.0.0.1"}


@pytest.mark.parametrize(
    ("driver", "code", "requeued"),
    [
        ('echo \'{{"code": 0, "reason": "done"}}\' > {run}/exit.json', 0, False),
        ('echo \'{{"code": 65, "reason": "data"}}\' > {run}/exit.json; false', 65, False),
        ('echo \'{{"code": 75, "reason": "STOP file"}}\' > {run}/exit.json', 75, False),
        ('echo \'{{"code": 75, "reason": "an engine died"}}\' > {run}/exit.json', 75, True),
        ("kill -9 $BASHPID", 75, True),
        (
            "kill -USR1 $PPID; while [ ! -e {run}/STOP ]; do sleep 0.1; done; "
            'echo \'{{"code": 75, "reason": "STOP file"}}\' > {run}/exit.json',
            75,
            True,
        ),
    ],
)
def test_the_script_passes_the_runs_code_on_and_requeues_what_can_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], driver: str, code: int, requeued: bool
) -> None:
    text = printed(capsys, "--submit", "slurm", f"output_dir={tmp_path}/runs")
    run = tmp_path / "runs" / "my_run"
    line = next(line for line in text.splitlines() if line.startswith("launch stage1"))
    stand_in = tmp_path / "driver.sh"  # only the script around the run is tried here
    stand_in.write_text(f"#!/bin/bash\n{driver.format(run=run)}\n")
    text = text.replace(line, f"bash {stand_in} &")
    environment = fake_slurm(tmp_path / "bin")
    done = subprocess.run(
        ["bash", "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    said = tmp_path / "bin" / "said"
    assert (said.read_text() if said.exists() else "") == ("requeue 12\n" if requeued else "")
