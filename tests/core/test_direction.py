"""Every lost probe's direction, against a reflector whose inbox is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.core import account as account_module
from probe.core import summary as summary_module
from probe.core.direction import FILLED, REORDER_REACH, SENT_GAPS, ReflectorView
from probe.core.fate import COLUMN, LOST, LOST_FATES, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.core.ledger import Ledger
from probe.core.ranges import Ranges
from probe.core.told import Reports
from probe.session.peers import Peers

from .network import MS, Account, as_expected, counts_of, expected_outages, shrink_rings

S = 1000 * MS
KEY = 77
U32 = 0xFFFFFFFF


class Path:
    """One flow of a probe a millisecond to our own reflector and back, a batch at a time.

    Args:
        seed: Of everything random.
        forward: Whether the way out loses probe `sequence`.
        reverse: Whether the way back loses the reply to it.
        threshold: Loss threshold.
        batch: Most probes in a batch.
    """

    def __init__(
        self,
        seed: int,
        forward: Callable[[int], bool],
        reverse: Callable[[int], bool],
        *,
        threshold: int = 200 * MS,
        batch: int = 12,
        k: int = 3,
    ):
        self.rng = random.Random(seed)
        self.forward, self.reverse = forward, reverse
        self.threshold, self.batch, self.k = threshold, batch, k
        self.reorder = self.duplicate = 0.0
        self.ledger = Ledger(1)
        self.ledger.add(0, "a", 1000, threshold, k)
        self.account = Account(self.ledger)
        self.peers = Peers(random.Random(seed))
        self.now = 10**12
        self.at: list[int] = []
        self.first = 0  # the probe that reached the reflector first
        self.reached: set[int] = set()  # the reflector
        self.answered: set[int] = set()
        self._behind: list[tuple[int, int]] = []  # overtaken on the way out: (batches to wait, sequence)

    def restart_reflector(self) -> None:
        self.peers = Peers(self.rng)

    def evict_session(self) -> None:
        self.peers.sessions.clear()

    def run(self, n: int) -> None:
        end = len(self.at) + n
        while len(self.at) < end:
            self._batch(min(self.rng.randint(1, self.batch), end - len(self.at)))

    def _batch(self, n: int) -> None:
        at = self.now + np.arange(n) * MS
        flow = np.zeros(n, np.int64)
        sequence = self.ledger.allocate(flow, at)
        self.ledger.stamp(flow, sequence, at)
        self.at += at.tolist()
        self.now += n * MS
        self._answer(self._arrive(sequence.tolist()))
        self.account.settle(self.now, [0])

    def _arrive(self, sequences: list[int]) -> list[int]:
        """What reaches the reflector, in its order of arrival there."""
        inbox = []
        for sequence in sequences:
            if self.forward(sequence):
                continue
            if self.rng.random() < self.reorder:
                self._behind.append((self.rng.randint(1, 3), sequence))
                continue
            inbox += [sequence] * (2 if self.rng.random() < self.duplicate else 1)
        inbox += [sequence for wait, sequence in self._behind if wait == 0]
        self._behind = [(wait - 1, sequence) for wait, sequence in self._behind if wait > 0]
        if inbox and not self.reached:
            self.first = inbox[0]
        self.reached.update(inbox)
        return inbox

    def _answer(self, inbox: list[int]) -> None:
        if not inbox:
            return
        sequence = np.array(inbox, np.int64)
        answer = self.peers.answer(np.full(len(inbox), KEY, np.uint64), sequence, self.now)
        back = np.array([not self.reverse(s) for s in inbox])
        if not back.any():
            return
        self.answered.update(sequence[back].tolist())
        columns = [answer.boot, answer.q, answer.gap_total, answer.gap_index, answer.gap_start, answer.gap_length]
        flow = np.zeros(int(back.sum()), np.int64)
        self.ledger.receive(flow, sequence[back], np.full(len(flow), self.now))
        wire = [np.array([int(v) & (U32 if i != 4 else (1 << 64) - 1) for v in c[back]]) for i, c in enumerate(columns)]
        self.ledger.reports(flow, sequence[back], Reports(*wire))

    def finish(self, calm: int = 600) -> None:
        """A calm stretch in which the reflector can tell what it has seen, then the end."""
        self.forward = self.reverse = lambda _: False
        self.reorder = self.duplicate = 0.0
        self.run(calm)
        self.now += self.threshold
        self.account.settle(self.now, [0])
        self.account.settle(self.now, [0], finish=True)

    def truth(self) -> list[int]:
        """Fate of each probe, were everything known."""
        lost = {s: LOST_REVERSE if s in self.reached else LOST_FORWARD for s in range(len(self.at))}
        return [2 if s in self.answered else lost[s] for s in range(len(self.at))]

    def fates(self) -> list[int]:
        return self.ledger.fates(0, np.arange(len(self.at))).tolist()

    def wrong(self) -> list[tuple[int, int, int]]:
        """Probes whose told direction is not the true one."""
        return [
            (s, told, true)
            for s, (told, true) in enumerate(zip(self.fates(), self.truth(), strict=True))
            if told in (LOST_FORWARD, LOST_REVERSE) and told != true
        ]

    def unattributed(self) -> list[int]:
        return [s for s, fate in enumerate(self.fates()) if fate == LOST]

    def check(self) -> None:
        """All directions told and true, and the outages those of the truth."""
        assert self.wrong() == [] and self.unattributed() == []
        told = {as_expected(o) for o in self.account.outages.values()}
        assert told == expected_outages(self.truth(), self.at, self.k)
        assert counts_of(self.ledger.live[0]).broken_laws() == []


def never(_: int) -> bool:
    return False


def span(*spans: tuple[int, int]) -> Callable[[int], bool]:
    return lambda s: any(a <= s <= b for a, b in spans)


def at_random(seed: int, share: float) -> Callable[[int], bool]:
    rng = random.Random(seed)
    drawn: dict[int, bool] = {}
    return lambda s: drawn.setdefault(s, rng.random() < share)


PATHS = {
    "forward": (span((300, 340)), never),
    "reverse": (never, span((300, 340))),
    "one of each": (span((300, 340)), span((500, 520))),
    "both ways at once": (span((300, 700)), span((290, 710))),
    "reverse within forward": (span((300, 700)), span((400, 500))),
    "forward within reverse": (span((400, 500)), span((300, 700))),
    "the way back fails first": (span((400, 700)), span((300, 600))),
    "longer than the loss threshold": (span((300, 2300)), never),
    "flapping": (span(*((s, s + 7) for s in range(300, 1200, 23))), never),
    "flapping, out of step": (
        span(*((s, s + 7) for s in range(300, 1200, 23))),
        span(*((s, s + 5) for s in range(303, 1200, 31))),
    ),
    "single probes": (span((300, 300), (302, 302)), span((301, 301), (305, 305))),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("batch", [2, 12, 80])
def test_every_loss_has_its_true_direction(name, batch):
    path = Path(1, *PATHS[name], batch=batch)
    path.run(2500 if "longer" in name else 1250)
    path.finish(calm=250)
    path.check()


@pytest.mark.parametrize("rate", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_random_loss_both_ways(seed, rate):
    path = Path(seed, at_random(seed, rate), at_random(seed + 100, rate))
    path.run(4000)
    path.finish()
    path.check()


@pytest.mark.parametrize("seed", range(4))
def test_thirty_percent_both_ways(seed):
    # A reply carries one record and every third one brings a new one, so a few are never heard: those gaps and what
    # lies up to the next known one stay unattributed. Nothing is wrong, and little is unknown.
    path = Path(seed, at_random(seed, 0.3), at_random(seed + 100, 0.3))
    path.run(6000)
    path.finish()
    assert path.wrong() == []
    lost = sum(fate in LOST_FATES for fate in path.fates())
    assert len(path.unattributed()) < 0.1 * lost
    assert counts_of(path.ledger.live[0]).broken_laws() == []


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**9),
    out=st.sampled_from([0.0, 0.02, 0.3, 0.6]),
    back=st.sampled_from([0.0, 0.02, 0.3, 0.6]),
    reorder=st.sampled_from([0.0, 0.02, 0.2]),
    duplicate=st.sampled_from([0.0, 0.02, 0.5]),
    blackout=st.lists(st.tuples(st.integers(100, 1500), st.integers(1, 400)), max_size=2),
    batch=st.sampled_from([1, 10, 60]),
)
def test_a_direction_is_never_wrong(seed, out, back, reorder, duplicate, blackout, batch):
    forward, reverse = at_random(seed, out), at_random(seed + 1, back)
    dark = span(*((a, a + n) for a, n in blackout))
    path = Path(seed, lambda s: forward(s) or dark(s), lambda s: reverse(s) or dark(s), batch=batch)
    path.reorder, path.duplicate = reorder, duplicate
    path.run(800 if batch == 1 else 2000)
    path.finish(calm=200)
    assert path.wrong() == [] and not overlapping(list(path.account.outages.values()))
    if (
        out + back <= 0.05
    ):  # few enough records for each to be heard: only what came before the first arrival is unknown
        assert all(s < path.first for s in path.unattributed())


@pytest.mark.parametrize("seed", range(6))
def test_what_came_late_to_the_reflector_was_not_lost_on_the_way_out(seed):
    # Overtaken on the way out, then the reply is lost: the gap was told first, its filling only after the blackout.
    path = Path(seed, never, span((300, 900)))
    path.reorder = 0.02  # few enough for all to be repeated afterwards
    path.run(2000)
    path.finish()
    path.check()


@pytest.mark.parametrize("threshold", [20 * MS, 200 * MS])
@pytest.mark.parametrize("lose_at", [210, 600, 990])
@pytest.mark.parametrize("lose", ["restart_reflector", "evict_session"])
def test_an_outage_in_which_the_reflector_forgets_is_told_once(threshold, lose_at, lose):
    """What it received before it forgot is unknown. One way for the rest alone would be a wrong length."""
    path = Path(3, span((400, 410)), span((200, 1000)), threshold=threshold)
    path.run(lose_at)
    getattr(path, lose)()
    path.run(1200 - lose_at)
    path.finish()
    assert {as_expected(o) for o in path.account.outages.values()} == whole(path)
    assert counts_of(path.ledger.live[0]).broken_laws() == []


@pytest.mark.parametrize("threshold", [20 * MS, 200 * MS])
def test_an_outage_with_more_gaps_than_the_reflector_repeats_is_told_once(threshold):
    path = Path(3, span(*((s, s + 1) for s in range(210, 1900, 20))), span((200, 2000)), threshold=threshold)
    path.run(2100)
    path.finish()
    assert {as_expected(o) for o in path.account.outages.values()} == whole(path)


@pytest.mark.parametrize("lose", ["restart_reflector", "evict_session"])
@pytest.mark.parametrize("dark", [(1000, 1001), (995, 1100), (1001, 1300)])
def test_a_reflector_that_forgets(lose, dark):
    """What it received before it forgot is unknown, but only between the last reply before and the first one after."""
    forward = span((500, 520), (1400, 1420))
    path = Path(3, forward, span((600, 610), (1500, 1510), dark))
    path.run(1050)
    getattr(path, lose)()
    path.run(1500)
    path.finish()
    assert path.wrong() == []
    assert all(dark[0] <= s <= dark[1] for s in path.unattributed())
    fates = path.fates()
    assert {fates[s] for s in (500, 520, 1400, 1420)} == {LOST_FORWARD}
    assert {fates[s] for s in (600, 610, 1500, 1510)} == {LOST_REVERSE}


def test_a_duplicate_at_the_start_of_a_session_moves_nothing():
    # The reflector restarts, and the first probe it gets comes twice. q says 2, but what came before was not received.
    path = Path(1, span((100, 110)), span((111, 111)))
    path.run(100)
    path.duplicate = 1.0
    path.restart_reflector()
    path.run(100)
    path.finish()
    assert path.wrong() == []


def test_the_first_probes_of_a_flow_never_arrived():
    path = Path(1, span((0, 9)), never)
    path.run(200)
    path.finish()
    assert path.wrong() == [] and path.unattributed() == list(range(10))


@pytest.mark.parametrize("dark", [(200, 2600), (200, 4000)])
@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_an_outage_that_outlasts_the_ring_gets_its_direction_whole(monkeypatch, dark, way):
    shrink_rings(monkeypatch, 512)
    ways = {"forward": (span(dark), never), "reverse": (never, span(dark))}
    path = Path(1, *ways[way], threshold=20 * MS, batch=12)
    slots = int(path.ledger._rings.slots[0])
    assert slots < dark[1] - dark[0]
    path.run(dark[1] + 50)
    path.finish(calm=300)
    [outage] = path.account.outages.values()
    assert (outage.direction, outage.first_lost_seq, outage.last_lost_seq) == (way, *dark)
    counts = counts_of(path.ledger.live[0])
    n = dark[1] - dark[0] + 1
    assert (counts.lost, counts.lost_unattributed) == (n, 0)
    assert getattr(counts, f"lost_{way}") == n == outage.lost
    before = np.zeros_like(path.ledger.settled)
    for _, settled in path.account.samples:
        assert counts_of(settled[0] - before[0]).broken_laws() == []
        before = settled


# Outages of which the first or the last probes were not lost the same way as the others, or those in between.
LONG = {
    "the way back fails first": (span((210, 4000)), span((200, 4000))),
    "the way back fails first, seen by one probe": (span((201, 4000)), span((200, 4000))),
    "the way out fails first": (span((200, 209)), span((210, 4000))),
    "the way out comes back first": (span((200, 3800)), span((200, 4000))),
    "both ends": (span((210, 3800)), span((200, 4000))),
    "the way out flaps as it fails": (span((200, 204), (207, 211), (215, 4000)), span((200, 4000))),
    "the way out flaps as it comes back": (span((200, 3790), (3795, 3900)), span((200, 4000))),
    "short before long": (span((150, 154), (210, 4000)), span((200, 4000))),
}
# What is about a change of ways long before the end: it is known only roughly when those probes left.
CHANGING = {
    "the way back fails much later": (span((200, 1200)), span((1201, 4000))),
    "the way out fails much later": (span((1201, 4000)), span((200, 4000))),
    "the way out fails in between": (span((1201, 1210), (1300, 1700)), span((200, 4000))),
    "single losses in between": (span(*((s, s) for s in range(900, 1500, 31))), span((200, 4000))),
    "the ways take turns": (span((200, 900), (1300, 1900), (3000, 3100)), span((200, 4000))),
}


def long_path(monkeypatch, forward, reverse, *, end: int = 4100, seed: int = 1, **options) -> Path:
    """An outage that is over at `end`, in a ring of half its length."""
    shrink_rings(monkeypatch, 512)
    path = Path(seed, forward, reverse, threshold=20 * MS, batch=12, **options)
    assert int(path.ledger._rings.slots[0]) == 2048
    path.run(end)
    path.finish(calm=300)
    return path


def check_counts(path: Path) -> None:
    """Each way has its count, at the end and between any two readings."""
    truth = path.truth()
    counts = counts_of(path.ledger.live[0])
    assert counts.lost_unattributed == 0
    assert (counts.lost_forward, counts.lost_reverse) == (truth.count(LOST_FORWARD), truth.count(LOST_REVERSE))
    before = np.zeros_like(path.ledger.settled)
    for _, settled in path.account.samples:
        assert counts_of(settled[0] - before[0]).broken_laws() == []
        before = settled


@pytest.mark.parametrize("name", LONG)
def test_an_outage_that_outlasts_the_ring_is_told_as_one_that_does_not(monkeypatch, name):
    path = long_path(monkeypatch, *LONG[name])
    told = {as_expected(o) for o in path.account.outages.values()}
    assert told == expected_outages(path.truth(), path.at, path.k)
    assert path.wrong() == [] and path.fates()[200:1200] == path.truth()[200:1200]
    check_counts(path)


@pytest.mark.parametrize("name", CHANGING)
def test_where_its_ways_change_long_before_the_end_its_bounds_hold_what_is_not_known(monkeypatch, name):
    path = long_path(monkeypatch, *CHANGING[name])
    told = {as_expected(o)[:4]: o for o in path.account.outages.values()}
    expected = {entry[:4]: entry for entry in expected_outages(path.truth(), path.at, path.k)}
    assert told.keys() == expected.keys()
    for key, outage in told.items():
        *_, lower, upper, censored = expected[key]
        assert outage.lower_ns <= lower <= upper <= outage.upper_ns and outage.censored == censored
        assert outage.tx_error_ns <= 4 * 250 * MS  # at most a step of the account at each of four edges
        assert abs(2 * outage.estimate_ns - (lower + upper)) <= 2 * MS
    check_counts(path)


def whole(path: Path) -> set[tuple]:
    """The outages, were nothing known of directions."""
    return expected_outages([LOST if fate in LOST_FATES else fate for fate in path.truth()], path.at, path.k)


@pytest.mark.parametrize(
    ("name", "lose_at"), [*((name, 1500) for name in (*LONG, *CHANGING)), ("both ends", 210), ("both ends", 3990)]
)
def test_where_the_reflector_forgot_an_outage_that_outlasts_the_ring_is_one_of_round_trips(monkeypatch, name, lose_at):
    forward, reverse = {**LONG, **CHANGING}[name]
    shrink_rings(monkeypatch, 512)
    path = Path(1, forward, reverse, threshold=20 * MS, batch=12)
    path.run(lose_at)
    path.restart_reflector()
    path.run(4100 - lose_at)
    path.finish(calm=300)
    told = {as_expected(o) for o in path.account.outages.values() if o.last_lost_seq > 1000}
    assert told == {entry for entry in whole(path) if entry[2] > 1000}
    assert counts_of(path.ledger.live[0]).broken_laws() == []


def test_an_outage_with_more_gaps_than_the_reflector_repeats_is_one_of_round_trips(monkeypatch):
    """Of the first half nothing is known any more. One way for the second half alone would be a wrong length."""
    path = long_path(monkeypatch, span(*((s, s + 3) for s in range(300, 3900, 20))), span((200, 4000)))
    assert {as_expected(o) for o in path.account.outages.values()} == whole(path)
    assert path.fates()[-300:] == [RECEIVED] * 300


@pytest.mark.parametrize("name", [*LONG, *CHANGING])
def test_of_a_very_long_outage_less_is_kept_and_what_is_told_is_true_all_the_same(monkeypatch, name):
    """It is as if the account told 1 s apart, and the outage took 4 s. Both its ends are known exactly."""
    monkeypatch.setattr(account_module, "KEPT_STEPS", 3)
    monkeypatch.setattr(summary_module, "MOST_PARTS", 4)
    path = long_path(monkeypatch, *{**LONG, **CHANGING}[name])
    told = {as_expected(o) for o in path.account.outages.values()}
    expected = expected_outages(path.truth(), path.at, path.k)
    if name in LONG:
        assert told == expected
    elif told != whole(path):
        true = {entry[:4]: entry for entry in expected}
        assert {entry[:4] for entry in told} == true.keys()
        assert all(entry[4] <= true[entry[:4]][4] <= true[entry[:4]][5] <= entry[5] for entry in told)
    counts, truth = counts_of(path.ledger.live[0]), path.truth()
    assert counts.lost == sum(fate in LOST_FATES for fate in truth) and counts.broken_laws() == []
    if told != whole(path):
        assert (counts.lost_forward, counts.lost_reverse) == (truth.count(LOST_FORWARD), truth.count(LOST_REVERSE))


@pytest.mark.parametrize("name", CHANGING)
def test_where_too_little_is_kept_it_is_one_of_round_trips(monkeypatch, name):
    monkeypatch.setattr(summary_module, "LONGEST_NS", 20 * MS)
    path = long_path(monkeypatch, *CHANGING[name])
    assert {as_expected(o) for o in path.account.outages.values()} == whole(path)
    assert counts_of(path.ledger.live[0]).lost_unattributed == 3801


@pytest.mark.parametrize(("dropped_at", "direction"), [(1150, "round_trip"), (1500, "reverse")])
def test_where_our_own_drops_lie_at_a_change_of_ways_nobody_can_tell_which_of_them_were_lost(
    monkeypatch, dropped_at, direction
):
    shrink_rings(monkeypatch, 512)
    path = Path(1, span((1201, 4000)), span((200, 4000)), threshold=20 * MS, batch=12)
    path.run(dropped_at)
    path.ledger.dropped(path.now, path.now + 100 * MS, 20)
    path.run(4100 - dropped_at)
    path.finish(calm=300)
    outages = sorted(path.account.outages.values(), key=lambda o: o.first_lost_seq)
    assert (outages[0].direction, outages[0].first_lost_seq) == (direction, 200)
    assert sum(o.lost for o in outages) == counts_of(path.ledger.live[0]).lost == 3781
    assert [o.direction for o in outages[1:]] == ([] if direction == "round_trip" else ["forward"])


def test_a_later_outage_has_its_direction_whatever_one_that_outlasted_the_ring_was(monkeypatch):
    shrink_rings(monkeypatch, 512)
    path = Path(1, span((200, 3000), (3100, 3140)), span((200, 3000), (3060, 3080)), threshold=20 * MS, batch=12)
    path.run(1000)
    path.restart_reflector()
    path.run(2200)
    path.finish(calm=300)
    told = sorted((o.direction, o.first_lost_seq, o.last_lost_seq) for o in path.account.outages.values())
    assert told == [("forward", 3100, 3140), ("reverse", 3060, 3080), ("round_trip", 200, 3000)]


def overlapping(outages: list) -> list:
    """Pairs of told outages, one of round trips, that share time in which no probe passed both ways."""
    trips = [o for o in outages if o.direction == "round_trip"]
    return [
        (t, o) for t in trips for o in outages if o is not t and o.last_ok_ns < t.end_ns and t.last_ok_ns < o.end_ns
    ]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 10**6),
    out=st.lists(st.tuples(st.integers(100, 5000), st.sampled_from([3, 40, 900, 2500, 4000])), max_size=3),
    back=st.lists(st.tuples(st.integers(100, 5000), st.sampled_from([3, 40, 900, 2500, 4000])), max_size=3),
    loss=st.sampled_from([0.0, 0.0, 0.002, 0.05]),
    restart=st.one_of(st.none(), st.integers(100, 6000)),
)
def test_however_long_and_mixed_outages_are_none_has_a_wrong_length(monkeypatch, seed, out, back, loss, restart):
    shrink_rings(monkeypatch, 512)
    some, others = at_random(seed, loss), at_random(seed + 1, loss)
    dark, back_dark = (span(*((a, a + n) for a, n in spans)) for spans in (out, back))
    path = Path(seed, lambda s: dark(s) or some(s), lambda s: back_dark(s) or others(s), threshold=20 * MS, batch=12)
    path.run(restart or 0)
    if restart:
        path.restart_reflector()
    path.run(9200 - (restart or 0))
    path.finish(calm=300)
    assert path.wrong() == []
    true = {entry[:4]: entry for entry in expected_outages(path.truth(), path.at, path.k)}
    trips = {entry[:4]: entry for entry in whole(path)}
    outages = list(path.account.outages.values())
    long = [o for o in outages if o.last_lost_seq - o.first_lost_seq > 2048]
    for outage in long:
        expected = {**trips, **true}[as_expected(outage)[:4]]
        assert outage.lower_ns <= expected[4] <= expected[5] <= outage.upper_ns
        assert outage.direction != "round_trip" or as_expected(outage) == expected
    assert not overlapping(outages)
    counts, truth = counts_of(path.ledger.live[0]), path.truth()
    assert counts.broken_laws() == [] and counts.lost == sum(fate in LOST_FATES for fate in truth)
    assert counts.lost_forward <= truth.count(LOST_FORWARD) and counts.lost_reverse <= truth.count(LOST_REVERSE)
    before = np.zeros_like(path.ledger.settled)
    for _, settled in path.account.samples:
        assert counts_of(settled[0] - before[0]).broken_laws() == []
        before = settled


def test_direction_is_known_while_probes_are_still_pending():
    # Told in time, it is right from the start: never published as a round trip.
    path = Path(1, span((300, 340)), never)
    directions = set()
    take = path.account.settle

    def settle(now, flows, **more):
        take(now, flows, **more)
        directions.update(o.direction for o in path.account.outages.values())

    path.account.settle = settle
    path.run(1000)
    path.finish()
    assert directions == {"forward"}


def test_a_slow_flow_is_told_at_once():
    # A new record goes out with the next reply, whatever old ones there are to repeat.
    path = Path(1, span(*((s, s) for s in range(10, 300, 2)), (400, 404)), never, batch=1)
    path.run(407)
    view = path.ledger._told.view(0)
    assert view.complete and view.frontier == 406
    assert told(view, *range(399, 406)) == ["reverse", *["forward"] * 5, "reverse"]


# --- the view alone ------------------------------------------------------------------------------------------------


def told(view: ReflectorView, *sequences: int) -> list[str]:
    known, forward = view.resolve(np.array(sequences))
    return ["forward" if f else "reverse" if k else "?" for k, f in zip(known, forward, strict=True)]


def test_records_may_be_told_in_any_order():
    view = ReflectorView()
    # Record 1: the session began with 0. Record 2: 5 to 7 are missing. Record 3: 10 is.
    view.report(9, 11, 7, 3, 3, 10, 1)
    assert told(view, 4, 6, 10) == ["?", "?", "?"]
    view.report(9, 12, 8, 3, 1, 0, 0)
    assert told(view, 4, 6, 10) == ["?", "?", "?"]
    view.report(9, 13, 9, 3, 2, 5, 3)
    assert told(view, 4, 6, 8, 10, 11, 14) == ["reverse", "forward", "reverse", "forward", "reverse", "?"]


def test_a_stale_reply_takes_nothing_back():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    view.report(9, 8, 5, 2, 2, 5, 3)
    before = view.frontier
    assert not view.report(9, 3, 3, 1, 1, 0, 0)  # overtaken on the way back
    assert view.frontier == before and view.complete and view.told == 2


def test_a_reply_of_the_session_before_does_not_begin_it_again():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    view.report(9, 100, 100, 1, 1, 0, 0)
    view.report(5, 105, 0, 1, 1, 105, 0)
    view.report(5, 109, 2, 2, 2, 107, 1)
    view.report(9, 101, 101, 1, 1, 0, 0)
    view.report(5, 110, 5, 2, 2, 107, 1)
    assert told(view, 50, 102, 104, 105, 107, 110) == ["reverse", "?", "?", "reverse", "forward", "reverse"]


def test_a_record_that_is_never_told_leaves_a_hole_up_to_the_next_known_gap():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    total = 2 + SENT_GAPS
    for index in range(3, total + 1):  # record 2 is not heard
        view.report(9, 10 * total, 0, total, index, 10 * index, 2)
    assert told(view, 0) == ["?"] or told(view, 0) == ["reverse"]
    assert told(view, 25, 29, 30, 31, 32, 10 * total - 1) == ["?", "?", "forward", "forward", "reverse", "reverse"]


def test_where_probes_overtake_each_other_a_record_never_told_casts_doubt_on_gaps():
    for overtaken in (False, True):
        view = ReflectorView()
        view.report(9, 0, 0, 1, 1, 0, 0)
        view.report(9, 22, 20, 2, 2, 20, 2)
        if overtaken:
            view.report(9, 19, 21, 2, 2, 20, 2)  # a higher number than that of 22
        assert told(view, 20, 21) == ["forward", "forward"]
        total = 3 + SENT_GAPS
        for index in range(4, total + 1):  # record 3 is not heard: perhaps it said that 20 came after all
            view.report(9, 10 * total, 50, total, index, 10 * index, 2)
        assert told(view, 20, 21, 40) == (["?", "?", "forward"] if overtaken else ["forward"] * 3)
        assert view.take_doubted() == ([(20, 21)] if overtaken else [])


@pytest.mark.parametrize("seed", [9, 11, 12])
def test_heavy_loss_and_reordering(seed):
    path = Path(seed, at_random(seed, 0.6), at_random(seed + 1, 0.3), batch=10)
    path.reorder, path.duplicate = 0.2, 0.5
    path.run(2000)
    path.finish(calm=200)
    assert path.wrong() == []


def test_a_filled_gap_is_told():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    view.report(9, 8, 5, 2, 2, 5, 3)
    assert told(view, 5, 6, 7) == ["forward"] * 3
    view.report(9, 9, 7, 3, 3, 6, 1 | FILLED)
    assert told(view, 5, 6, 7) == ["forward", "reverse", "forward"]
    assert view.take_filled() == [(6, 6)] and view.take_filled() == []


def test_numbers_wrap_at_32_bits():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    base = (1 << 32) + 3
    view._told = view._complete = base  # after four billion records
    for step in range(1, 7):
        index = base + step
        view.report(9, 10 * step + 5, 0, index & U32, index & U32, 10 * step, 2)
    assert view.complete and view.told == base + 6
    assert told(view, 10, 12, 60, 61, 62) == ["forward", "reverse", "forward", "forward", "reverse"]


def test_memory_is_bounded():
    view = ReflectorView()
    view.report(9, 0, 0, 1, 1, 0, 0)
    for n in range(1, 20_000):
        view.report(9, 10 * n + 2, 0, n + 1, n + 1, 10 * n, 1)
    assert len(view._gaps.starts) <= 2 * 4096
    assert told(view, 10, 11) == ["?", "?"]  # forgotten, not taken for lost on the way back
    assert told(view, 199_980, 199_981) == ["forward", "reverse"]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8), st.booleans()), max_size=30))
def test_ranges_are_a_set_of_numbers(steps):
    ranges, plain = Ranges(), set()
    for first, more, cut in steps:
        numbers = set(range(first, first + more + 1))
        if cut:
            # Only what one range holds whole is cut; ranges that touch without overlapping stay apart.
            inside = any(a <= first and first + more <= b for a, b in zip(ranges.starts, ranges.ends, strict=True))
            assert ranges.cut(first, first + more) == inside
            plain -= numbers if inside else set()
        else:
            ranges.add(first, first + more)
            plain |= numbers
        assert ranges.contains(np.arange(80)).tolist() == [n in plain for n in range(80)]
        assert ranges.touches(first, first + more) == bool(plain & numbers)
        assert all(a <= b for a, b in zip(ranges.starts, ranges.ends, strict=True))
        assert all(b < a for b, a in zip(ranges.ends, ranges.starts[1:], strict=False))


# --- reflectors that are not ours ----------------------------------------------------------------------------------


class Foreign:
    """A reflector after RFC 8762 alone: a counter of its own (stateful) or a copy of ours (stateless)."""

    def __init__(self, *, stateful: bool, first_q: int = 0):
        self.stateful, self.q = stateful, first_q

    def answer(self, sequence: int) -> int:
        if not self.stateful:
            return sequence & U32
        self.q += 1
        return (self.q - 1) & U32


def probe_foreign(seed: int, reflector: Foreign, forward, reverse, *, reorder=0.0, restart_at=-1, n=2000):
    """(ledger, truth): n probes, one a millisecond, settled after 200 ms."""
    rng = random.Random(seed)
    ledger = Ledger(1)
    ledger.add(0, "a", 1000, 200 * MS, 3)
    truth, now = [], 10**12
    behind: list[int] = []
    for start in range(0, n, 10):
        at = now + np.arange(10) * MS
        sequence = ledger.allocate(np.zeros(10, np.int64), at)
        ledger.stamp(np.zeros(10, np.int64), sequence, at)
        now += 10 * MS
        late, behind = behind, []
        got, numbers = [], []
        inbox = []
        for s in sequence.tolist():
            if forward(s):
                truth.append(LOST_FORWARD)
                continue
            truth.append(LOST_REVERSE if reverse(s) else 2)
            (behind if rng.random() < reorder else inbox).append(s)
        if start == restart_at:
            reflector.q = 0
        for s in [*inbox, *late]:
            q = reflector.answer(s)
            if not reverse(s):
                got.append(s)
                numbers.append(q)
        if got:
            flow = np.zeros(len(got), np.int64)
            ledger.receive(flow, np.array(got), np.full(len(got), now))
            ledger.numbers(flow, np.array(got), np.array(numbers))
        ledger.settle(now)
    ledger.finish(now)
    return ledger, truth


def wrong_and_known(ledger: Ledger, truth: list[int]) -> tuple[int, int]:
    fates = ledger.fates(0, np.arange(len(truth))).tolist()
    pairs = [(f, t) for f, t in zip(fates, truth, strict=True) if f in (LOST_FORWARD, LOST_REVERSE)]
    return sum(f != t for f, t in pairs), len(pairs)


@pytest.mark.parametrize("first_q", [0, 5, (1 << 32) - 700])
def test_a_foreign_stateful_reflector_tells_pure_gaps(first_q):
    ledger, truth = probe_foreign(1, Foreign(stateful=True, first_q=first_q), span((300, 340)), span((500, 520)))
    assert wrong_and_known(ledger, truth) == (0, 62)
    assert [o.direction for _, o in ledger.drain_outages(open_too=True)] == ["forward", "reverse"]


def test_a_mixed_gap_stays_unknown():
    ledger, truth = probe_foreign(1, Foreign(stateful=True, first_q=3), span((300, 340)), span((330, 380)))
    assert wrong_and_known(ledger, truth) == (0, 0)
    assert ledger.live[0, COLUMN["lost_unattributed"]] == 81


def test_a_stateless_reflector_tells_nothing():
    ledger, truth = probe_foreign(1, Foreign(stateful=False), span((300, 340)), span((500, 520)))
    assert wrong_and_known(ledger, truth) == (0, 0)


@pytest.mark.parametrize(
    ("out", "back", "told"),
    [
        ((300, 6000), (0, -1), ["forward"]),
        ((0, -1), (300, 6000), ["reverse"]),
        ((310, 6000), (300, 6000), ["round_trip"]),
        ((300, 5500), (300, 6000), ["round_trip"]),
    ],
)
def test_what_a_foreign_reflector_tells_of_an_outage_that_outlasts_the_ring(monkeypatch, out, back, told):
    shrink_rings(monkeypatch, 512)
    ledger, truth = probe_foreign(1, Foreign(stateful=True, first_q=3), span(out), span(back), n=6500)
    assert ledger._rings.slots[0] < 5700
    assert wrong_and_known(ledger, truth)[0] == 0
    final = {o.id: o for _, o in ledger.drain_outages(open_too=True) if not o.withdrawn}
    assert [(o.direction, o.first_lost_seq, o.last_lost_seq) for o in final.values()] == [(told[0], 300, 6000)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**9),
    stateful=st.booleans(),
    first_q=st.sampled_from([0, 1, 100, U32 - 50]),
    out=st.sampled_from([0.0, 0.05, 0.4]),
    back=st.sampled_from([0.0, 0.05, 0.4]),
    restart_at=st.sampled_from([-1, 50, 500, 1500]),
)
def test_a_foreign_reflector_never_leads_astray(seed, stateful, first_q, out, back, restart_at):
    reflector = Foreign(stateful=stateful, first_q=first_q)
    ledger, truth = probe_foreign(
        seed, reflector, at_random(seed, out), at_random(seed + 1, back), restart_at=restart_at, n=1800
    )
    assert wrong_and_known(ledger, truth)[0] == 0
    assert counts_of(ledger.live[0]).broken_laws() == []


def test_a_copy_on_the_way_out_is_not_counted_as_a_probe():
    # 10, 10 again, then 12: q went up by two, but 11 never arrived.
    view = ReflectorView()
    view.consecutive(9, 109)
    view.consecutive(10, 110)
    view.consecutive(10, 111)
    view.consecutive(12, 112)
    assert told(view, 11) == ["forward"]


def test_a_copy_whose_reply_was_lost_leaves_doubt():
    view = ReflectorView()
    view.consecutive(10, 110)
    view.consecutive(10, 112)  # number 111 went to something that we did not hear of
    view.consecutive(12, 113)
    assert told(view, 11) == ["?"]


def test_a_gap_may_have_been_filled_when_numbers_run_ahead():
    view = ReflectorView()
    view.consecutive(10, 110)
    view.consecutive(12, 111)
    assert told(view, 11) == ["forward"]
    view.consecutive(13, 113)  # number 112: perhaps 11, late
    assert told(view, 11) == ["?"]


def test_a_gap_may_have_overtaken_what_numbers_ran_ahead_at():
    view = ReflectorView()
    view.consecutive(9, 108)
    view.consecutive(10, 110)
    view.consecutive(12, 114)  # numbers 111 to 113: 11, and two more that came before 12
    view.consecutive(20, 115)
    assert told(view, 11, 13, 19) == ["?", "?", "?"]
    view.consecutive(22, 116)
    assert told(view, 21) == ["forward"]  # all arrivals are explained


def test_what_ran_ahead_long_ago_explains_nothing_any_more():
    view = ReflectorView()
    view.consecutive(9, 108)
    view.consecutive(10, 110)
    view.consecutive(11, 113)
    for n in range(12, 12 + REORDER_REACH):
        view.consecutive(n, 102 + n)
    view.consecutive(13 + REORDER_REACH, 114 + REORDER_REACH)
    assert told(view, 12 + REORDER_REACH) == ["forward"]


@pytest.mark.parametrize("old", [500, 5_000_000])
def test_a_restarted_foreign_reflector_counts_from_zero_again(old):
    view = ReflectorView()
    for n in range(5):
        view.consecutive(old + n, old + 7 + n)
    for n in range(10):
        view.consecutive(old + 20 + 2 * n, n)
    assert told(view, old + 10, old + 19, old + 21) == ["?", "?", "forward"]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_batch_is_its_replies_one_by_one(seed):
    rng = random.Random(seed)
    one, many = ReflectorView(), ReflectorView()
    s, q = rng.randrange(1000), rng.randrange(1 << 32)
    for _ in range(20):
        batch = []
        for _ in range(rng.randint(0, 6)):
            s, q = s + rng.choice([1, 1, 1, 1, 2, 5, 0]), (q + rng.choice([1, 1, 1, 1, 2, 5])) & U32
            batch.append((s, q))
        for pair in batch:
            one.consecutive(*pair)
        many.consecutive_many(np.array([b[0] for b in batch], np.int64), np.array([b[1] for b in batch], np.int64))
        assert one.frontier == many.frontier
    sequences = np.arange(max(0, s - 60), s + 2)
    assert [m.tolist() for m in one.resolve(sequences)] == [m.tolist() for m in many.resolve(sequences)]
