"""The batch script for two nodes, run as it is: real Ray, stand-ins for SLURM's tools."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from training_runs import make_inputs, run_child, what_must_agree

from scenerl.launch.cli import main


@pytest.mark.slow
def test_two_nodes_under_the_batch_script_give_the_run_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(make_inputs(tmp_path))
    alone = ["stage1", "--config", config, "name=alone", "--no-ray"]
    assert run_child(alone, tmp_path / "alone.log") == 0
    capsys.readouterr()
    words = ["stage1", "--config", config, "name=two", "--nnodes", "2", "--submit", "slurm"]
    assert main(words) == 69  # no sbatch here: the script is written, and its place is said
    script = tmp_path / "runs" / "two" / "submit" / "job.sbatch"
    assert str(script) in capsys.readouterr().err

    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text('#!/bin/bash\n[ "$1" = show ] && tr , "\\n" <<< "$3"\n')
    (tools / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    for file in tools.iterdir():
        file.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "127.0.0.1,localhost",
    }
    log = tmp_path / "two.log"
    with log.open("w") as out:
        done = subprocess.run(
            ["bash", str(script)], env=environment, stdout=out, stderr=out, timeout=900, check=False
        )
    said = log.read_text()
    assert done.returncode == 0, said[-5000:]
    run = tmp_path / "runs" / "two"
    assert what_must_agree(run) == what_must_agree(tmp_path / "runs" / "alone")
    assert json.loads((run / "exit.json").read_text())["code"] == 0
    assert not list((run / "submit").glob("token.*"))  # the token went with the job
