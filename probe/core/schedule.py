"""When each probe is due: an absolute schedule `t0 + k * P` per flow, merged into one sorted plan.

The plan is laid out a little ahead for all flows at once, so the cost of a wake-up depends on the probes that are due
and not on the number of flows. A slot that could not be used in time is *missed* and never made up for: the caller
counts it as unsent. Nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Due:
    """Slots that have come: flow index and due time of each, ascending by time."""

    flow: Ints
    at_ns: Ints


class Schedule:
    """Send instants of all flows.

    Args:
        capacity: Highest number of flows; indices are 0..capacity-1.
        horizon_ns: How far ahead slots are laid out at a time.
    """

    def __init__(self, capacity: int, *, horizon_ns: int = 20_000_000):
        self._next = np.zeros(capacity, np.int64)
        self._interval = np.zeros(capacity, np.int64)
        self._active = np.zeros(capacity, bool)
        self._left = np.zeros(capacity, np.int64)  # slots still to lay out
        self._horizon_ns = horizon_ns
        self._planned_to = 0
        self._flow = np.zeros(0, np.int64)
        self._at = np.zeros(0, np.int64)
        self._cursor = 0

    def start(self, flow: int, first_ns: int, interval_ns: int, limit: int | None = None) -> None:
        """Schedule `flow` from `first_ns` on, every `interval_ns`, for `limit` slots (None: until stopped)."""
        self._left[flow] = ENDLESS if limit is None else limit
        self._next[flow] = first_ns
        self._interval[flow] = interval_ns
        self._active[flow] = self._left[flow] > 0
        self._replan(first_ns)

    def stop(self, flow: int) -> None:
        """Drop every slot of `flow` that has not been handed out."""
        self._active[flow] = False
        keep = self._flow[self._cursor :] != flow
        self._at = self._at[self._cursor :][keep]
        self._flow = self._flow[self._cursor :][keep]
        self._cursor = 0

    def active(self, flow: int) -> bool:
        """Whether slots of `flow` are still to come."""
        return bool(self._active[flow]) or bool((self._flow[self._cursor :] == flow).any())

    def idle(self, flows: Ints) -> npt.NDArray[np.bool_]:
        """Which flows have no slot left to lay out; some that are laid out may still be to come."""
        return ~self._active[flows]

    def interval_ns(self, flow: int) -> int:
        return int(self._interval[flow])

    def total_rate(self) -> float:
        """Probes per second of all active flows together."""
        intervals = self._interval[self._active]
        return float((1e9 / intervals).sum()) if len(intervals) else 0.0

    def shortest_ns(self) -> int:
        """The shortest interval of all active flows; ENDLESS without any."""
        return int(self._interval[self._active].min(initial=ENDLESS))

    def next_ns(self, now_ns: int) -> int | None:
        """The earliest slot not handed out yet; None when no flow is active."""
        if self._cursor == len(self._at):
            if not self._active.any():
                return None
            self._plan(max(now_ns, int(self._next[self._active].min())) + self._horizon_ns)
        return int(self._at[self._cursor])

    def take(self, until_ns: int, limit: int) -> Due:
        """Hand out, in order, every slot due before `until_ns` that has not been handed out, at most `limit`."""
        if self.next_ns(until_ns) is None:
            return Due(np.zeros(0, np.int64), np.zeros(0, np.int64))
        if self._planned_to < until_ns:
            self._plan(until_ns + self._horizon_ns)
        end = self._cursor + int(np.searchsorted(self._at[self._cursor :], until_ns, side="left"))
        end = min(end, self._cursor + limit)
        due = Due(self._flow[self._cursor : end], self._at[self._cursor : end])
        self._cursor = end
        return due

    def missed(self, due: Due, now_ns: int, tolerance_ns: int) -> npt.NDArray[np.bool_]:
        """Which of these slots are older at `now_ns` than the tolerance, and than one interval of their flow."""
        return due.at_ns < now_ns - np.maximum(tolerance_ns, self._interval[due.flow])

    def _replan(self, now_ns: int) -> None:
        """Merge a newly started flow's slots into the part of the plan that is laid out already."""
        self._cut(now_ns + self._horizon_ns)
        if self._cursor < len(self._at):
            self._plan(self._planned_to)
        else:
            self._planned_to = max(self._planned_to, now_ns)

    def _cut(self, until_ns: int) -> None:
        """Take back what is laid out further ahead, for the sake of slow flows: a fast one would fill it with slots."""
        if self._planned_to <= until_ns:
            return
        keep = self._cursor + int(np.searchsorted(self._at[self._cursor :], until_ns, side="right"))
        flows, first, counts = np.unique(self._flow[keep:], return_index=True, return_counts=True)
        self._next[flows] = self._at[keep:][first]
        self._left[flows] += counts
        self._active[flows] = True
        self._flow, self._at = self._flow[:keep], self._at[:keep]
        self._planned_to = until_ns

    def _plan(self, until_ns: int) -> None:
        """Lay out every slot up to `until_ns`, keeping what is laid out and not handed out."""
        flows = np.flatnonzero(self._active & (self._next <= until_ns))
        first, interval = self._next[flows], self._interval[flows]
        counts = np.minimum((until_ns - first) // interval + 1, self._left[flows])
        flow = np.repeat(flows, counts)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(first, counts) + (np.arange(len(flow)) - starts) * np.repeat(interval, counts)
        self._next[flows] = first + counts * interval
        self._left[flows] -= counts
        self._active[flows] = self._left[flows] > 0
        flow = np.concatenate([self._flow[self._cursor :], flow])
        at = np.concatenate([self._at[self._cursor :], at])
        if (at[1:] < at[:-1]).any():
            order = np.argsort(at, kind="stable")
            flow, at = flow[order], at[order]
        self._flow, self._at, self._cursor = flow, at, 0
        self._planned_to = until_ns
