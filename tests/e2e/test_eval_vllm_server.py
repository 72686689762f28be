"""`launch eval` and the judge of `launch score` against vLLM's own OpenAI-compatible server."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from processes import descendants
from tiny_checkpoint import tiny_checkpoint

from scenerl.launch.cli import main
from scenerl.preprocess.store import read_samples, write_samples
from scenerl.rollout.vllm_server import VllmServer, serve

pytestmark = pytest.mark.slow  # vLLM's server starts for a minute

ARGUMENTS = [
    *("--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 4}'),
    *("--skip-mm-profiling", "--generation-config", "vllm"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("server") / "model")
    with serve(folder, model="m", arguments=ARGUMENTS, start_timeout_s=400) as up:
        yield up


def test_frames_reach_a_real_server_and_greedy_answers_repeat(
    server: VllmServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    rooms = ["preprocess", "rooms", "--output", str(data), "--train", "0", "--test", "1"]
    assert main([*rooms, "--frames", "6", "--width", "112", "--height", "84"]) == 0
    found = read_samples(data, "test", kinds=["count"])
    mine = [
        replace(sample, sample_id=f"scanqa-{at}", dataset="scanqa", item_id=f"q{at}")
        for at, sample in enumerate(found[:3])
    ]
    write_samples(data, mine)
    command = ["eval", "scanqa", "--model", server.url, "--model-name", "m"]
    command += ["--api-key-env", server.key_variable, "--data", str(data)]
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


def test_a_checkpoint_judges_and_leaves_no_process(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "judge")
    rows = [
        {"index": n, "question": "Is it?", "response_gt": ["yes"], "response_pred": text, "type": t}
        for n, (text, t) in enumerate((("Yes", "existence"), ("no", "refer")))
    ]
    results, verdicts, out = (tmp_path / name for name in ("r.json", "v.jsonl", "out.json"))
    results.write_text(json.dumps(rows))
    before = set(descendants(os.getpid()))
    command = ["score", "msqa", "--predictions", str(results), "--references", str(results)]
    command += ["--judge", str(folder), "--judge-verdicts", str(verdicts), "--json", str(out)]
    assert main([*command, "--judge-timeout", "200"]) == 0
    assert set(descendants(os.getpid())) == before
    head, *kept = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert head["model"] == str(folder.resolve())
    assert sorted(row["id"] for row in kept) == ["0", "1"]
    unparsable = [row for row in kept if row["score"] is None]
    notes = json.loads(out.read_text())["notes"]
    assert any(note.startswith(f"judged by {folder.resolve()}") for note in notes)
    counted = [n for n in notes if n.startswith(f"{len(unparsable)} replies of the judge have no")]
    assert len(counted) == bool(unparsable)
    assert all(row["id"] in counted[0] for row in unparsable)
