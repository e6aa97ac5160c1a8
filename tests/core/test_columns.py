from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core.columns import ColumnLog

KINDS = {"flow": np.int32, "at": np.int64}


def held(log: ColumnLog, most: int = 1000) -> list[tuple[int, int, int]]:
    """(position, flow, at) of every row, oldest first, read piece by piece."""
    rows = []
    for position, piece in log.pieces(log.tail, log.head, most):
        flows, times = (log.columns[name][piece].tolist() for name in KINDS)
        rows += [(position + i, flow, at) for i, (flow, at) in enumerate(zip(flows, times, strict=True))]
    return rows


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_it_holds_the_newest_rows_in_their_order(seed: int) -> None:
    rng = random.Random(seed)
    log = ColumnLog(KINDS, rng.randint(1, 20))
    all_rows: list[tuple[int, int, int]] = []
    kept = 0  # rows before this one were lost when it was made smaller
    for _ in range(40):
        n = rng.randint(0, 30)
        flow = np.array([rng.randrange(5) for _ in range(n)], np.int64)
        at = np.arange(len(all_rows), len(all_rows) + n) * 10
        log.append(flow, at)
        all_rows += [(len(all_rows) + i, int(f), int(t)) for i, (f, t) in enumerate(zip(flow, at, strict=True))]
        kept = max(kept, len(all_rows) - log.rows)
        if rng.random() < 0.2:
            log.resize(rng.randint(1, 40))
            kept = max(kept, len(all_rows) - log.rows)
        assert log.head == len(all_rows) and log.tail == kept
        assert held(log, rng.randint(1, 9)) == all_rows[kept:]
        if log.head > log.tail:
            wanted = np.array(rng.choices(range(log.tail, log.head), k=3))
            assert log.take("at", wanted).tolist() == (wanted * 10).tolist()
        value = rng.randint(-20, 10 * len(all_rows) + 20)
        assert log.first_at("at", value) == min(max(kept, -(-value // 10)), log.head)
