"""What the reflectors have told, flow by flow: how far they have seen, which probes never came, what they dropped.

In steady state every reply says what the last one said. So the last words of each reflector stand in arrays, and only
flows of which something new is told have their `ReflectorView` asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import all_are, distinct, only
from probe.core.direction import ReflectorView
from probe.core.fate import LOST, LOST_REVERSE

Ints = npt.NDArray[np.int64]

# A drop at the reflector lies between two of its readings of the count: at most this long before the reply that still
# told the old count came to us. It reads those of its interfaces every 200 ms; the rest is for the way to it and back.
TOLD_AFTER_NS = 300_000_000


@dataclass(frozen=True, slots=True)
class Reports:
    """Columns of our reflector's reports (wire/layout.py), one element a reply; any width and byte order."""

    boot: npt.NDArray[Any]
    q: npt.NDArray[Any]
    gap_total: npt.NDArray[Any]
    gap_index: npt.NDArray[Any]
    gap_start: npt.NDArray[Any]
    gap_length: npt.NDArray[Any]


class Told:
    """The reflectors of all flows.

    Args:
        capacity: Number of flow indices, fixed.
    """

    def __init__(self, capacity: int):
        self._views: dict[int, ReflectorView] = {}
        # What the last report of each said; -1: nothing that could be said again.
        self._boot = np.full(capacity, -1, np.int64)
        self._gap_total = np.full(capacity, -1, np.int64)
        self._drops = np.full(capacity, -1, np.int64)
        self._drops_at = np.zeros(capacity, np.int64)  # when it told how many it had dropped
        self._frontier = np.full(capacity, -1, np.int64)

    def add(self, flow: int) -> None:
        """Nothing has been told of a flow."""
        for array in (self._boot, self._gap_total, self._drops, self._frontier):
            array[flow] = -1

    def remove(self, flow: int) -> None:
        """Forget a flow."""
        self._views.pop(flow, None)

    def view(self, flow: int) -> ReflectorView:
        """What is known of a flow's reflector."""
        view = self._views.setdefault(flow, ReflectorView())
        view.frontier = max(view.frontier, int(self._frontier[flow]))
        return view

    def reports(
        self, flow: Ints, sequence: Ints, report: Reports, relieve: Callable[[], None]
    ) -> Iterator[tuple[int, int, int, int]]:
        """Take in what our own reflector says in a batch of replies.

        Args:
            flow: Flow index of each reply.
            sequence: The probe it answers.
            report: The reports' columns.
            relieve: Called after each reply that told something new.

        Yields:
            (flow, first, last, fate) of sequences that were not lost on the way out after all, or perhaps not: which
            fate they have if they were taken for LOST_FORWARD.
        """
        one = only(flow)
        known = one is not None and all_are(report.boot, int(self._boot[one]))
        if one is not None and known and all_are(report.gap_total, int(self._gap_total[one])):
            self._frontier[one] = max(int(self._frontier[one]), int(sequence.max()))
            return
        same = (report.boot == self._boot[flow]) & (report.gap_total == self._gap_total[flow])
        np.maximum.at(self._frontier, flow[same], sequence[same])
        left = np.flatnonzero(~same)
        while len(left):
            i, left = int(left[0]), left[1:]
            f = int(flow[i])
            view = self.view(f)
            view.report(
                int(report.boot[i]),
                int(sequence[i]),
                int(report.q[i]),
                int(report.gap_total[i]),
                int(report.gap_index[i]),
                int(report.gap_start[i]),
                int(report.gap_length[i]),
            )
            if report.boot[i] != self._boot[f]:
                self._drops[f] = -1  # it may have begun to count anew
            self._boot[f] = report.boot[i]
            self._gap_total[f] = view.told & 0xFFFFFFFF if view.complete else -1
            self._frontier[f] = view.frontier
            for first, last in view.take_filled():
                yield f, first, last, LOST_REVERSE
            for first, last in view.take_doubted():
                yield f, first, last, LOST
            if len(left) and self._gap_total[f] >= 0:
                # What this reply told, those behind it most often tell again.
                again = (flow[left] == f) & (report.boot[left] == self._boot[f])
                again &= report.gap_total[left] == self._gap_total[f]
                self._frontier[f] = max(int(self._frontier[f]), int(sequence[left[again]].max(initial=-1)))
                left = left[~again]
            relieve()

    def numbers(self, flow: Ints, sequence: Ints, q: Ints) -> None:
        """Take in the numbers that a reflector which is not ours gave its replies (RFC 8762, section 4.3)."""
        for f in distinct(flow):
            mine = flow == f
            view = self.view(f)
            view.consecutive_many(sequence[mine], q[mine])
            self._frontier[f] = view.frontier

    def drops(self, flow: Ints, at: Ints, drops: Ints) -> list[tuple[int, int, int, int]]:
        """Take in how many frames our own reflector had no room for, as its replies tell.

        Args:
            flow: Flow index of each reply.
            at: When it came.
            drops: The reflector's cumulative count in it, modulo 2^32.

        Returns:
            (flow, start, end, frames) of what is new, and the span in which that happened.
        """
        found: list[tuple[int, int, int, int]] = []
        one = only(flow)
        if one is not None and all_are(drops, int(self._drops[one])):
            self._drops_at[one] = at[-1]
            return found
        for i in np.flatnonzero(drops != self._drops[flow]).tolist():
            f, before = int(flow[i]), int(self._drops[flow[i]])
            lost = (int(drops[i]) - before) & 0xFFFFFFFF
            if before >= 0 and not 0 < lost <= 1 << 31:  # an older reply, overtaken on its way back
                continue
            self._drops[f] = drops[i]
            if before < 0:
                continue
            earlier = at[:i][flow[:i] == f]
            told_at = int(earlier[-1]) if len(earlier) else int(self._drops_at[f])
            found.append((f, min(told_at, int(at[i])) - TOLD_AFTER_NS, int(at[i]), lost))
        self._drops_at[flow] = at
        return found
