"""The report in a real browser: it asks for nothing, and looks as the reader's screen does."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from flowguard.stress.html import write_html
from tests.unit.stress.scorecards import scorecard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing; on Debian: apt install chromium"
)

DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    write_html(file, scorecard())
    return file


def browse(report: Path, *options: str) -> str:
    """Open a page without a screen; return what the browser prints."""
    assert CHROMIUM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update",
             "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,MediaRouter",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars")  # fmt: skip
    profile = f"--user-data-dir={report.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *quiet, profile, *options, report.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return done.stdout


def corner(png: Path) -> tuple[int, ...]:
    """Return the colour of the first pixel; whatever the filter, it is the pixel itself."""
    data = png.read_bytes()
    pixels, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            pixels += data[at + 8 : at + 8 + length]
        at += length + 12
    return tuple(zlib.decompress(pixels)[1:4])


def test_it_is_read_as_it_was_written(report: Path) -> None:
    read = browse(report, "--dump-dom")

    assert read.count("<svg") == report.read_text(encoding="utf-8").count("<svg")
    assert "</footer>" in read


def asked_by(page: Path) -> set[str]:
    """Return the addresses that a page made the browser ask for; it asks for some by itself."""
    log = page.parent / "net.json"
    browse(page, f"--log-net-log={log}", "--dump-dom")
    events = json.loads(log.read_text())["events"]
    requests = [each["params"] for each in events if isinstance(each.get("params"), dict)]
    return {
        str(each["url"])
        for each in requests
        if "url" in each and each.get("initiator", "not an origin") != "not an origin"
    }


def test_it_asks_for_nothing(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text('<img src="http://elsewhere.invalid/x.png">')

    assert asked_by(other) == {"http://elsewhere.invalid/x.png"}, "what a page asks for is seen"
    assert asked_by(report) == set()


def test_it_is_dark_where_the_reader_wants_it_dark(report: Path, tmp_path: Path) -> None:
    colours = []
    for scheme in (LIGHT, DARK):
        picture = tmp_path / "report.png"
        browse(report, scheme, f"--screenshot={picture}", "--window-size=500,400")
        colours.append(corner(picture))

    light, dark = colours
    assert min(light) > 230
    assert max(dark) < 40
