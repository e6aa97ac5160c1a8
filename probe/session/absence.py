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
_NONE = np.zeros(0, np.int64)


class Absence:
    """Flows that wait for the end of an unobserved span, and the telling of those that have ended.

    Args:
        ledger: Told of every span.
        tell: Called with each event; times in it are Unix nanoseconds.
        anchor: Unix time minus monotonic time.
    """

    def __init__(self, ledger: Ledger, tell: Callable[[dict[str, Any]], None], anchor: int):
        self._ledger, self._tell, self._anchor = ledger, tell, anchor
        capacity = len(ledger.last_sent_at)
        self._since = np.zeros(capacity, np.int64)  # CLOCK_MONOTONIC ns; 0: the flow is on schedule
        self._until = np.zeros(capacity, np.int64)  # of the latest slot that was missed
        self._cause = np.zeros(capacity, np.int8)
        self._waiting = 0  # how many are not

    def forget(self, index: int) -> None:
        """The row is about to be another flow."""
        self._waiting -= int(self._since[index] > 0)
        self._since[index] = 0

    def waiting(self, flow: Ints) -> Bools:
        """Which of these flows have missed their latest slot."""
        waiting: Bools = self._since[flow] > 0
        return waiting

    def begin_at(self, flow: Ints, since: Ints, until: int, cause: str) -> None:
        """These flows, each once, have been unobserved since then, if they were not before; up to `until` so far."""
        new = self._since[flow] == 0
        self._until[flow] = np.maximum(np.where(new, 0, self._until[flow]), until)
        self._since[flow[new]] = since[new]
        self._cause[flow[new]] = CAUSES.index(cause)
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
        flows = np.flatnonzero((self._since > 0) & (self._until > self._since)) if self._waiting else _NONE
        since, until = self._since[flows], self._until[flows]
        self._since[flows] = until
        self._tell_by_cause(flows, since, until, goes_on=not last)

    def end(self, flow: Ints, at: Ints) -> tuple[Ints, Ints]:
        """Probes have left: what was unobserved ends with the first of each flow.

        Returns:
            The flows for which it has, and when.
        """
        if not self._waiting:
            return _NONE, _NONE
        flows, first = np.unique(flow, return_index=True)
        ended = self._since[flows] > 0
        flows, at = flows[ended], at[first[ended]]
        since = self._since[flows]
        self._since[flows] = 0
        self._waiting -= len(flows)
        self._tell_by_cause(flows, since, at, goes_on=False)
        return flows, at

    def _tell_by_cause(self, flow: Ints, start: Ints, end: Ints, *, goes_on: bool) -> None:
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
