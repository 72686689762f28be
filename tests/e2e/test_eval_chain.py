"""`launch eval scanrefer --chain`: the embedded policy, tracker and lifting as one model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scenerl.launch.cli import main
from scenerl.preprocess.store import read_samples, write_samples

COMMAND = ["eval", "scanrefer", "--chain", "--config", "stage2_tiny", "--no-ray"]
SETTINGS = ["rollout.engine=transformers", "env.num_frames=12"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms whose attribute queries are ScanRefer descriptions too, and one plain video."""
    root = tmp_path_factory.mktemp("chain")
    rooms = ["preprocess", "rooms", "--output", str(root / "data"), "--train", "0", "--test", "1"]
    assert main([*rooms, "--frames", "12"]) == 0
    found = read_samples(root / "data", "test", kinds=["attribute"])
    mine = [
        replace(sample, sample_id=f"scanrefer-{at}", dataset="scanrefer", item_id=f"room|{at}|0")
        for at, sample in enumerate(found[:4])
    ]
    write_samples(root / "data", mine)
    truth = [{"id": s.item_id, "box": s.target.box_world} for s in mine]
    (root / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    return root


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_the_chain_answers_scores_and_goes_on_from_any_step(world: Path, tmp_path: Path) -> None:
    data = ["--data", str(world / "data"), "--references", str(world / "truth.jsonl")]
    command = [*COMMAND, *data, "--output", str(tmp_path), *SETTINGS]
    assert main(command) == 0
    result = json.loads((tmp_path / "score.json").read_text())
    assert result["evaluation"]["items"] == 4
    assert result["evaluation"]["ground.prompted_frames"] == 3
    assert len(result["evaluation"]["stage1.policy"]) == 12
    traces = lines(tmp_path / "traces.jsonl")
    steps = traces[0]["steps"]
    assert steps["span"]["text"]
    assert [box["frame"] for box in steps["boxes"]]
    answered = [row for row in traces if row["samples"][0]["parsed"]]
    assert answered, "the embedded policy finds nothing at all"
    predictions = {row["id"]: row["boxes"] for row in lines(tmp_path / "predictions.jsonl")}
    assert predictions[answered[0]["id"]] == answered[0]["samples"][0]["parsed"]
    ious = [row["scores"][0]["iou"] for row in traces]
    value = result["metrics"]["acc@0.25"]["value"]
    assert value == pytest.approx(sum(iou >= 0.25 for iou in ious) / 4)

    before = {file.name: file.read_bytes() for file in tmp_path.rglob("*.jsonl")}
    for step in ("spans", "boxes", "answers"):
        file = tmp_path / "shards" / f"0000-of-0001.{step}.jsonl"
        file.write_bytes(before[file.name][:-30])
    assert main(command) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*.jsonl")} == before
    assert main([*command, "ground.prompted_frames=1"]) == 64
    assert main([*command, "--samples-per-question", "2", "--temperature", "1"]) == 64
