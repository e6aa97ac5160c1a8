"""Which way a probe was lost: what the reflector has told about the sequences that reached it.

A `ReflectorView` is fed with the replies of one flow. Our own reflector describes its gaps (wire/layout.py). Its
records are taken in by their number, so that all is known up to the first record that has not been told yet.

For any other stateful reflector (RFC 8762, section 4) consecutive replies are compared: with `ds` the step of the
sender's and `dq` that of the reflector's sequence, `dq = 1` means that everything between was lost on the way out,
`ds = dq` that it was lost on the way back. A mixed gap stays unknown, and so does everything with a stateless
reflector, which merely copies our number: `q = s` proves nothing until q has once differed from s. A probe that was
duplicated on its way out and whose replies are all lost looks like one more arrival: plain STAMP cannot tell.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np
import numpy.typing as npt

from probe.core.ranges import Ranges
from probe.core.sequence import unwrap_near

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

KEPT_GAPS = 4096  # gaps remembered per flow; older ones are long settled
FILLED = 1 << 31  # in a record's length
SENT_GAPS = 64  # how many of its newest records our reflector repeats in turn
REORDER_REACH = 4096  # a foreign reflector's unexplained arrival may belong to a gap so many sequences back, or ahead
_U32 = 0xFFFFFFFF


class ReflectorView:
    """What is known of one flow's reflector.

    Attributes:
        boot: The nonce of its present session; None before the first report.
        floor: Nothing below is remembered.
        frontier: Everything from floor to here is known, but for holes.
    """

    def __init__(self) -> None:
        self.boot: int | None = None
        self.floor = 0
        self.frontier = -1
        self._gaps = Ranges()
        self._holes = Ranges()  # what stays unknown
        self._hole: int | None = 0  # where a hole begins whose end is not known yet
        self._records: dict[int, tuple[int, int]] = {}  # told out of turn: number to (first, length)
        self._claims: dict[int, int] = {}  # number of records to the highest sequence answered when there were so many
        self._complete = 0  # records 1..complete are known, or given up
        self._told = 0
        self._filled: list[tuple[int, int]] = []
        self._doubted: list[tuple[int, int]] = []
        self._reorders = False  # whether a probe ever reached the reflector behind a later one
        self._top_q = self._top_s = -1
        self._recent: deque[int] = deque(maxlen=SENT_GAPS)  # first sequence of each of the newest gaps
        self._past_boots: deque[int] = deque(maxlen=8)
        self._last_s = self._last_q = -1
        self._stateful = self._doubt = False
        self._unexplained, self._unexplained_to = 0, -1  # arrivals that may be of later probes, up to that sequence

    def report(self, boot: int, sequence: int, q: int, total32: int, index32: int, first: int, length: int) -> bool:
        """Take in one reply of our own reflector.

        Args:
            boot: The reflector's nonce for this session; a new one means that it forgot the old session.
            sequence: The probe that this reply answers.
            q: The reflector's number of this reply, from 0.
            total32: How many records it has made, low 32 bits.
            index32: Which of them the record is, from 1; 0: none.
            first: First sequence that the record is about.
            length: How many; 0: the session began with `first`. With FILLED set, they arrived after all, behind later
                ones.

        Returns:
            Whether the frontier moved.
        """
        if boot != self.boot:
            if boot in self._past_boots:  # overtaken on its way back by replies of the new session
                return False
            self._begin(boot)
        before = self.frontier
        total = unwrap_near(total32, self._told)
        self._told = max(self._told, total)
        index = unwrap_near(index32, total)
        if index32 and index > self._complete:
            self._records.setdefault(index, (first, length))
        # Whatever was not recorded by now lies beyond this sequence, so that it becomes the frontier in its turn.
        self._claims[total] = max(self._claims.get(total, -1), sequence)
        if q > self._top_q:
            self._reorders |= sequence <= self._top_s
            self._top_q, self._top_s = q, max(sequence, self._top_s)
        self._advance()
        return self.frontier > before

    @property
    def complete(self) -> bool:
        """Whether everything that the reflector has told of so far is known."""
        return self._complete >= self._told and self._hole is None

    @property
    def told(self) -> int:
        """How many records the reflector is known to have made."""
        return self._told

    def take_filled(self) -> list[tuple[int, int]]:
        """Sequences, as inclusive ranges, that were in a gap and are now known to have arrived, since the last call."""
        filled, self._filled = self._filled, []
        return filled

    def take_doubted(self) -> list[tuple[int, int]]:
        """Gaps, as inclusive ranges, that may have been filled without our hearing of it, since the last call."""
        doubted, self._doubted = self._doubted, []
        return doubted

    def resolve(self, sequences: Ints) -> tuple[Bools, Bools]:
        """Of lost probes, ascending: (known, forward), two masks.

        `forward` means lost on the way out; known and not forward, on the way back.
        """
        known = (sequences >= self.floor) & (sequences <= self.frontier) & ~self._holes.contains(sequences)
        if self._hole is not None:
            known &= sequences < self._hole
        return known, self._gaps.contains(sequences) & known

    def forward_within(self, first: int, last: int) -> Ranges | None:
        """What of [first, last] was lost on the way out, if that is known of all of it."""
        if first < self.floor or last > self.frontier or self._holes.touches(first, last):
            return None
        if self._hole is not None and last >= self._hole:
            return None
        return self._gaps.between(first, last)

    # --- our own reflector -------------------------------------------------------------------------------------

    def _begin(self, boot: int) -> None:
        """Another session of the reflector: what it received before its first record is not known."""
        if self.boot is not None:
            self._past_boots.append(self.boot)
        self.boot = boot
        self._records.clear()
        self._claims.clear()
        self._recent.clear()
        self._complete = self._told = 0
        self._top_q = self._top_s = -1
        if self._hole is None:
            self._hole = self.frontier + 1

    def _advance(self) -> None:
        while self._complete < self._told:
            record = self._records.pop(self._complete + 1, None)
            if record is None:
                if self._told - self._complete <= SENT_GAPS:
                    break
                self._give_up()
            else:
                self._take(*record)
            self._complete += 1
        reached = [total for total in self._claims if total <= self._complete]
        sequence = max((self._claims.pop(total) for total in reached), default=-1)
        if self._hole is None:
            self.frontier = max(self.frontier, sequence)
        self._trim()

    def _take(self, first: int, length: int) -> None:
        if length & FILLED:
            self._reorders = True
            last = first + (length & ~FILLED) - 1
            if self._gaps.cut(first, last):
                self._filled.append((first, last))
            return
        if self._hole is not None:
            self._holes.add(self._hole, first - 1)
            self._hole = None
        if length:
            self._recent.append(first)
            # Never below what is known already: another session of the reflector may have received that.
            self._gaps.add(max(first, self.frontier + 1), first + length - 1)
        self.frontier = max(self.frontier, first + length)  # the probe that arrived behind the gap

    def _give_up(self) -> None:
        """The next record is repeated no more. The hole that it leaves ends where the next known gap begins.

        Where probes overtake each other, it may have filled one of the gaps that the reflector remembered then.
        """
        if self._hole is None:
            self._hole = self.frontier + 1
        if self._reorders and self._recent:
            place = bisect_left(self._gaps.ends, self._recent[0])
            gaps = list(zip(self._gaps.starts[place:], self._gaps.ends[place:], strict=True))
            self._doubted += [gap for gap in gaps if not self._holes.covers(*gap)]
            for gap in gaps:
                self._holes.add(*gap)

    # --- other reflectors --------------------------------------------------------------------------------------

    def consecutive_many(self, sequences: Ints, q: Ints) -> None:
        """`consecutive` for a batch in order of arrival, without a loop while nothing is missing."""
        if self._last_s >= 0 and len(sequences):
            steps = np.diff(np.r_[self._last_s, sequences])
            q_steps = np.diff(np.r_[self._last_q & _U32, q])
            if (steps == 1).all() and (q_steps == 1).all():
                self._last_s = self.frontier = int(sequences[-1])
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
            self._hole = None
            self._holes.add(0, sequence - 1)
            self._stateful = q != sequence & _U32
            self._step_to(sequence, q)
            return True
        q = unwrap_near(q, self._last_q)
        if sequence <= self._last_s:
            # A copy, or overtaken on the way out. Its number is spent: the next step must not count it.
            if q == self._last_q + 1:
                self._last_q = q
            elif q > self._last_q:
                self._doubt = True
            return False
        ds, dq = sequence - self._last_s, q - self._last_q
        self._stateful |= q & _U32 != sequence & _U32
        first, last = self._last_s + 1, sequence - 1
        if first > self._unexplained_to:
            self._unexplained = 0
        if dq > ds:
            # More arrivals than probes: copies, probes of an earlier gap that came late, or later ones that overtook.
            self._holes.add(first, last)
            self._doubt_gaps(sequence)
            self._unexplained, self._unexplained_to = self._unexplained + dq - ds, sequence + REORDER_REACH
        elif ds > 1 and self._unexplained:
            self._holes.add(first, last)
            self._unexplained = max(0, self._unexplained - max(ds - dq, 0))
        elif ds > 1 and dq == 1 and not self._doubt:
            self._gaps.add(first, last)
        elif ds > 1 and (dq != ds or self._doubt or not self._stateful):
            # Mixed; or, with dq below 1, the reflector began anew.
            self._holes.add(first, last)
        self._step_to(sequence, q)
        return True

    def _step_to(self, sequence: int, q: int) -> None:
        self._last_s, self._last_q, self._doubt = sequence, q, False
        self.frontier = sequence
        self._trim()

    def _doubt_gaps(self, sequence: int) -> None:
        place = bisect_left(self._gaps.ends, sequence - REORDER_REACH)
        for first, last in zip(self._gaps.starts[place:], self._gaps.ends[place:], strict=True):
            self._holes.add(first, last)

    def _trim(self) -> None:
        for ranges in (self._gaps, self._holes):
            floor = ranges.trim(KEPT_GAPS)
            if floor is not None:
                self.floor = max(self.floor, floor)
