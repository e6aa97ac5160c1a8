"""Outages of one flow: loss periods (RFC 3357) per direction, bounded from TX times (RFC 6414, section 3.6.3).

A run of probes lost in one direction, `i` the last that passed before it and `j` the first after, sent at T:

    lower    T[j-1] - T[i+1]        the outage lasted longer than this
    upper    T[j]   - T[i]          and shorter than this
    estimate (lower + upper) / 2

T is known to within the call that sent the probe. Where that matters, lower and upper are so much further apart.

Each direction is judged from the probes that say something about it (`fate.MEANING`): a probe lost on the way out is
silent about the way back, so that overlapping outages of both ways keep their own edges.

States of a direction, and what moves it::

    CLEAR ──GONE──► RUN ──GONE × (K-1)──► OUTAGE ──OK──► CLEAR  (outage closed)
                     └───────OK──────► CLEAR  (too short to be an outage: only counted as lost)

    MUTE probes move nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from probe.core.events import Direction, Outage
from probe.core.fate import GONE, MEANING, OK
from probe.core.ranges import Ranges

Ints = npt.NDArray[np.int64]
Fates = npt.NDArray[np.uint8]
DIRECTIONS: tuple[Direction, ...] = ("round_trip", "forward", "reverse")
KEPT_UNOBSERVED = 4096  # spans remembered per flow
EPISODE_GAP_NS = 5_000_000_000  # RFC 6412, section 3.7.5: recovery counts once it has held for 5 s


class TxError(NamedTuple):
    """How much earlier and how much later than its TX time says each probe may have left, ns."""

    earlier: npt.NDArray[np.uint32]
    later: npt.NDArray[np.uint32]


@dataclass(slots=True)
class _Run:
    """The open loss run of one direction; `count` is 0 when there is none."""

    ok_at: int = 0
    ok_seq: int = -1
    has_ok: bool = False
    first_at: int = 0
    first_seq: int = 0
    last_at: int = 0
    last_seq: int = 0
    count: int = 0
    ok_earlier: int = 0
    first_later: int = 0
    last_earlier: int = 0


@dataclass(slots=True)
class Span:
    """A finished or still open loss run, on the monotonic clock. `closed_at` is None while it is open.

    `ok_earlier` and the like: by how much the probes of its edges may have left before or after those TX times.
    """

    direction: Direction
    ok_at: int | None
    first_at: int
    first_seq: int
    last_at: int
    last_seq: int
    count: int
    closed_at: int | None
    closed_seq: int = 1 << 62
    ok_seq: int = -1
    ok_earlier: int = 0
    first_later: int = 0
    last_earlier: int = 0
    closed_later: int = 0


class RunFinder:
    """Turns fates in sequence order into loss runs, for all directions; resumable at any probe."""

    def __init__(self) -> None:
        self._runs: dict[Direction, _Run] = {d: _Run() for d in DIRECTIONS}

    def copy(self) -> RunFinder:
        """The same state, to be fed apart from this one."""
        twin = RunFinder()
        twin._runs = {direction: replace(run) for direction, run in self._runs.items()}
        return twin

    def passed(self, at: int, sequence: int, earlier: int = 0) -> None:
        """A probe that passed both ways, before anything else is fed; it may have left so much earlier."""
        for direction in DIRECTIONS:
            self._runs[direction] = _Run(ok_at=at, ok_seq=sequence, has_ok=True, ok_earlier=earlier)

    def feed(
        self, sequences: Ints, at: Ints, fates: Fates, error: TxError | None = None, each: Ints | None = None
    ) -> list[Span]:
        """Take in probes, ascending by sequence, and return the runs that ended among them.

        Args:
            sequences: Of each.
            at: TX times, ns.
            fates: What became of each.
            error: How much earlier and how much later than `at` each may have left; None: no more than is common.
            each: How many of that fate, in a row, each stands for; None: for itself.
        """
        closed: list[Span] = []
        for direction in DIRECTIONS:
            said = MEANING[direction][fates]
            closed += self._feed(direction, sequences, at, said, error, each)
        return closed

    def _feed(
        self,
        direction: Direction,
        sequences: Ints,
        at: Ints,
        said: npt.NDArray[np.uint8],
        error: TxError | None,
        each: Ints | None,
    ) -> list[Span]:
        run = self._runs[direction]
        gone = np.flatnonzero(said == GONE)
        before = None if each is None else np.r_[0, np.cumsum(each[gone])]
        passed = np.flatnonzero(said == OK)
        closed: list[Span] = []
        g = p = 0
        # Jump from edge to edge: the cost is that of the number of runs, not of the probes.
        while True:
            if run.count == 0:
                if g == len(gone):
                    break
                start = gone[g]
                p = int(np.searchsorted(passed, start))
                if p:
                    self._note_ok(run, passed[p - 1], sequences, at, error)
                run.first_at, run.first_seq = int(at[start]), int(sequences[start])
                run.first_later = int(error.later[start]) if error else 0
            else:  # only on entry: the run goes on from the last call
                p = 0
            end = int(np.searchsorted(gone, passed[p])) if p < len(passed) else len(gone)
            if end > g:
                run.count += end - g if before is None else int(before[end] - before[g])
                run.last_at, run.last_seq = int(at[gone[end - 1]]), int(sequences[gone[end - 1]])
                run.last_earlier = int(error.earlier[gone[end - 1]]) if error else 0
            g = end
            if p == len(passed):
                break
            later = int(error.later[passed[p]]) if error else 0
            closed.append(self._span(direction, run, int(at[passed[p]]), int(sequences[passed[p]]), later))
            run.count = 0
        if len(passed) and run.count == 0:
            self._note_ok(run, passed[-1], sequences, at, error)
        return closed

    @staticmethod
    def _note_ok(run: _Run, row: int, sequences: Ints, at: Ints, error: TxError | None) -> None:
        run.ok_at, run.ok_seq, run.has_ok = int(at[row]), int(sequences[row]), True
        run.ok_earlier = int(error.earlier[row]) if error else 0

    def open_runs(self) -> list[Span]:
        return [self._span(d, run, None) for d, run in self._runs.items() if run.count]

    def is_open(self, direction: Direction) -> bool:
        """Whether a run is open in this direction."""
        return self._runs[direction].count > 0

    def quiet(self) -> bool:
        """Whether no run is open in any direction."""
        return not any(run.count for run in self._runs.values())

    @staticmethod
    def _span(
        direction: Direction, run: _Run, closed_at: int | None, closed_seq: int = 1 << 62, closed_later: int = 0
    ) -> Span:
        return Span(
            direction,
            run.ok_at if run.has_ok else None,
            run.first_at,
            run.first_seq,
            run.last_at,
            run.last_seq,
            run.count,
            closed_at,
            closed_seq,
            run.ok_seq if run.has_ok else -1,
            run.ok_earlier if run.has_ok else 0,
            run.first_later,
            run.last_earlier,
            closed_later,
        )


class FlowOutages:
    """The outages of one flow as they are found, with stable ids, and revised when later evidence corrects them.

    Args:
        flow: Name, for the records.
        min_probes: K, the shortest loss run that is an outage.
        first_id: Number of the first outage.
    """

    def __init__(self, flow: str, min_probes: int, first_id: int = 1):
        self.flow = flow
        self.min_probes = min_probes
        self.finder = RunFinder()
        self._next_id = self._mark = first_id
        self._closed: dict[int, Span] = {}  # those that may still be corrected
        self._open_ids: dict[Direction, int] = {}
        self._published: dict[int, Outage] = {}
        self._withdrawn: list[Outage] = []
        self._changed: dict[int, None] = {}  # closed ones to look at in the next drain; a dict for its order
        self._unobserved = Ranges()  # spans of time

    def quiet(self) -> bool:
        return self.finder.quiet()

    def unobserved(self, start: int, end: int) -> None:
        """Remember a span in which the flow did not probe on schedule."""
        if start >= end:
            return
        self._unobserved.add(start, end)
        self._unobserved.trim(KEPT_UNOBSERVED)
        for outage_id, span in self._closed.items():
            if (span.closed_at or span.last_at) > start and (span.ok_at or span.first_at) < end:
                self._changed[outage_id] = None

    def feed(self, sequences: Ints, at: Ints, fates: Fates, error: TxError | None = None) -> None:
        """Take in settled probes, ascending by sequence; arguments as those of `RunFinder.feed`."""
        for span in self.finder.feed(sequences, at, fates, error):
            self._close(span)
        self._open()

    def restart(self, start: int, finder: RunFinder, closed: Iterable[Span] = ()) -> list[tuple[int, Span]]:
        """Go back to `finder`, an earlier state; everything behind it is to be fed again.

        Args:
            start: From which sequence on the runs are found anew.
            finder: The state of the runs there or, where some have been found already, behind those.
            closed: Those of them that have ended.

        Returns:
            (id, run) of each outage that this forgets, for `rematch`.
        """
        forgotten = [(i, s) for i, s in self._closed.items() if s.closed_seq >= start]
        for outage_id, _ in forgotten:
            del self._closed[outage_id]
        forgotten += [
            (self._open_ids[s.direction], s) for s in self.finder.open_runs() if s.direction in self._open_ids
        ]
        self._open_ids = {}
        self._mark = self._next_id
        self.finder = finder
        for span in closed:
            self._close(span)
        return forgotten

    def rematch(self, forgotten: list[tuple[int, Span]]) -> None:
        """Give runs found anew the ids of the forgotten ones that they overlap; withdraw ids left over.

        The longest overlap keeps the id, in the same direction first: a published outage is corrected, not replaced.
        """
        known = {i for i, _ in forgotten}
        current = {s.direction: s for s in self.finder.open_runs()}
        found = [(i, s) for i, s in self._closed.items() if i >= self._mark]
        found += [(i, current[d]) for d, i in self._open_ids.items() if i >= self._mark]
        taken: dict[int, int] = {}
        used: set[int] = set()
        for _, _, old_id, new_id in sorted(_overlapping(forgotten, found)):
            if old_id not in used and new_id not in taken:
                taken[new_id] = old_id
                used.add(old_id)
        for new_id, old_id in taken.items():
            if new_id in self._closed:
                self._closed[old_id] = self._closed.pop(new_id)
                self._changed.pop(new_id, None)
                self._changed[old_id] = None
        self._open_ids = {d: taken.get(i, i) for d, i in self._open_ids.items()}
        for old_id in known - used:
            if old_id in self._published:
                self._withdrawn.append(replace(self._published.pop(old_id), withdrawn=True))

    def forget_below(self, sequence: int) -> None:
        """What was closed below `sequence` can no longer be corrected. It must have been drained."""
        for outage_id in [i for i, s in self._closed.items() if s.closed_seq < sequence and i not in self._changed]:
            del self._closed[outage_id]
            self._published.pop(outage_id, None)

    def drain(self, *, open_too: bool) -> list[Outage]:
        """Every outage that is new or has changed since the last call, on the monotonic clock.

        Args:
            open_too: Also those still open that have only grown.
        """
        changed, self._withdrawn = self._withdrawn, []
        for outage_id in self._changed:
            if outage_id in self._closed:
                self._emit(outage_id, self._closed[outage_id], changed)
        self._changed.clear()
        if self._open_ids:
            current = {s.direction: s for s in self.finder.open_runs()}
            for direction, outage_id in self._open_ids.items():
                if open_too or outage_id not in self._published:
                    self._emit(outage_id, current[direction], changed)
        return changed

    def _emit(self, outage_id: int, span: Span, changed: list[Outage]) -> None:
        outage = self._record(outage_id, span)
        if self._published.get(outage_id) != outage:
            self._published[outage_id] = outage
            changed.append(outage)

    def _close(self, span: Span) -> None:
        outage_id = self._open_ids.pop(span.direction, None)
        if span.count >= self.min_probes:
            outage_id = outage_id if outage_id is not None else self._new_id()
            self._closed[outage_id] = span
            self._changed[outage_id] = None

    def _open(self) -> None:
        for span in self.finder.open_runs():
            if span.count >= self.min_probes and span.direction not in self._open_ids:
                self._open_ids[span.direction] = self._new_id()

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _record(self, outage_id: int, span: Span) -> Outage:
        inner = span.last_at - span.first_at
        end = span.last_at if span.closed_at is None else span.closed_at
        begin = span.first_at if span.ok_at is None else span.ok_at
        likely = max(0, inner - self._unobserved.within(span.first_at, span.last_at)), end - begin
        lower = max(0, likely[0] - span.first_later - span.last_earlier)
        upper = likely[1] + span.ok_earlier + span.closed_later
        return Outage(
            flow=self.flow,
            id=outage_id,
            direction=span.direction,
            start_ns=span.first_at,
            end_ns=end,
            last_ok_ns=span.ok_at or 0,
            first_lost_ns=span.first_at,
            last_lost_ns=span.last_at,
            first_ok_ns=span.closed_at or 0,
            lower_ns=lower,
            estimate_ns=sum(likely) // 2,
            upper_ns=upper,
            lost=span.count,
            first_lost_seq=span.first_seq,
            last_lost_seq=span.last_seq,
            last_ok_seq=span.ok_seq,
            first_ok_seq=span.closed_seq if span.closed_at is not None else -1,
            censored="end" if span.closed_at is None else "start" if span.ok_at is None else "no",
            unobserved_ns=self._unobserved.within(begin, end),
            tx_error_ns=(upper - lower) - (likely[1] - likely[0]),
        )


def _overlapping(old: list[tuple[int, Span]], new: list[tuple[int, Span]]) -> list[tuple[bool, int, int, int]]:
    """(direction differs, -overlap, old id, new id) of all pairs that overlap. Runs of one direction lie apart."""
    pairs = []
    for direction in DIRECTIONS:
        mine = sorted(((s.last_seq, i, s) for i, s in old if s.direction == direction), key=lambda entry: entry[:2])
        ends = [last for last, _, _ in mine]
        for new_id, found in new:
            for _, old_id, span in mine[bisect_left(ends, found.first_seq) :]:
                if span.first_seq > found.last_seq:
                    break
                pairs.append((span.direction != found.direction, -_overlap(span, found), old_id, new_id))
    return pairs


def _overlap(a: Span, b: Span) -> int:
    return min(a.last_seq, b.last_seq) - max(a.first_seq, b.first_seq) + 1


def with_episodes(outages: Iterable[Outage], gap_ns: int = EPISODE_GAP_NS) -> list[Outage]:
    """Number the episodes of one flow: outages at most `gap_ns` apart, in whatever direction, share one."""
    numbered: list[Outage] = []
    episode, reached = 0, None
    for outage in sorted(outages, key=lambda o: (o.start_ns, o.id)):
        if reached is None or outage.start_ns - reached > gap_ns:
            episode += 1
        reached = max(reached or 0, outage.end_ns)
        numbered.append(replace(outage, episode=episode))
    return numbered
