"""(5) A long time at 100 k/s: on a clean path, on busy CPUs, with the engine stopped for a moment. No outage in any."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .bed import Bed, Program, engine_of
from .results import Figure, Row

STOP_S = 0.5
STARTING_S = 30.0
_HOG = "import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


def soak(bed: Bed, *, rate_pps: float, seconds: float) -> list[Row]:
    with bed.reflecting():
        return [
            _phase(bed, "clean", rate_pps, seconds),
            _phase(bed, "CPU hogs", rate_pps, seconds, hogs=len(os.sched_getaffinity(0))),
            _phase(bed, f"kill -STOP {STOP_S * 1e3:.0f} ms", rate_pps, seconds, stop=True),
        ]


def _phase(bed: Bed, case: str, rate_pps: float, seconds: float, *, hogs: int = 0, stop: bool = False) -> Row:
    bed.progress.line(f"soak: {case}, {rate_pps:,.0f}/s for {seconds:g} s")
    with ExitStack() as stack:
        for _ in range(hogs):
            stack.enter_context(_hog(bed, seconds + STARTING_S))
        program = bed.measure(f"udp://{bed.target}", rate=rate_pps, duration=seconds, loss_threshold=1)
        memory = _watch(bed, case, program, seconds, stop)
        done = program.end(seconds + STARTING_S)
    if done.status != 0:
        return Row("soak", "haprobe", case, note=done.complaint)
    return Row("soak", "haprobe", case, soak_figures(json.loads(done.stdout), memory))


def soak_figures(document: dict, memory: list[int]) -> dict[str, Figure]:
    (flow,) = document["flows"]
    counts = flow["counts"]
    dark = sum(span["end_ns"] - span["start_ns"] for span in flow["unobserved"])
    return {
        "scheduled": counts["scheduled"],
        "sent": counts["sent"],
        "unsent": counts["unsent"],
        "lost": counts["lost"],
        "dropped here": counts["dropped_locally"],
        "late": counts["late"],
        "outages": len(flow["outages"]),
        "unobserved spans": len(flow["unobserved"]),
        "unobserved ms": dark / 1e6,
        "engine MiB, early": memory[0] / 2**20 if memory else None,
        "engine MiB, end": memory[-1] / 2**20 if memory else None,
        "met": not flow["outages"],
    }


def _watch(bed: Bed, case: str, program: Program, seconds: float, stop: bool) -> list[int]:
    """Resident memory of the engine, once a second from the third on; stops it once, half way, if asked to."""
    try:
        pid = engine_of(program.pid)
    except TimeoutError:
        return []
    began, memory = time.monotonic(), []
    pending: Callable[[], None] | None = (lambda: _pause(pid)) if stop else None
    while not program.gone() and time.monotonic() < began + seconds:
        time.sleep(min(1.0, seconds / 10))
        if time.monotonic() > began + min(3.0, seconds / 4):
            memory += resident(pid)
        if pending and time.monotonic() > began + seconds / 2:
            pending()
            pending = None
        bed.progress.update(f"soak: {case}, {time.monotonic() - began:.0f}/{seconds:g} s")
        if not resident(pid):
            break
    return memory


def _pause(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(STOP_S)
    finally:
        os.kill(pid, signal.SIGCONT)


def resident(pid: int) -> list[int]:
    """Octets; empty when it has gone."""
    try:
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")]
    except (OSError, IndexError):
        return []


@contextmanager
def _hog(bed: Bed, seconds: float) -> Iterator[None]:
    with bed.serving("sender", [sys.executable, "-c", _HOG.format(seconds=seconds)]):
        yield
