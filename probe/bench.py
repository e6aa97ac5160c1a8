"""`haprobe bench`: how fast this host can probe without losing a probe itself, and what that costs.

The real engines run against each other in namespaces of their own, at rising rates, until a step is no longer clean;
then the limit is searched for between the last clean and the first unclean rate. `bench_step.py` carries out a step,
`lab/testbed.py` makes the namespaces.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from probe import __version__
from probe.bench_step import TCP_PORT, UDP_PORT, Step
from probe.errors import HaprobeError
from probe.files import write
from probe.interrupts import interruptible
from probe.progress import Progress

KINDS: dict[str, tuple[str, ...]] = {
    "udp": ("udp",),
    "icmp": ("icmp",),
    "tcp": ("tcp",),
    "mix": ("icmp", "udp", "tcp"),
}
LEAST_PPS, FIRST_PPS, MOST_PPS = 1_000.0, 25_000.0, 2_000_000.0
UNSENT_SHARE = 1e-4  # of the scheduled probes, less than this in a clean step
FIRST_SHARE = 0.45  # of all the time for the first kind; the others begin near its limit, and need less
STARTING_S = 12.0  # for a step beyond the time it sends: two processes to start, sessions to open, losses to settle
NOTE = (
    "This is the limit of this host alone: sender, router and reflector shared its {cpus} CPUs, over veth. A sender\n"
    "with a host to itself may do better. A real interface adds its driver, its interrupts and its ring; an instance\n"
    "in a cloud has an allowance of packets per second besides (EC2: pps_allowance_exceeded in `ethtool -S`), and so\n"
    "has what lies on the way. Stay well below: what else runs here comes on top."
)


class Network(Protocol):
    """Where the engines run (lab/testbed.py)."""

    @property
    def target(self) -> str: ...

    def command(self, place: str, argv: Sequence[str]) -> list[str]: ...


def clean(step: Step) -> bool:
    """Whether this host lost nothing itself: the path has no other reason to."""
    return step.lost == 0 and step.dropped_locally == 0 and step.unsent < UNSENT_SHARE * step.scheduled


def why_unclean(step: Step) -> str:
    """What broke, in a few words; "" for a clean step."""
    if clean(step):
        return ""
    share = f"{100 * step.unsent / max(step.scheduled, 1):.2g} %"
    parts = ((step.lost, "lost"), (step.dropped_locally, "dropped here"), (step.unsent, f"unsent ({share})"))
    return ", ".join(f"{count} {word}" for count, word in parts if count)


@dataclass(slots=True)
class Search:
    """Which rate to try next. Rising by `factor` until a rate fails, then by halves (of the logarithm) in between.

    Args:
        first: Rate to begin with.
        most: Highest rate to try.
        least: Lowest.
        factor: From one rate to the next while all is well, and down from a first rate that fails.
        resolution: Ratio of the first unclean to the last clean rate that is close enough.
    """

    first: float
    most: float = MOST_PPS
    least: float = LEAST_PPS
    factor: float = 4.0
    resolution: float = 1.1
    clean: float = 0.0  # highest rate that was clean
    unclean: float = 0.0  # lowest that was not; 0: none
    _doubted: float = 0.0

    def next_pps(self) -> float | None:
        """The next rate; None when the limit is known well enough."""
        if self._doubted and self._doubted != self.unclean:
            return self._doubted
        if not self.unclean:
            following = self.clean * self.factor if self.clean else self.first
            return min(following, self.most) if self.clean < self.most else None
        if not self.clean:
            following = self.unclean / self.factor
            return max(following, self.least) if self.unclean > self.least else None
        if self.unclean <= self.clean * self.resolution:
            return None
        return rounded((self.clean * self.unclean) ** 0.5)

    def note(self, rate_pps: float, is_clean: bool) -> None:
        """Take in how a step went.

        While rising, a failure counts when it happens twice: one hiccup of a busy host would otherwise send the search
        far below the limit, and nothing would bring it back.
        """
        if is_clean:
            self.clean = max(self.clean, rate_pps)
            self._doubted = 0.0
        elif not self.unclean and self._doubted != rate_pps:
            self._doubted = rate_pps
        else:
            self.unclean = self._doubted = rate_pps


def rounded(rate_pps: float) -> float:
    """To three figures, as a person would choose a rate."""
    return float(f"{rate_pps:.3g}")


@dataclass(slots=True)
class Outcome:
    """What is known of one kind of probes."""

    kind: str
    clean_pps: float = 0.0
    unclean_pps: float = 0.0  # lowest rate that failed; 0: none did
    complete: bool = False  # the search came to its end, rather than time
    note: str = ""
    steps: list[Step] = field(default_factory=list)

    @property
    def best(self) -> Step | None:
        """The step at the highest clean rate."""
        return max((step for step in self.steps if clean(step)), key=lambda step: step.rate_pps, default=None)

    def to_document(self) -> dict[str, Any]:
        steps = [{**asdict(step), "clean": clean(step)} for step in self.steps]
        head = {"clean_pps": self.clean_pps, "unclean_pps": self.unclean_pps, "complete": self.complete}
        return {"kind": self.kind, **head, "note": self.note, "steps": steps}


Try = Callable[[str, float], Step]


def explore(kind: str, search: Search, attempt: Try, *, until: float, now: Callable[[], float]) -> Outcome:
    """Search the limit of one kind.

    Args:
        kind: Key of KINDS.
        search: Which rates.
        attempt: Carries out a step.
        until: When to stop, on the clock of `now`, seconds. A step that would not be over by then is not begun, but
            for the first.
        now: A clock.
    """
    outcome = Outcome(kind)
    cost = 0.0
    while (rate := search.next_pps()) is not None:
        began = now()
        if outcome.steps and began + cost > until:
            outcome.note = "time was up"
            break
        try:
            step = attempt(kind, rate)
        except HaprobeError as error:
            outcome.note = str(error)
            break
        outcome.steps.append(step)
        search.note(rate, clean(step))
        cost = max(cost, now() - began)
    else:
        outcome.complete = True
    outcome.clean_pps, outcome.unclean_pps = search.clean, search.unclean
    return outcome


def bench(
    network: Network,
    *,
    seconds_per_step: float,
    max_rate_pps: float,
    max_time_s: float,
    json_path: str | None,
    quiet: bool,
) -> int:
    """Find the limits and print them. Ctrl-C ends it early and still prints what is known.

    Raises:
        HaprobeError: If the engines cannot start at all.
    """
    interrupted = threading.Event()
    began = time.monotonic()
    outcomes: list[Outcome] = []
    with Progress(quiet=quiet) as progress, interruptible(interrupted.set), reflecting(network) as reflector:

        def attempt(kind: str, rate_pps: float) -> Step:
            progress.update(f"{time.monotonic() - began:.0f}/{max_time_s:g} s  {kind} at {rate_pps:,.0f} probes/s")
            step = run_step(network, KINDS[kind], rate_pps, seconds_per_step, reflector, interrupted=interrupted)
            progress.line(f"{kind:5} {rate_pps:>11,.0f}/s  {why_unclean(step) or 'clean'}")
            return step

        for number, kind in enumerate(KINDS):
            left = began + max_time_s - time.monotonic()
            if interrupted.is_set() or (number and left < seconds_per_step):
                outcomes.append(
                    Outcome(kind, note="not tried: " + ("interrupted" if interrupted.is_set() else "time was up"))
                )
                continue
            share = FIRST_SHARE if number == 0 else 1 / (len(KINDS) - number)
            search = _search(outcomes, max_rate_pps)
            until = time.monotonic() + share * left
            outcomes.append(explore(kind, search, attempt, until=until, now=time.monotonic))
    if not any(outcome.steps for outcome in outcomes) and not interrupted.is_set():
        raise HaprobeError(outcomes[0].note)
    result = document(outcomes, seconds_per_step)
    if json_path == "-":
        print(json.dumps(result, indent=2))
        return 0
    if json_path is not None:
        write(json_path, json.dumps(result, indent=2) + "\n")
    print(table(outcomes))
    print("\n" + NOTE.format(cpus=len(os.sched_getaffinity(0))))
    return 0


def _search(before: Sequence[Outcome], most: float) -> Search:
    """The first kind is searched from far below, the others from half of what the first could do."""
    if before and before[0].clean_pps:
        return Search(rounded(min(before[0].clean_pps / 2, most)), most, factor=2.0)
    return Search(min(FIRST_PPS, most), most)


def document(outcomes: Sequence[Outcome], seconds_per_step: float) -> dict[str, Any]:
    """All of it, for --json."""
    return {
        "schema": "haprobe.bench/1",
        "host": socket.gethostname(),
        "version": __version__,
        "cpus": len(os.sched_getaffinity(0)),
        "seconds_per_step": seconds_per_step,
        "clean": {"lost": 0, "dropped_locally": 0, "unsent_share_below": UNSENT_SHARE},
        "kinds": [outcome.to_document() for outcome in outcomes],
    }


HEADINGS = ("probes", "clean up to", "not at", "sender", "per probe", "reflector", "late p99", "")


def table(outcomes: Sequence[Outcome]) -> str:
    """The limits, and what they cost at the highest clean rate."""
    rows = [HEADINGS, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    best = outcome.best
    limits = (
        f"{outcome.clean_pps:,.0f}/s" if outcome.clean_pps else "-",
        f"{outcome.unclean_pps:,.0f}/s" if outcome.unclean_pps else "-",
    )
    if best is None:
        return (outcome.kind, *limits, "-", "-", "-", "-", _why_none(outcome))
    kernel = outcome.kind == "icmp"  # whose echo replies no process of ours sends
    costs = (
        _with_unit(best.sender_cpu, "{:.2f} CPU"),
        _with_unit(best.sender_us, "{:.2f} us"),
        "the kernel" if kernel else _with_unit(best.reflector_cpu, "{:.2f} CPU"),
        _with_unit(None if best.lateness_p99_ns is None else best.lateness_p99_ns / 1e3, "{:.0f} us"),
    )
    return (outcome.kind, *limits, *costs, outcome.note)


def _why_none(outcome: Outcome) -> str:
    """Why there is no clean rate. What goes wrong even at a low one is seldom the rate's fault."""
    if not outcome.steps:
        return outcome.note
    lowest = min(outcome.steps, key=lambda step: step.rate_pps)
    return f"{why_unclean(lowest)} even at {lowest.rate_pps:,.0f}/s: does something else keep this host busy?"


def _with_unit(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


# --- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def reflecting(network: Network) -> Iterator[int]:
    """A reflector at the far end: the pid of its engine.

    Raises:
        HaprobeError: If it does not start.
    """
    argv = [sys.executable, "-m", "probe.cli", "reflect", "--udp", str(UDP_PORT), "--tcp", str(TCP_PORT)]
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(
            network.command("far", argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
        try:
            deadline = time.monotonic() + STARTING_S
            while b"reflecting on" not in _content(log):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise HaprobeError(f"the reflector did not start: {_content(log).decode(errors='replace').strip()}")
                time.sleep(0.02)
            yield _engine_of(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STARTING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _content(log: Any) -> bytes:
    """All of a file that a process is writing, without moving the offset that it shares with us."""
    return os.pread(log.fileno(), 1 << 16, 0)


def _engine_of(pid: int) -> int:
    """The engine process of a control process; 0 when it cannot be told."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"probe.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
    return 0


def run_step(
    network: Network,
    protocols: Sequence[str],
    rate_pps: float,
    seconds: float,
    reflector_pid: int,
    *,
    flows: int = 1,
    pacing: str = "fine",
    interrupted: threading.Event | None = None,
) -> Step:
    """One step, in a process in the sender's namespace.

    Raises:
        HaprobeError: If it fails, takes far too long, or is interrupted.
    """
    argv = [sys.executable, "-m", "probe.bench_step", "--rate", str(rate_pps), "--seconds", str(seconds)]
    argv += ["--protocols", ",".join(protocols), "--target", network.target, "--flows", str(flows)]
    argv += ["--pacing", pacing, "--reflector-pid", str(reflector_pid)]
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        process = subprocess.Popen(
            network.command("sender", argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + seconds + STARTING_S
            while process.poll() is None:
                if interrupted is not None and interrupted.is_set():
                    raise HaprobeError("interrupted")
                if time.monotonic() > deadline:
                    raise HaprobeError(f"a step of {seconds:g} s was not over after {seconds + STARTING_S:g} s")
                time.sleep(0.02)
        finally:
            process.kill()  # its engine dies with it
            process.wait()
        if process.returncode != 0:
            lines = _content(err).decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"]
            raise HaprobeError(f"{'+'.join(protocols)} at {rate_pps:,.0f}/s: {lines[-1]}")
        return Step.from_dict(json.loads(_content(out)))
