"""The child process of vLLM's server, with a stand-in for vLLM that fails as we like."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from scenerl.launch.cli import main
from scenerl.rollout.engine import EngineError
from scenerl.rollout.vllm_server import serve

UP = """
import http.server, os, pathlib, subprocess, sys
below = subprocess.Popen(["sleep", "1000"])  # as vLLM's engine is a process of its own
pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {below.pid}")
assert os.environ["VLLM_API_KEY"] not in " ".join(sys.argv)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DIES = """
import os, sys
print("\\n".join(f"line {n}" for n in range(100)))
sys.exit("no memory, key " + os.environ["VLLM_API_KEY"])
"""
HANGS = "import time; print('still loading', flush=True); time.sleep(1000)"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def stand_in(folder: Path, code: str) -> None:
    module = folder / "vllm" / "entrypoints" / "openai"
    module.mkdir(parents=True)
    (module / "api_server.py").write_text(code)
    (folder / "vllm" / "__init__.py").touch()


def are_gone(pids: list[int], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if all(not s.exists() or s.read_text().rsplit(")", 1)[1].split()[0] == "Z" for s in states):
            return True
        time.sleep(0.1)
    return False


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no config\.json"), serve(tmp_path):
        pass


def test_a_server_that_dies_at_once_is_quoted_without_the_key(
    checkpoint: Path, tmp_path: Path
) -> None:
    stand_in(tmp_path, DIES)
    with pytest.raises(EngineError, match="ended with status 1") as caught, serve(checkpoint):
        pass
    assert "line 99\nno memory, key ***" in str(caught.value)
    assert "line 80\n" not in str(caught.value)


def test_a_judge_that_does_not_start_ends_the_command(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, DIES)
    results = tmp_path / "results.json"
    results.write_text('[{"question": "q?", "response_gt": ["a"], "response_pred": "b"}]')
    command = ["score", "msqa", "--predictions", str(results), "--references", str(results)]
    command += ["--judge", str(checkpoint), "--judge-verdicts", str(tmp_path / "v.jsonl")]
    assert main(command) == 69
    assert "no memory" in capsys.readouterr().err


def test_a_server_that_is_never_up_ends_at_the_deadline(checkpoint: Path, tmp_path: Path) -> None:
    stand_in(tmp_path, HANGS)
    with (
        pytest.raises(EngineError, match=r"(?s)not up within 3 s.*still loading"),
        serve(checkpoint, start_timeout_s=3),
    ):
        pass


def test_the_server_ends_with_what_it_started(checkpoint: Path, tmp_path: Path) -> None:
    stand_in(tmp_path, UP)
    with contextlib.suppress(KeyboardInterrupt), serve(checkpoint) as server:
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(os.environ[server.key_variable]) == 32
        with urllib.request.urlopen(server.url) as answer:
            assert answer.status == 200
        raise KeyboardInterrupt
    assert are_gone(pids)
    assert server.key_variable not in os.environ


def test_the_server_dies_with_us(checkpoint: Path, tmp_path: Path) -> None:
    stand_in(tmp_path, UP)
    code = (
        "import pathlib, sys, time\nfrom scenerl.rollout.vllm_server import serve\n"
        "with serve(pathlib.Path(sys.argv[1])):\n    print('up', flush=True)\n    time.sleep(1000)"
    )
    command = [sys.executable, "-c", code, str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert not are_gone(pids, within_s=0.3)
        process.send_signal(signal.SIGKILL)
    assert are_gone(pids)
