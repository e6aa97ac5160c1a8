"""Results as pictures: text as SVG by rich, pages as PNG by a headless Chromium."""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from probe.errors import PeerError
from probe.report import text

COLUMNS = 118
LEFT_OUT = ("Five questions", "Outages:")  # the first section that the picture leaves out
REPORT_SIZE = (1180, 1330)  # down to the drawing's legend
LIVE_SIZE = (1400, 1000)
_LIMIT_S = 120.0  # of one program; takes a few seconds


def terminal(document: Mapping[str, Any], file: Path) -> None:
    """The top of the report as a terminal shows it, in an SVG that fetches nothing."""
    shown = io.StringIO()
    text.render(document, Console(file=shown, width=COLUMNS, force_terminal=True, color_system="truecolor"))
    whole = Text.from_ansi(shown.getvalue())
    lines = whole.split("\n", allow_blank=True)
    end = next(n for n, line in enumerate(lines) if line.plain.startswith(LEFT_OUT))
    paper = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines[:end]:
        paper.print(line, no_wrap=True)
    picture = paper.export_svg(title="haprobe drill --lab", unique_id="haprobe")
    # The fonts are fetched from a CDN otherwise, which an image in a page may not do anyway.
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


def page(browser: str, url: str, file: Path, size: tuple[int, int]) -> None:
    """A page as a browser shows it, in a PNG of 256 colours.

    Args:
        browser: Chromium.
        url: Of the page: a file, or an address on loopback.
        file: The PNG.
        size: Of the window, in pixels.

    Raises:
        PeerError: If there is no picture in the end.
    """
    file.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="haprobe-browser-") as profile:
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
        look = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet, "--timeout=5000")
        where = (f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", f"--screenshot={file}")
        _run(browser, *look, *where, url)
    if not file.exists():
        raise PeerError(f"{browser} made no picture of {url}")
    _run("pngquant", "--force", "--strip", "--quality=70-95", f"--output={file}", str(file))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{command[0]} took longer than {_LIMIT_S:.0f} s") from error
    if done.returncode:
        raise PeerError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()[-400:]}")
