"""Rows, settings and commits made to harm: refused by name, and nothing is run or fetched."""

import dataclasses
import http.server
import json
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_run import PROMPT, train_toy

from scenerl.configs.load import load_config
from scenerl.configs.schema import ConfigError
from scenerl.launch.cli import main
from scenerl.preprocess.records import Media
from scenerl.preprocess.store import read_samples, write_samples
from scenerl.rl.checkpoint import CheckpointStore


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and who came."""
    came: list[str] = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Canary)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join(10)
    server.server_close()


def data_with(root: Path, media: str) -> Path:
    """Write a data folder of one sample, then another path into its row, as an attacker would."""
    (root / "scenes" / "s0").mkdir(parents=True)
    sample = dataclasses.replace(
        PROMPT.sample, media=Media(kind="video", scene="scenes/s0"), scene_id="s0"
    )
    write_samples(root, [sample])
    (file,) = (root / "samples").glob("*.parquet")
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["media"]["scene"], rows[0]["media"]["video"] = None, media
    pq.write_table(table.from_pylist(rows, schema=table.schema), file)
    return root


@pytest.mark.parametrize(
    "media",
    [
        "../secret.mp4", "/etc/passwd", "scenes/../../secret.mp4", "a\\..\\b.mp4", "",
        "link/secret.mp4", "URL/video.mp4", "file:///etc/passwd", "concat:/etc/passwd|x.mp4",
    ],
)  # fmt: skip
def test_a_row_that_points_out_of_its_data_folder_is_refused(
    tmp_path: Path,
    media: str,
    visits: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, came = visits
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    root = data_with(tmp_path / "data", media.replace("URL", url))
    (root / "link").symlink_to(tmp_path)
    words = [f"data.path={root}", f"output_dir={tmp_path}/runs", "data.eval_split=train"]
    assert main(["stage1", "--config", "stage1_tiny", *words, "--no-ray"]) == 65
    assert came == []
    assert "DataError" in capsys.readouterr().err


def test_a_row_of_a_link_that_stays_inside_is_read(tmp_path: Path) -> None:
    root = data_with(tmp_path / "data", "inner/video.mp4")
    (root / "scenes" / "video.mp4").touch()
    (root / "inner").symlink_to(root / "scenes")
    assert [sample.media.video for sample in read_samples(root, "train")] == ["inner/video.mp4"]


def test_settings_that_grow_like_a_bomb_or_build_objects_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    bomb.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="alias"):
        load_config(str(bomb))
    mark = tmp_path / "ran"
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(ConfigError):
        load_config(str(evil))
    assert not mark.exists()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.mark),)


def test_a_pickle_in_a_commit_is_never_run(tmp_path: Path) -> None:
    run = train_toy(tmp_path, max_steps=1)
    mark = tmp_path / "ran"
    store = CheckpointStore(run / "checkpoints")
    old = tmp_path / "old"
    (run / "checkpoints" / "step_000001").rename(old)
    with store.write(1) as folder:  # sealed anew: its hashes are right
        shutil.copytree(old, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        (folder / "learner" / "rank0.pt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        train_toy(tmp_path, max_steps=1)
    assert not mark.exists()
    assert json.loads((run / "checkpoints/step_000001/manifest.json").read_text())["step"] == 1
