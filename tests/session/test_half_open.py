"""When the connections of unanswered SYNs are closed, on paper."""

from __future__ import annotations

import numpy as np

from probe.session.half_open import HalfOpen

MS = 1_000_000


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class Bench:
    def __init__(self, flows: int = 2):
        self.answered: set[tuple[int, int]] = set()
        self.last_answered_at = np.zeros(flows, np.int64)
        self.half_open = HalfOpen(self._unanswered, self.last_answered_at)

    def _unanswered(self, flow: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        return np.array([pair not in self.answered for pair in zip(flow.tolist(), sequence.tolist(), strict=True)])

    def answer(self, flow: int, sequence: int, sent_at: int) -> None:
        self.answered.add((flow, sequence))
        self.last_answered_at[flow] = max(self.last_answered_at[flow], sent_at)

    def closed(self, at_ms: int) -> list[tuple[int, int]]:
        found = self.half_open.overdue(at_ms * MS)
        return [pair for flow, sequence in found for pair in zip(flow.tolist(), sequence.tolist(), strict=True)]


def test_only_the_unanswered_and_before_the_peer_repeats_itself():
    bench = Bench()
    bench.half_open.sent(ints(0, 1, 0), ints(0, 0, 1), ints(100, 100, 110) * MS)
    bench.answer(0, 0, 100 * MS)
    bench.answer(1, 0, 100 * MS)
    assert bench.closed(999) == []
    assert bench.closed(1000) == [(0, 1)]
    assert bench.closed(1050) == []


def test_again_before_each_repetition_as_the_first_may_have_met_darkness():
    bench = Bench(1)
    bench.answer(0, 0, 100 * MS)
    bench.half_open.sent(ints(0, 0), ints(0, 1), ints(100, 200) * MS)
    closed = [(at, pair) for at in range(200, 40_000, 10) for pair in bench.closed(at)]
    # The two are looked at together, from the time of the first on.
    assert closed == [(at, (0, 1)) for at in (1000, 3000, 7000, 15_000, 31_000)]


def test_well_within_darkness_once_is_enough():
    bench = Bench(1)
    bench.answer(0, 0, 100 * MS)
    bench.half_open.sent(ints(0), ints(50), ints(2000) * MS)
    assert [at for at in range(0, 40_000, 10) if bench.closed(at)] == [2900]


def test_a_target_that_never_answered_is_left_alone():
    bench = Bench(1)
    bench.half_open.sent(ints(0), ints(0), ints(100) * MS)
    assert [at for at in range(0, 40_000, 10) if bench.closed(at)] == []


def test_where_only_other_flows_sent_there_is_nothing_to_close():
    bench = Bench(1)
    bench.answer(0, 0, 100 * MS)
    bench.half_open.sent(ints(), ints(), ints())
    assert bench.closed(110) == []
    bench.half_open.sent(ints(0), ints(1), ints(200) * MS)
    bench.half_open.sent(ints(), ints(), ints())
    assert bench.closed(210) == []
    bench.half_open.sent(ints(), ints(), ints())
    assert [at for at in range(220, 2000, 10) if bench.closed(at)] == [1100]
