"""Keystrokes and echoes by hand: when a stall begins and ends, and what counts as late or lost."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probe.core.events import COUNT_NAMES, Counts
from probe.core.fate import COLUMN, COLUMNS
from probe.core.stream import PATIENCE_NS, StreamAccount, TcpInfo

MS = 1_000_000
S = 1000 * MS
RTT = 10 * MS
PATIENCE = PATIENCE_NS + 2 * RTT
THRESHOLD = 2 * S


def stream() -> StreamAccount:
    account = StreamAccount(3, THRESHOLD, np.zeros(COLUMNS, np.int64))
    account.connected(S, RTT)
    return account


def counts(row) -> Counts:
    found = Counts(**{name: int(row[COLUMN[name]]) for name in COUNT_NAMES})
    found.pending = found.sent - found.received - found.late - found.lost
    return found


def info(*, rto: int = 200 * MS, backoff: int = 0, total: int = 0, acked: int = 0) -> TcpInfo:
    return TcpInfo(rto, backoff, total, acked)


def test_what_comes_back_in_its_usual_time_is_no_stall() -> None:
    account = stream()
    for k in range(5):
        at = (2 + k) * S
        account.written(at, 36)
        account.poll(at + PATIENCE)
        assert account.echoed(at + PATIENCE) == PATIENCE
        account.usual_ns = RTT
    assert account.drain() == []
    assert (account.live[COLUMN["received"]], account.waiting) == (5, 0)


def test_a_stall_lasts_from_the_first_keystroke_that_waited_to_its_echo() -> None:
    account = stream()
    for k in range(4):
        account.written(2 * S + k * 100 * MS, 36)
    account.poll(2 * S + PATIENCE)
    assert not account.stalled
    account.poll(2 * S + PATIENCE + 1)
    assert account.stalled
    account.written(2 * S + 400 * MS, 36)
    for k in range(5):
        account.echoed(3 * S + k)
    (stall,) = account.drain()
    assert (stall.start, stall.end, stall.caught_up, stall.first_seq) == (2 * S, 3 * S, 3 * S + 4, 0)
    assert stall.waiting_max == 5


def test_a_stall_that_nobody_looked_at_in_time_is_found_when_the_echo_comes() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.echoed(3 * S)
    (stall,) = account.drain()
    assert (stall.start, stall.end) == (2 * S, 3 * S)


def test_time_is_counted_from_the_last_sign_of_life() -> None:
    """The head of what waited comes back, the rest does not: frozen again, from there on."""
    account = stream()
    account.written(2 * S, 36)
    account.written(2 * S + 1, 36)
    account.echoed(3 * S)
    account.poll(3 * S + PATIENCE)
    assert not account.stalled
    account.echoed(4 * S)
    first, second = account.drain()
    assert (first.start, first.end, second.start, second.end) == (2 * S, 3 * S, 3 * S, 4 * S)


def test_a_retransmission_belongs_to_the_stall_it_lies_in() -> None:
    account = stream()
    account.retransmitted(1500 * MS)
    account.written(2 * S, 36)
    account.retransmitted(2 * S + 100 * MS)  # before it shows that there is a stall
    account.poll(2 * S + 300 * MS)
    account.retransmitted(2 * S + 400 * MS)
    account.echoed(3 * S)
    account.retransmitted(3 * S - 1)  # its stamp was read after the echo
    account.retransmitted(3 * S + 1)
    stall = account.drain()[-1]
    assert stall.retransmitted == [2 * S + 100 * MS, 2 * S + 400 * MS, 3 * S - 1]
    assert stall.retransmissions == 3
    assert account.retransmissions == 5


def test_where_no_driver_stamps_the_count_of_tcp_info_is_taken() -> None:
    account = stream()
    account.sampled(info(total=2))
    account.written(2 * S, 36)
    account.poll(3 * S)
    account.sampled(info(total=5, rto=1600 * MS, backoff=3))
    account.sampled(info(total=5, rto=800 * MS, backoff=2))
    (stall,) = account.drain()
    assert (stall.retransmissions, stall.retransmitted) == (3, [])
    assert (stall.rto_max_ns, stall.backoff_max, stall.unacked_max) == (1600 * MS, 3, 36)
    assert account.retransmissions == 5


def test_the_next_try_is_one_timeout_after_the_last() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.poll(3 * S)
    assert account.next_try_ns() == 0
    account.retransmitted(3 * S)
    account.sampled(info(rto=1600 * MS))
    assert account.next_try_ns() == 3 * S + 1600 * MS


def test_what_waits_longer_than_the_threshold_is_late_and_not_lost() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.written(3 * S, 36)
    account.settle(2 * S + THRESHOLD, 2 * S)
    assert counts(account.live) == Counts(scheduled=2, sent=2, late=1, pending=1)
    assert counts(account.settled) == Counts(scheduled=1, sent=1, late=1)
    assert account.echoed(9 * S) is None
    assert account.echoed(9 * S) is None
    account.settle(12 * S, 10 * S)
    assert counts(account.live) == counts(account.settled) == Counts(scheduled=2, sent=2, late=2)


def test_when_the_connection_dies_what_never_came_back_is_lost() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.written(3 * S, 36)
    account.settle(4 * S, 2 * S)  # the first counts as late by now
    account.ended(4 * S)
    (stall,) = account.drain()
    assert (stall.start, stall.end, stall.over) == (2 * S, 0, 4 * S)
    assert not account.stalled
    lost = Counts(scheduled=2, sent=2, lost=2, lost_unattributed=2)
    assert counts(account.live) == lost
    (correction,) = account.drain_corrections()
    assert (correction.flow, correction.at, correction.fro, correction.to) == (3, 2 * S, "late", "lost_unattributed")
    account.settle(9 * S, 8 * S)
    assert counts(account.settled) == lost


def test_a_full_send_buffer_loses_nothing() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.unsent(2 * S + 1)
    account.settle(9 * S, 8 * S)
    assert counts(account.settled) == Counts(scheduled=2, sent=1, unsent=1, late=1)


def test_a_new_connection_begins_with_a_clean_slate() -> None:
    account = stream()
    account.written(2 * S, 36)
    account.retransmitted(2 * S + 1)
    account.ended(4 * S)
    account.connected(5 * S, RTT)
    assert account.quiet_since() == 0
    account.written(6 * S, 36)
    account.poll(6 * S + PATIENCE)
    account.echoed(6 * S + RTT)
    assert [stall.id for stall in account.drain()] == [1]


@given(st.lists(st.tuples(st.sampled_from(["write", "unsent", "echo", "poll", "settle", "end"]), st.integers(0, 3))))
def test_every_law_holds_whatever_happens(steps: list[tuple[str, int]]) -> None:
    account, now, told = stream(), 2 * S, {}
    for what, seconds in steps:
        now += seconds * S + 1
        if what == "write":
            account.written(now, 36)
        elif what == "unsent":
            account.unsent(now)
        elif what == "echo" and account.waiting:
            account.echoed(now)
        elif what == "poll":
            account.poll(now)
        elif what == "settle":
            account.settle(now, now - THRESHOLD)
        elif what == "end":
            account.ended(now)
            account.connected(now, RTT)
        told |= {stall.id: stall for stall in account.drain()}
        for row in (account.live, account.settled):
            assert counts(row).broken_laws() == []
    account.settle(now + 9 * S, now + 9 * S)
    assert counts(account.settled) == counts(account.live)
    assert counts(account.live).pending == 0
    closed = [stall for stall in told.values() if stall.end]
    assert all(stall.end - stall.start > PATIENCE_NS for stall in closed)
    assert all(one.end <= other.start for one, other in itertools.pairwise(closed))
