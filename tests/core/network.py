"""A simulated network whose truth is known, and the accounts that a ledger must arrive at."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from probe.core import ledger as ledger_module
from probe.core.account import Correction
from probe.core.events import COUNT_NAMES, Counts, Outage
from probe.core.fate import COLUMN, DROPPED, LATE, LOST, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.core.ledger import Ledger
from probe.core.outage import TxError

MS = 1_000_000
COLUMN_OF = {
    RECEIVED: "received",
    LATE: "late",
    LOST: "lost_unattributed",
    LOST_FORWARD: "lost_forward",
    LOST_REVERSE: "lost_reverse",
    DROPPED: "dropped_locally",
}
SAID = {  # what a fate says of each direction: passed (True), gone (False); nothing if absent
    "round_trip": {RECEIVED: True, LATE: True, LOST: False},
    "forward": {RECEIVED: True, LATE: True, LOST_REVERSE: True, LOST_FORWARD: False},
    "reverse": {RECEIVED: True, LATE: True, LOST_REVERSE: False},
}


def expected_outages(fates: list[int], at: list[int], k: int) -> set[tuple]:
    """Every loss run of k and more, probe by probe: (direction, first, last, lost, lower, upper, censored)."""
    found = set()
    for direction, said in SAID.items():
        ok, run = None, []
        for sequence, fate in enumerate([*fates, -1]):
            meaning = True if fate == -1 else said.get(fate)
            if meaning is False:
                run.append(sequence)
            if meaning is True:
                if len(run) >= k:
                    begin = at[run[0]] if ok is None else at[ok]
                    last = at[run[-1]] if fate == -1 else at[sequence]
                    censored = "end" if fate == -1 else "start" if ok is None else "no"
                    found.add((direction, run[0], run[-1], len(run), at[run[-1]] - at[run[0]], last - begin, censored))
                ok, run = sequence, []
    return found


def as_expected(outage: Outage) -> tuple:
    return (
        outage.direction,
        outage.first_lost_seq,
        outage.last_lost_seq,
        outage.lost,
        outage.lower_ns,
        outage.upper_ns,
        outage.censored,
    )


def counts_of(row: np.ndarray) -> Counts:
    counts = Counts(**{name: int(row[COLUMN[name]]) for name in COUNT_NAMES})
    counts.pending = counts.sent - counts.received - counts.late - counts.lost - counts.dropped_locally
    return counts


@dataclass
class Account:
    """Everything that a ledger has told, checked as it comes."""

    ledger: Ledger
    outages: dict[tuple[int, int], Outage] = field(default_factory=dict)
    withdrawn: set[tuple[int, int]] = field(default_factory=set)
    samples: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def settle(self, now: int, flows: list[int], *, finish: bool = False) -> None:
        (self.ledger.finish if finish else self.ledger.settle)(now)
        for flow, outage in self.ledger.drain_outages(open_too=True):
            key = (flow, outage.id)
            assert key not in self.withdrawn, "a withdrawn outage came back"
            assert outage.lower_ns <= outage.estimate_ns <= outage.upper_ns
            if outage.withdrawn:
                assert self.outages.pop(key, None) is not None, "withdrawn, but never told"
                self.withdrawn.add(key)
            else:
                self.outages[key] = outage
        for correction in self.ledger.drain_corrections():
            self.amend(correction)
        if not self.samples or self.ledger.settled_to > self.samples[-1][0]:
            self.samples.append((self.ledger.settled_to, self.ledger.settled.copy()))
        for flow in flows:
            live, settled = counts_of(self.ledger.live[flow]), counts_of(self.ledger.settled[flow])
            assert live.broken_laws() == [], (flow, live)
            assert settled.broken_laws() == [], (flow, settled)
            assert settled.pending == 0, (flow, settled)

    def amend(self, c: Correction) -> None:
        """As the control process does: samples taken before that have the probes."""
        for settled_to, settled in self.samples:
            if settled_to >= c.at:
                settled[c.flow, COLUMN[c.fro]] -= c.count
                settled[c.flow, COLUMN[c.to]] += c.count
                if c.fro.startswith("lost_") and not c.to.startswith("lost_"):
                    settled[c.flow, COLUMN["lost"]] -= c.count

    def of(self, flow: int) -> set[tuple]:
        return {as_expected(o) for (f, _), o in self.outages.items() if f == flow}


@dataclass
class Track:
    """The truth of one flow."""

    interval: int
    threshold: int
    k: int
    next_due: int
    at: list[int] = field(default_factory=list)
    fate: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    duplicates: int = 0


class LossyNetwork:
    """Round trips only: random runs of trouble over several flows, with any cadence of batches.

    Args:
        seed: Of everything random.
        flows: (interval, loss threshold, K) of each.
        kinds: Kinds of trouble to use, of `lost late far duplicate reordered unsent withdrawn`.
        longest: Longest run of trouble, in probes.
    """

    def __init__(self, seed: int, flows: list[tuple[int, int, int]], kinds: list[str], longest: int):
        self.rng = random.Random(seed)
        self.ledger = Ledger(len(flows) + 1)
        self.kinds, self.longest = kinds, longest
        self.now = 10**12
        self.tracks: dict[int, Track] = {}
        self.account = Account(self.ledger)
        self._trouble: dict[int, tuple[str, int]] = {}
        self._flying: list[tuple[int, int, int]] = []
        self._far: set[tuple[int, int]] = set()
        for index, (interval, threshold, k) in enumerate(flows):
            self.add(index, interval, threshold, k)

    def add(self, index: int, interval: int, threshold: int, k: int) -> None:
        self.ledger.add(index, f"f{index}", 1e9 / interval, threshold, k)
        self.tracks[index] = Track(interval, threshold, k, self.now + self.rng.randrange(interval))
        self._trouble[index] = ("ok", self.rng.randrange(50))

    def remove(self, index: int) -> None:
        self.ledger.remove(index)
        del self.tracks[index]
        self._flying = [entry for entry in self._flying if entry[1] != index]
        heapq.heapify(self._flying)
        self.account.samples.clear()

    def step(self, ns: int, *, settle: bool = True) -> None:
        """Let `ns` pass: send what is due, then take in what arrived, then perhaps settle."""
        until = self.now + ns
        slots = []
        for index, track in self.tracks.items():
            while track.next_due < until:
                slots.append((track.next_due, index))
                track.next_due += track.interval
        slots.sort()
        self._send(slots, until)
        self.now = until
        self._arrive()
        if settle:
            self.account.settle(self.now, list(self.tracks))

    def end(self) -> None:
        """Let everything be decided."""
        self._flying = [entry for entry in self._flying if entry[1:] not in self._far]
        heapq.heapify(self._flying)
        for _ in range(4):
            self.now += max(t.threshold for t in self.tracks.values()) + 200 * MS
            self._arrive()
            self.account.settle(self.now, list(self.tracks))
        self.now = max([self.now, *(entry[0] for entry in self._flying)])
        self._arrive()
        self.account.settle(self.now + 1, list(self.tracks))
        self.account.settle(self.now + 1, list(self.tracks), finish=True)

    def _send(self, slots: list[tuple[int, int]], until: int) -> None:
        flow, at, missed = [], [], []
        for due, index in slots:
            kind = self._kind(index)
            if kind == "unsent":
                missed.append((index, due))
                self.tracks[index].unsent.append(due)
                continue
            track = self.tracks[index]
            sent = min(due + self.rng.randrange(track.interval // 4), until - 1)
            flow.append(index)
            at.append(sent)
            self._fly(index, len(track.at), sent, kind)
            track.at.append(sent)
        if missed:
            self.ledger.unsent(np.array([f for f, _ in missed]), np.array([d for _, d in missed]))
        if flow:
            self._tell(np.array(flow), np.array(at))

    def _tell(self, flow: np.ndarray, at: np.ndarray) -> None:
        sequence = self.ledger.allocate(flow, at)
        if "withdrawn" in self.kinds and self.rng.random() < 0.3:
            # The last of them cannot be sent after all, and are numbered anew.
            back = self.rng.randrange(len(flow))
            self.ledger.withdraw(flow[back:], sequence[back:])
            self.ledger.stamp(flow[:back], sequence[:back], at[:back])
            flow, at = flow[back:], at[back:]
            sequence = self.ledger.allocate(flow, at)
        # Links tell one after the other what they have sent.
        links = flow % 2
        for link in (1, 0):
            mine = links == link
            self.ledger.stamp(flow[mine], sequence[mine], at[mine])

    def _kind(self, index: int) -> str:
        kind, left = self._trouble[index]
        if left <= 0:
            # Mostly something good lies between two troubles, but not always.
            kind = "ok" if kind != "ok" and self.rng.random() < 0.7 else self.rng.choice(self.kinds)
            most = self.longest if kind == "lost" else min(self.longest, 60)
            left = self.rng.randint(1, most)
        self._trouble[index] = (kind, left - 1)
        return "ok" if kind == "withdrawn" else kind

    def _fly(self, index: int, sequence: int, sent: int, kind: str) -> None:
        track, rng = self.tracks[index], self.rng
        slots = int(self.ledger._rings.slots[index])
        rtt = rng.randrange(1, max(2, track.threshold // 8))
        arrival: int | None = sent + rtt
        fate = RECEIVED
        if kind == "reordered":
            arrival = sent + rng.randrange(1, track.threshold)
        elif kind == "late":
            arrival, fate = sent + track.threshold + rng.randrange(1, slots * track.interval // 2), LATE
        elif kind == "far":  # too late to tell
            arrival, fate = sent + track.threshold + 3 * slots * track.interval, LOST
            self._far.add((index, sequence))
        elif kind == "lost":
            arrival, fate = None, LOST
        track.fate.append(fate)
        if arrival is not None:
            heapq.heappush(self._flying, (arrival, index, sequence))
            if kind == "duplicate":
                track.duplicates += 1
                heapq.heappush(self._flying, (arrival + rng.randrange(track.threshold), index, sequence))

    def _arrive(self) -> None:
        got = []
        while self._flying and self._flying[0][0] <= self.now:
            got.append(heapq.heappop(self._flying))
        if got:
            at, flow, sequence = (np.array(column) for column in zip(*got, strict=True))
            self.ledger.receive(flow, sequence, at)

    def check(self) -> None:
        """Compare all that was told with the truth."""
        for index, track in self.tracks.items():
            assert self.account.of(index) == expected_outages(track.fate, track.at, track.k)
            tally = Counter(COLUMN_OF[fate] for fate in track.fate)
            for table in (self.ledger.live, self.ledger.settled):
                counts = counts_of(table[index])
                assert counts.broken_laws() == [] and counts.pending == 0
                assert counts.sent == len(track.at) and counts.unsent == len(track.unsent)
                for name in COLUMN_OF.values():
                    assert getattr(counts, name) == tally[name], name
            assert self.ledger.live[index, COLUMN["duplicate"]] == track.duplicates
            self._check_spans(index, track)

    def _check_spans(self, index: int, track: Track) -> None:
        """Between any two readings of `settled` lies an exact account of the probes sent between."""
        before, start = np.zeros_like(self.ledger.settled), 0
        for settled_to, settled in self.account.samples:
            span = counts_of(settled[index] - before[index])
            inside = [f for f, at in zip(track.fate, track.at, strict=True) if start < at <= settled_to]
            tally = Counter(COLUMN_OF[fate] for fate in inside)
            assert span.broken_laws() == [], (index, start, settled_to, span)
            assert span.sent == len(inside)
            for name in COLUMN_OF.values():
                assert getattr(span, name) == tally[name], (name, start, settled_to)
            before, start = settled, settled_to


def exact(count: int) -> TxError:
    """TX times that are known exactly."""
    return TxError(np.zeros(count, np.uint32), np.zeros(count, np.uint32))


def shrink_rings(monkeypatch, slots: int) -> None:
    """Rings of so few slots that outages outlast them."""
    monkeypatch.setattr(ledger_module, "MIN_SLOTS", slots)
    monkeypatch.setattr(ledger_module, "MAX_SLOTS", slots)
