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

MAX_SESSIONS = 65536
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
    """One sender's session."""

    __slots__ = ("boot", "last_ns", "newest", "q", "records", "rotation", "total")

    def __init__(self, first: int, boot: int):
        self.boot = boot
        self.newest = first - 1  # highest sequence received
        self.q = 0
        self.total = 0  # records made so far
        self.records: deque[Record] = deque(maxlen=SENT_GAPS)
        self.rotation = 0
        self.last_ns = 0

    def arrived(self, sequences: Ints) -> None:
        """Note a batch in order of arrival: gaps that opened, and late arrivals that filled one."""
        top = np.maximum.accumulate(np.r_[self.newest, sequences])
        before = top[:-1]
        for i in np.flatnonzero(sequences > before + 1).tolist():
            self._record(int(before[i]) + 1, int(sequences[i] - before[i]) - 1)
        for i in np.flatnonzero(sequences <= before).tolist():
            self._late(int(sequences[i]))
        self.newest = int(top[-1])

    def _record(self, first: int, length: int) -> None:
        self.total += 1
        self.records.append((first, length))

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
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.sessions: dict[int, Session] = {}

    def open(self, key: int, first: int) -> Session:
        """Begin the session `key` with the sequence that arrived first."""
        if len(self.sessions) >= MAX_SESSIONS:
            # The one that was idle longest goes; dicts keep insertion order, and use does not reorder, so look.
            del self.sessions[min(self.sessions, key=lambda k: self.sessions[k].last_ns)]
        session = self.sessions[key] = Session(first, self._rng.randrange(1, 1 << 31))
        return session

    def expire(self, now_ns: int) -> None:
        """Forget sessions that were idle for IDLE_NS."""
        for key in [k for k, s in self.sessions.items() if now_ns - s.last_ns > IDLE_NS]:
            del self.sessions[key]

    def answer(self, key: npt.NDArray[np.uint64], sequence: Ints, now_ns: int) -> Answer:
        """Number the replies to a batch and choose the record that each repeats.

        Args:
            key: Session of each probe.
            sequence: Its sequence.
            now_ns: Time of use, for expiry.
        """
        n = len(key)
        columns = np.zeros((6, n), np.int64)
        for value, rows in _groups(key):
            session = self.sessions.get(value) or self.open(value, int(sequence[rows[0]]))
            session.last_ns = now_ns
            session.arrived(sequence[rows])
            count = len(rows)
            columns[0, rows] = session.boot
            columns[1, rows] = session.q + np.arange(count)
            session.q += count
            columns[2, rows] = session.total
            if session.records:
                held = len(session.records)
                back = (session.rotation + np.arange(count)) % held
                session.rotation = (session.rotation + count) % held
                table = np.array(session.records, np.int64)[held - 1 - back]
                columns[3, rows] = session.total - back
                columns[4, rows], columns[5, rows] = table[:, 0], table[:, 1]
        return Answer(*columns)


def _groups(key: npt.NDArray[np.uint64]) -> list[tuple[int, Ints]]:
    """(key, rows in order) of each distinct key."""
    if (key == key[0]).all():
        return [(int(key[0]), np.arange(len(key)))]
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    edges = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    return [(int(ranked[a]), order[a:b]) for a, b in zip(edges, np.r_[edges[1:], len(key)], strict=True)]
