import json
from pathlib import Path

from scenerl.launch.cli import main
from scenerl.preprocess.rooms import RoomsConfig, make_rooms


def test_a_stopped_cold_start_continues_to_the_same_weights(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_rooms(data, RoomsConfig(rooms=(("train", 1),), num_frames=8))

    def sft(name: str, steps: int, *more: str) -> int:
        settings = [
            f"data.path={data}",
            f"output_dir={tmp_path}",
            f"name={name}",
            f"sft.max_steps={steps}",
            "sft.batch_size=2",
            "sft.num_workers=0",
            "sft.lr_scheduler_type=constant",
            "sft.warmup_steps=0",
            "train.save_steps=2",
        ]
        return main(["sft", "--config", "sft_tiny_policy", *settings, *more])

    assert sft("whole", 4) == 0
    assert sft("parts", 2) == 0
    config = tmp_path / "parts" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 2\n", "max_steps: 4\n"))
    assert sft("parts", 4) == 0
    weights = [
        (tmp_path / name / "checkpoints" / "step_000004" / "model" / "model.safetensors")
        for name in ("whole", "parts")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    rows = [json.loads(x) for x in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["sft/dense_loss"] > 0 for row in rows)


def test_settings_that_leave_nothing_to_ask_are_a_data_error(tmp_path: Path, capfd) -> None:
    data = tmp_path / "data"
    make_rooms(data, RoomsConfig(rooms=(("train", 1),), num_frames=8))
    settings = [f"data.path={data}", f"output_dir={tmp_path}", "data.kinds=[count]"]
    assert main(["sft", "--config", "sft_tiny_policy", *settings, "name=none"]) == 65
    assert "can be asked for" in capfd.readouterr().err
