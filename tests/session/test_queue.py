from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.clock import ManualClock
from probe.core.fate import COLUMN
from probe.core.ledger import Ledger
from probe.link.memory import MemoryLink
from probe.session.flows import FlowTable
from probe.session.queue import FAR, SINGLY, Queue
from probe.wire import layout

from .flow import add

MS = 1_000_000
S = 1000 * MS


class Bench:
    """A queue of two ICMP flows on a link in memory."""

    def __init__(self, slots: int = 64):
        self.clock = ManualClock()
        self.table = FlowTable(2, 1600)
        self.ledger = Ledger(2)
        for index in (0, 1):
            add(self.table, index, "icmp", 4, [7 + index])
            self.ledger.add(index, f"f{index}", 1000, 100 * MS, 3)
        self.link = MemoryLink(self.clock, slots=slots, slot_octets=128)
        self.anchor = self.clock.wall - self.clock.mono
        self.queue = Queue(self.link.sender, self.table, self.ledger, self.clock, self.anchor)
        self.t0 = self.clock.mono

    def wait(self, *slots: tuple[int, float]) -> None:
        """(flow, milliseconds from the start) of each slot."""
        self.queue.wait(
            np.array([f for f, _ in slots], np.int64), np.array([self.t0 + round(ms * MS) for _, ms in slots], np.int64)
        )

    def at(self, ms: float) -> int:
        """Move the clock there."""
        self.clock.advance(self.t0 + round(ms * MS) - self.clock.mono)
        return self.clock.mono

    def arrived(self) -> list[tuple[int, int, float]]:
        """(flow, sequence, due in ms as written into the frame) of what has left."""
        out = []
        for _, frame in self.link.arrived():
            view = np.frombuffer(frame, layout.frame_dtype("icmp", 4), 1)[0]
            sent = int(view["sent"]) - self.anchor - self.t0
            out.append((int(view["id"]) - 7, int(view["sequence"]), sent / MS))
        return out

    def stamp(self) -> list[tuple[int, int]]:
        flow, sequence, at, _, _ = self.queue.stamps()
        if len(flow):
            self.ledger.stamp(flow, sequence, at)
        return list(zip(flow.tolist(), sequence.tolist(), strict=True))


def test_a_frame_leaves_when_it_is_due_and_not_before():
    bench = Bench()
    bench.wait((0, 1), (1, 2), (0, 3))
    assert bench.queue.next_due == bench.t0 + MS
    assert bench.queue.send(bench.at(0.99)) == "" and bench.arrived() == []
    assert bench.queue.send(bench.at(2)) == ""
    assert bench.arrived() == [(0, 0, 1.0), (1, 0, 2.0)]
    assert bench.queue.next_due == bench.t0 + 3 * MS
    bench.queue.send(bench.at(4))
    assert bench.arrived() == [(0, 1, 3.0)] and bench.queue.next_due == FAR


@pytest.mark.parametrize("n", [SINGLY, SINGLY + 1, 3 * SINGLY])
def test_tx_times_ascend_and_belong_to_the_frames(n):
    bench = Bench(slots=256)
    bench.wait(*((k % 2, 1 + k / 1000) for k in range(n)))
    bench.queue.send(bench.at(9))
    flow, sequence, at, due, _ = bench.queue.stamps()
    assert len(bench.arrived()) == len(flow) == n
    assert (np.diff(at) >= 0).all() and (at >= due).all()
    assert sequence.tolist() == [k // 2 for k in range(n)]
    assert [len(column) for column in bench.queue.stamps()[:4]] == [0, 0, 0, 0]


def test_what_the_link_refuses_is_given_up_and_its_number_used_again():
    bench = Bench()
    bench.wait((0, 1), (0, 2), (0, 3), (0, 9))
    bench.queue.send(bench.at(1))
    bench.link.sender.fail_next(0, "link_down")
    assert bench.queue.send(bench.at(3)) == "link_down"
    flow, due = bench.queue.give_up(bench.at(3))
    assert flow.tolist() == [0, 0] and due.tolist() == [bench.t0 + 2 * MS, bench.t0 + 3 * MS]
    bench.queue.send(bench.at(9))
    assert bench.arrived() == [(0, 0, 1.0), (0, 1, 9.0)]
    assert bench.stamp() == [(0, 0), (0, 1)]
    assert bench.ledger.live[0, COLUMN["sent"]] == bench.ledger.next_seq[0] == 2


def test_a_batch_that_fails_half_way():
    bench = Bench(slots=256)
    bench.wait(*((0, 1 + k / 1000) for k in range(2 * SINGLY)))
    bench.link.sender.fail_next(5, "send_error")
    assert bench.queue.send(bench.at(3)) == "send_error"
    flow, _ = bench.queue.give_up(bench.at(3))
    assert len(flow) == 2 * SINGLY - 5
    assert bench.stamp() == [(0, k) for k in range(5)] and bench.ledger.next_seq[0] == 5


def test_recalling_takes_everything_back_that_has_not_left():
    bench = Bench()
    bench.wait((0, 1), (1, 2))
    bench.wait((0, 3), (1, 4))
    bench.queue.send(bench.at(1))
    flow, due = bench.queue.recall()
    assert flow.tolist() == [1, 0, 1] and due.tolist() == [bench.t0 + n * MS for n in (2, 3, 4)]
    assert bench.queue.next_due == FAR and not bench.queue.holds(1)
    assert bench.stamp() == [(0, 0)] and bench.ledger.next_seq.tolist() == [1, 0]
    bench.queue.wait(flow, due)
    bench.queue.send(bench.at(5))
    assert bench.arrived() == [(0, 0, 1.0), (1, 0, 2.0), (0, 1, 3.0), (1, 1, 4.0)]


def test_slots_of_a_flow_that_has_just_begun_are_put_in_their_place():
    bench = Bench()
    bench.wait((0, 1), (0, 2), (0, 4))  # written
    bench.wait((0, 6))  # waiting
    bench.wait((1, 3), (1, 5), (1, 7))
    seen = []
    for ms in range(1, 8):
        bench.queue.send(bench.at(ms))
        seen += [(flow, due) for flow, _, due in bench.arrived()]
    assert seen == [(0, 1.0), (0, 2.0), (1, 3.0), (0, 4.0), (1, 5.0), (0, 6.0), (1, 7.0)]


def test_a_queue_longer_than_the_link_has_slots():
    bench = Bench(slots=8)
    bench.wait(*((0, n) for n in range(1, 31)))
    assert bench.queue.holds(0) and not bench.queue.holds(1)
    for ms in range(1, 31):
        while bench.queue.next_due <= bench.at(ms):
            assert bench.queue.send(bench.clock.mono) == ""
    assert bench.arrived() == [(0, n - 1, float(n)) for n in range(1, 31)]
    assert not bench.queue.holds(0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_every_slot_leaves_once_or_is_given_back(seed):
    """Whatever fails: sequences stay gapless per flow, and what the ledger is told is what has left."""
    rng = random.Random(seed)
    bench = Bench(slots=rng.choice([4, 16, 256]))
    given_back, waited, told, left = 0, 0, [], []
    now = 0.0
    for _ in range(60):
        now += rng.random() * 3
        slots = sorted((rng.randrange(2), now + 5 + rng.random() * 3) for _ in range(rng.randint(0, 5)))
        if slots:
            bench.wait(*sorted(slots, key=lambda s: s[1]))
            waited += len(slots)
        if rng.random() < 0.1:
            bench.link.sender.fail_next(rng.randrange(3), "send_error")
        error = bench.queue.send(bench.at(now))
        if error:
            given_back += len(bench.queue.give_up(bench.clock.mono)[0])
        elif rng.random() < 0.1:
            bench.queue.wait(*bench.queue.recall())
        if rng.random() < 0.5:
            told += bench.stamp()
        left += bench.arrived()
    flow, _ = bench.queue.recall()
    told += bench.stamp()
    assert told == [(f, s) for f, s, _ in left]
    assert len(left) + given_back + len(flow) == waited
    for index in (0, 1):
        assert [s for f, s in told if f == index] == list(range(int(bench.ledger.next_seq[index])))
    assert all(a[2] <= b[2] for a, b in pairwise(left))


def test_in_the_middle_of_other_work_what_is_due_leaves_but_for_the_last():
    bench = Bench()
    bench.wait((0, 1), (1, 2), (0, 3), (1, 4))
    bench.at(2.5)
    bench.queue.relieve(5 * MS)
    assert [(f, s) for f, s, _ in bench.arrived()] == [(0, 0), (1, 0)]
    bench.at(9)
    bench.queue.relieve(5 * MS)
    assert bench.arrived() == [], "a slot that was missed is for the loop to judge"
    bench.queue.relieve(20 * MS)
    assert [(f, s) for f, s, _ in bench.arrived()] == [(0, 1)]
    assert bench.queue.next_due == bench.t0 + 4 * MS
    assert bench.queue.send(bench.clock.mono) == "" and [(f, s) for f, s, _ in bench.arrived()] == [(1, 1)]
    assert bench.stamp() == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_in_the_middle_of_other_work_many_leave_together_once_the_oldest_has_waited():
    bench = Bench()
    bench.wait(*((0, n / 10) for n in range(30)))
    bench.at(0.95)
    bench.queue.relieve(5 * MS, MS)
    assert bench.arrived() == [], "each call costs as much as several frames"
    bench.at(1.05)
    bench.queue.relieve(5 * MS, MS)
    assert [s for _, s, _ in bench.arrived()] == list(range(11))
    assert bench.queue.next_due == bench.t0 + 11 * MS // 10
    bench.at(4)
    bench.queue.relieve(5 * MS, MS)
    assert [s for _, s, _ in bench.arrived()] == list(range(11, 29)), "but for the last, behind which more is written"


def test_at_its_pace_each_leaves_at_its_time_until_something_else_is_to_be_done():
    bench = Bench()
    bench.wait((0, 1), (1, 2), (0, 3), (1, 4))
    bench.queue.pace(bench.t0 + round(2.5 * MS), 5 * MS)
    assert bench.clock.mono == bench.t0 + 2 * MS
    assert [round(ms, 3) for _, _, ms in bench.arrived()] == [1, 2]
    bench.queue.pace(bench.t0 + 9 * MS, 5 * MS)
    assert [round(ms, 3) for _, _, ms in bench.arrived()] == [3], "the last is left to `send`, which writes more"
    flow, sequence, at, due, _ = bench.queue.stamps()
    assert (flow.tolist(), sequence.tolist()) == ([0, 1, 0], [0, 0, 1]) and (at == due).all()


def test_several_share_a_wake_up_where_that_will_do():
    bench = Bench()
    bench.wait(*[(0, n / 10) for n in range(1, 40)])
    bench.queue.pace_together(bench.t0 + 3 * MS, 5 * MS, MS)
    _, sequence, at, due, _ = bench.queue.stamps()
    assert sequence.tolist() == list(range(21))  # at 0.1, 1.1 and 2.1 ms; 3.1 is for another turn
    assert sorted(set(((at - bench.t0) / MS).round(1).tolist())) == [0.1, 1.1, 2.1]
    assert (at >= due).all()
    bench.queue.pace_together(bench.t0 + 30 * MS, 5 * MS, MS)
    assert bench.queue.next_due == bench.t0 + round(3.9 * MS), "the last is left to `send`, which writes more"


def test_the_last_breath_before_something_else_is_slept_through():
    bench = Bench()
    bench.wait(*[(0, n / 10) for n in range(1, 40)])
    bench.queue.pace_together(bench.t0 + round(2.5 * MS), 5 * MS, MS)
    assert bench.clock.mono == bench.t0 + round(2.5 * MS), "or the caller would be back at once, and again"
    at = bench.queue.stamps().at
    assert sorted(set(((at - bench.t0) / MS).round(1).tolist())) == [0.1, 1.1, 2.1]
    bench.queue.send(bench.clock.mono)
    bench.queue.pace_together(bench.t0 + 30 * MS, 5 * MS, MS)
    at = bench.queue.stamps().at
    assert sorted(set(((at - bench.t0) / MS).round(1).tolist())) == [2.5, 3.5, 4.5], "a breath after `send` as well"


def test_frames_that_share_a_call_share_its_time():
    bench = Bench()
    bench.wait(*[(0, n / 100) for n in range(40)])
    bench.at(1)
    before = bench.clock.mono
    assert bench.queue.send(before) == ""
    at = bench.queue.stamps().at
    assert len(at) == 40 and (at == before).all()  # no time passes in a link in memory


class SlowLink(Bench):
    """Each call takes some time."""

    def __init__(self, takes_ns: int):
        super().__init__()
        send = self.link.sender.send

        def slow(count, lengths, together=0):
            before = self.clock.mono
            result = send(count, lengths, together)
            self.clock.advance(takes_ns)
            return result._replace(calls=[(count, before, self.clock.mono, 2000)])

        self.link.sender.send = slow


@pytest.mark.parametrize(("takes", "later"), [(5_000, 0), (20_000, 0), (3 * MS, 3 * MS - 20_000), (9 * S, 2**32 - 1)])
def test_a_call_of_its_own_says_when_a_frame_left_unless_it_was_interrupted(takes, later):
    bench = SlowLink(takes)
    bench.wait((0, 1), (1, 2))
    bench.queue.send(bench.at(1))
    stamps = bench.queue.stamps()
    assert stamps.at.tolist() == [bench.t0 + MS]
    assert (stamps.error.earlier.tolist(), stamps.error.later.tolist()) == ([0], [later])


@pytest.mark.parametrize("takes", [2_000, 40_000, 4 * MS])
def test_frames_of_one_call_may_have_left_at_any_time_in_it(takes):
    bench = SlowLink(takes)
    bench.wait(*[(0, n / 100) for n in range(40)])
    before = bench.at(1)
    bench.queue.send(before)
    _, _, at, _, (earlier, later) = bench.queue.stamps()
    assert len(at) == 40
    assert (at - earlier == before).all() and (at + later == before + takes).all()


def test_a_pace_too_fast_for_sleep_is_kept_awake():
    bench = Bench()
    waited: list[int] = []
    bench.clock.spin_until = lambda at: (waited.append(at), bench.clock.advance(at - bench.clock.mono))
    bench.clock.sleep_until = lambda at: pytest.fail("slept")
    bench.wait(*[(0, n / 50) for n in range(1, 21)])
    bench.queue.pace(bench.t0 + MS, 5 * MS, spin=True)
    stamps = bench.queue.stamps()
    assert len(stamps.at) == 19 and (stamps.at == stamps.due).all() and waited[:19] == stamps.at.tolist()
