import json
from pathlib import Path

import pytest
from PIL import Image
from recording import write_instances, write_minimal

from scenerl.launch.cli import main
from scenerl.preprocess.store import read_samples

HOLOLENS = Path(__file__).parents[2].parent / "shared" / "data" / "hololens_room"
SMALL = ["--frames", "16", "--width", "96", "--height", "72"]


def test_rooms_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["preprocess", "rooms", "--output", str(tmp_path / "data"), "--train", "1"]
    assert main([*line, "--test", "1", *SMALL, "--preview", "2"]) == 0
    out = capsys.readouterr().out
    assert "2/2 rooms" in out
    assert len(read_samples(tmp_path / "data", "train")) > 5
    assert len(read_samples(tmp_path / "data", "test")) > 5
    with Image.open(tmp_path / "data" / "preview.png") as picture:
        assert picture.size == (6 * 320, 2 * (240 + 6))


def test_a_recording_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_minimal(tmp_path / "lab")
    write_instances(folder)
    (folder / "depth" / "00009.png").unlink()
    data = str(tmp_path / "data")
    line = ["preprocess", "rgbd", "--input", str(folder), "--output", data, "--split", "test"]
    assert main([*line, "--preview", "1"]) == 65
    assert main([*line, "--preview", "1", "--allow-skipped"]) == 0
    out = capsys.readouterr().out
    assert "lab: 15 frames" in out
    assert "frame 9: depth_missing" in out
    assert read_samples(data, "test")


def test_errors_reach_the_user_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "preprocess",
        "rgbd",
        "--input",
        str(tmp_path / "none"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert main(line) == 65
    assert "does not exist" in capsys.readouterr().err
    assert main(["preprocess", "rooms"]) == 64
    assert main(["preprocess", "rooms", "--output", str(tmp_path / "o"), "--frames", "1"]) == 64


@pytest.mark.skipif(not HOLOLENS.is_dir(), reason="skipped: ../shared/data is not present")
def test_a_real_recording_from_the_command_line(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    line = ["preprocess", "rgbd", "--input", str(HOLOLENS), "--output", data, "--every", "5"]
    assert main(line) == 0
    samples = read_samples(data, "train")
    assert len(samples) == 10
    assert {s.question for s in samples} > {"the red and black backpack"}
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["scenes"][0]["frames"] == 25


def test_a_broken_recording_is_listed_and_the_others_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, cut, latin = (write_minimal(tmp_path / name) for name in ("good", "cut", "latin"))
    write_instances(good)
    (cut / "instances.json").write_text('{"instances": [')
    (latin / "scene.json").write_bytes(b'{"up": "\xe9"}')
    for number in range(3):
        (tmp_path / "good" / "color" / f"{3 * number:05d}.jpg").write_bytes(b"")
    data = tmp_path / "data"
    folders = [str(good), str(cut), str(latin)]
    assert main(["preprocess", "rgbd", "--input", *folders, "--output", str(data)]) == 65
    manifest = json.loads((data / "manifest.json").read_text())
    assert [row["scene_id"] for row in manifest["scenes"]] == ["good"]
    assert manifest["skipped_reasons"] == {"image_unreadable": 3, "recording_unusable": 2}
    details = {row["scene_id"]: row["detail"] for row in manifest["skipped"]}
    assert "instances.json: line 1" in details["cut"]
    assert "scene.json" in details["latin"]
    assert read_samples(data, "train")
