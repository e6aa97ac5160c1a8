from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core import evidence as module
from probe.core.evidence import FEWEST_ROWS, MOST_OCTETS, ROW_OCTETS, Evidence, edges
from probe.core.fate import EMPTY, LATE, LOST, RECEIVED

from .network import exact

MS = 1_000_000
T0 = 10**12


def ints(values) -> np.ndarray:
    return np.array(list(values), np.int64)


def test_edges_of_an_outage_whose_probes_stand_in_a_row():
    start, end = edges(99, 100, 199, 200, n=3)
    assert start.tolist() == [97, 98, 99, 100, 101, 102] and end.tolist() == [197, 198, 199, 200, 201, 202]


def test_edges_of_a_short_one_are_told_once():
    start, end = edges(9, 10, 12, 13, n=4)
    assert start.tolist() == [6, 7, 8, 9, 10, 11, 12, 13] and end.tolist() == [14, 15, 16]


def test_edges_far_from_the_last_that_passed():
    """Probes between them said nothing of the outage's direction."""
    start, end = edges(50, 100, 199, 300, n=2)
    assert start.tolist() == [49, 50, 100, 101] and end.tolist() == [198, 199, 300, 301]


def test_edges_at_the_very_beginning_and_of_an_open_outage():
    start, end = edges(-1, 0, n=3)
    assert start.tolist() == [0, 1, 2] and end.tolist() == []


def test_its_size_follows_the_rate_within_its_bound():
    evidence = Evidence()
    assert evidence.sent_log.rows == FEWEST_ROWS
    evidence.expect(100_000, 2.0)
    assert evidence.sent_log.rows == evidence.reply_log.rows == 600_000 + FEWEST_ROWS
    evidence.expect(1000, 2.0)  # a flow was removed: what is held stays held
    assert evidence.sent_log.rows == 600_000 + FEWEST_ROWS
    evidence.expect(2_000_000, 60.0)
    octets = sum(c.nbytes for log in (evidence.sent_log, evidence.reply_log) for c in log.columns.values())
    assert MOST_OCTETS - ROW_OCTETS < octets <= MOST_OCTETS


def test_another_flow_of_the_same_index_inherits_nothing():
    evidence = Evidence()
    one = ints([1])
    for _ in range(2):
        evidence.sent(one, ints([7]), ints([T0]), ints([T0]), exact(1))
        evidence.received(
            one, ints([7]), ints([T0 + 5]), np.array([1], np.uint64), np.array([2], np.uint64), ints([60])
        )
        got = evidence.records(1, ints([7]), T0, lambda flow, seq: np.full(len(seq), RECEIVED, np.uint8))
        assert got["arrived"].tolist() == [T0 + 5]
        evidence.forget(1)
        assert not len(evidence.records(1, ints([7]), T0, lambda flow, seq: np.full(len(seq), RECEIVED, np.uint8)))


def test_an_arrival_never_lies_before_its_probe():
    evidence = Evidence()
    evidence.sent(ints([0]), ints([0]), ints([T0]), ints([T0]), exact(1))
    evidence.received(ints([0]), ints([0]), ints([T0 - 500]), *(np.zeros(1, np.uint64),) * 2, ints([64]))
    [record] = evidence.records(0, ints([0]), T0, lambda flow, seq: np.full(len(seq), RECEIVED, np.uint8))
    assert record["arrived"] == record["sent"] == T0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_what_is_held_is_found_as_it_was(seed):
    """Several flows, batches out of order among links, replies out of order, logs that wrap: against a dictionary."""
    rng = random.Random(seed)
    flows = rng.randint(1, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEWEST_ROWS", rng.choice([200, 5000]))
        patch.setattr(module, "PIECE", rng.choice([7, 64, 1 << 14]))
        evidence = Evidence()
    truth: list[tuple[int, int, int]] = []  # (flow, sequence, sent), as told
    replies: list[tuple[int, int, int]] = []
    fates: dict[tuple[int, int], int] = {}
    following = [0] * flows
    now = T0
    for _ in range(60):
        batch = []
        for flow in rng.sample(range(flows), flows):  # one link after the other
            times = sorted(now + rng.randrange(20 * MS) for _ in range(rng.randint(0, 6)))
            for at in times:
                batch.append((flow, following[flow], at))
                following[flow] += 1
        now += 20 * MS
        if batch:
            columns = [ints(column) for column in zip(*batch, strict=True)]
            evidence.sent(*columns, columns[2], exact(len(batch)))
        truth += batch
        back = []
        for flow, sequence, at in batch:
            fates[flow, sequence] = rng.choice([RECEIVED, RECEIVED, LATE, LOST, EMPTY])
            if fates[flow, sequence] in (RECEIVED, LATE):
                back.append((flow, sequence, at + rng.randrange(20 * MS)))
        rng.shuffle(back)
        if back:
            there = np.array([sequence + 1 for _, sequence, _ in back], np.uint64)
            evidence.received(*(ints(column) for column in zip(*back, strict=True)), there, there + there, there)
        replies += back
    rows = evidence.sent_log.rows
    sent_at = {(f, s): at for f, s, at in truth[-rows:]}
    back_at = {(f, s): at for f, s, at in replies[-rows:]}
    for _ in range(10):
        flow = rng.randrange(flows)
        first = rng.randrange(-3, following[flow] + 3)
        wanted = ints(sorted(rng.sample(range(max(first, 0), max(first, 0) + 30), rng.randint(1, 16))))
        known = [s for s in wanted.tolist() if (flow, s) in fates]
        near = min((at for f, s, at in truth if f == flow and s in known), default=now) - rng.randrange(50 * MS)
        got = evidence.records(
            flow, wanted, near, lambda f, seq: np.array([fates.get((f, s), EMPTY) for s in seq.tolist()], np.uint8)
        )
        expected = [s for s in wanted.tolist() if (flow, s) in sent_at and fates[flow, s] != EMPTY]
        assert got["sequence"].tolist() == expected
        for record in got:
            key = (flow, int(record["sequence"]))
            assert record["sent"] == sent_at[key] and record["fate"] == fates[key]
            assert record["arrived"] == back_at.get(key, 0)
            there = key[1] + 1 if key in back_at else 0
            assert (record["received_there"], record["replied_there"], record["ttl"]) == (there, 2 * there, there % 256)
