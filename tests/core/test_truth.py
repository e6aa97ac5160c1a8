"""10,000 outages whose truth is known, through the real schedule, ledger and reflector's memory.

What a truth is: `fleet.py`. What the bounds rest on: a flow's delay up to the failing point does not change around
the outage. Where it does, by `jitter`, they hold to within the jitter and no closer; the last tests say so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from probe.core import account as account_module
from probe.core import direction as direction_module
from probe.core import ledger as ledger_module
from probe.core.events import Outage

from .fleet import MS, T0, Fleet, Line, S, Truth, Window

K = 3
RATES = (100, 50_000)
LENGTHS = (MS, 3 * S)
MOST_PROBES = 3_000  # of an outage of the large run; the longest at the highest rate have a test of their own
CALM = S
WAYS = ("forward", "reverse")


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


def faults(rng: random.Random, interval: int, duration: int) -> list[Window]:
    """Random faults of one flow. Between any two of them at least one probe passes."""
    windows: list[Window] = []
    now = T0 + 200 * MS + rng.randrange(interval)
    longest = min(LENGTHS[1], MOST_PROBES * interval)
    while True:
        way = rng.choice(WAYS)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):  # some flap
            length = round(log_uniform(rng, LENGTHS[0], longest))
            if now + length > T0 + duration:
                return windows
            windows.append(Window(way, now, now + length))
            now += length + round(interval * (2 + 6 * rng.random()))
        now += round(interval * log_uniform(rng, 1, 100))


def lines_of(seed: int, number: int, duration: int) -> list[Line]:
    """Flows of all rates. Every other one leaves as late as a busy host makes it."""
    rng = random.Random(seed)
    lines = []
    for n in range(number):
        rate = RATES[0] * (RATES[1] / RATES[0]) ** ((n + rng.random()) / number)
        interval = round(1e9 / rate)
        lateness = interval // 2 if n % 2 else 0
        windows = faults(rng, interval, duration)
        lines.append(Line(interval, rng.randrange(MS // 10, 80 * MS), lateness, windows=windows))
    return lines


@dataclass(frozen=True)
class Judged:
    """One outage that was told, beside the fault that caused it."""

    line: Line
    truth: Truth
    outage: Outage

    @property
    def length(self) -> int:
        return self.truth.window.up - self.truth.window.down

    @property
    def error(self) -> float:
        """Of the estimate, in intervals."""
        return (self.outage.estimate_ns - self.length) / self.line.interval

    def check(self) -> None:
        """What is promised of every outage (contract, `outage`)."""
        window, o = self.truth.window, self.outage
        assert (o.lost, o.first_lost_seq, o.last_lost_seq) == (self.truth.lost, self.truth.first, self.truth.last)
        assert o.last_ok_ns < window.down <= o.first_lost_ns
        assert o.last_lost_ns < window.up <= o.first_ok_ns
        assert o.lower_ns <= self.length <= o.upper_ns, self
        # One interval: the gap that was really left between the probes at the edges, which lateness makes longer.
        gap = max(o.first_lost_ns - o.last_ok_ns, o.first_ok_ns - o.last_lost_ns)
        assert gap <= self.line.interval + self.line.lateness
        assert abs(o.estimate_ns - self.length) <= gap, self
        assert o.censored == "no" and o.unobserved_ns == 0


def judge(fleet: Fleet, k: int = K) -> list[Judged]:
    """Every fault that took K probes is one outage of its own, in its direction, and nothing else is one."""
    judged = []
    for flow, line in enumerate(fleet.lines):
        assert fleet.outages(flow, "round_trip") == []
        for way in WAYS:
            seen = [t for t in fleet.truths(flow, way) if t.lost >= k]
            told = fleet.outages(flow, way)
            assert len(seen) == len(told), (flow, way)
            judged += [Judged(line, truth, outage) for truth, outage in zip(seen, told, strict=True)]
    return judged


def test_ten_thousand_outages():
    duration = 5 * S
    fleet = Fleet(lines_of(2026, 160, duration), k=K)
    fleet.run(duration + CALM)
    fleet.finish()
    fleet.check_counts()
    judged = judge(fleet)
    for one in judged:
        one.check()
    assert len(judged) >= 10_000
    # Where a fault may pass unseen, those that are seen are the ones that happened to take more probes: no bias can be
    # stated of them. From K + 1 intervals on every one is seen.
    sure = [one for one in judged if one.length >= (K + 1) * one.line.interval]
    for late in (False, True):
        errors = np.array([one.error for one in sure if bool(one.line.lateness) == late])
        assert len(errors) > 4_000
        assert abs(errors.mean()) < 0.05
    flaps = sum(b.down - a.up < 10 * line.interval for line in fleet.lines for a, b in pairwise(line.windows))
    assert flaps > 1_000


def one_line(interval: int, windows: list[Window], *, k: int = K, **more: int) -> list[Judged]:
    """All that is told of one flow with these faults."""
    fleet = Fleet([Line(interval, more.pop("rtt", 5 * MS), windows=windows, **more)], k=k)
    fleet.run(windows[-1].up - T0 + CALM)
    fleet.finish()
    fleet.check_counts()
    return judge(fleet, k)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rate", "length"), [(50_000, 3 * S), (50_000, MS), (100, 3 * S), (100, 40 * MS)])
def test_the_longest_and_the_shortest(way, rate, length):
    [one] = one_line(round(1e9 / rate), [Window(way, T0 + S + 12_345, T0 + S + 12_345 + length)])
    one.check()
    assert one.truth.lost in (length * rate // S, length * rate // S + 1)


def test_a_fault_shorter_than_an_interval_is_at_most_one_probe():
    # It is seen by chance; of one lost probe nothing follows but that it lasted less than two intervals.
    windows = [
        Window("forward", T0 + n * 100 * MS + n * 97_000, T0 + n * 100 * MS + n * 97_000 + MS) for n in range(1, 80)
    ]
    judged = one_line(10 * MS, windows, k=1)
    assert 2 <= len(judged) <= 20  # one in ten, in the long run
    for one in judged:
        one.check()
        assert (one.outage.lost, one.outage.lower_ns, one.outage.upper_ns) == (1, 0, 20 * MS)


@pytest.mark.parametrize("between", [1, 2, 10])
def test_faults_with_a_probe_between_them_stay_apart(between):
    lengths = [(2, 3, 10, 10, 200)[n % 5] for n in range(20)]
    windows, now = [], T0 + S
    for length in lengths:
        windows.append(Window("forward", now, now + length * MS))
        now += (length + between) * MS
    judged = one_line(MS, windows)
    assert [one.outage.lost for one in judged] == [length for length in lengths if length >= K]
    for one in judged:
        one.check()


def test_a_blackout_of_both_ways_at_one_point_keeps_the_edges_of_the_way_out():
    # A firewall dies: a probe crosses it 2 ms after TX, its reply 7 ms later. What was beyond it is lost on the way
    # back. Those probes did get through on the way out, so that its edges are exact; of the way back, it is known
    # when it failed, and that it was back when probes got through again.
    apart = 7 * MS
    rng = random.Random(5)
    windows, now = [], T0 + S
    for _ in range(200):
        length = round(log_uniform(rng, 10 * MS, S))
        windows += [Window("forward", now, now + length), Window("reverse", now - apart, now + length - apart)]
        now += length + rng.randrange(50, 300) * MS
    fleet = Fleet([Line(MS, 20 * MS, windows=windows)], k=K)
    fleet.run(now - T0 + CALM)
    fleet.finish()
    fleet.check_counts()
    judged = judge(fleet)
    assert len(judged) == 400
    for one in judged:
        if one.truth.window.way == "forward":
            one.check()
        else:
            o = one.outage
            assert (o.lost, o.lost * MS) == (one.truth.lost, apart)
            assert o.last_ok_ns < one.truth.window.down <= o.first_lost_ns
            assert o.lower_ns <= one.length <= o.upper_ns


def test_a_blackout_of_both_ways_that_outlasts_the_ring_keeps_the_edges_of_the_way_out(monkeypatch):
    """However long it lasts: the probes beyond the point of failure lost their replies, the others never came there."""
    monkeypatch.setattr(ledger_module, "RETENTION_S", 8)
    lines = []
    for rate in (100, 400, 1500):
        windows, now = [], T0 + S
        for n in range(4):
            length, apart = (11 + 6 * n) * S + n * 137_000, (3 + 40 * n) * MS
            windows += [Window("forward", now, now + length), Window("reverse", now - apart, now + length - apart)]
            now += length + 9 * S
        lines.append(Line(round(1e9 / rate), 150 * MS, windows=windows))
    fleet = Fleet(lines, k=K)
    fleet.run(now - T0 + CALM, step=S // 5)
    fleet.finish()
    fleet.check_counts()
    judged = judge(fleet)
    assert len([one for one in judged if one.truth.window.way == "forward"]) == 12
    assert all(slots * line.interval < 11 * S for slots, line in zip(fleet.ledger._rings.slots, lines, strict=True))
    for one in judged:
        if one.truth.window.way == "forward":
            one.check()
        else:
            assert one.outage.lost == one.truth.lost
            assert one.outage.lower_ns <= one.length <= one.outage.upper_ns


@pytest.mark.parametrize("way", WAYS)
def test_delay_that_varies_up_to_the_failing_point_widens_the_bounds_by_its_variation(way):
    # 3 ms of jitter at a probe a millisecond. Probes overtake each other at the point, so that single ones slip
    # through at the edges; the longest run is the outage.
    jitter, length = 3 * MS, 100 * MS
    starts = [T0 + S + n * 300 * MS + n * 137_000 for n in range(300)]
    line = Line(MS, 10 * MS, jitter=jitter, windows=[Window(way, at, at + length) for at in starts])
    fleet = Fleet([line], k=K)
    fleet.run(starts[-1] - T0 + CALM)
    fleet.finish()
    fleet.check_counts()
    outages = fleet.outages(0, way)
    outside = 0
    for at in starts:
        around = [o for o in outages if o.start_ns < at + length and o.end_ns > at - jitter]
        main = max(around, key=lambda o: o.lost)
        assert main.lower_ns - jitter <= length <= main.upper_ns + jitter
        outside += not main.lower_ns <= length <= main.upper_ns
    assert outside, "then the jitter was none, and this test shows nothing"


# --- an hour -------------------------------------------------------------------------------------------------------


def held(root: object) -> int:
    """Octets of all arrays and elements of all collections reachable from an object of ours."""
    seen: set[int] = set()
    total, todo = 0, [root]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            total += one.nbytes
        elif isinstance(one, (list, tuple, set, dict)) or type(one).__name__ == "deque":
            total += 8 * len(one)
            todo += [*one, *one.values()] if isinstance(one, dict) else list(one)
        elif type(one).__module__.startswith("probe."):
            names = {name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())}
            todo += [getattr(one, name) for name in {*names, *getattr(one, "__dict__", {})} if hasattr(one, name)]
    return total


def test_an_hour_takes_no_more_memory_than_its_first_minutes(monkeypatch):
    """2,000 probes a second; each minute the same outages, one of them longer than what the ring holds."""
    # What bounds memory besides the rings is counts of gaps and steps: small ones are full within the first minutes.
    monkeypatch.setattr(account_module, "KEPT_STEPS", 256)
    monkeypatch.setattr(ledger_module, "RETENTION_S", 8)
    monkeypatch.setattr(direction_module, "KEPT_GAPS", 32)
    lines = []
    for rate in (100, 400, 1500):
        interval = round(1e9 / rate)
        windows = []
        for minute in range(60):
            start = T0 + minute * 60 * S + 10 * S
            way = WAYS[minute % 2]
            windows.append(Window(way, start, start + 11 * S))
            windows += [Window(way, start + n * S, start + n * S + 40 * interval) for n in range(20, 40)]
        lines.append(Line(interval, 5 * MS, windows=windows))
    fleet = Fleet(lines, k=K)
    sizes = []
    for _ in range(60):
        fleet.run(60 * S, step=S // 2)
        sizes.append(held(fleet.ledger))
        assert held(fleet.schedule) + held(fleet.peers) < 200_000
    fleet.finish()
    fleet.check_counts()
    for one in judge(fleet):
        one.check()
    assert len(fleet.found) == 3 * 60 * 21
    assert all(slots * line.interval < 11 * S for slots, line in zip(fleet.ledger._rings.slots, lines, strict=True))
    # An outage or two more or less are remembered, as the ring turns; a hundred octets a minute would show.
    assert max(sizes[5:]) <= max(sizes[:5]) + 2_000, sizes
