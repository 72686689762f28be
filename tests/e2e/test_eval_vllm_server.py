"""`launch eval` against vLLM's own OpenAI-compatible server."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import tiny_checkpoint

from scenerl.launch.cli import main
from scenerl.preprocess.store import read_samples, write_samples

pytestmark = pytest.mark.slow  # vLLM's server starts for a minute

START_TIMEOUT_S = 400
ARGUMENTS = [
    *("--served-model-name", "m", "--host", "127.0.0.1", "--max-model-len", "2048"),
    *("--limit-mm-per-prompt", '{"image": 4}', "--enforce-eager", "--dtype", "float32"),
    *("--max-num-seqs", "8", "--skip-mm-profiling", "--generation-config", "vllm"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("server")
    tiny_checkpoint(root / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with (root / "log").open("wb") as log:
        child = subprocess.Popen(
            [*command, "--model", str(root / "model"), *ARGUMENTS],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", child, root / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_up(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert child.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vLLM's server was not up within {START_TIMEOUT_S} s: {log.read_text()[-2000:]}")


def test_frames_reach_a_real_server_and_greedy_answers_repeat(server: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rooms = ["preprocess", "rooms", "--output", str(data), "--train", "0", "--test", "1"]
    assert main([*rooms, "--frames", "6", "--width", "112", "--height", "84"]) == 0
    found = read_samples(data, "test", kinds=["count"])
    mine = [
        replace(sample, sample_id=f"scanqa-{at}", dataset="scanqa", item_id=f"q{at}")
        for at, sample in enumerate(found[:3])
    ]
    write_samples(data, mine)
    command = ["eval", "scanqa", "--model", server, "--model-name", "m", "--data", str(data)]
    command += ["env.num_frames=2", "env.video_total_pixels=20000", "env.video_min_pixels=784"]
    outputs = []
    for name in ("one", "two"):
        assert main([*command, "--output", str(tmp_path / name)]) == 0
        text = (tmp_path / name / "traces.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["id"] for row in rows] == [sample.item_id for sample in mine]
        assert all(row["samples"][0]["num_tokens"] == 32 for row in rows)  # random weights go on
        outputs.append([row["samples"][0]["output"] for row in rows])
    assert outputs[0] == outputs[1]
