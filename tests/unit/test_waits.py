"""No wait of a run is without an end, and each end says what was waited for."""

import ast
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollouts import group, reply

from scenerl.configs.schema import RewardConfig
from scenerl.launch import submit
from scenerl.launch.cli import main
from scenerl.rewards.scorer import Scorer

ROOT = Path(__file__).parents[2]
FOLDERS = ("launch", "rl", "rewards", "rollout", "envs")
BOUNDED_ELSEWHERE = {
    ("launch/bench_loop.py", "run"): "runs `launch`, whose waits have deadlines",
    ("launch/demo.py", "run"): "runs `launch`, whose waits have deadlines",
    ("rl/loop.py", "result"): "a thread of this process whose waits have deadlines",
    ("rl/fleet.py", "result"): "a thread of this process; the Ray fleet has a deadline here",
    ("rewards/judge.py", "result"): "a thread whose request has a time-out",
    ("rollout/vllm_server.py", "wait"): "after SIGKILL to its whole group",
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def has_a_deadline(name: str, call: ast.Call) -> bool:
    words = {keyword.arg or "" for keyword in call.keywords}
    if any("timeout" in word for word in words):
        return True
    return name in ("wait", "result") and bool(call.args)


def test_every_wait_in_the_source_has_a_deadline() -> None:
    found = set()
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).glob("*.py")):
            text = file.read_text()
            for name, call in calls(ast.parse(text)):
                source = ast.unparse(call.func)
                waits = source in ("ray.get", "ray.wait", "subprocess.run") or name in (
                    "wait", "result", "communicate", "wait_for_termination",
                )  # fmt: skip
                if waits and not has_a_deadline(name, call):
                    where = (f"{folder}/{file.name}", name)
                    assert where in BOUNDED_ELSEWHERE, f"{where}: {ast.unparse(call)[:80]}"
                    found.add(where)
    assert found == set(BOUNDED_ELSEWHERE)


def test_a_reward_that_hangs_is_named_with_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef slow(completions):\n    time.sleep(1000)\n")
    plugin = RewardConfig(path=f"{tmp_path / 'slow.py'}:slow", timeout_s=0.5, on_error="none")
    subject = Scorer([plugin])
    begin = time.monotonic()
    (scores,) = subject.score([group([reply("1s to 3s")])])
    subject.close()
    assert time.monotonic() - begin < 20
    assert scores[0].reason == "slow: did not answer within 0.5 s"


def fake_ray(folder: Path, status: str) -> str:
    folder.mkdir()
    (folder / "ray").write_text(
        "#!/bin/bash\n"
        '[ "$2" = submit ] && echo "Job \'raysubmit_7\' submitted successfully"\n'
        f'[ "$2" = status ] && echo "Status for job \'$3\': {status}"\n'
        "true\n"
    )
    (folder / "ray").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_ray_job_that_ends_without_a_word_does_not_keep_its_submitter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", fake_ray(tmp_path / "bin", "FAILED"))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setattr(submit, "STATUS_EVERY_S", 0.1)
    words = ["stage1", "--config", "stage1", "data.path=data", f"output_dir={tmp_path}"]
    assert main([*words, "--submit", "ray"]) == 75
    assert "Ray's job raysubmit_7 ended without a word" in capsys.readouterr().err


def test_a_tool_that_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "TOOL_TIMEOUT_S", 0.3)
    assert submit.run_tool(["sleep", "100"])[0] == 69
    assert "`sleep 100` did not end within 0.3 s" in capsys.readouterr().err
