"""Which way a probe was lost: what the reflector has told about the sequences that reached it.

A `ReflectorView` is fed with the replies of one flow. Our own reflector describes its gaps (wire/layout.py); for any
other stateful reflector (RFC 8762, section 4) consecutive replies are compared: with `ds` the step of the sender's
and `dq` that of the reflector's sequence, `dq = 1` means that everything between was lost on the way out, `ds = dq`
that it was lost on the way back. A mixed gap stays unknown, and so does everything with a stateless reflector, which
merely copies our number: `q = s` proves nothing until q has once differed from s.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from probe.core.sequence import unwrap_near

Ints = npt.NDArray[np.int64]

KEPT_GAPS = 4096  # gaps remembered per flow; older ones are long settled
FILLED = 1 << 31  # in a record's length
SENT_GAPS = 64  # how many of its newest records our reflector repeats in turn


class ReflectorView:
    """What is known of one flow's reflector. Sequences up to `frontier` and from `floor` on are resolved."""

    def __init__(self) -> None:
        self.boot: int | None = None
        self.floor = 0  # nothing is known below
        self.frontier = -1  # everything from floor to here is known, but for `holes`
        self._records: set[int] = set()  # indices of the records received
        self._starts: list[int] = []  # gaps, ascending and apart
        self._ends: list[int] = []  # inclusive
        self._early: list[tuple[int, int]] = []  # fillings whose gap has not been told yet
        self._complete = 0  # gap records 1..complete are known, or given up
        self._told = 0
        self._holes: list[tuple[int, int]] = []  # inclusive ranges that stay unknown
        self._last_s = self._last_q = -1
        self._stateful = False

    def report(self, boot: int, sequence: int, q: int, total32: int, index32: int, first: int, length: int) -> bool:
        """Take in one reply of our own reflector.

        Args:
            boot: The reflector's nonce for this session; a new one means that it forgot the old session.
            sequence: The probe that this reply answers.
            q: The reflector's number of this reply, from 0.
            total32: How many gaps it has seen, low 32 bits.
            index32: Which of them the record describes, from 1; 0: none.
            first: First sequence that the record is about.
            length: How many. With FILLED set, they arrived after all, behind later ones.

        Returns:
            Whether the frontier moved.
        """
        if boot != self.boot:
            # Without a gap so far, its first probe was `q` before this one.
            self._restart(boot, max(0, sequence - q) if total32 == 0 else sequence)
        total = unwrap_near(total32, self._complete)
        self._told = max(self._told, total)
        if index32:
            index = unwrap_near(index32, total)
            if index > self._complete and index not in self._records:
                self._records.add(index)
                if length & FILLED:
                    self._fill(first, first + (length & ~FILLED) - 1)
                else:
                    self._gap(first, first + length - 1)
        while self._complete + 1 in self._records:
            self._complete += 1
            self._records.discard(self._complete)
        if total - self._complete > SENT_GAPS:
            # These are not repeated any more: what lies between the known ones stays unknown.
            self._holes.append((self.frontier + 1, sequence - 1))
            self._complete = total
            self._records.clear()
        if self._complete < total or sequence <= self.frontier:
            return False
        self.frontier = sequence
        self._trim()
        return True

    @property
    def complete(self) -> bool:
        """Whether every gap that the reflector has told of so far is known."""
        return self._complete >= self._told

    def consecutive_many(self, sequences: Ints, q: Ints) -> None:
        """`consecutive` for a batch in order of arrival, without a loop while nothing is missing."""
        if self._last_s >= 0 and len(sequences):
            steps = np.diff(np.r_[self._last_s, sequences])
            q_steps = np.diff(np.r_[self._last_q & 0xFFFFFFFF, q])
            if (steps == 1).all() and (q_steps == 1).all():
                self._last_s, self.frontier = int(sequences[-1]), int(sequences[-1])
                self._last_q += len(q)
                return
        for s, number in zip(sequences.tolist(), q.tolist(), strict=True):
            self.consecutive(s, number)

    def consecutive(self, sequence: int, q: int) -> bool:
        """Take in one reply of a reflector that is not ours: its own number is `q` (low 32 bits).

        Returns:
            Whether the frontier moved.
        """
        if self._last_s < 0:
            self.floor, self.frontier = sequence, sequence
            self._last_s, self._last_q = sequence, q
            self._stateful = q != sequence & 0xFFFFFFFF
            return True
        q = unwrap_near(q, self._last_q)
        if q <= self._last_q or sequence <= self._last_s:
            if q < self._last_q - 1000:  # the reflector restarted: begin anew
                self.floor, self.frontier = sequence, sequence
                self._last_s, self._last_q = sequence, q
                return True
            return False
        ds, dq = sequence - self._last_s, q - self._last_q
        self._stateful |= q & 0xFFFFFFFF != sequence & 0xFFFFFFFF
        if ds > 1:
            first, last = self._last_s + 1, sequence - 1
            if dq == 1:
                self._gap(first, last)
            elif dq != ds or not self._stateful:
                self._holes.append((first, last))
        self._last_s, self._last_q = sequence, q
        self.frontier = sequence
        self._trim()
        return True

    def resolve(self, sequences: Ints) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Of lost probes: (known, forward), two masks. `forward` means lost on the way out; known and not forward,
        back.
        """
        known = (sequences >= self.floor) & (sequences <= self.frontier)
        for first, last in self._holes:
            known &= (sequences < first) | (sequences > last)
        if not self._starts:
            return known, np.zeros(len(sequences), bool)
        place = np.searchsorted(np.array(self._starts), sequences, side="right") - 1
        forward = (place >= 0) & (sequences <= np.array(self._ends)[np.maximum(place, 0)])
        return known, forward & known

    def covers(self, first: int, last: int) -> bool | None:
        """Whether all of [first, last] was lost on the way out (True), none of it (False), or neither is known."""
        if first < self.floor or last > self.frontier or any(a <= last and b >= first for a, b in self._holes):
            return None
        place = bisect_right(self._starts, last) - 1
        if place < 0 or self._ends[place] < first:
            return False
        return True if self._starts[place] <= first and self._ends[place] >= last else None

    def _gap(self, first: int, last: int) -> None:
        place = bisect_right(self._starts, first)
        self._starts.insert(place, first)
        self._ends.insert(place, last)
        early, self._early = self._early, []
        for filled in early:
            self._fill(*filled)

    def _fill(self, first: int, last: int) -> None:
        place = bisect_right(self._starts, first) - 1
        if place < 0 or self._ends[place] < last:
            self._early = [*self._early[-SENT_GAPS:], (first, last)]
            return
        start, end = self._starts[place], self._ends[place]
        rest = [(a, b) for a, b in ((start, first - 1), (last + 1, end)) if a <= b]
        self._starts[place : place + 1] = [a for a, _ in rest]
        self._ends[place : place + 1] = [b for _, b in rest]

    def _restart(self, boot: int, floor: int) -> None:
        self.boot = boot
        self.floor, self.frontier = floor, floor - 1
        for held in (self._records, self._starts, self._ends, self._early, self._holes):
            held.clear()
        self._complete = self._told = 0

    def _trim(self) -> None:
        if len(self._starts) > 2 * KEPT_GAPS:
            del self._starts[:-KEPT_GAPS], self._ends[:-KEPT_GAPS]
        if len(self._holes) > KEPT_GAPS:
            del self._holes[:-KEPT_GAPS]
