import dataclasses
from pathlib import Path

import pytest

from scenerl.configs.schema import ConfigError, DataConfig, RunConfig
from scenerl.launch.exit_codes import exit_code
from scenerl.launch.session import (
    best_commit,
    policy_folder,
    read_predictions,
    read_split,
    take_from_run,
    write_predictions,
)
from scenerl.launch.stage_data import write_span_report
from scenerl.preprocess.records import DataError, Media, Sample, Target
from scenerl.preprocess.store import write_samples
from scenerl.rl.checkpoint import CheckpointStore


def make_data(root: Path, count: int = 6, question: str = "the red chair") -> RunConfig:
    (root / "scenes" / "s0").mkdir(parents=True, exist_ok=True)
    samples = [
        Sample(
            sample_id=f"q{number}",
            dataset="d",
            split="train",
            question=question,
            media=Media(kind="video", scene="scenes/s0"),
            target=Target(spans_s=((1.0, 2.0),)),
            scene_id="s0",
        )
        for number in range(count)
    ]
    write_samples(root, samples)
    return RunConfig(data=DataConfig(path=str(root)))


def row(number: int, span: list[float] | None) -> dict[str, object]:
    return {
        "sample_id": f"q{number}",
        "answer": {"span_s": span} if span else None,
        "parse_error": None if span else "no <answer> block",
        "scores": {"temporal_iou": 0.5 if span else 0.0},
    }


def commit(run: Path) -> None:
    (run / "config.yaml").write_text("# launch stage1\n")
    with CheckpointStore(run / "checkpoints").write(3) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")


def test_predictions_are_read_back_for_the_same_data_only(tmp_path: Path) -> None:
    config = make_data(tmp_path / "data")
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(DataError, match="no predictions"):
        read_predictions(str(run), config, "train")
    write_predictions(run, config, "train", [row(0, [1.0, 2.5]), row(1, None)], "step 3")
    assert read_predictions(str(run), config, "train") == {"q0": (1.0, 2.5), "q1": None}
    make_data(tmp_path / "data", question="another question")
    with pytest.raises(DataError, match="other data"):
        read_predictions(str(run), config, "train")


def test_predictions_changed_by_hand_are_refused(tmp_path: Path) -> None:
    config = make_data(tmp_path / "data")
    write_predictions(tmp_path, config, "train", [row(0, [1.0, 2.5])], "step 3")
    file = tmp_path / "predictions" / "train.jsonl"
    file.write_text(file.read_text().replace("2.5", "9.5"))
    with pytest.raises(DataError, match="SHA-256"):
        read_predictions(str(tmp_path), config, "train")


def test_span_report_counts_and_lists(tmp_path: Path) -> None:
    config = make_data(tmp_path / "data", count=3)
    samples = read_split(config, "train", None)
    write_span_report(tmp_path, samples, {"q0": (1.0, 2.0), "q1": None})
    text = (tmp_path / "spans.json").read_text()
    assert '"usable": 1' in text
    assert '"q2"' in text
    with pytest.raises(DataError, match="none of the 3"):
        write_span_report(tmp_path, samples, {"q1": None})


def test_limit_keeps_the_same_samples_in_file_order(tmp_path: Path) -> None:
    config = make_data(tmp_path / "data", count=20)
    five = [sample.sample_id for sample in read_split(config, "train", 5)]
    ten = [sample.sample_id for sample in read_split(config, "train", 10)]
    assert len(five) == 5
    assert set(five) < set(ten)
    assert five == sorted(five, key=lambda name: int(name[1:]))


def test_stage_two_starts_from_the_best_commit(tmp_path: Path) -> None:
    run = tmp_path / "stage1"
    run.mkdir()
    config = dataclasses.replace(RunConfig(), from_run=str(run))
    with pytest.raises(ConfigError, match="not a run directory"):
        take_from_run(config, model_is_given=False)
    (run / "config.yaml").write_text("# launch stage1\n")
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        take_from_run(config, model_is_given=False)
    commit(run)
    found = take_from_run(config, model_is_given=False)
    assert found.model.path == str(best_commit(str(run)).model_dir)
    assert take_from_run(config, model_is_given=True).model.path == "tiny"


def test_a_policy_is_a_folder_or_a_run(tmp_path: Path) -> None:
    commit(tmp_path)
    expected = str(tmp_path / "checkpoints" / "step_000003" / "model")
    assert policy_folder(str(tmp_path)) == expected
    assert policy_folder(expected) == expected
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither a checkpoint"):
        policy_folder(str(tmp_path / "empty"))


def test_errors_have_their_exit_codes() -> None:
    assert exit_code(ConfigError("x")) == 64
    assert exit_code(DataError("x")) == 65
    assert exit_code(OSError(28, "No space left on device")) == 75
    assert exit_code(KeyboardInterrupt()) == 75
    assert exit_code(ZeroDivisionError()) == 70
