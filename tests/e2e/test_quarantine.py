"""Rows whose media are broken: written down, counted, and bounded."""

import json
import os
import time
from pathlib import Path

import pytest
from training_runs import make_inputs, run_child

from scenerl.launch.cli import main
from scenerl.rl.durable import read_lines


def test_broken_frames_are_quarantined_and_too_many_of_them_stop_the_run(tmp_path: Path) -> None:
    config = make_inputs(tmp_path)
    scenes = sorted((tmp_path / "rooms" / "scenes").glob("*train*"))
    for frame in (scenes[0] / "color").iterdir():
        frame.write_bytes(frame.read_bytes()[:100])
    words = ["stage1", "--config", str(config), "name=half", "--no-ray", "train.save_steps=1"]
    log = tmp_path / "half.log"
    assert run_child([*words, "train.max_quarantined_fraction=0.2"], log) == 65
    run = tmp_path / "runs" / "half"
    ended = json.loads((run / "exit.json").read_text())
    assert "drawn samples have broken data" in ended["reason"]
    rows = read_lines(run / "quarantine.jsonl")
    assert len(rows) >= 3
    assert all(row["reason"] for row in rows)
    assert rows == [r for r in read_lines(run / "ledger.jsonl") if r["outcome"] == "quarantined"]
    assert main(["audit", str(run)]) == 0

    allow = ["--allow-config-change", "train.max_quarantined_fraction"]
    assert run_child([*words, "train.max_quarantined_fraction=1.0", *allow], log) == 0
    assert main(["audit", str(run)]) == 0
    metrics = read_lines(run / "metrics.jsonl")
    counted = sum(row["data/quarantined"] for row in metrics)
    assert counted == len(read_lines(run / "quarantine.jsonl"))


PLANTED = """
import os, sys
if "decode_child" in " ".join(sys.orig_argv):
    import ctypes
    from PIL import JpegImagePlugin
    load = JpegImagePlugin.JpegImageFile.load
    def harmful(self):
        scene = os.path.basename(os.path.dirname(os.path.dirname(self.filename or "")))
        if scene == os.environ["CRASHES"]:
            ctypes.string_at(0)
        if scene == os.environ["HANGS"]:
            ctypes.PyDLL(None).sleep(1000)
        return load(self)
    JpegImagePlugin.JpegImageFile.load = harmful
"""
"""A decoder that opens every file, and then hangs or crashes at the pixels of some."""


@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_files_that_hang_or_crash_the_decoder_cost_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: bool
) -> None:
    config = make_inputs(tmp_path)
    scene = min((tmp_path / "rooms" / "scenes").glob("*train*"))
    assert list((scene / "color").glob("*.jpg"))
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'planted'}:{os.environ.get('PYTHONPATH', '')}")
    words = ["stage1", "--config", str(config), "data.decode_timeout_s=3"]
    words += ["train.max_quarantined_fraction=1.0", *([] if ray else ["--no-ray"])]
    reasons = {}
    for fault in ("HANGS", "CRASHES"):
        monkeypatch.setenv("CRASHES", "-")
        monkeypatch.setenv("HANGS", "-")
        monkeypatch.setenv(fault, scene.name)
        started = time.monotonic()
        assert run_child([*words, f"name={fault}"], tmp_path / f"{fault}.log") == 0
        assert time.monotonic() - started < 200
        run = tmp_path / "runs" / fault
        (reasons[fault],) = {row["reason"] for row in read_lines(run / "quarantine.jsonl")}
        assert main(["audit", str(run)]) == 0
        assert json.loads((run / "summary.json").read_text())["steps"] == 4
    hung = f"DataError: {scene} was not decoded within 3 s (data.decode_timeout_s)"
    assert reasons["HANGS"] == hung
    assert f"the process that decoded {scene} was ended by SIGSEGV" in reasons["CRASHES"]
