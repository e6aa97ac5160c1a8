"""What has been sent and is not settled: a log of all flows' probes in the order in which they left."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Sent(NamedTuple):
    """Probes in the order in which they left: flow, sequence and TX time of each."""

    flow: Ints
    sequence: Ints
    at: Ints

    def where(self, mask: Bools) -> Sent:
        """Those under the mask."""
        return self if mask.all() else Sent(*(column[mask] for column in self))


class Unsettled:
    """The log. It ascends in time, in batches of at least one probe."""

    def __init__(self) -> None:
        self._log: deque[Sent] = deque()

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._log)

    def add(self, flow: Ints, sequence: Ints, at: Ints) -> None:
        """Note what has left. Links tell of their probes one after the other: merge."""
        new = Sent(flow, sequence, at)
        while self._log and self._log[-1].at[-1] > new.at.min():
            new = Sent(*(np.concatenate(pair) for pair in zip(self._log.pop(), new, strict=True)))
        if len(new.at) > 1 and (new.at[1:] < new.at[:-1]).any():
            order = np.argsort(new.at, kind="stable")
            new = Sent(*(column[order] for column in new))
        self._log.append(new)

    def up_to(self, horizon: int) -> Iterator[Sent]:
        """Take out what left by `horizon`, batch by batch."""
        while self._log and self._log[0].at[0] <= horizon:
            sent = self._log.popleft()
            n = int(np.searchsorted(sent.at, horizon, side="right"))
            if n < len(sent.at):
                self._log.appendleft(Sent(*(column[n:] for column in sent)))
            yield Sent(*(column[:n] for column in sent))

    def of_flow(self, flow: int, last: int) -> Sent:
        """Take out what a flow sent up to sequence `last`."""
        taken, kept = [Sent(*np.zeros((3, 0), np.int64))], []
        for sent in self._log:
            mine = (sent.flow == flow) & (sent.sequence <= last)
            taken.append(sent.where(mine))
            kept.append(sent.where(~mine))
        self._log = deque(sent for sent in kept if len(sent.at))
        return Sent(*(np.concatenate(column) for column in zip(*taken, strict=True)))

    def remove(self, flow: int) -> None:
        """Forget a flow."""
        self.of_flow(flow, 1 << 62)
