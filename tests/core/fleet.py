"""Many flows at once through a network with known faults: the truth that 10,000 outages are held against.

Each flow's way is sender ─ point ─ reflector ─ point ─ sender: a probe crosses the failing point `out` after its TX
time, a reply the failing point of the way back `back` after the TX time of its probe. A fault takes what crosses its
point from `down` to `up`. So the truth in sender time is [down - out, up - out) or [down - back, up - back), which is
how windows are given here; its length is that of the fault, whatever the delays. All of this holds while a flow's
delay up to the point is constant; `jitter` says by how much it is not.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from probe.core.events import Outage
from probe.core.fate import COLUMN
from probe.core.ledger import Ledger
from probe.core.schedule import Schedule
from probe.core.told import Reports
from probe.session.peers import Answer, Peers

Ints = np.ndarray
MS = 1_000_000
S = 1000 * MS
T0 = 10**12
STRIDE = 1 << 45  # of time, in a key that holds flow and time
U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Window:
    """A fault of one flow's way, in sender time."""

    way: str  # "forward" or "reverse"
    down: int
    up: int


@dataclass
class Truth:
    """What became of the probes that crossed one window."""

    window: Window
    lost: int = 0
    first: int = -1
    last: int = -1


@dataclass
class Line:
    """One flow.

    Attributes:
        interval: Nanoseconds between two slots.
        rtt: TX to arrival of the reply.
        lateness: Longest time by which a probe leaves after its slot.
        windows: Its faults, ascending; those of one way apart.
    """

    interval: int
    rtt: int
    lateness: int = 0
    jitter: int = 0  # of the way to either failing point
    windows: list[Window] = field(default_factory=list)


class Fleet:
    """The real schedule, ledger and reflector's memory, and in place of sockets arrays.

    Args:
        lines: The flows.
        k: Shortest run of losses that is an outage.
        threshold: Loss threshold.
        seed: Of phases, lateness and jitter.
    """

    def __init__(self, lines: list[Line], *, k: int = 3, threshold: int = 200 * MS, seed: int = 1):
        self.lines = lines
        self.ledger = Ledger(len(lines))
        self.schedule = Schedule(len(lines))
        self.peers = Peers(random.Random(seed))
        self.rng = np.random.default_rng(seed)
        self.now = T0
        self.found: dict[tuple[int, int], Outage] = {}
        self.threshold = threshold
        self._rtt = np.array([line.rtt for line in lines], np.int64)
        self._lateness = np.array([line.lateness for line in lines], np.int64)
        self._jitter = np.array([line.jitter for line in lines], np.int64)
        self._flying: list[tuple[Ints, Ints, Ints, Reports]] = []
        self._edges = {way: self._keys(way) for way in ("forward", "reverse")}
        self._truths = {way: [t for f in range(len(lines)) for t in self._of(f, way)] for way in ("forward", "reverse")}
        for index, line in enumerate(lines):
            self.ledger.add(index, f"f{index}", 1e9 / line.interval, threshold, k)
            phase = int(self.rng.integers(line.interval))
            self.schedule.start(index, T0 + phase, line.interval)

    def _of(self, flow: int, way: str) -> list[Truth]:
        return [Truth(w) for w in self.lines[flow].windows if w.way == way]

    def _keys(self, way: str) -> Ints:
        edges = [
            flow * STRIDE + at
            for flow, line in enumerate(self.lines)
            for w in line.windows
            if w.way == way
            for at in (w.down, w.up)
        ]
        return np.array(edges, np.int64)

    def truths(self, flow: int, way: str) -> list[Truth]:
        """The windows of a flow's way that took a probe, ascending."""
        lower = flow * STRIDE
        edges = self._edges[way]
        first, end = np.searchsorted(edges, [lower, lower + STRIDE])
        return [t for t in self._truths[way][first // 2 : end // 2] if t.lost]

    def outages(self, flow: int, way: str) -> list[Outage]:
        mine = [o for (f, _), o in self.found.items() if f == flow and o.direction == way]
        return sorted(mine, key=lambda o: o.first_lost_seq)

    def run(self, duration: int, step: int = 100 * MS) -> None:
        """Let time pass."""
        end = self.now + duration
        while self.now < end:
            self.now = min(self.now + step, end)
            self._send()
            self._arrive()
            self._settle()

    def finish(self) -> None:
        """Let everything be decided that was sent."""
        for line in range(len(self.lines)):
            self.schedule.stop(line)
        self.run(int(self._rtt.max()) + 2 * self.threshold)
        self.ledger.finish(self.now)
        self._settle()

    def _settle(self) -> None:
        self.ledger.settle(self.now)
        for flow, outage in self.ledger.drain_outages(open_too=True):
            self.found[flow, outage.id] = outage
            if outage.withdrawn:
                del self.found[flow, outage.id]
        self.ledger.drain_corrections()

    def _send(self) -> None:
        due = self.schedule.take(self.now, 1 << 24)
        if not len(due.flow):
            return
        flow, at = due.flow, due.at_ns + self._drawn(self._lateness[due.flow])
        sequence = self.ledger.allocate(flow, due.at_ns)
        self.ledger.stamp(flow, sequence, at)
        gone = self._lost("forward", flow, sequence, at)
        flow, sequence, at = flow[~gone], sequence[~gone], at[~gone]
        if not len(flow):
            return
        answer = self.peers.answer(flow.astype(np.uint64) + np.uint64(1), sequence, self.now)
        back = ~self._lost("reverse", flow, sequence, at)
        arrival = at + self._rtt[flow]
        self._flying.append((flow[back], sequence[back], arrival[back], on_wire(answer, back)))

    def _drawn(self, most: Ints) -> Ints:
        """A number from 0 to `most` each."""
        if not most.any():
            return np.zeros(len(most), np.int64)
        return (self.rng.random(len(most)) * (most + 1)).astype(np.int64)

    def _lost(self, way: str, flow: Ints, sequence: Ints, at: Ints) -> Ints:
        """Which probes cross a fault of this way; notes them in the truth."""
        key = flow * STRIDE + at + self._drawn(self._jitter[flow])
        place = np.searchsorted(self._edges[way], key, side="right")
        gone = place % 2 == 1
        if gone.any():
            hit, sequence = place[gone] // 2, sequence[gone]
            order = np.argsort(hit, kind="stable")
            hit, sequence = hit[order], sequence[order]
            numbers, starts, counts = np.unique(hit, return_index=True, return_counts=True)
            for n, a, c in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
                truth = self._truths[way][n]
                truth.first = int(sequence[a]) if truth.first < 0 else truth.first
                truth.lost, truth.last = truth.lost + c, int(sequence[a + c - 1])
        return gone

    def _arrive(self) -> None:
        flying, self._flying = self._flying, []
        for flow, sequence, arrival, report in flying:
            here = arrival <= self.now
            if here.any():
                self.ledger.receive(flow[here], sequence[here], arrival[here])
                self.ledger.reports(flow[here], sequence[here], pick(report, here))
            if not here.all():
                self._flying.append((flow[~here], sequence[~here], arrival[~here], pick(report, ~here)))

    def check_counts(self) -> None:
        """Every flow's losses, to the probe and by direction, and every other probe answered."""
        for flow in range(len(self.lines)):
            lost = Counter({w: sum(t.lost for t in self.truths(flow, w)) for w in ("forward", "reverse")})
            row = {name: int(self.ledger.live[flow, place]) for name, place in COLUMN.items()}
            assert (row["lost_forward"], row["lost_reverse"]) == (lost["forward"], lost["reverse"]), flow
            assert row["lost_unattributed"] == row["late"] == row["dropped_locally"] == 0, flow
            assert row["received"] == row["sent"] - row["lost"] > 0, flow


def pick(report: Reports, rows: Ints) -> Reports:
    names = Reports.__dataclass_fields__
    return Reports(*(getattr(report, name)[rows] for name in names))


def on_wire(answer: Answer, rows: Ints) -> Reports:
    """The reflector's columns as wide as the wire has room for."""
    narrow = (answer.boot, answer.q, answer.gap_total, answer.gap_index)
    boot, q, total, index = (column[rows] & U32 for column in narrow)
    return Reports(boot, q, total, index, answer.gap_start[rows], answer.gap_length[rows] & U32)
