"""A run's own Ray: who gets in, what it tells, and what it says when something runs out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests/guarded_ray.py` found; Ray has to start in a process of its own."""
    file = tmp_path_factory.mktemp("guards") / "found.json"
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / "guarded_ray.py"), str(file)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(file.read_text()))


@pytest.mark.slow
def test_what_runs_out_or_does_not_come_is_named(found: dict[str, Any]) -> None:
    placement = found["placement"]
    assert placement.startswith("ResourceError: the run needs the bundles [{'CPU': 1000.0}]")
    assert "did not free them within 1 s" in placement
    assert found["sleep"].startswith("ActorLostError: victim 0: sleep: no answer within 2 s")
    assert found["die"].startswith("ActorLostError: victim 0: die: the process died")
    assert found["lose_a_peer"].startswith(
        "ActorLostError: victim 0: lose_a_peer: a collective failed"
    )
    assert "ZeroDivisionError" in found["divide"]
    assert "ActorLostError" not in found["divide"]
    assert found["fill"].startswith("ResourceError: victim 0: fill: Ray's object store is full")
    assert "raise cluster.object_store_gib" in found["fill"]
    assert found["oom_score"] == "went through: 100"


@pytest.mark.slow
def test_nobody_without_the_token_gets_in(found: dict[str, Any]) -> None:
    assert found["token_mode"] == "token"
    assert len(found["listening"]) >= 3
    assert not [code for code in found["jobs"] if code.startswith(("2", "5"))], found["jobs"]
    assert found["join without a token"].startswith("refused")
    assert found["join with a wrong token"].startswith("refused")
    assert found["join with the token"] == "joined 1"


@pytest.mark.slow
def test_secrets_stay_secret_and_the_session_folder_is_closed(found: dict[str, Any]) -> None:
    assert found["said aloud"] == []
    assert found["session_mode"] == "0o700"
