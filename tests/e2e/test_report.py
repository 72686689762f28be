import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_inputs import NASTY, make_data, write_ground, write_run
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scenerl.launch.cli import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --window-size=1280,1000"
)

LIT_PIXELS = """
const canvas = arguments[0];
if (!canvas.width || !canvas.height) return 0;
const copy = document.createElement("canvas");
copy.width = canvas.width;
copy.height = canvas.height;
const flat = copy.getContext("2d", { willReadFrequently: true });
flat.drawImage(canvas, 0, 0);
const pixels = flat.getImageData(0, 0, copy.width, copy.height).data;
let lit = 0;
for (let i = 0; i < pixels.length; i += 4)
  lit += pixels[i + 3] > 0 && Math.max(pixels[i], pixels[i + 1], pixels[i + 2]) > 40;
return lit;
"""
"""Counts the pixels of a cloud's canvas that are not its dark background."""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no browser; `apt install chromium chromium-driver`"
)
def test_a_browser_draws_the_whole_report(
    tmp_path: Path, browser: webdriver.Chrome, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demo"
    data = make_data(root / "data")
    write_run(root, "stage1", data, steps=1)
    write_run(root, "stage2", data, steps=1)
    write_ground(root / "ground", data)
    assert main(["report", str(root)]) == 0
    file = root / "report.html"
    assert capsys.readouterr().out.strip() == str(file)

    browser.get(f"file://{file}")
    clouds = browser.find_elements(By.CSS_SELECTOR, "canvas.cloud")
    assert len(clouds) == 2
    for cloud in clouds:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cloud)
        # Software rendering on a busy machine takes its time; the wait ends when it is drawn.
        WebDriverWait(browser, 60).until(
            lambda driver, c=cloud: driver.execute_script(LIT_PIXELS, c) > 5_000
        )
    complaints = [
        entry["message"]
        for entry in browser.get_log("browser")
        if "GL Driver Message" not in entry["message"]  # a remark on speed
    ]
    assert complaints == []
    page = re.sub(r"<script.*?</script>", "", browser.page_source, flags=re.S)
    page = re.sub(r"data:image/jpeg;base64,[^\"]+", "", page)
    assert "[object" not in page
    assert "NaN" not in page
    assert "undefined" not in page
    for words in ("Learning curves", "Held-out samples", "Diagnostics", "Sample rollouts"):
        assert page.count(words) == 2
    for words in ("Where accuracy is lost", "Queries without an answer", "no &lt;answer&gt; block"):
        assert words in page
    assert NASTY.replace("<", "&lt;").replace(">", "&gt;") in page
