"""An agent of 10,000 flows: what a scrape costs it and how long it takes, and what a scraper does to the lateness of
its probes. The client asks for gzip, as Prometheus does, and then for none.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
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
_SETTLES = 10


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
            return _compared(url, program.pid, seconds, f"udp, {flows:,} flows at 1/s")
        except (OSError, TimeoutError) as error:
            return [Row("scrape", "haprobe", f"udp, {flows:,} flows at 1/s", note=f"failed: {error}")]
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def _compared(url: str, pid: int, seconds: float, what: str) -> list[Row]:
    began = _cpu_s(pid)
    for encoding in ("gzip", "identity"):  # the first scrape also makes what later ones share
        _scrape(url, encoding)
    first = _cpu_s(pid) - began
    _settle(pid)
    idle, alone = _cpu_rate(pid, lambda: _p99_us(url, seconds))
    rows = [Row("scrape", "no scraper", what, {"CPU s, first two": first, "CPU share": idle, "p99 us": alone})]
    return rows + [_scraped(url, pid, seconds, f"{what}, {encoding}", idle, alone) for encoding in ("gzip", "identity")]


def _scraped(url: str, pid: int, seconds: float, what: str, idle: float, alone: float) -> Row:
    durations: list[float] = []
    cpu: list[float] = []
    octets: list[int] = []
    over = threading.Event()
    encoding = what.rpartition(" ")[2]

    def scraping() -> None:
        while not over.is_set():
            began, before = time.monotonic(), _cpu_s(pid)
            octets.append(_scrape(url, encoding))
            durations.append(time.monotonic() - began)
            cpu.append(_cpu_s(pid) - before - idle * durations[-1])
            over.wait(max(0.0, _EVERY_S - durations[-1]))

    thread = threading.Thread(target=scraping)
    thread.start()
    try:
        scraped = _p99_us(url, seconds)
    finally:
        over.set()
        thread.join()
    cpu_s = sorted(cpu)[len(cpu) // 2]
    figures = {
        "scrapes": len(cpu),
        "CPU s/scrape, median": cpu_s,
        "scrape s, median": sorted(durations)[len(durations) // 2],
        "scrape s, worst": max(durations),
        "octets": octets[-1],
        "p99 us": scraped,
        "ratio to none": scraped / alone if alone else None,
        "wanted": f"<= {WANTED_S:g} s",
        "met": cpu_s <= WANTED_S,
    }
    return Row("scrape", "haprobe", what, figures)


def _scrape(url: str, encoding: str) -> int:
    """The octets of one scrape's body, as they came."""
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept-Encoding": encoding})
    with urllib.request.urlopen(request, timeout=60) as answer:
        octets = 0
        while piece := answer.read(1 << 20):
            octets += len(piece)
    return octets


def _settle(pid: int) -> None:
    """Wait until the agent has done what it does once, such as asking the kernel for the way of every flow."""
    before = float("inf")
    for _ in range(_SETTLES):
        rate, _said = _cpu_rate(pid, lambda: time.sleep(_APART_S) or 0.0)
        if rate > 0.8 * before:
            return
        before = rate


def _cpu_rate(pid: int, run: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds per second that the control process used meanwhile, and what `run` says."""
    began, before = time.monotonic(), _cpu_s(pid)
    said = run()
    return (_cpu_s(pid) - before) / (time.monotonic() - began), said


def _cpu_s(pid: int) -> float:
    """CPU that the control process has used; its engine is another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _p99_us(url: str, seconds: float) -> float:
    """Median of the engine's p99 lateness, each of the second before it was asked for."""
    found = []
    deadline = time.monotonic() + seconds
    while not found or time.monotonic() < deadline:
        time.sleep(_APART_S)
        found.append(json.loads(_get(f"{url}/api/v1/status"))["engine"]["lateness_p99_ns"] / 1e3)
    return sorted(found)[len(found) // 2]
