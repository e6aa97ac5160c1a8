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

CAUSES = ("stall", "send_error", "link_down")
MOST_SPANS = 2000  # in one message


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
        self._cause = np.zeros(capacity, np.int8)
        self._waiting = 0  # how many are not

    def forget(self, index: int) -> None:
        """The row is about to be another flow."""
        self._waiting -= int(self._since[index] > 0)
        self._since[index] = 0

    def begin_at(self, flow: Ints, since: Ints, cause: str) -> None:
        """These flows, each once, have been unobserved since then, if they were not before."""
        new = self._since[flow] == 0
        self._since[flow[new]] = since[new]
        self._cause[flow[new]] = CAUSES.index(cause)
        self._waiting += int(np.count_nonzero(new))

    def begin(self, flow: Ints, due: Ints, cause: str) -> None:
        """Slots that passed without a probe: their flows went unobserved with the last probe before."""
        flows, first = np.unique(flow, return_index=True)
        last_sent = self._ledger.last_sent_at[flows]
        self.begin_at(flows, np.where(last_sent > 0, last_sent, due[first]), cause)

    def end(self, flow: Ints, at: Ints) -> None:
        """Probes have left: what was unobserved ends with the first of each flow."""
        if not self._waiting:
            return
        flows, first = np.unique(flow, return_index=True)
        ended = self._since[flows] > 0
        flows, at = flows[ended], at[first[ended]]
        since, causes = self._since[flows], self._cause[flows]
        self._since[flows] = 0
        self._waiting -= len(flows)
        for number in np.unique(causes).tolist():
            same = causes == number
            self.tell(flows[same], since[same], at[same], CAUSES[number])

    def tell(self, flow: Ints, start: Ints, end: Ints, cause: str) -> None:
        """These flows went unobserved in these spans (CLOCK_MONOTONIC ns)."""
        for f, a, b in zip(flow.tolist(), start.tolist(), end.tolist(), strict=True):
            self._ledger.unobserved(f, a, b)
        for part in (slice(i, i + MOST_SPANS) for i in range(0, len(flow), MOST_SPANS)):
            columns = {"flows": flow[part], "start_ns": start[part] + self._anchor, "end_ns": end[part] + self._anchor}
            spans = {name: column.tolist() for name, column in columns.items()}
            self._tell({"event": "unobserved", "cause": cause, **spans})
