"""How an engine's counters stood at past instants, so that any span can be accounted for afterwards.

Each sample holds the counts of all probes sent before its `settled_to`, every one of them settled. The difference of
two samples is therefore an exact account of the probes sent between, and obeys every law of the result document.

Nothing is forgotten, it gets coarser: where memory is full, the sample goes whose absence matters least for its age.
So the steps grow with the time that has passed since, by the same share of it everywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe.border import Snapshot
from probe.core.events import COUNT_NAMES, Counts
from probe.core.fate import COLUMN, COLUMNS
from probe.core.histogram import BINS

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.uint32]  # of a sample's delays: as the engine's histogram counts
MEMORY_OCTETS = 64 << 20
SAMPLE_OCTETS = 900  # of the objects that hold a sample's arrays
NARROW = 1 << 30  # counts below this have room for corrections in 32 bits
_FOLLOWS_LOST = {"lost_forward", "lost_reverse", "lost_unattributed"}


@dataclass(slots=True)
class _Settled:
    """Counts of all flows: without the columns in which all are 0, which are most, and as narrow as they allow."""

    places: dict[int, int]  # of the columns that are there
    counts: npt.NDArray[np.int32 | np.int64]  # shape (flows, places)

    @classmethod
    def of(cls, settled: Ints) -> _Settled:
        columns = np.flatnonzero(settled.any(axis=0))
        narrow = not settled.size or settled.max() < NARROW
        places = {column: place for place, column in enumerate(columns.tolist())}
        return cls(places, settled[:, columns].astype(np.int32 if narrow else np.int64))

    def __len__(self) -> int:
        return len(self.counts)

    def row(self, flow: int) -> Ints:
        """Shape (COLUMNS,); of a flow that came later, all 0."""
        row = np.zeros(COLUMNS, np.int64)
        if flow < len(self.counts):
            row[[*self.places]] = self.counts[flow]
        return row

    def column(self, column: int) -> npt.NDArray[np.int32 | np.int64]:
        """Shape (flows,)."""
        place = self.places.get(column)
        return np.zeros(len(self.counts), np.int32) if place is None else self.counts[:, place]

    def add(self, flow: int, column: int, n: int) -> int:
        """Count so many more; by how many octets that makes it longer."""
        before = self.counts.nbytes
        if column not in self.places:
            self.places[column] = len(self.places)
            self.counts = np.append(self.counts, np.zeros((len(self.counts), 1), self.counts.dtype), axis=1)
        self.counts[flow, self.places[column]] += n
        return self.counts.nbytes - before


@dataclass(slots=True)
class _Sample:
    generation: int
    settled_to: int
    settled: _Settled
    delay_at: Small  # flat positions in the histograms that grew since the sample before, ascending
    delay_by: Small

    @property
    def octets(self) -> int:
        return SAMPLE_OCTETS + self.settled.counts.nbytes + self.delay_at.nbytes + self.delay_by.nbytes

    def take_delays(self, before: _Sample) -> None:
        """Grow since the sample before the one before, which goes."""
        at = np.concatenate((before.delay_at, self.delay_at))
        by = np.concatenate((before.delay_by, self.delay_by))
        order = np.argsort(at, kind="stable")  # merges: both are in order
        at, by = at[order], by[order]
        first = np.flatnonzero(np.concatenate((at[:1] >= 0, at[1:] != at[:-1])))
        self.delay_at = at[first]
        self.delay_by = np.add.reduceat(by, first, dtype=np.uint32) if len(first) else by


@dataclass(frozen=True, slots=True)
class _Correction:
    flow: int
    at_ns: int
    fro: str
    to: str
    count: int
    generation: int

    def amend(self, sample: _Sample) -> int:
        """Have a sample know of it, if it has the probes and does not; by how many octets that makes it longer."""
        if sample.generation > self.generation or sample.settled_to < self.at_ns or self.flow >= len(sample.settled):
            return 0
        lost = (self.to in _FOLLOWS_LOST) - (self.fro in _FOLLOWS_LOST)
        changes = ((self.fro, -1), (self.to, 1), ("lost", lost))
        return sum(sample.settled.add(self.flow, COLUMN[name], sign * self.count) for name, sign in changes if sign)


class History:
    """Samples of one engine's counters, ascending in time, the older the fewer when they fill MEMORY_OCTETS."""

    def __init__(self) -> None:
        self._samples: list[_Sample] = []
        self._times: list[int] = []
        self._histogram: npt.NDArray[np.uint32] | None = None
        self._latest: Snapshot | None = None
        self._octets = 0
        self.holders = 0  # while anyone holds them, all samples stay
        self._corrections: deque[_Correction] = deque()  # that a reading yet to come may lack

    @property
    def latest(self) -> Snapshot | None:
        return self._latest

    def add(self, snapshot: Snapshot, flows: int) -> None:
        """Take in a reading; `flows` rows of it are in use."""
        self._latest = snapshot
        if self._times and snapshot.settled_to <= self._times[-1]:
            return
        settled, histogram = _Settled.of(snapshot.settled[:flows]), snapshot.histogram[:flows].copy()
        if self._samples:
            before, now = (s.column(COLUMN["scheduled"]) for s in (self._samples[-1].settled, settled))
            rows = min(len(before), flows)
            for flow in np.flatnonzero(now[:rows] < before[:rows]).tolist():
                self.forget(flow)
        at, by = self._grown(histogram)
        self._histogram = histogram
        sample = _Sample(snapshot.generation, snapshot.settled_to, settled, at, by)
        # A correction may be told between the reading before this one and the publishing that includes it.
        while self._corrections and self._corrections[0].generation < snapshot.generation:
            self._corrections.popleft()
        for correction in self._corrections:
            correction.amend(sample)
        self._samples.append(sample)
        self._times.append(sample.settled_to)
        self._octets += sample.octets
        while self._octets > MEMORY_OCTETS and len(self._samples) > 2 and not self.holders:
            self._thin()

    def _thin(self) -> None:
        """Let the sample go whose absence makes the widest step least wide for how long ago that was.

        The first one stays: before it, nothing was counted. So does the last.
        """
        times = np.array(self._times, np.int64)
        step_ns, age_ns = times[2:] - times[:-2], times[-1] - times[:-2]
        place = 1 + int(np.argmin(step_ns / age_ns))
        gone, after = self._samples.pop(place), self._samples[place]
        self._times.pop(place)
        self._octets -= gone.octets + after.octets
        after.take_delays(gone)
        self._octets += after.octets

    def _grown(self, histogram: npt.NDArray[np.uint32]) -> tuple[Small, Small]:
        """Where the histograms have grown since the reading before, and by how much."""
        before = self._histogram
        if before is None or len(before) < len(histogram):
            known = [] if before is None else [before]
            before = np.concatenate([*known, np.zeros_like(histogram[sum(map(len, known)) :])])
        before = before[: len(histogram)]
        # Found before anything is converted: with thousands of flows these are tens of megabytes, read often.
        at = np.flatnonzero(histogram != before)
        now, then = histogram.reshape(-1)[at], before.reshape(-1)[at]
        grown = now > then
        return at[grown].astype(np.uint32), (now - then)[grown]

    def forget(self, flow: int) -> None:
        """From the next reading on, this row belongs to another flow."""
        for sample in self._samples:
            if flow < len(sample.settled):
                sample.settled.counts[flow] = 0
            others = (sample.delay_at < flow * BINS) | (sample.delay_at >= (flow + 1) * BINS)
            if not others.all():
                self._octets -= sample.octets
                sample.delay_at, sample.delay_by = sample.delay_at[others], sample.delay_by[others]
                self._octets += sample.octets
        if self._histogram is not None and flow < len(self._histogram):
            self._histogram[flow] = 0
        self._corrections = deque(c for c in self._corrections if c.flow != flow)

    def correct(self, flow: int, at_ns: int, fro: str, to: str, count: int, generation: int) -> None:
        """Settled probes have changed from `fro` to `to`: amend the samples that have them and do not know yet.

        Args:
            flow: Row.
            at_ns: Every sample of this `settled_to` or later has them, none before.
            fro: Column they counted in.
            to: Column they count in now.
            count: How many.
            generation: Readings up to this one lack the correction.
        """
        correction = _Correction(flow, at_ns, fro, to, count, generation)
        for sample in self._samples[bisect_left(self._times, at_ns) :]:
            self._octets += correction.amend(sample)
        self._corrections.append(correction)

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

    def begin(self, start_ns: int | None) -> int | None:
        """Where the span that `counts` accounts for begins: with the first probe sent after this; None: the first."""
        place = 0 if start_ns is None else bisect_right(self._times, start_ns) - 1
        return self._times[place] if start_ns is not None and place >= 0 else None

    def end(self, end_ns: int | None) -> int | None:
        """Where that span ends: with the last probe sent up to this; None: now."""
        place = len(self._times) if end_ns is None else bisect_left(self._times, end_ns)
        return self._times[place] if place < len(self._times) else None

    def live(self, flow: int, column: str) -> int:
        """A count as it stands now, settled or not."""
        return int(self._live(flow)[COLUMN[column]])

    def delays(self, flow: int, start_ns: int | None, end_ns: int | None) -> Ints:
        """Histogram of the delays of replies that arrived in the span."""
        if start_ns is None and end_ns is None and self._latest is not None:
            whole: Ints = self._latest.histogram[flow].astype(np.int64)  # a scrape asks so of every flow
            return whole
        first = 0 if start_ns is None else max(0, bisect_right(self._times, start_ns))
        last = len(self._samples) if end_ns is None else bisect_left(self._times, end_ns) + 1
        total = np.zeros(BINS, np.int64)
        edges = np.array((flow * BINS, (flow + 1) * BINS), np.uint32)  # of any other type, all would be converted
        for sample in self._samples[first:last]:
            low, high = sample.delay_at.searchsorted(edges)
            total[sample.delay_at[low:high] - flow * BINS] += sample.delay_by[low:high]
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
        return self._samples[place].settled.row(flow)
