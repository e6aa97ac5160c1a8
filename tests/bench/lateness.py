"""(3) How late probes leave at 10 k/s, in an agent that is scraped each second meanwhile."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

from .bed import Bed, haprobe, wait_for
from .results import Figure, Row

RATE_PPS = 10_000
WAYS = ("default", "realtime")
WANTED_US = 100.0
# LISTEN_FDS as systemd passes it; the shell replaces itself, so its pid becomes the agent's.
_ACTIVATE = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 0</dev/null'


def lateness(bed: Bed, *, seconds: float) -> list[Row]:
    """As it is by default, and with `engines.realtime`."""
    flow = {"name": "bench", "protocol": "udp", "target": bed.target, "rate": RATE_PPS, "loss_threshold": "500ms"}
    with tempfile.TemporaryDirectory() as name, bed.reflecting():
        rows = []
        for way in WAYS:
            bed.progress.line(f"lateness: {way}, {RATE_PPS:,}/s, scraped each second, {seconds:g} s")
            directory = Path(name) / way
            directory.mkdir()
            config = {"flows": [flow], "engines": {"realtime": way == "realtime"}}
            (directory / "agent.yml").write_text(yaml.safe_dump(config))
            rows.append(_watched(bed, directory, way, seconds))
        return rows


def _watched(bed: Bed, directory: Path, way: str, seconds: float) -> Row:
    case = f"udp, {RATE_PPS:,}/s, {way}"
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = ["--config.file", str(directory / "agent.yml"), "--journal.dir", str(directory)]
        words += ["--web.listen-address", url.removeprefix("http://")]
        program = _start(bed, listener, haprobe("run", *words))
    try:
        wait_for(lambda: _ready(url), "the agent")
        return Row("lateness", "haprobe", case, _readings(url, seconds))
    except (OSError, TimeoutError) as error:
        return Row("lateness", "haprobe", case, note=f"failed: {error}")
    finally:
        program.terminate()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def _start(bed: Bed, listener: socket.socket, argv: list[str]) -> subprocess.Popen[bytes]:
    command = bed.network.command("sender", ["sh", "-c", _ACTIVATE, "sh", *argv])
    return subprocess.Popen(command, stdin=listener, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def _readings(url: str, seconds: float) -> dict[str, Figure]:
    """The engine renews its figures each second, for the second before; the first ones are left out."""
    worst: list[tuple[int, int]] = []
    scrapes = 0
    time.sleep(2.5)
    before = json.loads(_get(f"{url}/api/v1/status"))
    began = time.monotonic()
    status = before
    while time.monotonic() < began + seconds:
        time.sleep(1.0)
        _get(f"{url}/metrics")
        scrapes += 1
        status = json.loads(_get(f"{url}/api/v1/status"))
        engine = status["engine"]
        worst.append((engine["lateness_p99_ns"], engine["lateness_max_ns"]))
    counts = [one["flows"][0]["counts"] for one in (before, status)]
    sent = counts[1]["sent"] - counts[0]["sent"]
    cpu_ns = status["engine"]["cpu_ns"] - before["engine"]["cpu_ns"]
    p99 = sorted(p / 1e3 for p, _ in worst)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "scrapes": scrapes,
        "sent": sent,
        "p99 us, median second": p99[len(p99) // 2],
        "p99 us, worst second": p99[-1],
        "max us": max(m for _, m in worst) / 1e3,
        "us/probe": cpu_ns / 1e3 / sent if sent else None,
        "unsent": counts[1]["unsent"] - counts[0]["unsent"],
        "lost": counts[1]["lost"] - counts[0]["lost"],
        "wanted": f"<= {WANTED_US:g} us",
        "met": p99[-1] <= WANTED_US,
    }
