"""(4, beside it) Outages of known length, all traffic dropped at the router, through haprobe, fping and irtt at once.

The rule is switched through libnftables from a thread that stays in the router's namespace. A switch takes effect
somewhere in its call, so the truth is known to within the two calls, and the rows say how well that is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probe.lab import namespace

from . import peers
from .bed import Bed, there, wait_for
from .plan import log_uniform
from .results import Row, missing

INTERVAL_MS = 1
SHORTEST_S, LONGEST_S = 0.05, 3.0
BEFORE_S, AFTER_S, STARTING_S = 1.5, 1.0, 20.0
SENDING = re.compile(r"answered [1-9]")  # in haprobe's progress: it takes longer to start than the others do
CLOSE, OPEN = b"add rule inet faults outage drop", b"flush chain inet faults outage"


def table(hook: str = "forward", priority: int = 0) -> str:
    """For nft: where a `Switch` drops."""
    return f"table inet faults {{\nchain outage {{\ntype filter hook {hook} priority {priority};\n}}\n}}\n"


@dataclass
class Switched:
    """One outage: instants (CLOCK_MONOTONIC ns) just before and after each of the two calls."""

    closed: tuple[int, int]
    opened: tuple[int, int]

    @property
    def length_ms(self) -> float:
        return (sum(self.opened) - sum(self.closed)) / 2e6

    @property
    def doubt_ms(self) -> float:
        """The truth is within this of `length_ms`."""
        return (self.closed[1] - self.closed[0] + self.opened[1] - self.opened[0]) / 2e6


@dataclass
class Tally:
    """What one tool said of the outages, beside the truth, in milliseconds."""

    told: list[tuple[float, float]] = field(default_factory=list)  # (said, truth)
    silent: int = 0  # outages of which it said nothing, or more than one

    def row(self, tool: str, case: str, doubt_ms: float, note: str = "") -> Row:
        if not self.told:
            return Row("timed outages", tool, case, note=note or "told nothing")
        errors = [said - truth for said, truth in self.told]
        shares = [100 * (said - truth) / truth for said, truth in self.told]
        return Row(
            "timed outages",
            tool,
            case,
            {
                "outages": len(self.told) + self.silent,
                "not told as one": self.silent,
                "error ms, mean": statistics.fmean(errors),
                "error ms, most": max(errors, key=abs),
                "error %, mean": statistics.fmean(shares),
                "truth known to ms": doubt_ms,
            },
            note,
        )


def timed(bed: Bed, *, outages: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    lengths = [log_uniform(rng, SHORTEST_S, LONGEST_S) for _ in range(outages)]
    try:
        Switch.binding()
    except OSError as error:
        return [Row("timed outages", "haprobe", "", note=f"missing: {error}")]
    tallies = {"haprobe": Tally(), "fping": Tally(), "irtt": Tally()}
    doubts: list[float] = []
    with bed.reflecting(), peers.irtt_server(bed) as irtt_there:
        for number, length in enumerate(lengths, 1):
            bed.progress.line(f"timed outages: {number}/{outages}, {length * 1e3:.0f} ms")
            switched, said = _outage(bed, length, irtt_there)
            doubts.append(switched.doubt_ms)
            for tool, told in said.items():
                if told is None:
                    tallies[tool].silent += 1
                else:
                    tallies[tool].told.append((told, switched.length_ms))
    doubt = max(doubts, default=0.0)
    cases = {"haprobe": "udp, 1,000/s, estimate", "fping": "-o -p 1", "irtt": "-i 1ms, its raw JSON"}
    return [
        tally.row(tool, cases[tool], doubt) if tool == "haprobe" or there(tool) else missing("timed outages", tool)
        for tool, tally in tallies.items()
    ]


def _outage(bed: Bed, length_s: float, irtt_there: bool) -> tuple[Switched, dict[str, float | None]]:
    """What each tool that is there says of one outage, in ms; None: nothing, or not one outage."""
    seconds = BEFORE_S + length_s + AFTER_S
    bed.clear()
    bed.nft(table())
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        raw = Path(name) / "irtt.json"
        stack.callback(bed.clear)
        # A tool that a failure leaves running ends by its own count; the namespaces' end would take it too.
        ours = bed.measure(f"udp://{bed.target}", rate=1000 / INTERVAL_MS, duration=seconds + 0.5, loss_threshold=0.5)
        programs = {"haprobe": ours}
        wait_for(lambda: SENDING.search(ours.said()) or ours.gone(), "haprobe's first probe")
        if there("fping"):
            words = ["-q", "-o", "-p", str(INTERVAL_MS), "-i", "0.1", "-t", "500", "-c", str(round(seconds * 1e3))]
            programs["fping"] = bed.start("sender", ["fping", *words, bed.target])
        if irtt_there:
            words = ["-i", f"{INTERVAL_MS}ms", "-d", f"{seconds:.3f}s", "--wait=500ms", "-Q", "-o", str(raw)]
            programs["irtt"] = bed.start("sender", ["irtt", "client", *words, f"{bed.target}:{peers.IRTT_PORT}"])
        switched = Switch(bed).outage(BEFORE_S, length_s)
        done = {tool: program.end(seconds + STARTING_S) for tool, program in programs.items()}
        said: dict[str, float | None] = {"haprobe": our_estimate_ms(done["haprobe"].stdout)}
        if "fping" in done:
            said["fping"] = peers.parse_outage_ms(done["fping"].said)
        if "irtt" in done:
            said["irtt"] = irtt_outage_ms(json.loads(raw.read_text())["round_trips"]) if raw.exists() else None
    return switched, said


def our_estimate_ms(text: str) -> float | None:
    """From a result document: the estimate, when there is one outage (each way counted once)."""
    if not text.strip():
        return None
    (flow,) = json.loads(text)["flows"]
    lengths = [outage["duration_ns"]["estimate"] / 1e6 for outage in flow["outages"] if outage["censored"] == "no"]
    return max(lengths) if lengths else None


def irtt_outage_ms(trips: Sequence[dict]) -> float | None:
    """From irtt's raw results: the longest run of lost packets, from its first to the first that came back after it."""
    longest: float | None = None
    start: int | None = None
    for trip in trips:
        sent = trip["timestamps"]["client"]["send"]["monotonic"]
        if trip["lost"] != "false":
            start = sent if start is None else start
        elif start is not None:
            longest, start = max(longest or 0.0, (sent - start) / 1e6), None
    return longest


class Switch:
    """Drops and passes everything at the router, at known instants; needs `table` there."""

    def __init__(self, bed: Bed):
        self._path = bed.network.path("router")

    @staticmethod
    def binding() -> ctypes.CDLL:
        """libnftables, which nft itself is made of: no process has to start between the clock and the switch."""
        library = ctypes.CDLL("libnftables.so.1")
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        return library

    def outage(self, before_s: float, length_s: float) -> Switched:
        """Wait, close, wait, open."""
        return namespace.inside(self._path, self._outage, before_s, length_s)

    def _outage(self, before_s: float, length_s: float) -> Switched:
        library = self.binding()
        context = library.nft_ctx_new(0)
        try:
            start = time.monotonic() + before_s
            closed = self._at(start, library, context, CLOSE)
            opened = self._at(closed[1] / 1e9 + length_s, library, context, OPEN)
        finally:
            library.nft_run_cmd_from_buffer(context, OPEN)
            library.nft_ctx_free(context)
        return Switched(closed, opened)

    @staticmethod
    def _at(instant_s: float, library: ctypes.CDLL, context: int, command: bytes) -> tuple[int, int]:
        time.sleep(max(0.0, instant_s - time.monotonic()))
        before = time.monotonic_ns()
        if library.nft_run_cmd_from_buffer(context, command) != 0:
            raise RuntimeError(f"nft refused: {command.decode()}")
        return before, time.monotonic_ns()
