from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.core.events import COUNT_NAMES
from probe.core.fate import COLUMN, EMPTY, LATE, LOST, PENDING, RECEIVED
from probe.core.ledger import Ledger
from probe.core.outage import TxError
from probe.core.told import Reports

from .network import MS, LossyNetwork, counts_of, shrink_rings

S = 1_000 * MS
T0 = 10**12
ALL_KINDS = ["lost", "late", "far", "duplicate", "reordered", "unsent", "withdrawn"]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class OneFlow:
    """A ledger of one flow, a probe every millisecond."""

    def __init__(self, *, threshold: int = 100 * MS, k: int = 3, capacity: int = 2):
        self.ledger = Ledger(capacity)
        self.ledger.add(0, "a", 1000, threshold, k)
        self.sent: list[int] = []

    def send(self, n: int, every: int = MS, error: tuple[int, int] = (0, 0)) -> np.ndarray:
        start = self.sent[-1] + every if self.sent else T0
        at = start + np.arange(n) * every
        flow = np.zeros(n, np.int64)
        sequence = self.ledger.allocate(flow, at)
        self.ledger.stamp(flow, sequence, at, TxError(*(np.full(n, ns, np.uint32) for ns in error)))
        self.sent += at.tolist()
        return sequence

    def reply(self, *sequence: int, after: int = MS):
        sent = np.array([self.sent[s] for s in sequence])
        return self.ledger.receive(np.zeros(len(sequence), np.int64), ints(*sequence), sent + after)

    def count(self, name: str) -> int:
        return int(self.ledger.live[0, COLUMN[name]])

    def told(self) -> list:
        return [o for _, o in self.ledger.drain_outages(open_too=True)]


def test_what_is_not_known_of_tx_times_widens_the_bounds_also_when_corrected():
    flow = OneFlow()
    told = []
    for late in (False, True):
        n = len(flow.sent)
        flow.send(10, error=(1, 2))  # the last of these passed before the outage
        flow.send(10, error=(30, 40))
        flow.send(10, error=(500, 600))
        flow.reply(*range(n, n + 10), *range(n + 20, n + 30))
        if not late:
            flow.ledger.settle(flow.sent[-1] + 100 * MS)
            told += flow.told()
    # A reply so late that the first outage had been told: its first edge moves, with its error.
    flow.reply(10, after=150 * MS)
    flow.ledger.settle(flow.sent[-1] + 100 * MS)
    told += flow.told()
    assert [(o.first_lost_seq, o.tx_error_ns) for o in told] == [(10, 671), (11, 700), (40, 671)]
    assert [(o.last_ok_seq, o.first_ok_seq) for o in told] == [(9, 20), (10, 20), (39, 50)]
    assert told[0].id == told[1].id
    for outage in told:
        sent = [
            flow.sent[s] for s in (outage.last_ok_seq, outage.first_lost_seq, outage.last_lost_seq, outage.first_ok_seq)
        ]
        edges = outage.last_ok_ns, outage.first_lost_ns, outage.last_lost_ns, outage.first_ok_ns
        first = outage.first_lost_seq == 11
        assert list(edges) == sent
        assert outage.upper_ns == outage.first_ok_ns - outage.last_ok_ns + (30 if first else 1) + 600
        assert outage.lower_ns == outage.last_lost_ns - outage.first_lost_ns - 40 - 30
        assert outage.estimate_ns == 10 * MS - first * MS


def test_a_link_that_goes_excuses_no_more_than_may_have_been_on_its_way():
    """A reply that took long, in its time, does not make a later outage ours."""
    flow = OneFlow(threshold=10 * S)
    flow.send(5000)
    flow.reply(0, after=4 * S)
    flow.reply(*range(1, 1000))
    gone = flow.sent[-1] + MS
    since = flow.ledger.link_lost(ints(0), gone, 10 * MS)
    assert since.tolist() == [gone - 10 * MS - S]
    flow.ledger.settle(gone + 11 * S)
    assert flow.count("dropped_locally") == 1009 and flow.count("lost") == 4000 - 1009


def test_a_probe_counts_from_the_moment_it_left():
    flow = OneFlow()
    sequence = flow.ledger.allocate(ints(0, 0), ints(T0, T0 + MS))
    assert sequence.tolist() == [0, 1]
    assert flow.count("sent") == 0 and flow.count("scheduled") == 0
    flow.ledger.stamp(ints(0, 0), sequence, ints(T0, T0 + MS))
    assert flow.count("sent") == flow.count("scheduled") == 2


def test_nothing_can_answer_a_probe_that_has_not_left():
    flow = OneFlow()
    flow.send(1)
    flow.ledger.allocate(ints(0), ints(T0 + MS))
    arrivals = flow.ledger.receive(ints(0), ints(1), ints(T0 + MS))
    assert arrivals.unknown.all()
    flow.ledger.withdraw(ints(0), ints(1))
    assert counts_of(flow.ledger.live[0]).broken_laws() == []


@pytest.mark.parametrize("sequence", [-1, -(2**63), 1, 2**40, 2**63 - 1])
def test_nonsense_numbers_are_unknown(sequence):
    flow = OneFlow()
    flow.send(1)
    with np.errstate(over="ignore"):
        arrivals = flow.ledger.receive(ints(0), ints(sequence), ints(T0 + MS))
    assert arrivals.unknown.tolist() == [True]
    assert flow.count("received") == flow.count("duplicate") == 0


def test_the_first_copy_counts_whatever_the_batch():
    flow = OneFlow()
    flow.send(3)
    arrivals = flow.reply(1, 0, 1, 1)
    assert arrivals.answered.tolist() == [True, True, False, False]
    assert arrivals.duplicate.tolist() == [False, False, True, True]
    assert flow.reply(0).duplicate.all()
    assert (flow.count("received"), flow.count("duplicate"), flow.count("reordered")) == (2, 3, 1)


def test_reordering_as_rfc_4737_counts_it():
    # RFC 4737, section 7.1: 1,2,3,7,8,9,10,4,5,6,11 arrive: three are reordered. Loss alone is no reordering.
    flow = OneFlow()
    flow.send(20)
    flow.reply(1, 2, 3, 7)
    flow.reply(8, 9, 10, 4, 5)
    flow.reply(6, 11, 15)
    assert flow.count("reordered") == 3


def test_exactly_at_the_threshold_is_in_time():
    flow = OneFlow(threshold=100 * MS)
    flow.send(2)
    assert flow.reply(0, after=100 * MS).answered.all()
    assert flow.reply(1, after=100 * MS + 1).late.all()


def test_lost_only_once_the_threshold_has_passed():
    flow = OneFlow(threshold=100 * MS)
    flow.send(1)
    flow.ledger.settle(T0 + 100 * MS - 1)
    assert flow.count("lost") == 0
    flow.ledger.settle(T0 + 100 * MS)
    assert flow.count("lost") == flow.count("lost_unattributed") == 1


def test_a_late_reply_takes_the_loss_back():
    flow = OneFlow()
    flow.send(20)
    flow.reply(*(s for s in range(20) if s not in (7, 8, 9)))
    flow.ledger.settle(T0 + S)
    [outage] = flow.told()
    assert (outage.first_lost_seq, outage.last_lost_seq) == (7, 9)
    flow.reply(8, after=2 * S)
    flow.ledger.settle(T0 + S)
    [gone] = flow.told()
    assert gone.id == outage.id and gone.withdrawn
    assert flow.count("late") == 1 and flow.count("lost") == 2
    assert flow.ledger.fates(0, ints(7, 8, 9)).tolist() == [LOST, LATE, LOST]


def test_a_late_reply_in_the_middle_splits_an_outage_and_the_longer_part_keeps_the_id():
    flow = OneFlow()
    flow.send(30)
    flow.reply(*range(5), *range(20, 30))
    flow.ledger.settle(T0 + S)
    [whole] = flow.told()
    flow.reply(8, after=2 * S)
    flow.ledger.settle(T0 + S)
    parts = {o.id: (o.first_lost_seq, o.last_lost_seq, o.withdrawn) for o in flow.told()}
    assert parts[whole.id] == (9, 19, False)
    assert [p for i, p in parts.items() if i != whole.id] == [(5, 7, False)]


def test_the_edge_after_late_replies_is_theirs():
    # 101 to 105 are lost, then turn out late; the next loss begins right behind: its last good probe is 105.
    flow = OneFlow(threshold=100 * MS)
    flow.send(106)
    flow.reply(*range(101))
    flow.ledger.settle(T0 + S)
    flow.reply(*range(101, 106), after=2 * S)
    flow.ledger.settle(T0 + S)
    flow.send(10)
    flow.reply(*range(111, 116))
    flow.ledger.settle(T0 + 2 * S)
    outage = next(o for o in flow.told() if not o.withdrawn)
    assert (outage.first_lost_seq, outage.last_lost_seq) == (106, 110)
    assert outage.last_ok_ns == flow.sent[105]
    assert outage.upper_ns == flow.sent[111] - flow.sent[105]


def test_our_own_drops_are_no_outage():
    flow = OneFlow()
    flow.send(300)
    flow.reply(*range(100), *range(120, 300))
    flow.ledger.dropped(flow.sent[100], flow.sent[120], 20)
    flow.ledger.settle(T0 + 2 * S)
    assert flow.told() == []
    assert flow.count("dropped_locally") == 20 and flow.count("lost") == 0


def test_drops_explain_no_more_than_their_number():
    flow = OneFlow()
    flow.send(300)
    flow.reply(*range(100), *range(120, 300))
    flow.ledger.dropped(flow.sent[100], flow.sent[120], 5)
    flow.ledger.settle(T0 + 2 * S)
    assert (flow.count("dropped_locally"), flow.count("lost")) == (5, 15)


def test_drops_at_every_reading_are_all_remembered_until_the_threshold():
    # 50 readings a second for the two seconds that a verdict takes: none of the hundred spans may be forgotten.
    flow = OneFlow(threshold=2 * S)
    flow.send(4000)
    flow.reply(*(s for s in range(4000) if s % 20 < 17))
    for n in range(200):
        flow.ledger.dropped(flow.sent[n * 20 + 17], flow.sent[n * 20 + 19], 3)
    flow.ledger.settle(T0 + 10 * S)
    assert flow.count("lost") == 0 and flow.count("dropped_locally") == 600


def test_a_reply_after_all_takes_a_drop_back():
    flow = OneFlow()
    flow.send(100)
    flow.reply(*range(50), *range(51, 100))
    flow.ledger.dropped(flow.sent[50], flow.sent[51], 1)
    flow.ledger.settle(T0 + 2 * S)
    assert flow.count("dropped_locally") == 1
    flow.reply(50, after=3 * S)
    assert flow.count("dropped_locally") == 0 and flow.count("late") == 1
    assert counts_of(flow.ledger.live[0]).broken_laws() == []


def test_what_an_interface_dropped_is_told_to_those_who_missed_something():
    ledger = Ledger(3)
    for f in range(3):
        ledger.add(f, f"flow-{f}", 1000, 100 * MS, 3)
    every = np.arange(3)
    for n in range(50):
        at = np.full(3, T0 + n * MS)
        sequence = ledger.allocate(every, at)
        ledger.stamp(every, sequence, at)
        answered = every[:1] if 20 <= n < 30 else every  # the second and the third flow miss ten each
        ledger.receive(answered, sequence[: len(answered)], at[: len(answered)] + MS)
    ledger.interface_dropped(T0 + 20 * MS, T0 + 40 * MS, 100)  # and others dropped as well
    ledger.settle(T0 + 130 * MS)
    assert ledger.drain_excused() == [], "there may be more"
    ledger.settle(T0 + 150 * MS)
    assert ledger.drain_excused() == [(f, T0 + 20 * MS, T0 + 29 * MS) for f in (1, 2)]
    assert ledger.live[:, COLUMN["dropped_locally"]].tolist() == [0, 10, 10]
    assert ledger.drain_outages(open_too=True) == [] and ledger.drain_excused() == []


def test_a_removed_flow_is_told_nothing():
    flow = OneFlow()
    flow.send(100)
    flow.reply(*range(50), *range(60, 100))
    flow.ledger.interface_dropped(flow.sent[50], flow.sent[60], 10)
    flow.ledger.settle(flow.sent[55] + 100 * MS)
    flow.ledger.remove(0)
    flow.ledger.settle(T0 + 2 * S)
    assert flow.ledger.drain_excused() == []


def _late_count(dropped: int, late: int) -> OneFlow:
    """500 probes, of which 100 to 119 are missing. So long after, and not 200 ms before, an interface's count has risen
    by `dropped`.
    """
    flow = OneFlow()
    flow.send(500)
    flow.reply(*range(100), *range(120, 500))
    found = flow.sent[120] + late
    flow.ledger.settle(found)
    flow.ledger.interface_dropped(found - 200 * MS, found, dropped)
    flow.ledger.settle(found + 101 * MS)  # everything sent until it was found
    return flow


@pytest.mark.parametrize("late", [0, 50 * MS, 150 * MS, 500 * MS, S])
def test_a_count_that_comes_when_probes_are_settled_still_excuses_them(late):
    flow = _late_count(20, late)
    assert (flow.count("dropped_locally"), flow.count("lost")) == (20, 0)
    assert flow.ledger.drain_excused() == [(0, flow.sent[100], flow.sent[119])]
    flow.ledger.settle(T0 + 3 * S)
    assert not [o for o in flow.told() if not o.withdrawn]
    assert counts_of(flow.ledger.live[0]).broken_laws() == []


def test_a_late_count_excuses_no_more_than_it_says_and_nothing_of_long_ago():
    assert _late_count(5, 500 * MS).count("lost") == 15
    flow = _late_count(20, 2 * S)
    assert (flow.count("dropped_locally"), flow.count("lost")) == (0, 20)
    assert flow.ledger.drain_excused() == []


def test_drops_excuse_what_was_missed_then_before_what_was_missed_earlier():
    flow = OneFlow()
    flow.send(900)
    flow.reply(*range(100), *range(120, 600), *range(610, 900))  # twenty of the network's, ten of the interface's
    flow.ledger.settle(flow.sent[700])
    flow.ledger.interface_dropped(flow.sent[500], flow.sent[700], 10)
    flow.ledger.settle(T0 + 2 * S)
    assert [(o.first_lost_seq, o.lost) for o in flow.told()] == [(100, 20)]
    assert flow.ledger.drain_excused() == [(0, flow.sent[600], flow.sent[609])]


def test_what_is_known_to_have_been_lost_on_the_way_out_an_interface_here_did_not_drop():
    flow = OneFlow()
    flow.send(200)
    zeros = np.zeros(190, np.int64)
    answered = np.r_[0:100, 110:200]
    flow.reply(*answered)
    flow.ledger.reports(
        zeros, answered, Reports(zeros + 7, answered, zeros + 1, zeros + 1, zeros + 100, zeros + 10)
    )  # its only gap
    flow.ledger.interface_dropped(flow.sent[100], flow.sent[120], 10)
    flow.ledger.settle(T0 + 2 * S)
    assert flow.count("lost_forward") == 10 and flow.count("dropped_locally") == 0


def test_unsent_slots_are_scheduled_and_nothing_else():
    flow = OneFlow()
    flow.send(2)
    flow.ledger.unsent(ints(0, 1, 0), ints(T0 + 2 * MS, T0, T0 + 3 * MS))
    counts = counts_of(flow.ledger.live[0])
    assert (counts.scheduled, counts.sent, counts.unsent, counts.pending) == (4, 2, 2, 2)
    flow.ledger.finish(T0)
    assert flow.ledger.settled[0, COLUMN["unsent"]] == 2


def test_withdrawn_numbers_are_used_again():
    flow = OneFlow()
    flow.send(5)
    late = flow.ledger.allocate(ints(0, 0), ints(T0, T0))
    flow.ledger.withdraw(ints(0, 0), late)
    assert flow.send(1).tolist() == [5]
    assert flow.count("sent") == 6


def test_links_may_tell_of_their_probes_one_after_the_other():
    # Link B's probes are told after link A's, which left in the same milliseconds.
    ledger = Ledger(2)
    for flow in (0, 1):
        ledger.add(flow, f"f{flow}", 1000, 100 * MS, 3)
    for start in range(0, 1000, 20):
        for flow in (0, 1):
            flows, at = np.full(20, flow), T0 + (start + np.arange(20)) * MS
            ledger.stamp(flows, ledger.allocate(flows, at), at)
        ledger.settle(T0 + (start + 15) * MS)
    for until in (1000, 1037, 1400):
        ledger.settle(T0 + until * MS)
        settled = min(ledger.settled_to - T0, 999 * MS) // MS + 1
        assert ledger.settled[:, COLUMN["sent"]].tolist() == [settled, settled]


def test_a_long_threshold_elsewhere_does_not_outlast_the_ring():
    # b answers nothing for a minute; a, of ten thousand probes a second, must not be overwritten while it waits.
    ledger = Ledger(2)
    ledger.add(0, "a", 10_000, 10 * MS, 3)
    now, sent = T0, 0
    for step in range(700):
        if step == 50:
            ledger.add(1, "b", 1, 60 * S, 3)
            ledger.stamp(ints(1), ledger.allocate(ints(1), ints(now)), ints(now))
        flow, at = np.zeros(1000, np.int64), now + np.arange(1000) * 100_000
        sequence = ledger.allocate(flow, at)
        ledger.stamp(flow, sequence, at)
        lost = step * 10 if step < 300 else 0  # ever more of each batch, for half a minute
        ledger.receive(flow[lost // 10 :], sequence[lost // 10 :], at[lost // 10 :] + MS)
        sent, now = sent + 1000, now + 100 * MS
        ledger.settle(now)
    ledger.settle(now + 61 * S)
    counts = counts_of(ledger.settled[0])
    assert (counts.sent, counts.lost) == (sent, sum(range(300)))
    outages = [o for f, o in ledger.drain_outages(open_too=True) if f == 0]
    assert {(o.first_lost_seq, o.lost) for o in outages} == {(1000 * step, step) for step in range(3, 300)}
    assert counts_of(ledger.settled[1]).lost == 1


def test_removing_the_flow_with_the_longest_threshold_sets_the_others_free():
    ledger = Ledger(2)
    ledger.add(0, "a", 1000, 100 * MS, 3)
    ledger.add(1, "b", 1000, 60 * S, 3)
    ledger.stamp(ints(0), ledger.allocate(ints(0), ints(T0)), ints(T0))
    ledger.settle(T0 + S)
    assert ledger.live[0, COLUMN["lost"]] == 0
    ledger.remove(1)
    ledger.settle(T0 + S)
    assert ledger.live[0, COLUMN["lost"]] == 1


def test_a_row_can_be_used_again_while_probes_of_its_last_flow_are_in_the_log():
    ledger = Ledger(2)
    ledger.add(0, "a", 1000, 100 * MS, 3)
    ledger.add(1, "b", 1000, 100 * MS, 3)
    for flow in (0, 1):
        flows, at = np.full(50, flow), T0 + np.arange(50) * MS
        ledger.stamp(flows, ledger.allocate(flows, at), at)
    ledger.remove(0)
    assert ledger.receive(ints(0), ints(3), ints(T0)).unknown.all()
    ledger.add(0, "again", 1000, 100 * MS, 3)
    ledger.settle(T0 + 10 * S)
    assert counts_of(ledger.live[0]).sent == counts_of(ledger.live[0]).lost == 0
    assert counts_of(ledger.live[1]).lost == 50
    assert [(f, o.lost) for f, o in ledger.drain_outages(open_too=True)] == [(1, 50)]


@pytest.mark.parametrize("error", [-(10**18), -S, -MS, 10**18])
def test_a_stamp_off_by_a_clock_step_loses_nothing(error):
    # The wall clock was stepped between the kernel's stamp and our reading of it.
    flow = OneFlow()
    flow.send(100)
    flow.reply(*range(50))
    flow.reply(*range(50, 60), after=MS + error)
    flow.reply(*range(60, 100))
    flow.ledger.settle(T0 + 10 * S)
    assert flow.count("lost") == 0 and flow.told() == []
    assert counts_of(flow.ledger.settled[0]).broken_laws() == []
    if error < 0:
        assert flow.count("received") == 100


def test_settled_is_exact_and_moves_in_steps():
    flow = OneFlow(threshold=100 * MS)
    readings = set()
    for _ in range(100):
        flow.send(20)
        flow.ledger.settle(flow.sent[-1])
        settled_to = flow.ledger.settled_to
        readings.add(settled_to)
        assert flow.ledger.settled[0, COLUMN["sent"]] == sum(at <= settled_to for at in flow.sent)
    steps = np.diff(sorted(readings))
    assert len(readings) > 5 and (steps >= 250 * MS).all()


def test_fates_are_forgotten_with_the_ring(monkeypatch):
    shrink_rings(monkeypatch, 512)
    ledger = Ledger(1)
    ledger.add(0, "a", 10, 100 * MS, 3)
    flow, at = np.zeros(600, np.int64), T0 + np.arange(600) * 100 * MS
    for part in np.array_split(np.arange(600), 30):
        ledger.stamp(flow[part], ledger.allocate(flow[part], at[part]), at[part])
        ledger.receive(flow[part][:-1], part[:-1], at[part][:-1] + 1)
        ledger.settle(int(at[part][-1]))
    assert ledger.fates(0, ints(0, 599, 600, -1)).tolist() == [EMPTY, PENDING, EMPTY, EMPTY]
    assert ledger.fates(0, ints(500)).tolist() == [RECEIVED]
    assert ledger.receive(ints(0), ints(0), ints(T0)).unknown.all()


@pytest.mark.parametrize("beside", [0, 1])
def test_a_ring_that_is_overrun_before_anything_settles_loses_nothing(monkeypatch, beside):
    """Settling stands still while the ring goes round. What was not answered by then is excused, and its flow hears."""
    shrink_rings(monkeypatch, 512)
    flow = OneFlow(threshold=50 * MS)
    ledger = flow.ledger
    ledger.add(1, "beside", 1, 50 * MS, 3)
    if beside:  # what the other flow has on its way is not concerned
        ledger.stamp(ints(1), ledger.allocate(ints(1), ints(T0)), ints(T0))
    slots = int(ledger._rings.slots[0])
    missing = {*range(100, 110), *range(slots - 7, slots + 5)}
    last = 4 * slots
    missing |= {*range(last - 40, last - 30)}  # these are lost in the network
    for start in range(0, last, 64):
        flow.send(64)
        flow.reply(*(n for n in range(start, start + 64) if n not in missing))
        assert counts_of(ledger.live[0]).broken_laws() == []
    ledger.settle(flow.sent[-1] + 50 * MS)
    for table in (ledger.live, ledger.settled):
        counts = counts_of(table[0])
        assert counts.broken_laws() == [] and counts.pending == 0
        assert (counts.sent, counts.dropped_locally, counts.lost) == (last, 22, 10)
        assert counts_of(table[1]).lost == beside
    assert [(o.first_lost_seq, o.lost) for o in flow.told()] == [(last - 40, 10)]
    spans = [(first, end) for f, first, end in ledger.drain_excused() if f == 0]
    assert sum((end - first) // MS + 1 for first, end in spans) == 22
    assert all((at - T0) // MS in missing for span in spans for at in span)


@pytest.mark.parametrize("rings", [0.5, 1.5])
def test_an_outage_in_which_the_ring_is_overrun_keeps_its_edges(monkeypatch, rings):
    """The probes that were overwritten say nothing; those around them were lost all the same."""
    shrink_rings(monkeypatch, 512)
    flow = OneFlow(threshold=50 * MS)
    slots = int(flow.ledger._rings.slots[0])
    first, last = 608, 608 + 3 * slots
    told = {}
    for start in range(0, 4 * slots, 16):
        flow.send(16)
        if not first <= start < last:
            flow.reply(*range(start, start + 16))
        if not 0 <= start - 1600 < rings * slots:  # else settling stands still
            flow.ledger.settle(flow.sent[-1])
        told |= {o.id: o for o in flow.told()}
        assert counts_of(flow.ledger.live[0]).broken_laws() == []
    flow.ledger.settle(flow.sent[-1] + 50 * MS)
    told |= {o.id: o for o in flow.told()}
    [outage] = told.values()
    ours = flow.count("dropped_locally")
    assert (ours > 0) == (rings > 1)
    assert (outage.last_ok_seq, outage.first_lost_seq, outage.first_ok_seq) == (first - 1, first, last)
    assert outage.lost == flow.count("lost") == last - first - ours


def test_a_flood_of_late_replies_is_no_loop_over_probes():
    # After ten seconds of buffering, 100,000 late replies: the corrections are told by steps of time, not by probes.
    ledger = Ledger(1)
    ledger.add(0, "a", 10_000, 100 * MS, 3)
    flow, at = np.zeros(100_000, np.int64), T0 + np.arange(100_000) * 100_000
    for part in np.array_split(np.arange(100_000), 100):
        ledger.stamp(flow[part], ledger.allocate(flow[part], at[part]), at[part])
        ledger.settle(int(at[part][-1]))
    ledger.drain_outages(open_too=True)
    ledger.receive(flow, np.arange(100_000), at + 20 * S)
    ledger.settle(T0 + 11 * S)
    [(_, outage)] = ledger.drain_outages(open_too=True)
    assert outage.withdrawn
    assert len(ledger.drain_corrections()) < 60
    assert counts_of(ledger.live[0]).late == 100_000


FLOWS = st.lists(
    st.tuples(
        st.sampled_from([MS, 2 * MS, 5 * MS]), st.sampled_from([20 * MS, 100 * MS, 400 * MS]), st.sampled_from([1, 3])
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    seed=st.integers(0, 10**9),
    flows=FLOWS,
    kinds=st.sets(st.sampled_from(ALL_KINDS), min_size=1).map(sorted),
    longest=st.sampled_from([5, 60, 400]),
    cadence=st.sampled_from([1, 3, 10]),
)
def test_whatever_happens_the_account_is_true(seed, flows, kinds, longest, cadence):
    network = LossyNetwork(seed, flows, kinds, longest)
    for n in range(80):
        network.step(network.rng.randint(1, 40) * MS, settle=n % cadence == 0)
    network.end()
    network.check()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 10**9), kinds=st.sets(st.sampled_from(ALL_KINDS), min_size=1).map(sorted))
def test_outages_outlast_the_ring(monkeypatch, seed, kinds):
    shrink_rings(monkeypatch, 512)
    # 200 probes a second, thresholds of 20 and 50 ms: rings of 512 slots, outages of up to 2000 probes.
    network = LossyNetwork(seed, [(5 * MS, 20 * MS, 3), (5 * MS, 50 * MS, 1)], sorted({*kinds, "lost"}), 2000)
    for _ in range(150):
        network.step(network.rng.randint(1, 200) * MS)
    network.end()
    network.check()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_flows_come_and_go(seed):
    network = LossyNetwork(seed, [(MS, 50 * MS, 3), (2 * MS, 200 * MS, 3)], ["lost", "late", "unsent"], 50)
    for _ in range(30):
        network.step(network.rng.randint(1, 40) * MS)
    network.remove(1)
    for _ in range(5):
        network.step(network.rng.randint(1, 20) * MS)
    network.account.outages = {key: o for key, o in network.account.outages.items() if key[0] != 1}
    network.account.withdrawn = {key for key in network.account.withdrawn if key[0] != 1}
    network.add(1, 5 * MS, 400 * MS, 1)
    network.add(2, MS, 20 * MS, 3)
    for _ in range(30):
        network.step(network.rng.randint(1, 40) * MS)
    network.account.samples.clear()
    network.end()
    for index in network.tracks:
        assert counts_of(network.ledger.live[index]).broken_laws() == []
    network.account.samples.clear()
    network.check()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_the_laws_hold_with_drops_in_the_middle_of_losses(seed):
    network = LossyNetwork(seed, [(MS, 50 * MS, 3), (2 * MS, 80 * MS, 3)], ["lost", "late", "duplicate"], 100)
    for _ in range(60):
        start = network.now
        network.step(network.rng.randint(1, 40) * MS)
        if network.rng.random() < 0.4:
            network.ledger.dropped(start, network.now, network.rng.randint(1, 50))
    network.end()
    before = np.zeros_like(network.ledger.settled)
    for _, settled in network.account.samples:
        for index in network.tracks:
            assert counts_of(settled[index] - before[index]).broken_laws() == []
        before = settled


def test_counts_that_no_law_binds():
    ledger = Ledger(1)
    ledger.add(0, "a", 10, 100 * MS, 3)
    for name in ("corrupt", "reset", "icmp_error"):
        ledger.count(0, name)
        ledger.count(0, name, 2)
    assert [int(ledger.live[0, COLUMN[n]]) for n in ("corrupt", "reset", "icmp_error")] == [3, 3, 3]
    assert set(COUNT_NAMES) == set(COLUMN)


def _their_drops_ledger(missing: int) -> Ledger:
    """1,000 probes, one a millisecond; `missing` of them from 300 on unanswered; the reflector tells of 100 drops."""
    ledger = Ledger(4)
    ledger.add(0, "f", 1000, 500 * MS, 3)
    ledger.add(1, "g", 1000, 500 * MS, 3)
    flow = np.zeros(1000, np.int64)
    at = T0 + np.arange(1000) * MS
    sequence = ledger.allocate(flow, at)
    ledger.stamp(flow, sequence, at)
    answered = (sequence < 300) | (sequence >= 300 + missing)
    drops = np.where(sequence < 350, 7, 107)
    ledger.receive(flow[answered], sequence[answered], at[answered] + MS)
    ledger.their_drops(flow[answered], at[answered] + MS, drops[answered])
    ledger.settle(T0 + 3000 * MS)
    return ledger


def test_what_the_reflectors_own_ring_dropped_is_no_outage() -> None:
    ledger = _their_drops_ledger(missing=100)
    assert ledger.live[0, COLUMN["dropped_locally"]] == 100
    assert ledger.live[0, COLUMN["lost"]] == 0
    assert ledger.drain_outages(open_too=True) == []
    assert ledger.drain_excused() == [(0, T0 + 300 * MS, T0 + 399 * MS)]


def test_a_reflector_excuses_no_more_than_it_dropped() -> None:
    ledger = _their_drops_ledger(missing=400)
    assert ledger.live[0, COLUMN["dropped_locally"]] == 100
    assert ledger.live[0, COLUMN["lost"]] == 300
    assert [o.lost for _, o in ledger.drain_outages(open_too=True)] == [300]


def _told(drops: list[int], boots: list[int] | None = None) -> Ledger:
    """200 probes, a millisecond apart; 100 to 110 are lost, and replies tell these counts of drops, in their turn."""
    ledger = Ledger(1)
    ledger.add(0, "f", 1000, 500 * MS, 3)
    flow, at = np.zeros(200, np.int64), T0 + np.arange(200) * MS
    sequence = ledger.allocate(flow, at)
    ledger.stamp(flow, sequence, at)
    for part, count, boot in zip(
        ([0, 50], [99], [120], [130], [140, 199]), drops, boots or [7] * len(drops), strict=True
    ):
        rows = np.array(part)
        zeros = np.zeros(len(rows), np.int64)
        ledger.receive(zeros, rows, at[rows] + MS)
        ledger.reports(zeros, rows, Reports(zeros + boot, rows, zeros, zeros, zeros, zeros))
        ledger.their_drops(zeros, at[rows] + MS, zeros + count)
    ledger.receive(flow[:189], np.setdiff1d(sequence, np.arange(100, 111)), np.full(189, at[-1]))
    ledger.settle(T0 + 3 * S)
    return ledger


@pytest.mark.parametrize(
    ("drops", "boots", "excused"),
    [
        ([7, 7, 7, 7, 7], None, 0),
        ([7, 7, 18, 18, 18], None, 11),
        ([7, 7, 12, 12, 12], None, 5),
        ([7, 7, 12, 7, 12], None, 5),  # an older reply came in between: these are the same drops
        ([50, 50, 3, 3, 3], [7, 7, 8, 8, 8], 0),  # another reflector process, which counts from zero
        ([50, 50, 3, 9, 9], [7, 7, 8, 8, 8], 6),
    ],
)
def test_each_drop_of_the_reflector_excuses_one_probe(drops, boots, excused):
    ledger = _told(drops, boots)
    assert ledger.live[0, COLUMN["dropped_locally"]] == excused
    assert ledger.live[0, COLUMN["lost"]] == 11 - excused


def dark(flows: int) -> tuple[Ledger, np.ndarray]:
    """A ledger whose flows have all lost their first ten probes and are still dark; how many of each were sent."""
    ledger = Ledger(flows)
    for f in range(flows):
        ledger.add(f, f"flow-{f}", 1000, 100 * MS, 3)
    every = np.arange(flows)
    for n in range(10):
        at = np.full(flows, T0 + n * MS)
        ledger.stamp(every, ledger.allocate(every, at), at)
    ledger.settle(T0 + S)
    return ledger, every


def test_outages_that_only_grow_are_told_in_turn():
    ledger, every = dark(3)
    assert [f for f, _ in ledger.drain_outages(open_too=False)] == [0, 1, 2], "what is new at once"
    assert ledger.drain_outages(open_too=False) == [] and ledger.count_open() == 3
    told = []
    for n in range(10, 16):
        at = np.full(3, T0 + n * MS)
        ledger.stamp(every, ledger.allocate(every, at), at)
        ledger.settle(T0 + n * S)
        assert ledger.drain_outages(open_too=False) == []
        told += [(f, o.lost) for f, o in ledger.drain_outages(open_too=True, most=1)]
    assert told == [(0, 11), (1, 12), (2, 13), (0, 14), (1, 15), (2, 16)]


def test_an_outage_that_ends_is_no_longer_open():
    ledger, every = dark(2)
    ledger.drain_outages(open_too=True)
    at = np.full(1, T0 + 2 * S)
    [sequence] = ledger.allocate(every[:1], at)
    ledger.stamp(every[:1], ints(sequence), at)
    ledger.receive(every[:1], ints(sequence), at + MS)
    ledger.settle(T0 + 3 * S)
    assert [(f, o.censored, o.lost) for f, o in ledger.drain_outages(open_too=True)] == [(0, "start", 10)]
    assert ledger.count_open() == 1
    ledger.remove(1)
    assert ledger.count_open() == 0


def test_between_flows_there_is_time_for_other_things():
    calls = []
    ledger, every = dark(50)
    ledger.relieve = lambda: calls.append(1)
    ledger.drain_outages(open_too=True)
    assert len(calls) >= 50
    calls.clear()
    at = np.full(50, T0 + 2 * S)
    ledger.stamp(every, ledger.allocate(every, at), at)
    ledger.settle(T0 + 3 * S)
    assert len(calls) >= 50


# --- the end of a run ------------------------------------------------------------------------------------------------


def test_at_the_end_what_was_answered_behind_an_outage_ends_it():
    flow = OneFlow()
    flow.send(40)
    flow.reply(*range(10), *range(20, 40))
    flow.ledger.settle(flow.sent[19] + 100 * MS)  # the last loss, and not the answer behind it
    assert [(o.lost, o.censored) for o in flow.told()] == [(10, "end")]
    flow.ledger.conclude(flow.sent[19] + 100 * MS)
    assert [(o.lost, o.censored, o.first_ok_seq) for o in flow.told()] == [(10, "no", 20)]
    settled = flow.ledger.settled[0]
    assert [int(settled[COLUMN[name]]) for name in ("sent", "received", "lost")] == [40, 30, 10]


def test_at_the_end_a_probe_that_may_still_be_answered_stays_open_and_what_is_behind_it_too():
    flow = OneFlow()
    flow.send(60)
    flow.reply(*range(10), *range(20, 40), *range(50, 60))
    flow.ledger.conclude(flow.sent[19] + 100 * MS)
    assert [(o.lost, o.censored, o.first_ok_seq) for o in flow.told()] == [(10, "no", 20)]
    fates = flow.ledger.fates(0, np.arange(60)).tolist()
    assert fates == [RECEIVED] * 10 + [LOST] * 10 + [RECEIVED] * 20 + [PENDING] * 10 + [RECEIVED] * 10
    flow.reply(*range(40, 50), after=90 * MS)
    assert flow.count("received") == 50 and flow.count("late") == 0
