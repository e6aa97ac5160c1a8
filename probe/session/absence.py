"""Time in which flows did not probe on schedule, or their replies were dropped: never an outage, never "up".

A stall meets all flows at once, so spans are kept and told in arrays: telling them must not make the next stall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.ledger import Ledger

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CAUSES = ("stall", "send_error", "link_down")
MOST_SPANS = 2000  # in one message


class Absence:
    """Flows that wait for the end of an unobserved span, and the telling of those that have ended.

    Args:
        ledger: Told of every span.
        tell: Called with each event; times in it are Unix nanoseconds.
        anchor: Unix time minus monotonic time.
        on_span: Called with the flows of such spans and the length of each, ns.
    """

    def __init__(
        self,
        ledger: Ledger,
        tell: Callable[[dict[str, Any]], None],
        anchor: int,
        on_span: Callable[[Ints, Ints], None] = lambda _flow, _length: None,
    ):
        self._ledger, self._tell, self._anchor, self._on_span = ledger, tell, anchor, on_span
        capacity = len(ledger.last_sent_at)
        self._since = np.zeros(capacity, np.int64)  # CLOCK_MONOTONIC ns; 0: the flow is on schedule
        self._until = np.zeros(capacity, np.int64)  # of the latest slot that was missed
        self._cause = np.zeros(capacity, np.int8)
        self._waiting = 0  # how many are not

    def forget(self, index: int) -> None:
        """The row is about to be another flow."""
        self._waiting -= int(self._since[index] > 0)
        self._since[index] = 0

    def blocked(self, flow: Ints) -> Bools:
        """Which of these flows cannot send: their latest slot was refused. One that was missed in a stall can again."""
        blocked: Bools = (self._since[flow] > 0) & (self._cause[flow] != CAUSES.index("stall"))
        return blocked

    def begin_at(self, flow: Ints, since: Ints, until: int, cause: str) -> None:
        """These flows, each once, have been unobserved since then, if they were not before; up to `until` so far."""
        number = CAUSES.index(cause)
        other = flow[(self._since[flow] > 0) & (self._cause[flow] != number)]
        self._tell_part(other, goes_on=False)  # a stall has become a link that is down, say
        self._cause[other] = number
        new = self._since[flow] == 0
        self._until[flow] = np.maximum(np.where(new, 0, self._until[flow]), until)
        self._since[flow[new]] = since[new]
        self._cause[flow[new]] = number
        self._waiting += int(np.count_nonzero(new))

    def begin(self, flow: Ints, due: Ints, cause: str) -> None:
        """Slots that passed without a probe: their flows went unobserved with the last probe before."""
        flows, first = np.unique(flow, return_index=True)
        last_sent = self._ledger.last_sent_at[flows]
        self.begin_at(flows, np.where(last_sent > 0, last_sent, due[first]), 0, cause)
        np.maximum.at(self._until, flow, due)

    def tell_so_far(self, *, last: bool = False) -> None:
        """Tell of the spans that have not ended, up to the latest slot that was missed; the rest is told later.

        Args:
            last: Nothing will be told later.
        """
        if self._waiting:
            self._tell_part(np.flatnonzero(self._since), goes_on=not last)

    def _tell_part(self, flow: Ints, *, goes_on: bool) -> None:
        flow = flow[self._until[flow] > self._since[flow]]
        since, until = self._since[flow], self._until[flow]
        self._since[flow] = until
        self._tell_by_cause(flow, since, until, goes_on=goes_on)

    def end(self, flow: Ints, at: Ints) -> None:
        """Probes have left: what was unobserved ends with the first of each flow."""
        if not self._waiting:
            return
        flows, first = np.unique(flow, return_index=True)
        ended = self._since[flows] > 0
        flows, at = flows[ended], at[first[ended]]
        since = self._since[flows]
        self._since[flows] = 0
        self._waiting -= len(flows)
        self._tell_by_cause(flows, since, at, goes_on=False)

    def _tell_by_cause(self, flow: Ints, start: Ints, end: Ints, *, goes_on: bool) -> None:
        self._on_span(flow, end - start)
        causes = self._cause[flow]
        for number in np.unique(causes).tolist():
            same = causes == number
            self.tell(flow[same], start[same], end[same], CAUSES[number], goes_on=goes_on)

    def tell(self, flow: Ints, start: Ints, end: Ints, cause: str, *, goes_on: bool = False) -> None:
        """These flows went unobserved in these spans (CLOCK_MONOTONIC ns); `goes_on`: another adjoins each."""
        for f, a, b in zip(flow.tolist(), start.tolist(), end.tolist(), strict=True):
            self._ledger.unobserved(f, a, b)
        for part in (slice(i, i + MOST_SPANS) for i in range(0, len(flow), MOST_SPANS)):
            columns = {"flows": flow[part], "start_ns": start[part] + self._anchor, "end_ns": end[part] + self._anchor}
            spans = {name: column.tolist() for name, column in columns.items()}
            self._tell({"event": "unobserved", "cause": cause, "goes_on": goes_on, **spans})
