"""Spans in which flows went unobserved, told of many flows together."""

from __future__ import annotations

import numpy as np

from probe.core.ledger import Ledger
from probe.session.absence import MOST_SPANS, Absence

MS = 1_000_000
ANCHOR = 1_700_000_000_000_000_000


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class Bench:
    def __init__(self, flows: int):
        self.ledger = Ledger(flows)
        for f in range(flows):
            self.ledger.add(f, f"flow-{f}", 1000, 100 * MS, 3)
        self.told: list[dict] = []
        self.absence = Absence(self.ledger, self.told.append, ANCHOR)

    def sent(self, *flow: int, at: int) -> None:
        flows, times = ints(*flow), np.full(len(flow), at)
        self.ledger.stamp(flows, self.ledger.allocate(flows, times), times)

    def spans(self) -> list[tuple[int, int, int, str]]:
        """(flow, start, end, cause), monotonic ns."""
        told, self.told[:] = list(self.told), []
        return [
            (flow, start - ANCHOR, end - ANCHOR, message["cause"])
            for message in told
            for flow, start, end in zip(message["flows"], message["start_ns"], message["end_ns"], strict=True)
        ]


def test_a_span_goes_from_the_last_probe_before_to_the_first_after():
    bench = Bench(3)
    bench.sent(0, 1, at=10 * MS)
    bench.absence.begin(ints(0, 2, 0, 1), ints(11, 12, 13, 14) * MS, "stall")
    bench.absence.begin(ints(0), ints(15) * MS, "link_down")
    bench.absence.end(ints(1, 0, 1), ints(30, 31, 32) * MS)
    assert bench.spans() == [
        (0, 10 * MS, 13 * MS, "stall"),
        (1, 10 * MS, 30 * MS, "stall"),
        (0, 13 * MS, 31 * MS, "link_down"),
    ]
    bench.absence.end(ints(0, 1), ints(40, 40) * MS)
    assert bench.spans() == [], "what has ended ends once"
    bench.absence.end(ints(2), ints(50) * MS)
    assert bench.spans() == [(2, 12 * MS, 50 * MS, "stall")], "nothing had left before: from the slot that was missed"


def test_what_has_not_ended_is_told_up_to_the_latest_slot_missed():
    bench = Bench(2)
    bench.sent(0, 1, at=10 * MS)
    bench.absence.begin(ints(0, 1, 0), ints(11, 12, 13) * MS, "link_down")
    bench.absence.tell_so_far()
    assert [message["goes_on"] for message in bench.told] == [True]
    assert bench.spans() == [(0, 10 * MS, 13 * MS, "link_down"), (1, 10 * MS, 12 * MS, "link_down")]
    bench.absence.tell_so_far()
    assert bench.spans() == [], "nothing new"
    bench.absence.begin(ints(0), ints(20) * MS, "link_down")
    bench.absence.end(ints(1), ints(15) * MS)
    assert bench.spans() == [(1, 12 * MS, 15 * MS, "link_down")]
    bench.absence.tell_so_far(last=True)
    assert [message["goes_on"] for message in bench.told] == [False]
    assert bench.spans() == [(0, 13 * MS, 20 * MS, "link_down")]
    assert bench.absence.blocked(ints(0, 1)).tolist() == [True, False]
    bench.absence.begin(ints(1), ints(30) * MS, "stall")
    assert bench.absence.blocked(ints(0, 1)).tolist() == [True, False], "it may send, and will"


def test_each_cause_is_told_by_itself():
    bench = Bench(2)
    bench.absence.begin(ints(0), ints(MS), "send_error")
    bench.absence.begin(ints(1), ints(2 * MS), "link_down")
    bench.absence.end(ints(0, 1), ints(3, 3) * MS)
    assert sorted(bench.spans()) == [(0, MS, 3 * MS, "send_error"), (1, 2 * MS, 3 * MS, "link_down")]


def test_another_flow_in_the_same_row_inherits_nothing():
    bench = Bench(2)
    bench.absence.begin(ints(0, 1), ints(MS, MS), "stall")
    bench.absence.forget(0)
    bench.absence.forget(0)
    bench.absence.end(ints(0, 1), ints(3, 3) * MS)
    assert bench.spans() == [(1, MS, 3 * MS, "stall")]


def test_many_flows_take_few_messages():
    bench = Bench(MOST_SPANS + 1)
    every = np.arange(MOST_SPANS + 1)
    bench.absence.begin(every, every + MS, "stall")
    bench.absence.end(every, every + 2 * MS)
    assert [len(message["flows"]) for message in bench.told] == [MOST_SPANS, 1]
    assert len(bench.spans()) == MOST_SPANS + 1
