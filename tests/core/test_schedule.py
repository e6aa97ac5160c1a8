from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core.schedule import Due, Schedule

MS = 1_000_000
T0 = 10**12


def taken(schedule: Schedule, until: int, limit: int = 1 << 30) -> list[tuple[int, int]]:
    due = schedule.take(until, limit)
    return list(zip(due.flow.tolist(), due.at_ns.tolist(), strict=True))


def test_slots_are_where_the_formula_says():
    schedule = Schedule(3)
    schedule.start(1, T0 + 5, 7)
    assert taken(schedule, T0 + 5 + 7 * 1000) == [(1, T0 + 5 + 7 * k) for k in range(1000)]
    # Before, not at: the next slot is due exactly then.
    assert schedule.next_ns(T0) == T0 + 5 + 7000


def test_nothing_is_due_without_flows():
    schedule = Schedule(3)
    assert schedule.next_ns(T0) is None and taken(schedule, T0) == []
    assert schedule.total_rate() == 0.0


def test_a_limit_ends_a_flow_by_itself():
    schedule = Schedule(2)
    schedule.start(0, T0, MS, limit=3)
    assert schedule.active(0)
    assert taken(schedule, T0 + 10 * MS, limit=2) == [(0, T0), (0, T0 + MS)]
    assert schedule.active(0)
    assert taken(schedule, T0 + 10 * MS) == [(0, T0 + 2 * MS)]
    assert not schedule.active(0) and schedule.next_ns(T0 + 10 * MS) is None


def test_no_slots_at_all():
    schedule = Schedule(2)
    schedule.start(0, T0, MS, limit=0)
    assert not schedule.active(0) and schedule.next_ns(T0) is None and taken(schedule, T0 + MS) == []


def test_stopping_takes_back_what_is_laid_out():
    schedule = Schedule(2)
    schedule.start(0, T0, MS)
    schedule.start(1, T0, MS)
    taken(schedule, T0 + 3 * MS)
    schedule.stop(0)
    assert not schedule.active(0)
    assert {flow for flow, _ in taken(schedule, T0 + 100 * MS)} == {1}


def test_a_flow_that_starts_between_laid_out_slots_is_merged():
    schedule = Schedule(2, horizon_ns=50 * MS)
    schedule.start(0, T0, 10 * MS)
    taken(schedule, T0 + MS)
    schedule.start(1, T0 + 15 * MS, 10 * MS)
    expected = [(k % 2, T0 + (10 + 5 * k) * MS) for k in range(12)]
    assert taken(schedule, T0 + 70 * MS) == expected


def test_a_fast_flow_beside_a_slow_one_is_not_laid_out_as_far_ahead():
    schedule = Schedule(2)
    schedule.start(0, T0 + 900_000 * MS, 1_000_000 * MS, limit=2)
    assert schedule.next_ns(T0) == T0 + 900_000 * MS
    schedule.start(1, T0 + MS, MS)
    assert len(schedule._at) < 100
    assert taken(schedule, T0 + 5 * MS) == [(1, T0 + k * MS) for k in range(1, 5)]
    rest = taken(schedule, T0 + 2_000_000 * MS)
    assert [at for flow, at in rest if flow == 0] == [T0 + 900_000 * MS, T0 + 1_900_000 * MS]
    assert len(rest) == 2_000_000 - 5 + 2
    assert not schedule.active(0)


def test_missed_is_older_than_the_tolerance_and_the_interval():
    schedule = Schedule(2)
    schedule.start(0, T0, MS)
    schedule.start(1, T0, 100 * MS)
    due = Due(np.array([0, 0, 1, 1]), np.array([T0, T0 + MS, T0, T0 - MS]))
    assert schedule.missed(due, T0 + 5 * MS + 1, 5 * MS).tolist() == [True, False, False, False]
    assert schedule.missed(due, T0 + 100 * MS, 5 * MS).tolist() == [True, True, False, True]
    assert schedule.missed(due, T0 + 5 * MS, MS).tolist() == [True, True, False, False]


def test_the_rate_is_that_of_the_active_flows():
    schedule = Schedule(3)
    schedule.start(0, T0, MS)
    schedule.start(1, T0, 10 * MS)
    assert schedule.total_rate() == pytest.approx(1100)
    assert schedule.interval_ns(1) == 10 * MS
    schedule.stop(0)
    assert schedule.total_rate() == pytest.approx(100)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_every_slot_is_handed_out_once_and_in_order(seed):
    """Whatever starts, stops and is asked for in between."""
    rng = random.Random(seed)
    schedule = Schedule(4, horizon_ns=rng.choice([1, MS, 20 * MS]))
    now = T0
    begun: dict[int, tuple[int, int, int | None]] = {}
    expected: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []

    def close(flow: int) -> None:
        first, interval, limit = begun.pop(flow)
        n = max(0, -(-(now - first) // interval))
        expected.extend((flow, first + k * interval) for k in range(n if limit is None else min(n, limit)))

    for _ in range(40):
        action = rng.random()
        free = [f for f in range(4) if f not in begun]
        if action < 0.2 and free:
            flow, interval = rng.choice(free), rng.choice([MS, 3 * MS, 7 * MS + 1])
            begun[flow] = (now + rng.randrange(interval), interval, rng.choice([None, None, 5]))
            schedule.start(flow, *begun[flow])
        elif action < 0.3 and begun:
            flow = rng.choice(sorted(begun))
            close(flow)
            schedule.stop(flow)
        else:
            now += rng.randrange(1, 15 * MS)
            limit = rng.choice([3, 1000])
            while part := taken(schedule, now, limit):
                assert [at for _, at in part] == sorted(at for _, at in part)
                got += part
    for flow in list(begun):
        close(flow)
    assert sorted(got) == sorted(expected)
    assert [at for _, at in got] == sorted(at for _, at in got)
