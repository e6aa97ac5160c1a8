"""What a Session-Reflector remembers of each session: its reply counter, and which sequences never arrived.

A session is told by the number in our TLV or cookie, so that a fresh flow that changes its port with every probe is
still one; for other senders by address, port and SSID (RFC 8972, section 3).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.core.direction import FILLED, SENT_GAPS

Ints = npt.NDArray[np.int64]
Record = tuple[int, int]  # first sequence, length (with FILLED set: arrived after all)
Told = tuple[int, int, int, int, int, int]  # one row of an `Answer`, in the order of its columns

MAX_SESSIONS = 65536
SEQUENCES = 1 << 62  # beyond them a sequence is no probe's, and the arithmetic of int64 ends
IDLE_NS = 900_000_000_000  # REFWAIT's default, RFC 5357 section 4.2


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns of the reports that go into a batch of replies, in the batch's order."""

    boot: Ints
    q: Ints
    gap_total: Ints
    gap_index: Ints
    gap_start: Ints
    gap_length: Ints


class Session:
    """One sender's session.

    Its first record, of length 0, says with which sequence it began: the sender must not take what came before for lost
    on the way back.
    """

    __slots__ = ("boot", "last_ns", "marked", "newest", "q", "records", "sweep", "table", "total", "untold")

    def __init__(self, first: int, boot: int):
        self.boot = boot
        self.newest = first - 1  # highest sequence received
        self.q = self.marked = 0  # replies so far, and when the rate was last asked for
        self.total = 0  # records made so far
        self.records: deque[Record] = deque(maxlen=SENT_GAPS)
        self.untold = 0  # how many of the newest records no reply has carried yet
        self.sweep = 1  # number of the record that is repeated next
        self.last_ns = 0
        self.table: Ints | None = None  # the records as columns, once they are asked for
        self._record(first, 0)

    def arrived(self, sequences: Ints) -> None:
        """Note a batch in order of arrival: gaps that opened, and late arrivals that filled one."""
        top = np.maximum.accumulate(np.r_[self.newest, sequences])
        before = top[:-1]
        for i in np.flatnonzero(sequences > before + 1).tolist():
            self._record(int(before[i]) + 1, int(sequences[i] - before[i]) - 1)
        behind = sequences[sequences <= before]
        if len(behind):
            for sequence in behind[self._in_records(behind)].tolist():
                self._late(sequence)
        self.newest = int(top[-1])

    def arrived_few(self, sequences: list[int]) -> None:
        """The same of a few, without arrays: gaps first, then what filled them."""
        behind = []
        for sequence in sequences:
            if sequence <= self.newest:
                behind.append(sequence)
                continue
            if sequence > self.newest + 1:
                self._record(self.newest + 1, sequence - self.newest - 1)
            self.newest = sequence
        for sequence in behind:
            self._late(sequence)

    def only(self) -> tuple[int, int, int]:
        """Number, first and length of the record that every reply carries as long as there is but one."""
        self.untold, self.sweep = 0, self.total
        return self.total, *self.records[0]

    def choose(self, count: int) -> Ints:
        """The records that the next `count` replies carry, shape (3, count): number, first and length of each.

        A new record is told at once, and then again whenever its turn comes: replies may be lost in bursts.
        """
        held = len(self.records)
        oldest = self.total - held + 1
        new = min(self.untold, count)
        number = np.empty(count, np.int64)
        number[:new] = self.total - self.untold + 1 + np.arange(new)
        self.untold -= new
        start = max(self.sweep, oldest)
        number[new:] = oldest + (start - oldest + np.arange(count - new)) % held
        self.sweep = oldest + (start - oldest + count - new) % held
        if self.table is None:
            self.table = np.array(self.records, np.int64).T
        return np.vstack([number, self.table[:, number - oldest]])

    def choose_one(self) -> tuple[int, int, int]:
        """The record that the next reply alone carries: number, first and length."""
        held = len(self.records)
        oldest = self.total - held + 1
        start = max(self.sweep, oldest)
        if self.untold:
            number = self.total - self.untold + 1
            self.untold -= 1
            self.sweep = start
        else:
            number = start
            self.sweep = oldest + (start - oldest + 1) % held
        return number, *self.records[number - oldest]

    def _record(self, first: int, length: int) -> None:
        self.total += 1
        self.untold = min(self.untold + 1, SENT_GAPS)
        self.records.append((first, length))
        self.table = None

    def _in_records(self, sequences: Ints) -> npt.NDArray[np.bool_]:
        table = np.array(self.records, np.int64)
        first, end = table[:, 0], table[:, 0] + (table[:, 1] & ~FILLED)
        column = sequences[:, np.newaxis]
        inside: npt.NDArray[np.bool_] = np.any((column >= first) & (column < end), axis=1)
        return inside

    def _late(self, sequence: int) -> None:
        """A sequence behind the newest: a duplicate, unless it lies in a gap and has not been told as filled."""
        missing = False
        for first, length in self.records:
            if first <= sequence < first + (length & ~FILLED):
                missing = not length & FILLED
        if missing:
            self._record(sequence, 1 | FILLED)


class Peers:
    """All sessions.

    Args:
        rng: For boot numbers.

    Attributes:
        sessions: By key, the one that was idle longest first.
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.sessions: dict[int, Session] = {}

    def used(self, key: int, first: int, now_ns: int) -> Session:
        """The session `key`, which `first` begins if it is new; it becomes the one that was in use last."""
        session = self.sessions.pop(key, None)
        if session is None:
            session = self.open(key, first)
        self.sessions[key] = session  # to the end: the one idle longest comes first
        session.last_ns = now_ns
        return session

    def open(self, key: int, first: int) -> Session:
        """Begin the session `key` with the sequence that arrived first."""
        while len(self.sessions) >= MAX_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        session = self.sessions[key] = Session(first, self._rng.randrange(1, 1 << 31))
        return session

    def expire(self, now_ns: int) -> None:
        """Forget sessions that were idle for IDLE_NS."""
        while self.sessions:
            key = next(iter(self.sessions))
            if now_ns - self.sessions[key].last_ns <= IDLE_NS:
                break
            del self.sessions[key]

    def busiest(self, since_ns: int) -> int:
        """Most replies of one session since the last call, which was at `since_ns`."""
        most = 0
        for key in reversed(self.sessions):
            session = self.sessions[key]
            if session.last_ns < since_ns:
                break
            most, session.marked = max(most, session.q - session.marked), session.q
        return most

    def answer(self, key: npt.NDArray[np.uint64], sequence: Ints, now_ns: int) -> Answer:
        """Number the replies to a batch and choose the record that each repeats.

        Args:
            key: Session of each probe.
            sequence: Its sequence.
            now_ns: Time of use, for expiry.
        """
        if not len(key):
            return Answer(*np.zeros((6, 0), np.int64))
        order, ranked, starts = _grouped(key)
        arrived = sequence if order is None else sequence[order]
        ends = np.r_[starts[1:], len(key)]
        # Of most sessions the next few have come, one by one: only of others more must be looked at than both ends.
        steps = np.r_[0, arrived[1:] - arrived[:-1] != 1]
        steps[starts] = 0
        broken = np.add.reduceat(steps, starts).tolist()
        told: list[Told] = []  # of each session's first probe, or of all
        chosen: list[tuple[int, int, Ints]] = []
        edges = zip(ranked.tolist(), arrived[starts].tolist(), starts.tolist(), ends.tolist(), broken, strict=True)
        for value, first, a, b, gaps in edges:
            session = self.used(value, first, now_ns)
            if gaps or first != session.newest + 1:
                session.arrived(arrived[a:b])
            else:
                session.newest += b - a
            if len(session.records) == 1:
                record = session.only()
            else:
                record = (0, 0, 0)
                chosen.append((a, b, session.choose(b - a)))
            told.append((session.boot, session.q, session.total, *record))
            session.q += b - a
        columns = np.repeat(np.array(told, np.int64).reshape(-1, 6).T, ends - starts, axis=1)
        columns[1] += np.arange(len(key)) - np.repeat(starts, ends - starts)
        for a, b, records in chosen:
            columns[3:, a:b] = records
        if order is not None:
            columns[:, order] = columns.copy()
        return Answer(*columns)

    def answer_few(self, key: list[int], sequence: list[int], now_ns: int) -> list[Told]:
        """`answer` for a few probes, without arrays."""
        told: dict[int, Told] = {}
        for value in sorted(set(key)):
            rows = [row for row, other in enumerate(key) if other == value]
            session = self.used(value, sequence[rows[0]], now_ns)
            session.arrived_few([sequence[row] for row in rows])
            for row in rows:
                told[row] = (session.boot, session.q, session.total, *session.choose_one())
                session.q += 1
        return [told[row] for row in range(len(key))]


def _grouped(key: npt.NDArray[np.uint64]) -> tuple[Ints | None, npt.NDArray[np.uint64], Ints]:
    """(order that puts equal keys together, None if they are; the distinct keys in it; where each begins)."""
    if (key == key[0]).all():
        return None, key[:1], np.zeros(1, np.int64)
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    return order, ranked[starts], starts
