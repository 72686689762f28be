"""Nodes of a Ray cluster that are lost under a run: it goes on, and ends bit for bit the same."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import ClusterRun, Nodes, ray_nodes
from training_runs import make_inputs, run_undisturbed, what_must_agree

from scenerl.launch.cli import main
from scenerl.rl.durable import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.multinode]

STEPS = ["train.max_steps=10", "cluster.nnodes=3"]
WAITS = "for a place: the run needs 3 CPU (3 x (1 CPU)); the cluster's "


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    return run_undisturbed(root, *STEPS)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three nodes for three actors, and a head that runs none."""
    with ray_nodes() as cluster:
        for name in ("one", "two", "three"):
            cluster.add(name)
        yield cluster


def test_a_run_outlives_the_nodes_of_its_engine_learner_and_encoder(
    root: Path, undisturbed: Path, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ClusterRun(root, "lost", nodes.environment, *STEPS)
    with run.working() as process:
        run.wait_until(process, lambda: run.steps() >= 1, "first step")
        nodes.kill(nodes.of("ray::EngineActor"))
        run.wait_until(process, lambda: run.said().count(WAITS) == 1, "engine without a place")
        nodes.add("the engine's")
        run.wait_until(process, lambda: run.steps() >= 3, "step after the engine's return")
        nodes.kill(nodes.of("ray::LearnerActor"))
        run.wait_until(process, lambda: run.said().count(WAITS) == 2, "actors without a place")
        nodes.add("the learner's")
        nodes.add("spare")  # there before it is needed
        run.wait_until(process, lambda: run.steps() >= 5, "step after the learner's return")
        nodes.kill(nodes.of("ray::EncoderActor"))
        assert process.wait(timeout=300) == 0, run.said()[-5000:]
    assert what_must_agree(run.path) == what_must_agree(undisturbed)
    engine, *others = read_lines(run.path / "faults.jsonl")
    assert (engine["engine"], engine["generation"]) == (0, 1)
    assert "engine 0 is started anew, alone" in run.said()
    # the engine came back by itself; the ends of learner and encoder cost a generation each
    assert [row["generation"] for row in others if "engine" not in row] == [1, 2]
    assert run.generation() == 3
    capsys.readouterr()
    assert main(["audit", str(run.path)]) == 0
    assert "all accounted for, once" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["EngineActor", "LearnerActor"])
def test_a_run_whose_node_does_not_come_back_says_what_is_missing_and_continues_later(
    root: Path, undisturbed: Path, nodes: Nodes, kind: str
) -> None:
    run = ClusterRun(
        root, f"without{kind}", nodes.environment, *STEPS, "cluster.placement_timeout_s=40"
    )
    with run.working() as process:
        run.wait_until(process, lambda: run.steps() >= 2, "second step")
        nodes.kill(nodes.of(f"ray::{kind}"))
        run.wait_until(process, lambda: WAITS in run.said(), "wait for a place", 60)
        assert process.wait(timeout=120) == 75, run.said()[-5000:]
    ended = json.loads((run.path / "exit.json").read_text())
    assert ended["code"] == 75
    assert ended["reason"].startswith("PlaceLostError: ")
    assert "within 40 s: the run needs 3 CPU" in ended["reason"]
    assert "the cluster's 3 nodes have 2 CPU" in ended["reason"]  # one of them is the head
    nodes.add("late")
    with run.working() as process:
        assert process.wait(timeout=300) == 0, run.said()[-5000:]
    assert what_must_agree(run.path) == what_must_agree(undisturbed)
