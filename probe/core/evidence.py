"""The raw records behind an outage: what was sent and what came back around its edges, probe by probe.

Two logs take in every probe as it is sent and every reply as it is accounted for. They hold as much as has to be at
hand when an outage is first told: the loss threshold, the probes that make it an outage, and the probes before it.
That depends on rates and thresholds, never on how long a run lasts, and never exceeds MOST_OCTETS.

Times are nanoseconds of one monotonic clock, but for the reflector's own, which are kept as they came in the reply.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probe.core.columns import ColumnLog
from probe.core.fate import EMPTY, LATE, RECEIVED
from probe.core.outage import TxError

Ints = npt.NDArray[np.int64]
Records = npt.NDArray[Any]
FateOf = Callable[[int, Ints], npt.NDArray[np.uint8]]

AROUND: Final = 8  # probes of each side of an edge
MOST_OCTETS: Final = 128 << 20  # of both logs together: 6 s of 300,000 probes a second
FEWEST_ROWS: Final = 1 << 12
MARGIN_S: Final = 4.0  # for settling, draining and telling to lag behind, and many outages to be looked up in turn
# Links and receive rings are told of one after the other: within the log, times are in order but for about this much.
DISORDER_NS: Final = 50_000_000
PIECE: Final = 1 << 14  # rows looked through at a time

SENT = {
    "flow": np.int32,
    "sequence": np.int64,
    "at": np.int64,
    "due": np.int64,
    "earlier": np.uint32,  # by how much it may have left before and after `at`
    "later": np.uint32,
}
REPLIES = {
    "flow": np.int32,
    "sequence": np.int64,
    "at": np.int64,
    "received_there": np.uint64,
    "replied_there": np.uint64,
    "ttl": np.uint8,
}
ROW_OCTETS: Final = sum(np.dtype(kind).itemsize for kind in (*SENT.values(), *REPLIES.values()))

RECORD = np.dtype(
    [
        ("sequence", np.int64),
        ("sent", np.int64),
        ("arrived", np.int64),  # 0: no reply, or it is no longer known
        ("received_there", np.uint64),  # the reflector's times as they stood in the reply; 0: it told none
        ("replied_there", np.uint64),
        ("ttl", np.uint8),
        ("fate", np.uint8),
    ]
)
NO_RECORDS: Records = np.zeros(0, RECORD)


class Evidence:
    """The last few seconds of all flows, raw."""

    def __init__(self) -> None:
        self.sent_log = ColumnLog(SENT, FEWEST_ROWS)
        self.reply_log = ColumnLog(REPLIES, FEWEST_ROWS)

    def expect(self, rate_pps: float, span_s: float) -> None:
        """Hold `span_s` of `rate_pps` in all, within MOST_OCTETS. The logs never become smaller."""
        wanted = min(int(rate_pps * (span_s + MARGIN_S)) + FEWEST_ROWS, MOST_OCTETS // ROW_OCTETS)
        for log in (self.sent_log, self.reply_log):
            if wanted > log.rows:
                # By at least a half: flows are added one by one.
                log.resize(min(max(wanted, log.rows * 3 // 2), MOST_OCTETS // ROW_OCTETS))

    def sent(self, flow: Ints, sequence: Ints, at: Ints, due: Ints, error: TxError) -> None:
        """These probes have left, each flow's in their order."""
        self.sent_log.append(flow, sequence, at, due, error.earlier, error.later)

    def received(
        self,
        flow: Ints,
        sequence: Ints,
        at: Ints,
        received_there: npt.NDArray[Any],
        replied_there: npt.NDArray[Any],
        ttl: npt.NDArray[Any],
    ) -> None:
        """First copies of replies, with the reflector's times and the TTL that they carried."""
        self.reply_log.append(flow, sequence, at, received_there, replied_there, ttl)

    def forget(self, flow: int) -> None:
        """The index will be another flow's."""
        for log in (self.sent_log, self.reply_log):
            of = log.columns["flow"]
            of[of == flow] = -1

    def records(self, flow: int, sequence: Ints, near: int, fates: FateOf) -> Records:
        """What is held of these probes.

        Args:
            flow: Flow index.
            sequence: Ascending, each once.
            near: When the first of them was sent, or somewhat earlier.
            fates: Their fates (`Ledger.fates`); those of which it knows none are left out.
        """
        position = _find(self.sent_log, flow, sequence, near, ascending=True)
        fate = fates(flow, sequence)
        held = (position >= 0) & (fate != EMPTY)
        records = np.zeros(int(held.sum()), RECORD)
        records["sequence"], records["fate"] = sequence[held], fate[held]
        records["sent"] = self.sent_log.take("at", position[held])
        self.add_replies(flow, records)
        return records

    def add_replies(self, flow: int, records: Records) -> None:
        """Fill in the replies to those records that were answered and lack theirs."""
        answered = (records["fate"] == RECEIVED) | (records["fate"] == LATE)
        lacking = np.flatnonzero(answered & (records["arrived"] == 0))
        if not len(lacking):
            return
        near = int(records["sent"][lacking[0]])
        position = _find(self.reply_log, flow, records["sequence"][lacking], near, ascending=False)
        lacking, position = lacking[position >= 0], position[position >= 0]
        # An arrival is mapped from the wall clock; after a step of that it may seem to lie before the probe.
        arrived = np.maximum(self.reply_log.take("at", position), records["sent"][lacking])
        records["arrived"][lacking] = arrived
        for name in ("received_there", "replied_there", "ttl"):
            records[name][lacking] = self.reply_log.take(name, position)


def edges(ok: int, first: int, last: int = -1, after: int = -1, n: int = AROUND) -> tuple[Ints, Ints]:
    """Sequences whose records tell an outage's edges.

    Args:
        ok: The last probe that passed before it; probes between that and `first` said nothing of its direction.
        first: First lost probe.
        last: Last lost probe; -1: it is open.
        after: First probe that passed afterwards.
        n: Probes of each side of an edge.

    Returns:
        Those around its start and those around its end; ascending, each once, none in both.
    """
    start = sorted({*range(max(ok - n, -1) + 1, ok + 1), *range(first, first + n)})
    end: list[int] = []
    if last >= 0:
        end = sorted({*range(last - n + 1, last + 1), *range(after, after + n)})
        end = end[bisect_right(end, start[-1]) :]
    return np.array(start, np.int64), np.array(end, np.int64)


def _find(log: ColumnLog, flow: int, sequence: Ints, near: int, *, ascending: bool) -> Ints:
    """Positions of a flow's rows by their sequence, -1 where there is none.

    Args:
        log: Where to look: from `near` on, then back from there.
        flow: Flow index.
        sequence: Ascending, each once.
        near: A time.
        ascending: Whether a flow's rows are in order of their sequence, so that passing the last one ends the search.
    """
    where = np.full(len(sequence), -1, np.int64)
    if not len(sequence):
        return where
    begin = log.first_at("at", near - DISORDER_NS)
    for way in ("on", "back"):
        start, stop = (begin, log.head) if way == "on" else (log.tail, begin)
        pieces = log.pieces(start, stop, PIECE)
        for position, piece in pieces if way == "on" else reversed(list(pieces)):
            rows = np.flatnonzero(log.columns["flow"][piece] == flow)
            if not len(rows):
                continue
            theirs = log.columns["sequence"][piece][rows]
            place = np.minimum(np.searchsorted(sequence, theirs), len(sequence) - 1)
            match = sequence[place] == theirs
            where[place[match]] = position + rows[match]
            if (where >= 0).all():
                return where
            if ascending and (theirs[-1] >= sequence[-1] if way == "on" else theirs[0] <= sequence[0]):
                break
    return where
