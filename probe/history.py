"""How an engine's counters stood at past instants, so that any span can be accounted for afterwards.

Each sample holds the counts of all probes sent before its `settled_to`, every one of them settled. The difference of
two samples is therefore an exact account of the probes sent between, and obeys every law of the result document.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.border import Snapshot
from probe.core.events import COUNT_NAMES, Counts
from probe.core.fate import COLUMN
from probe.core.histogram import BINS

Ints = npt.NDArray[np.int64]
MEMORY_OCTETS = 64 << 20
_FOLLOWS_LOST = {"lost_forward", "lost_reverse", "lost_unattributed"}


@dataclass(slots=True)
class _Sample:
    generation: int
    settled_to: int
    settled: Ints  # (flows, columns)
    delay_at: Ints  # flat positions in the histograms that grew since the sample before
    delay_by: Ints


class History:
    """Samples of one engine's counters, ascending in time, oldest dropped when they fill MEMORY_OCTETS."""

    def __init__(self) -> None:
        self._samples: list[_Sample] = []
        self._times: list[int] = []
        self._histogram: npt.NDArray[np.uint32] | None = None
        self._latest: Snapshot | None = None
        self._octets = 0

    @property
    def latest(self) -> Snapshot | None:
        return self._latest

    def add(self, snapshot: Snapshot, flows: int) -> None:
        """Take in a reading; `flows` rows of it are in use."""
        self._latest = snapshot
        if self._times and snapshot.settled_to <= self._times[-1]:
            return
        histogram = snapshot.histogram[:flows]
        before = np.zeros_like(histogram)
        if self._histogram is not None:
            rows = min(flows, len(self._histogram))
            before[:rows] = self._histogram[:rows]
        grown = (histogram - before).reshape(-1)
        at = np.flatnonzero(grown)
        self._histogram = histogram
        sample = _Sample(
            snapshot.generation, snapshot.settled_to, snapshot.settled[:flows].copy(), at, grown[at].astype(np.int64)
        )
        self._samples.append(sample)
        self._times.append(sample.settled_to)
        self._octets += sample.settled.nbytes + 2 * at.nbytes
        while self._octets > MEMORY_OCTETS and len(self._samples) > 2:
            oldest = self._samples.pop(0)
            self._times.pop(0)
            self._octets -= oldest.settled.nbytes + 2 * oldest.delay_at.nbytes

    def correct(self, flow: int, at_ns: int, fro: str, to: str, count: int, generation: int) -> None:
        """Probes sent at about `at_ns` were settled as `fro` and are now `to`: amend the samples that do not know
        yet.
        """
        for sample in self._samples[bisect_right(self._times, at_ns) :]:
            if sample.generation > generation or flow >= len(sample.settled):
                continue
            sample.settled[flow, COLUMN[fro]] -= count
            sample.settled[flow, COLUMN[to]] += count
            if fro in _FOLLOWS_LOST and to not in _FOLLOWS_LOST:
                sample.settled[flow, COLUMN["lost"]] -= count

    def counts(self, flow: int, start_ns: int | None, end_ns: int | None) -> Counts:
        """Account for the probes sent from `start_ns` (None: the first) to `end_ns` (None: now).

        The span is widened to the nearest samples. Up to now, probes whose fate is open are `pending`.
        """
        end = self._live(flow) if end_ns is None else self._settled_at(flow, bisect_left(self._times, end_ns))
        if end is None:
            end = self._live(flow)
        first = 0 if start_ns is None else bisect_right(self._times, start_ns) - 1
        start = self._settled_at(flow, first) if start_ns is not None and first >= 0 else None
        difference = end if start is None else end - start
        counts = Counts(**{name: int(difference[COLUMN[name]]) for name in COUNT_NAMES})
        counts.pending = counts.sent - counts.received - counts.late - counts.lost - counts.dropped_locally
        return counts

    def settled_before(self, flow: int, column: str, at_ns: int | None) -> tuple[int, int]:
        """A cumulative count as it enters `counts` for a span that ends (or begins) at `at_ns`, and the time it
        stands for.

        Args:
            flow: Row.
            column: A name of COUNT_NAMES.
            at_ns: End of the span; None: now.
        """
        place = len(self._samples) if at_ns is None else bisect_left(self._times, at_ns)
        settled = self._settled_at(flow, place)
        if settled is None:
            latest = self._latest.settled_to if self._latest is not None else 0
            return int(self._live(flow)[COLUMN[column]]), latest
        return int(settled[COLUMN[column]]), self._times[place]

    def delays(self, flow: int, start_ns: int | None, end_ns: int | None) -> Ints:
        """Histogram of the delays of replies that arrived in the span."""
        first = 0 if start_ns is None else max(0, bisect_right(self._times, start_ns))
        last = len(self._samples) if end_ns is None else bisect_left(self._times, end_ns) + 1
        total = np.zeros(BINS, np.int64)
        for sample in self._samples[first:last]:
            mine = (sample.delay_at >= flow * BINS) & (sample.delay_at < (flow + 1) * BINS)
            np.add.at(total, sample.delay_at[mine] - flow * BINS, sample.delay_by[mine])
        if end_ns is None and self._latest is not None:  # and what came after the last sample
            total += self._latest.histogram[flow]
            if self._histogram is not None and flow < len(self._histogram):
                total -= self._histogram[flow]
        return total

    def _live(self, flow: int) -> Ints:
        return self._latest.live[flow] if self._latest is not None else np.zeros(len(COUNT_NAMES), np.int64)

    def _settled_at(self, flow: int, place: int) -> Ints | None:
        if not 0 <= place < len(self._samples):
            return None
        settled = self._samples[place].settled
        return settled[flow] if flow < len(settled) else np.zeros(len(COUNT_NAMES), np.int64)
