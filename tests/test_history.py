from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe import history as history_module
from probe.border import SharedState, Snapshot
from probe.core.events import COUNT_NAMES, Counts
from probe.core.fate import COLUMN, COLUMNS
from probe.core.histogram import BINS
from probe.history import History

from .core.network import MS, LossyNetwork

CAPACITY = 3
T0 = 1_700_000_000_000_000_000


class Engine:
    """Counters as an engine publishes them, and readings of them."""

    def __init__(self) -> None:
        self.shared = SharedState.create(CAPACITY)
        self.settled = np.zeros((CAPACITY, COLUMNS), np.int64)
        self.settled_to = T0
        self.history = History()

    @property
    def generation(self) -> int:
        return int(self.shared.header["generation"][0])

    def decide(self, flow: int, seconds: float = 1, **fates: int) -> int:
        """Probes sent in the next seconds, settled; where that ends."""
        self.settled_to += round(seconds * 10**9)
        row = self.settled[flow]
        lost = sum(n for name, n in fates.items() if name.startswith("lost_"))
        for name, n in {**fates, "lost": lost}.items():
            row[COLUMN[name]] += n
        sent = sum(fates.values())
        row[COLUMN["scheduled"]] += sent
        row[COLUMN["sent"]] += sent
        self.shared.live[flow] = row
        return self.settled_to

    def delay(self, flow: int, place: int, n: int = 1) -> None:
        self.shared.histogram[flow, place] += n

    def correct(self, flow: int, at: int, fro: str, to: str, n: int) -> dict:
        """Change the counts; the message that tells of it."""
        for table in (self.settled, self.shared.live):
            table[flow, COLUMN[fro]] -= n
            table[flow, COLUMN[to]] += n
            table[flow, COLUMN["lost"]] += n * (to.startswith("lost_") - fro.startswith("lost_"))
        return {"flow": flow, "at_ns": at, "fro": fro, "to": to, "count": n, "generation": self.generation}

    def publish(self) -> None:
        self.shared.publish(self.settled_to, self.settled)

    def sample(self) -> Snapshot:
        snapshot = self.shared.read()
        self.history.add(snapshot, CAPACITY)
        return snapshot

    def step(self, flow: int = 0, **fates: int) -> int:
        at = self.decide(flow, **fates)
        self.publish()
        self.sample()
        return at

    def span(self, start: int | None, end: int | None, flow: int = 0) -> Counts:
        counts = self.history.counts(flow, start, end)
        assert counts.broken_laws() == [], counts
        return counts


@pytest.fixture
def engine():
    made = Engine()
    made.step()
    yield made
    made.shared.close()


def test_a_span_holds_the_probes_sent_in_it(engine):
    a = engine.step(received=10)
    b = engine.step(received=5, lost_forward=2)
    c = engine.step(received=7)
    assert engine.span(a, b).received == 5 and engine.span(a, b).lost_forward == engine.span(a, b).lost == 2
    assert engine.span(b, c).received == 7
    assert engine.span(a, c).sent == 14 and engine.span(None, b).sent == 17 and engine.span(None, None).sent == 24


def test_a_span_between_readings_is_widened_to_them(engine):
    a = engine.step(received=10)
    b = engine.step(received=5)
    engine.step(received=7)
    assert engine.span(a + 1, b - 1).received == 5
    assert engine.span(a + 1, b + 1).received == 12
    assert engine.span(T0 - 10**12, a).received == 10


def test_up_to_now_probes_may_be_pending(engine):
    a = engine.step(received=10)
    engine.shared.live[0, [COLUMN["scheduled"], COLUMN["sent"]]] += 4
    engine.sample()
    assert engine.span(a, None).pending == 4 and engine.span(None, None).pending == 4
    assert engine.span(None, a).pending == 0


def test_flows_do_not_mix(engine):
    a = engine.step(0, received=10)
    b = engine.step(2, lost_reverse=3)
    assert engine.span(a, b, flow=0).sent == 0 and engine.span(a, b, flow=2).lost_reverse == 3


def test_a_correction_amends_what_has_the_probes_and_nothing_else(engine):
    a = engine.step(received=10)
    b = engine.step(received=5, lost_unattributed=3)
    engine.step(received=7)
    engine.history.correct(**engine.correct(0, b, "lost_unattributed", "lost_forward", 2))
    engine.publish()
    c = engine.step(received=1)
    assert engine.span(None, a).lost_forward == 0
    assert (engine.span(a, b).lost_forward, engine.span(a, b).lost_unattributed) == (2, 1)
    assert engine.span(b, c).lost == engine.span(b, c).lost_forward == 0


def test_a_late_reply_is_no_loss_any_more(engine):
    a = engine.step(received=10)
    b = engine.step(lost_forward=3)
    engine.history.correct(**engine.correct(0, b, "lost_forward", "late", 3))
    c = engine.step(received=1)
    assert (engine.span(a, b).late, engine.span(a, b).lost) == (3, 0)
    assert engine.span(b, c).late == 0


def test_a_correction_reaches_a_reading_exactly_once(engine):
    """However the message and the reading overtake each other."""
    b = engine.step(lost_unattributed=3)

    # Told, then read before the engine publishes it, then published and read again.
    told = engine.correct(0, b, "lost_unattributed", "lost_reverse", 2)
    engine.settled_to += 10**9
    stale = engine.settled.copy()
    stale[0, COLUMN["lost_unattributed"]] += 2
    stale[0, COLUMN["lost_reverse"]] -= 2
    told["generation"] += 2
    engine.shared.publish(engine.settled_to, stale)
    engine.history.correct(**told)
    engine.sample()  # lacks the correction, and comes after the message
    c = engine.settled_to
    d = engine.step(received=1)
    for start, end in ((b, c), (c, d), (b, d)):
        assert engine.span(start, end).lost == engine.span(start, end).lost_reverse == 0
    assert engine.span(None, c).lost_reverse == engine.span(None, d).lost_reverse == 2

    # Published and read first, and only then told.
    told = engine.correct(0, b, "lost_unattributed", "lost_reverse", 1)
    e = engine.step(received=1)
    engine.history.correct(**told)
    assert engine.span(d, e).lost_reverse == 0 and engine.span(None, b).lost_reverse == 3


def test_delays_of_a_span(engine):
    a = engine.step(received=2)
    engine.delay(0, 100, 2)
    b = engine.step(received=2)
    engine.delay(0, 50)
    engine.delay(1, 60)
    c = engine.step(received=1)
    engine.delay(0, 51)
    engine.sample()
    history = engine.history

    def filled(start, end, flow=0):
        counts = history.delays(flow, start, end)
        return {int(place): int(counts[place]) for place in np.flatnonzero(counts)}

    assert filled(a, b) == {100: 2} and filled(b, c) == {50: 1} and filled(b, c, 1) == {60: 1}
    assert filled(None, None) == {50: 1, 51: 1, 100: 2} and filled(b, None) == {50: 1, 51: 1}


def test_a_row_that_goes_to_another_flow_begins_at_zero(engine):
    a = engine.step(received=1000)
    engine.delay(0, 30, 1000)
    engine.step(received=1)
    engine.settled[0] = 0
    engine.shared.histogram[0] = 0
    engine.delay(0, 40, 5)
    b = engine.step(received=5)
    assert engine.span(a, b).sent == 5 and engine.span(None, None).sent == 5
    counts = engine.history.delays(0, None, None)
    assert counts[40] == counts.sum() == 5


def test_forgetting_a_row_on_request(engine):
    a = engine.step(received=3)
    engine.history.forget(0)
    engine.settled[0] = 0
    b = engine.step(received=500)  # more than before: nothing else would show that it is another flow
    assert engine.span(a, b).sent == 500 and engine.span(None, b).sent == 500


def test_more_flows_than_there_were(engine):
    history = History()
    engine.decide(0, received=3)
    engine.publish()
    history.add(engine.shared.read(), 1)
    a = engine.settled_to
    engine.decide(2, received=4)
    engine.publish()
    history.add(engine.shared.read(), 3)
    assert history.counts(2, a, engine.settled_to).sent == 4
    assert history.counts(2, None, a).sent == 0


def test_nothing_read_yet():
    history = History()
    assert history.counts(0, None, None) == Counts() == history.counts(1, 5, 9)
    assert history.latest is None and history.delays(0, None, None).sum() == 0


def test_the_same_reading_twice_is_one(engine):
    engine.step(received=3)
    before = len(engine.history._samples)
    engine.sample()
    assert len(engine.history._samples) == before


def test_memory_is_bounded(engine, monkeypatch):
    monkeypatch.setattr(history_module, "MEMORY_OCTETS", 50_000)
    for n in range(300):
        engine.delay(0, n % BINS, 3)
        engine.step(received=1)
    history = engine.history
    assert history._octets <= 50_000 and 2 <= len(history._samples) < 100
    assert history._octets == sum(s.octets for s in history._samples)
    assert engine.span(None, None).received == 300
    assert history.delays(0, None, None).sum() == 900  # as with the counts: of the whole life, however long
    newest = history._times[-2]
    assert engine.span(newest, None).received == 1


@pytest.fixture
def old(engine, monkeypatch):
    """One that has been read every second for an hour, one probe each, and has room for a small part of that."""
    monkeypatch.setattr(history_module, "MEMORY_OCTETS", 100_000)
    for n in range(3600):
        engine.delay(0, n % BINS)
        engine.step(received=1)
    assert len(engine.history._samples) < 120
    return engine


@pytest.mark.parametrize("ago_s", [5, 30, 100, 600, 2000, 3500])
@pytest.mark.parametrize("length_s", [1, 30, 500])
def test_a_span_of_long_ago_holds_what_was_sent_in_it(old, ago_s, length_s):
    """And in the rest of the readings that are left around it, which is a small share of how long ago it was."""
    now = old.settled_to
    start = now - ago_s * 10**9
    end = min(start + length_s * 10**9, now)
    begin, upto = old.history.begin(start), old.history.end(end)
    assert start - begin <= ago_s * 10**9 // 8 and upto - end <= ago_s * 10**9 // 8
    assert old.span(start, end).received == (upto - begin) // 10**9 == old.history.delays(0, start, end).sum()


def test_spans_that_touch_at_a_reading_add_up_whatever_was_let_go(old):
    times = old.history._times
    counted = [old.span(a, b).received for a, b in pairwise(times)]
    assert sum(counted) + old.span(None, times[0]).received == 3600
    whole = sum(old.history.delays(0, a, b) for a, b in pairwise(times))
    assert (whole == old.history.delays(0, None, None)).all()


def test_what_was_let_go_is_of_the_memory_that_is_counted(old):
    history = old.history
    assert history._octets == sum(s.octets for s in history._samples) <= 100_000
    at = history._times[-5]
    history.correct(**old.correct(0, at, "received", "late", 1))  # the first that was ever late
    history.correct(**old.correct(0, at, "received", "lost_forward", 0))
    assert history._octets == sum(s.octets for s in history._samples)


def test_counts_of_decades_do_not_run_over(engine):
    a = engine.step(received=(1 << 30) - 1)
    b = engine.step(received=1 << 33)
    c = engine.step(received=1 << 40, late=3)
    assert [engine.span(*span).received for span in ((None, a), (a, b), (b, c))] == [(1 << 30) - 1, 1 << 33, 1 << 40]
    engine.history.correct(**engine.correct(0, a, "received", "lost_reverse", 7))
    engine.step(received=1)
    assert engine.span(None, a).lost_reverse == engine.span(None, c).lost == 7
    assert engine.span(a, c).received == (1 << 33) + (1 << 40)


def test_a_span_before_all_readings_is_empty(old):
    assert old.span(T0 - 2 * 10**12, T0 - 10**12).sent == 0
    assert old.history.begin(T0 - 10**12) is None, "from the first probe on"


def test_what_changes_in_a_reading_that_was_let_go_changes_in_those_after_it(old):
    times = old.history._times
    place = next(n for n, (a, b) in enumerate(pairwise(times)) if b - a > 3 * 10**9)
    before, after = times[place], times[place + 1]
    at = before + 2 * 10**9  # of none that is left
    old.history.correct(**old.correct(0, at, "received", "late", 1))
    old.step(received=1)
    assert (old.span(before, after).late, old.span(None, before).late, old.span(after, None).late) == (1, 0, 0)


def test_corrections_waiting_for_a_reading_are_let_go(engine):
    b = engine.step(lost_unattributed=1000)
    for _ in range(100):
        engine.history.correct(**engine.correct(0, b, "lost_unattributed", "late", 1))
        engine.step(received=1)
    assert len(engine.history._corrections) <= 2


def test_a_span_is_widened_to_the_readings_around_it(engine):
    history = engine.history
    a = engine.step(received=4)
    b = engine.step(received=5)
    first = history._times[0]
    assert (history.begin(None), history.begin(first - 1), history.begin(a - 1)) == (None, None, first)
    assert (history.begin(a), history.begin(b - 1), history.begin(b + 1)) == (a, a, b)
    assert (history.end(None), history.end(a), history.end(a + 1), history.end(b + 1)) == (None, a, b, None)
    assert history.live(0, "received") == 9


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**9),
    spans=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=10),
    delay=st.integers(0, 3),
)
def test_any_span_of_a_real_ledger_obeys_the_laws(seed, spans, delay):
    """A ledger's counters through the border: what the control process says of any span is what was sent in it."""
    network = LossyNetwork(seed, [(MS, 50 * MS, 3), (2 * MS, 80 * MS, 3)], ["lost", "late", "unsent"], 200)
    shared, history, mailbox = SharedState.create(3), History(), []

    def tick() -> None:
        for c in network.ledger.drain_corrections():
            network.account.amend(c)
            mailbox.append((c, int(shared.header["generation"][0])))
        shared.live[:] = network.ledger.live
        shared.publish(network.ledger.settled_to, network.ledger.settled)

    def listen(keep: int) -> None:
        while len(mailbox) > keep:
            c, generation = mailbox.pop(0)
            history.correct(c.flow, c.at, c.fro, c.to, c.count, generation)

    settle = network.account.settle
    network.account.settle = lambda now, flows, **more: (
        network.ledger.settle(now) if not more else network.ledger.finish(now),
        tick(),
        history.add(shared.read(), 3),
        listen(delay),
    )
    for _ in range(60):
        network.step(network.rng.randint(1, 60) * MS)
    network.end()
    listen(0)
    history.add(shared.read(), 3)
    network.account.settle = settle
    times = history._times
    for a, b in spans:
        start, end = sorted((times[len(times) * a // 101], times[len(times) * b // 101]))
        for flow, track in network.tracks.items():
            counts = history.counts(flow, start, end)
            assert counts.broken_laws() == [] and counts.pending == 0, counts
            inside = [f for f, at in zip(track.fate, track.at, strict=True) if start < at <= end]
            assert counts.sent == len(inside)
            assert counts.lost == sum(f == 4 for f in inside) and counts.late == sum(f == 3 for f in inside)
    shared.close()
    assert set(COUNT_NAMES) == set(COLUMN)


def test_what_was_late_may_be_lost_after_all(engine):
    """A stream's keystrokes, when their connection dies."""
    a = engine.step(received=10)
    b = engine.step(late=3)
    engine.history.correct(**engine.correct(0, b, "late", "lost_unattributed", 2))
    assert (engine.span(a, b).late, engine.span(a, b).lost, engine.span(a, b).lost_unattributed) == (1, 2, 2)
    assert engine.span(a, b).broken_laws() == []
