"""Sockets and logs of a run's Ray lie where no other user of the machine gets."""

import os
import stat
from pathlib import Path

import pytest

from scenerl.launch.fleet import closed_folder


def test_the_folder_of_rays_files_is_closed_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = closed_folder()
    assert folder == tmp_path / f"ray-{os.getuid()}" == closed_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("found", ["open", "link"])
def test_a_folder_that_another_user_could_have_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    there, elsewhere = tmp_path / f"ray-{os.getuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if found == "open":
        there.mkdir()
        there.chmod(0o755)
    else:
        there.symlink_to(elsewhere)
    folder = closed_folder()
    assert folder.resolve() not in (there.resolve(), elsewhere)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
