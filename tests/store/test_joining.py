"""The join against a dictionary: what was sent, what came back, what became of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core.fate import DROPPED, LATE, LOST, LOST_FORWARD, LOST_REVERSE, PENDING, RECEIVED
from probe.spool import END_BLOCK, FATE_BLOCK, KINDS, REPLY_BLOCK, SENT_BLOCK, pack
from probe.store import joining
from probe.store.joining import Spool

THRESHOLD = 1000


def block(kind: int, rows: list[tuple[int, ...]]) -> bytes:
    columns = zip(*rows, strict=True)
    named = {name: np.array(c, dtype) for (name, dtype), c in zip(KINDS[kind].items(), columns, strict=True)}
    return b"".join(pack(kind, named))


END = b"".join(pack(END_BLOCK, {}))


def rows_of(spool: Spool) -> dict[tuple[int, int], tuple[int, ...]]:
    """(due, sent, earlier, later, arrived, received there, replied there, ttl, fate) by (flow, sequence)."""
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    for part in spool.joined():
        columns = [part.flow, part.sequence, part.due, part.sent, part.earlier, part.later, part.arrived]
        columns += [part.received_there, part.replied_there, part.ttl, part.fate]
        for row in zip(*(column.tolist() for column in columns), strict=True):
            assert row[:2] not in found
            found[row[:2]] = row[2:]
    return found


def test_a_run_takes_its_direction_but_for_those_that_have_one() -> None:
    sent = block(SENT_BLOCK, [(0, s, 10 * s, 10 * s, 0, 0) for s in range(10)])
    settled = [(0, s, s, PENDING, LOST_REVERSE if s == 4 else LOST) for s in range(2, 8)]
    changes = block(FATE_BLOCK, [*settled, (0, 2, 7, LOST, LOST_FORWARD), (0, 3, 3, LOST_FORWARD, LOST)])
    found = rows_of(Spool(sent + changes + END, [THRESHOLD]))
    fates = [found[0, s][-1] for s in range(10)]
    f, r = LOST_FORWARD, LOST_REVERSE
    assert fates == [PENDING, PENDING, f, LOST, r, f, f, f, PENDING, PENDING]


def test_a_reply_decides_whatever_was_thought_before() -> None:
    sent = block(SENT_BLOCK, [(0, s, s, s, 0, 0) for s in range(3)])
    changes = block(FATE_BLOCK, [(0, s, s, PENDING, LOST) for s in range(3)])
    replies = block(REPLY_BLOCK, [(0, 1, 1 + THRESHOLD, 0, 0, 60), (0, 2, 3 + THRESHOLD, 0, 0, 60)])
    found = rows_of(Spool(sent + changes + replies, [THRESHOLD]))
    assert [found[0, s][-1] for s in range(3)] == [LOST, RECEIVED, LATE]


def test_a_spool_without_its_end_is_not_whole() -> None:
    sent = block(SENT_BLOCK, [(0, 0, 1, 1, 0, 0)])
    assert Spool(sent + END, [THRESHOLD]).whole
    torn = Spool(sent + sent[:-1], [THRESHOLD])
    assert not torn.whole and torn.rows == 1
    empty = Spool(b"", [THRESHOLD])
    assert not empty.whole and list(empty.joined()) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_every_probe_has_one_row_with_all_that_is_known_of_it(seed: int) -> None:
    rng = random.Random(seed)
    flows = rng.randint(1, 4)
    truth: dict[tuple[int, int], list[int]] = {}
    waiting: list[tuple[int, ...]] = []  # replies on their way
    following = [0] * flows
    data = b""
    now = 10**6
    for _ in range(rng.randint(1, 40)):
        rows, changes = [], []
        for _ in range(rng.randint(1, 30)):
            flow = rng.randrange(flows)
            sequence, now = following[flow], now + rng.randint(1, 50)
            following[flow] += 1
            error = rng.randrange(1 << 32), rng.randrange(9)
            rows.append((flow, sequence, now, now - 3, *error))
            truth[flow, sequence] = [now - 3, now, *error, 0, 0, 0, 0, PENDING]
            if rng.random() < 0.7:
                delay = rng.choice([-2, 10, THRESHOLD, THRESHOLD + 1, 20 * THRESHOLD])
                waiting.append((flow, sequence, now + delay, rng.randrange(9), rng.randrange(9), rng.randrange(256)))
        data += block(SENT_BLOCK, rows)
        for key in rng.sample(sorted(truth), min(len(truth), 5)):
            fate = truth[key][-1]
            if fate not in (RECEIVED, LATE):
                to = rng.choice([LOST, LOST_FORWARD, LOST_REVERSE, DROPPED])
                changes += [(*key, key[1], fate, to), (*key, key[1], to, LOST)] if rng.random() < 0.3 else []
                changes.append((*key, key[1], LOST if changes and changes[-1][:2] == key else fate, to))
                truth[key][-1] = to
        if changes:
            data += block(FATE_BLOCK, changes)
        rng.shuffle(waiting)
        cut = rng.randint(0, len(waiting))
        back, waiting = waiting[:cut], waiting[cut:]
        if back:
            data += block(REPLY_BLOCK, back)
        for flow, sequence, at, *rest in back:
            row = truth[flow, sequence]
            row[4:8] = [max(at, row[1]), *rest]
            row[8] = RECEIVED if at - row[1] <= THRESHOLD else LATE
        for key in [(f, s) for f, s, *_ in back]:
            assert truth[key][-1] in (RECEIVED, LATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "STRETCH_ROWS", rng.choice([1, 40, 10**6]))
        patch.setattr(joining, "PART_ROWS", rng.choice([1, 25, 10**6]))
        spool = Spool(data + END, [THRESHOLD] * flows)
        assert spool.rows == len(truth)
        assert rows_of(spool) == {key: tuple(row) for key, row in truth.items()}
