"""An agent of 10,000 flows: how long a scrape takes, and what a scraper does to the lateness of its probes."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import yaml

from .bed import Bed, haprobe, wait_for
from .lateness import _get, _ready, _start
from .results import Row

FLOWS = 10_000
WANTED_S = 0.25
_EVERY_S = 5.0  # between scrapes, as in dashboards/prometheus.yml
_APART_S = 3.0  # between readings: asking for one is work for the agent as well
_STARTS_S = 180.0


def scrape(bed: Bed, *, seconds: float, flows: int = FLOWS) -> list[Row]:
    """Two rows: without a scraper, and with one; the second holds the ratio."""
    bed.progress.line(
        f"scrape: an agent of {flows:,} flows, {seconds:g} s without a scraper and {seconds:g} s with one"
    )
    common = {"protocol": "udp", "target": bed.target, "rate": 1, "loss_threshold": "500ms"}
    config = {"flows": [{"name": f"f{number}", **common} for number in range(flows)]}
    with tempfile.TemporaryDirectory() as name, bed.reflecting():
        directory = Path(name)
        (directory / "agent.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            words = ["--config.file", str(directory / "agent.yml"), "--journal.dir", str(directory)]
            words += ["--web.listen-address", url.removeprefix("http://")]
            program = _start(bed, listener, haprobe("run", *words))
        try:
            wait_for(lambda: _ready(url), "the agent", _STARTS_S)
            return _compared(url, seconds, f"udp, {flows:,} flows at 1/s")
        except (OSError, TimeoutError) as error:
            return [Row("scrape", "haprobe", f"udp, {flows:,} flows at 1/s", note=f"failed: {error}")]
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def _compared(url: str, seconds: float, what: str) -> list[Row]:
    alone = _p99_us(url, seconds)
    durations: list[float] = []
    octets: list[int] = []
    over = threading.Event()

    def scraping() -> None:
        while not over.is_set():
            began = time.monotonic()
            octets.append(len(_get(f"{url}/metrics")))
            durations.append(time.monotonic() - began)
            over.wait(max(0.0, _EVERY_S - durations[-1]))

    thread = threading.Thread(target=scraping)
    thread.start()
    try:
        scraped = _p99_us(url, seconds)
    finally:
        over.set()
        thread.join()
    figures = {
        "scrape s, median": sorted(durations)[len(durations) // 2],
        "scrape s, worst": max(durations),
        "octets": octets[-1],
        "p99 us": scraped,
        "ratio to none": scraped / alone if alone else None,
        "wanted": f"<= {WANTED_S:g} s",
        "met": max(durations) <= WANTED_S,
    }
    return [Row("scrape", "no scraper", what, {"p99 us": alone}), Row("scrape", "haprobe", what, figures)]


def _p99_us(url: str, seconds: float) -> float:
    """Median of the engine's p99 lateness, each of the second before it was asked for."""
    found = []
    deadline = time.monotonic() + seconds
    while not found or time.monotonic() < deadline:
        time.sleep(_APART_S)
        found.append(json.loads(_get(f"{url}/api/v1/status"))["engine"]["lateness_p99_ns"] / 1e3)
    return sorted(found)[len(found) // 2]
