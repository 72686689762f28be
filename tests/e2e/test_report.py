import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_inputs import NASTY, make_data, write_ground, write_run

from scenerl.launch.cli import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --virtual-time-budget=6000 --hide-scrollbars --window-size=1280,12000"
)


@pytest.mark.skipif(BROWSER is None, reason="skipped: no chromium; `apt install chromium`")
def test_a_browser_draws_the_whole_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demo"
    data = make_data(root / "data")
    write_run(root, "stage1", data, steps=1)
    write_run(root, "stage2", data, steps=1)
    write_ground(root / "ground", data)
    assert main(["report", str(root)]) == 0
    file = root / "report.html"
    assert capsys.readouterr().out.strip() == str(file)

    page, log = browse(file, tmp_path / "shot.png", tmp_path / "profile")
    complaints = [
        line
        for line in log.splitlines()
        if "CONSOLE" in line and "GL Driver Message" not in line  # a remark on speed
    ]
    assert complaints == []
    page = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    page = re.sub(r"data:image/jpeg;base64,[^\"]+", "", page)
    assert "[object" not in page
    assert "NaN" not in page
    assert "undefined" not in page
    for words in ("Learning curves", "Held-out samples", "Diagnostics", "Sample rollouts"):
        assert page.count(words) == 2
    for words in ("Where accuracy is lost", "Queries without an answer", "no &lt;answer&gt; block"):
        assert words in page
    assert NASTY.replace("<", "&lt;").replace(">", "&gt;") in page
    assert page.count("<canvas") == 2
    assert cloud_pixels(tmp_path / "shot.png") > 20_000


def browse(file: Path, picture: Path, profile: Path) -> tuple[str, str]:
    """Open a page; return its final markup and the browser's log, and take a picture."""
    command = [str(BROWSER), *FLAGS.split(), f"--user-data-dir={profile}", "--dump-dom"]
    command += [f"--screenshot={picture}", f"file://{file}"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        page, log = child.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert child.returncode == 0, log[-2000:]
    return page, log


def cloud_pixels(picture: Path) -> int:
    """Count pixels that are lit in the dark views of the clouds."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    background = np.array([16, 18, 22])
    dark = np.abs(pixels - background).max(axis=2) <= 1
    rows = np.flatnonzero(dark.sum(axis=1) > 200)
    columns = np.flatnonzero(dark[rows].sum(axis=0) > 100)
    view = ~dark[rows][:, columns.min() : columns.max()]
    return int(view.sum())
