"""The report as a browser shows it, without a screen; skipped where there is no Chromium, which `.ci/run` installs."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-component-update", "--no-first-run")
# put at the end of a copy of the page: looks at each picture as it was drawn, and at the width of the page
LOOK = """<script>addEventListener("load", () => {
  const drawn = [...document.images].map(image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [64, 64];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, 64, 64);
    const values = [...context.getImageData(0, 0, 64, 64).data];
    return {alt: image.alt, width: image.naturalWidth, colours: new Set(values).size};
  });
  const root = document.documentElement;
  const look = {drawn, width: root.scrollWidth, room: root.clientWidth, paper: getComputedStyle(document.body).backgroundColor};
  document.body.insertAdjacentHTML("beforeend", "<pre id=look>" + JSON.stringify(look).replaceAll("<", "&lt;") + "</pre>");
})</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install chromium"),
]


def browse(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess:
    """Opens a page; its user's folder is a fresh one."""
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'user'}", *options, page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def look(folder: Path, page: Path, *options: str) -> dict:
    """What LOOK finds on a page."""
    copy = folder / "report.html"
    copy.write_text(page.read_text() + LOOK)
    found = browse(folder, copy, "--virtual-time-budget=20000", "--dump-dom", *options)
    return json.loads(html.unescape(re.search('<pre id="look">(.*?)</pre>', found.stdout)[1]))


@pytest.fixture
def report(run: Path) -> Path:
    return run / "results/micro/report.html"


def heard(folder: Path, page: Path, *options: str) -> tuple[list[str], set[str]]:
    """What a page says on the console, and what it asks for elsewhere; the browser's own requests have no page as origin."""
    log = folder / "net.json"
    said = browse(folder, page, f"--log-net-log={log}", "--enable-logging=stderr", *options).stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return [line for line in said.splitlines() if "CONSOLE" in line], asked


def test_the_page_is_drawn_says_nothing_and_asks_for_nothing(report: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    assert heard(tmp_path, report, f"--screenshot={picture}", "--window-size=1100,3000") == ([], set())
    shown = np.array(Image.open(picture).convert("RGB"))
    assert shown.shape == (3000, 1100, 3)
    assert all(part.std() > 5 for part in np.split(shown, 6))  # something stands everywhere on the first screens


def test_a_page_that_speaks_or_asks_is_heard(tmp_path: Path) -> None:
    page = tmp_path / "other.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("odd")</script>')
    said, asked = heard(tmp_path, page, f"--screenshot={tmp_path / 'page.png'}")
    assert any("odd" in line for line in said)
    assert asked == {"http://127.0.0.1:9/x.png"}


def test_every_picture_is_drawn_and_none_is_blank(report: Path, tmp_path: Path) -> None:
    drawn = look(tmp_path, report)["drawn"]
    assert len(drawn) == report.read_text().count("<img ")
    assert [each for each in drawn if not each["width"] or each["colours"] < 8] == []


def test_a_phone_scrolls_tables_and_not_the_page(report: Path, tmp_path: Path) -> None:
    found = look(tmp_path, report, "--window-size=390,844")
    assert found["room"] <= 500  # Chromium's narrowest window
    assert found["width"] == found["room"]


def test_dark_where_the_reader_asks_for_it(report: Path, tmp_path: Path) -> None:
    assert look(tmp_path, report)["paper"] == "rgb(253, 253, 252)"
    dark = look(tmp_path, report, "--blink-settings=preferredColorScheme=0")
    assert dark["paper"] == "rgb(23, 24, 26)"
