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
    assert placement.startswith(
        "PlacementError: no place for all actors within 1 s: the run needs 1000 CPU "
        "(1 x (1000 CPU)); the cluster's 1 nodes have "
    )
    assert "lower cluster.num_learners" in placement
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
def test_an_engine_is_readmitted_only_with_the_weights_of_the_others(found: dict[str, Any]) -> None:
    same, other, ahead = found["readmit"].values()
    assert same["answer"] == "went through: [[10], [20]]"
    assert (same["started"], same["left"], len(same["losses"])) == ([0, 1, 1], 2, 1)
    assert other["answer"] == (
        "ActorLostError: engine 1, started anew, has version 0 and checksum other; the lost one "
        "had 0 and same"
    )
    assert ahead["answer"] == (
        "ActorLostError: engine 1 was lost while it ran policy version 0; the learners have "
        "version 1, so it cannot be replaced alone"
    )
    for refused in (other, ahead):  # it is ended, told of, and not asked for completions
        assert (refused["started"], refused["left"]) == ([0, 1, 1], 1)
        assert "the process died" in refused["losses"][0]
        assert refused["answer"] == f"ActorLostError: {refused['losses'][1]}"


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
    assert found["closed"]  # a folder above it: Ray opens its own again with every worker
