"""vLLM's own OpenAI-compatible server as a child process, for as long as it is asked."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scenerl.rollout.engine import EngineError

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 900.0
ENVIRONMENT: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; without it vLLM takes most of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_ENVIRONMENT: Final = {"TORCHDYNAMO_DISABLE": "1"}
CPU_ARGUMENTS: Final = ("--enforce-eager", "--dtype", "float32", "--max-num-seqs", "8")
_LAST_LINES: Final = 15
_END_TIMEOUT_S: Final = 15.0
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# The server leads a group whose other member waits for the end of a pipe that only this process
# holds open, and then ends the whole group: the kernel closes the pipe however this process dies,
# and unlike PR_SET_PDEATHSIG it reaches what the server started, too.
_UNTIL_WE_DIE: Final = 'exec 3<&0; (read _ <&3; kill -KILL 0) & exec "$@" 3<&- </dev/null'


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmServer:
    """A server that is up."""

    url: str
    """Up to and with the version."""
    model: str
    """The name it serves the checkpoint under."""
    key_variable: str
    """Environment variable of this process that holds the API key."""


@contextlib.contextmanager
def serve(
    checkpoint: Path,
    *,
    model: str = "model",
    arguments: Sequence[str] = (),
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[VllmServer]:
    """Serve a checkpoint on 127.0.0.1 and end the server with all that it started.

    Args:
        checkpoint: A folder with config.json, weights and tokenizer.
        model: The name to serve it under.
        arguments: Further arguments of vLLM's server; they stand after our own.
        start_timeout_s: How long it may take until the server answers.

    Raises:
        EngineError: If the folder is no checkpoint, or the server ends or is not up in time.
    """
    if not (checkpoint / "config.json").is_file():
        raise EngineError(f"{checkpoint} has no config.json; expected a checkpoint folder")
    port, key = _free_port(), secrets.token_hex(16)
    url, key_variable = f"http://127.0.0.1:{port}", f"SCENERL_VLLM_KEY_{port}"
    with tempfile.TemporaryFile() as log:
        child = _start(checkpoint, model, port, key, arguments, log.fileno())
        os.environ[key_variable] = key
        try:
            logger.info("vLLM starts on %s; that can take minutes", checkpoint)
            trouble = _wait_until_up(f"{url}/health", child, start_timeout_s)
            if trouble:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - 20_000))
                lines = log.read().decode("utf-8", "replace").replace(key, "***").splitlines()
                said = "\n".join(lines[-_LAST_LINES:]) or "nothing"
                raise EngineError(f"vLLM's server on {checkpoint} {trouble}; it last said:\n{said}")
            yield VllmServer(url=f"{url}/v1", model=model, key_variable=key_variable)
        finally:
            del os.environ[key_variable]
            _end(child)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(
    checkpoint: Path, model: str, port: int, key: str, arguments: Sequence[str], log: int
) -> subprocess.Popen[bytes]:
    import torch

    on_cpu = not torch.cuda.is_available()
    defaults: Mapping[str, str] = ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {})
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(checkpoint), "--served-model-name", model]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += [*(CPU_ARGUMENTS if on_cpu else ()), *arguments]
    return subprocess.Popen(
        ["/bin/sh", "-c", _UNTIL_WE_DIE, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**defaults, **os.environ, "VLLM_API_KEY": key},
        start_new_session=True,
    )


def _wait_until_up(url: str, child: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Return nothing once the server is up, else what went wrong."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        code = child.poll()
        if code is not None:
            return f"ended with status {code} before it was up"
        with contextlib.suppress(OSError), _DIRECT.open(url, timeout=2) as answer:
            if answer.status == 200:
                return ""
        time.sleep(0.3)
    return f"was not up within {timeout_s:g} s"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the group: first the server by itself, so that it takes its shared memory along."""
    try:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_TIMEOUT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdin:
            child.stdin.close()
