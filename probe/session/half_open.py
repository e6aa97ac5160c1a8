"""Connections that a lost SYN/ACK leaves half open at the peer are closed before it repeats itself.

A peer whose SYN/ACK was lost sends it again after a second, and then after two more, four, eight and sixteen (RFC 6298,
section 2: the first timeout is 1 s and doubles). That would pass for the answer to a probe of long ago, of which
nobody can tell whether it was lost on the way back or only late: a way back that was dark for seconds would look as if
all had come. So the peer gets an exact RST shortly before each of these instants. Its backlog stays free, too, and the
port is nobody's when it is used again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MS = 1_000_000
BEFORE_NS = (900 * MS, 2_800 * MS, 6_800 * MS, 14_800 * MS, 30_800 * MS)
# In darkness most SYNs never reach the peer. One that did, and whose first RST did not, left at its beginning.
AGAIN_WITHIN_NS = 1_000 * MS


class HalfOpen:
    """The SYNs of late of which no answer may have come.

    Args:
        unanswered: Which probes, given by flow and sequence, have no answer so far.
        last_answered_at: By flow, when the newest probe left that has been answered; CLOCK_MONOTONIC ns, 0: none was.
    """

    def __init__(self, unanswered: Callable[[Ints, Ints], Bools], last_answered_at: Ints):
        self._unanswered, self._last_answered_at = unanswered, last_answered_at
        self._new: list[tuple[Ints, Ints, Ints]] = []
        self._waiting: list[deque[tuple[Ints, Ints, Ints]]] = [deque() for _ in BEFORE_NS]

    def sent(self, flow: Ints, sequence: Ints, at: Ints) -> None:
        """These SYNs have left, at CLOCK_MONOTONIC ns, ascending."""
        self._new.append((flow, sequence, at))

    def overdue(self, now: int) -> Iterator[tuple[Ints, Ints]]:
        """Flow and sequence of the SYNs whose connections are to be closed now."""
        if self._new:
            flow, sequence, at = (np.concatenate(column) for column in zip(*self._new, strict=True))
            self._new = []
            if len(flow):  # what has left may have been of other flows
                self._waiting[0].append((flow, sequence, at))
        for number, (before, waiting) in enumerate(zip(BEFORE_NS, self._waiting, strict=True)):
            while waiting and int(waiting[0][2][0]) <= now - before:
                flow, sequence, at = waiting.popleft()
                answered_at = self._last_answered_at[flow]
                # A target that has never answered has nothing half open.
                still = self._unanswered(flow, sequence) & (answered_at > 0)
                if still.any():
                    yield flow[still], sequence[still]
                again = still & (at < answered_at + AGAIN_WITHIN_NS)
                if again.any() and number + 1 < len(self._waiting):
                    self._waiting[number + 1].append((flow[again], sequence[again], at[again]))
