"""Whether each flow is being answered, as told live: a first impression within a tenth of a second.

    connecting ──answer──► up ──silence──► suspect ──loss threshold──► down
                           ▲                  │                         │
                           └──────────────answer────────────────────────┘            ended: the session is over

`suspect` is no verdict: it is corrected, never contradicted, when the loss threshold has passed. A flow that cannot
send is none of up, suspect or down: nobody knows, so it is `connecting` until its probes leave again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from probe.border import FLOW_STATES
from probe.core.ledger import Ledger

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
CONNECTING, UP, SUSPECT, DOWN, ENDED = range(len(FLOW_STATES))
SUSPECT_FLOOR_NS = 40_000_000


class Liveness:
    """States of all flows.

    Args:
        capacity: Number of rows.
    """

    def __init__(self, capacity: int):
        self.state = np.full(capacity, CONNECTING, np.int64)
        self._suspect_after = np.zeros(capacity, np.int64)
        self._down_after = np.zeros(capacity, np.int64)
        self._first = np.zeros(capacity, np.int64)  # when the schedule began; 0: it has not
        # Since that answer, for so long nothing was sent: no silence of the network's.
        self._excused_since, self._excused = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._ended = np.zeros(capacity, bool)

    def add(self, flow: int, interval_ns: int, min_probes: int, threshold_ns: int) -> None:
        """A new flow: silent for longer than K probes it is suspect, longer than the loss threshold down."""
        self.state[flow] = CONNECTING
        self._suspect_after[flow] = max(SUSPECT_FLOOR_NS, (min_probes + 1) * interval_ns)
        self._down_after[flow] = max(threshold_ns, self._suspect_after[flow])
        self._first[flow] = self._excused[flow] = 0
        self._ended[flow] = False

    def begin(self, flow: int, first_ns: int) -> None:
        """Its probes start at `first_ns`."""
        self._first[flow] = first_ns
        self._ended[flow] = False

    def excuse(self, flow: Ints, length: Ints, answered: Ints) -> None:
        """For so long nothing was sent on these flows, each once; `answered`: the newest probes with an answer."""
        before = np.where(self._excused_since[flow] == answered, self._excused[flow], 0)
        self._excused_since[flow], self._excused[flow] = answered, before + length

    def end(self, flow: int) -> None:
        """Its session is over, or it is gone."""
        self._ended[flow] = True
        self.state[flow] = ENDED

    def update(self, flows: Ints, ledger: Ledger, rtt_recent: Ints, now: int, blocked: Bools) -> Ints:
        """Judge the given flows anew, of which some cannot send; which of them changed state."""
        sent, answered = ledger.last_sent_at[flows], ledger.last_answered_at[flows]
        silent = sent - answered - np.where(self._excused_since[flows] == answered, self._excused[flows], 0)
        heard = answered > 0
        allowance = self._suspect_after[flows] + 4 * rtt_recent[flows]
        down_after = self._down_after[flows]
        state = np.where(silent > allowance, SUSPECT, UP)
        state[silent > np.maximum(down_after, allowance)] = DOWN
        # Before the first answer there is only waiting, for as long as a loss takes to be one.
        begun = self._first[flows] > 0
        waiting = ~heard & (~begun | (now - self._first[flows] < down_after))
        state[~heard] = DOWN
        state[waiting] = CONNECTING
        state[blocked & (now - sent > self._suspect_after[flows])] = CONNECTING
        state[self._ended[flows]] = ENDED
        changed: Ints = flows[state != self.state[flows]]
        self.state[flows] = state
        return changed
