"""The fate of every probe of every flow.

Each flow owns a ring of slots in shared arrays: slot = base + (sequence modulo ring size), so that a batch of any
mix of flows is looked up without a loop. A log in send order settles probes as their loss threshold passes. In steady
state a batch costs a few array operations; Python objects appear only for flows that have lost something.

Memory depends on rates and the loss threshold, never on how long a run lasts: a ring holds about a minute of a
flow's probes, within bounds, which is also how long a late reply can still correct the record.

Time is an argument everywhere: `at` is nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from probe.core.arrays import cumcount, distinct
from probe.core.direction import ReflectorView
from probe.core.events import Direction, Outage
from probe.core.fate import (
    COLUMN,
    COLUMNS,
    DROPPED,
    EMPTY,
    FATE_COLUMN,
    IS_LOST,
    LATE,
    LOST,
    LOST_FATES,
    LOST_FORWARD,
    LOST_REVERSE,
    PENDING,
    RECEIVED,
)
from probe.core.outage import FlowOutages, Span

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RETENTION_S = 60
MIN_SLOTS, MAX_SLOTS = 1 << 9, 1 << 18
SETTLED_COLUMNS = [COLUMN[name] for name in FATE_COLUMN.values()]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a batch of replies turned out to be. Arrays of the batch's length, in its order."""

    answered: Bools  # first copy, within the loss threshold
    late: Bools
    duplicate: Bools
    unknown: Bools  # no probe of ours has that sequence, or it is too old to tell
    rtt_ns: Ints  # reply time minus TX time; meaningless where unknown


@dataclass(frozen=True, slots=True)
class Reports:
    """Columns of our reflector's reports (wire/layout.py); int64, one element a reply."""

    boot: Ints
    q: Ints
    gap_total: Ints
    gap_index: Ints
    gap_start: Ints
    gap_length: Ints


@dataclass(frozen=True, slots=True)
class Correction:
    """Probes sent at about `at` whose settled fate has changed: they now count in `to` instead of `fro`."""

    flow: int
    at: int
    fro: str
    to: str
    count: int


@dataclass(slots=True)
class _Drops:
    """Replies that our ring dropped in a span of time; `left` may still be given to missing probes."""

    start: int
    end: int
    left: int


class Ledger:
    """All flows of one sender.

    Args:
        capacity: Number of flow indices, fixed.
        live: Counters to keep up to date at once; int64, shape (capacity, COLUMNS). May live in shared memory.
        settled: The same for probes sent up to `settled_to` alone: consistent at every settle, nothing pending.
    """

    def __init__(self, capacity: int, live: Ints | None = None, settled: Ints | None = None):
        self.live: Ints = np.zeros((capacity, COLUMNS), np.int64) if live is None else live
        self.settled: Ints = np.zeros((capacity, COLUMNS), np.int64) if settled is None else settled
        self.settled_to = 0
        self.next_seq = np.zeros(capacity, np.int64)
        self.max_seen = np.full(capacity, -1, np.int64)
        self.last_answered_at = np.zeros(capacity, np.int64)  # TX time of the newest probe that was answered
        self.last_sent_at = np.zeros(capacity, np.int64)
        self._capacity = capacity
        self._base = np.zeros(capacity, np.int64)
        self._slots = np.zeros(capacity, np.int64)
        self._mask = np.zeros(capacity, np.int64)
        self._threshold = np.zeros(capacity, np.int64)
        self._settled_seq = np.zeros(capacity, np.int64)  # everything below is settled
        self._clean_at = np.zeros(capacity, np.int64)
        self._clean_seq = np.full(capacity, -1, np.int64)
        self._troubled = np.zeros(capacity, bool)  # has an open loss run
        self._fate = np.zeros(0, np.uint8)
        self._sent_at = np.zeros(0, np.int64)
        self._first = np.zeros(0, np.int32)  # scratch for finding first copies
        self._free: list[tuple[int, int]] = []
        self._log_flow = np.zeros(1 << 12, np.int32)
        self._log_seq = np.zeros(1 << 12, np.int64)
        self._log_head = self._log_tail = 0
        self._unsent: list[tuple[int, int, int]] = []  # (due time, flow, count)
        self._drops: list[_Drops] = []
        self._outages: dict[int, FlowOutages] = {}
        self._views: dict[int, ReflectorView] = {}
        # What the last report of each reflector said, so that a batch that says the same again costs no loop.
        self._boot = np.full(capacity, -1, np.int64)
        self._gap_total = np.full(capacity, -1, np.int64)
        self._frontier = np.full(capacity, -1, np.int64)
        self._awaiting: dict[int, tuple[int, int]] = {}  # flow to the range of losses whose direction may yet be told
        self._dirty: dict[int, int] = {}  # flow to the lowest sequence whose fate was corrected
        self._corrections: list[Correction] = []
        self._max_rtt = 0

    # --- flows -------------------------------------------------------------------------------------------------

    def add(self, flow: int, name: str, rate_pps: float, threshold_ns: int, min_probes: int) -> None:
        """Begin to account for flow index `flow`, from sequence 0."""
        wanted = rate_pps * max(RETENTION_S, 2 * threshold_ns / 1e9)
        least = 2 * rate_pps * (threshold_ns / 1e9 + 1)
        slots = 1 << int(max(MIN_SLOTS, min(wanted, MAX_SLOTS), least) - 1).bit_length()
        self._base[flow] = self._acquire(slots)
        self._slots[flow], self._mask[flow] = slots, slots - 1
        self._threshold[flow] = threshold_ns
        for array in (self.next_seq, self._settled_seq, self._clean_at, self.last_answered_at, self.last_sent_at):
            array[flow] = 0
        for array in (self.max_seen, self._clean_seq, self._boot, self._gap_total, self._frontier):
            array[flow] = -1
        self._troubled[flow] = False
        self.live[flow] = self.settled[flow] = 0
        self._outages[flow] = FlowOutages(name, min_probes)

    def remove(self, flow: int) -> None:
        """Stop accounting for a flow; its slots are free for others."""
        live = np.arange(self._log_tail, self._log_head)
        place = live & (len(self._log_flow) - 1)
        self._log_flow[place[self._log_flow[place] == flow]] = -1
        self._free.append((int(self._base[flow]), int(self._slots[flow])))
        self._mask[flow] = self._slots[flow] = 0
        self._unsent = [u for u in self._unsent if u[1] != flow]
        for table in (self._outages, self._views, self._awaiting, self._dirty):
            table.pop(flow, None)

    def _acquire(self, slots: int) -> int:
        for index, (base, size) in enumerate(self._free):
            if size == slots:
                del self._free[index]
                self._fate[base : base + slots] = EMPTY
                return base
        base = len(self._fate)
        self._fate = np.concatenate([self._fate, np.zeros(slots, np.uint8)])
        self._sent_at = np.concatenate([self._sent_at, np.zeros(slots, np.int64)])
        self._first = np.concatenate([self._first, np.zeros(slots, np.int32)])
        return base

    # --- sending -----------------------------------------------------------------------------------------------

    def allocate(self, flow: Ints, at: Ints) -> Ints:
        """Number probes that are about to be sent, in their order. Until `stamp` says that they left, they count
        nowhere.

        Args:
            flow: Flow index of each probe.
            at: When each is due.

        Returns:
            Sequences, int64.
        """
        sequence = self.next_seq[flow] + cumcount(flow)
        self.next_seq += np.bincount(flow, minlength=self._capacity)
        slot = self._base[flow] + (sequence & self._mask[flow])
        self._fate[slot] = PENDING
        self._sent_at[slot] = at
        return sequence

    def stamp(self, flow: Ints, sequence: Ints, at: Ints) -> None:
        """These probes have left, at these times, in this order: they count as scheduled and sent."""
        self._sent_at[self._base[flow] + (sequence & self._mask[flow])] = at
        n = len(flow)
        self._reserve_log(n)
        place = (self._log_head + np.arange(n)) & (len(self._log_flow) - 1)
        self._log_flow[place] = flow
        self._log_seq[place] = sequence
        self._log_head += n
        count = np.bincount(flow, minlength=self._capacity)
        self.live[:, COLUMN["scheduled"]] += count
        self.live[:, COLUMN["sent"]] += count
        self.last_sent_at[flow] = at

    def withdraw(self, flow: Ints, sequence: Ints) -> None:
        """The last probes allocated to these flows will not be sent: their numbers are free again."""
        self._fate[self._base[flow] + (sequence & self._mask[flow])] = EMPTY
        self.next_seq -= np.bincount(flow, minlength=self._capacity)

    def unsent(self, flow: Ints, due: Ints) -> None:
        """Slots of the schedule that passed without a probe."""
        flows, where = np.unique(flow, return_inverse=True)
        counts = np.bincount(where)
        self.live[flows, COLUMN["scheduled"]] += counts
        self.live[flows, COLUMN["unsent"]] += counts
        last = np.zeros(len(flows), np.int64)
        np.maximum.at(last, where, due)
        self._unsent += [(int(t), int(f), int(c)) for t, f, c in zip(last, flows, counts, strict=True)]

    def unobserved(self, flow: int, start: int, end: int) -> None:
        """The flow did not probe on schedule from `start` to `end`."""
        self._outages[flow].unobserved(start, end)

    def _reserve_log(self, n: int) -> None:
        size = len(self._log_flow)
        if self._log_head - self._log_tail + n <= size:
            return
        live = np.arange(self._log_tail, self._log_head) & (size - 1)
        while size < self._log_head - self._log_tail + n:
            size *= 2
        flow, sequence = np.zeros(size, np.int32), np.zeros(size, np.int64)
        flow[: len(live)], sequence[: len(live)] = self._log_flow[live], self._log_seq[live]
        self._log_flow, self._log_seq = flow, sequence
        self._log_head -= self._log_tail
        self._log_tail = 0

    # --- receiving ---------------------------------------------------------------------------------------------

    def receive(self, flow: Ints, sequence: Ints, at: Ints) -> Arrivals:
        """Account for replies.

        Args:
            flow: Flow index of each reply.
            sequence: The probe each answers; anything, also nonsense.
            at: When it arrived.
        """
        n = len(flow)
        known = (
            (sequence >= 0) & (sequence < self.next_seq[flow]) & (sequence >= self.next_seq[flow] - self._slots[flow])
        )
        slot = np.where(known, self._base[flow] + (sequence & self._mask[flow]), 0)
        fate = np.where(known, self._fate[slot], EMPTY)
        known &= fate != EMPTY
        rtt = at - self._sent_at[slot]
        # The last assignment to an element wins, so writing backwards leaves the first copy's position.
        backwards = np.flatnonzero(known)[::-1]
        self._first[slot[backwards]] = backwards
        first = known & (self._first[slot] == np.arange(n))
        in_time = rtt <= self._threshold[flow]
        new = first & (fate != RECEIVED) & (fate != LATE)
        answered = new & in_time
        late = new & ~in_time
        self._correct(flow, sequence, slot, fate, answered, late)
        self._fate[slot[answered]] = RECEIVED
        self._fate[slot[late]] = LATE
        duplicate = known & ~new
        for column, mask in (("received", answered), ("late", late), ("duplicate", duplicate)):
            if mask.any():
                self.live[:, COLUMN[column]] += np.bincount(flow[mask], minlength=self._capacity)
        if new.any():
            self._reordering(flow[new], sequence[new])
            np.maximum.at(self.last_answered_at, flow[new], self._sent_at[slot[new]])
        if answered.any():
            self._max_rtt = max(int(rtt[answered].max()), self._max_rtt - self._max_rtt // 256)
        return Arrivals(answered, late, duplicate, ~known, rtt)

    def _reordering(self, flow: Ints, sequence: Ints) -> None:
        """Count first copies that arrived behind a higher sequence (RFC 4737, section 3.3)."""
        if len(flow) > 1 and flow.min() != flow.max():
            order = np.argsort(flow, kind="stable")
            flow, sequence = flow[order], sequence[order]
        edge = np.r_[True, flow[1:] != flow[:-1]]
        before = np.r_[0, sequence[:-1]]
        before[edge] = self.max_seen[flow[edge]]
        if (sequence > before).all():
            self.max_seen[flow] = sequence
            return
        for start, end in _spans(edge):
            f, seq = flow[start], sequence[start:end]
            top = np.maximum.accumulate(np.r_[self.max_seen[f], seq])
            self.live[f, COLUMN["reordered"]] += int((seq < top[:-1]).sum())
            self.max_seen[f] = top[-1]

    def _correct(
        self, flow: Ints, sequence: Ints, slot: Ints, fate: npt.NDArray[np.uint8], answered: Bools, late: Bools
    ) -> None:
        """A reply to a probe that was already settled as lost or dropped takes that back."""
        settled = (answered | late) & (fate != PENDING)
        if not settled.any():
            return
        for i in np.flatnonzero(settled):
            f, seq = int(flow[i]), int(sequence[i])
            to = "received" if answered[i] else "late"
            self._move(f, int(self._sent_at[slot[i]]), int(fate[i]), to, 1)
            self.live[f, COLUMN[to]] -= 1  # receive() adds it again
            self._dirty[f] = min(self._dirty.get(f, seq), seq)

    def _move(self, flow: int, at: int, fate: int, to: str, count: int) -> None:
        fro = FATE_COLUMN[fate]
        for counts in (self.live, self.settled):
            counts[flow, COLUMN[fro]] -= count
            counts[flow, COLUMN[to]] += count
            if fate in LOST_FATES and not to.startswith("lost_"):
                counts[flow, COLUMN["lost"]] -= count
        self._corrections.append(Correction(flow, at, fro, to, count))

    def count(self, flow: int, column: str, n: int = 1) -> None:
        """Add to a count that no law binds: corrupt, reset, icmp_error."""
        self.live[flow, COLUMN[column]] += n

    def dropped(self, start: int, end: int, count: int) -> None:
        """Our receive ring lost `count` frames between `start` and `end`: that many missing replies are our own
        doing.
        """
        self._drops.append(_Drops(start - max(self._max_rtt * 2, 10_000_000), end, count))
        del self._drops[:-64]

    # --- what the reflector tells ------------------------------------------------------------------------------

    def reports(self, flow: Ints, sequence: Ints, report: Reports) -> None:
        """Take in what our own reflector says in a batch of replies: which losses were on the way out.

        Args:
            flow: Flow index of each reply.
            sequence: The probe it answers.
            report: The reports' columns.
        """
        same = (report.boot == self._boot[flow]) & (report.gap_total == self._gap_total[flow])
        np.maximum.at(self._frontier, flow[same], sequence[same])
        for i in np.flatnonzero(~same).tolist():
            f = int(flow[i])
            view = self._view(f)
            view.report(
                int(report.boot[i]),
                int(sequence[i]),
                int(report.q[i]),
                int(report.gap_total[i]),
                int(report.gap_index[i]),
                int(report.gap_start[i]),
                int(report.gap_length[i]),
            )
            self._boot[f] = report.boot[i]
            self._gap_total[f] = report.gap_total[i] if view.complete else -1
            self._frontier[f] = view.frontier
        self._resolve_all(flow)

    def numbers(self, flow: Ints, sequence: Ints, q: Ints) -> None:
        """Take in the numbers that a reflector which is not ours gave its replies (RFC 8762, section 4.3)."""
        for f in distinct(flow):
            mine = flow == f
            view = self._view(f)
            view.consecutive_many(sequence[mine], q[mine])
            self._frontier[f] = view.frontier
        self._resolve_all(flow)

    def _view(self, flow: int) -> ReflectorView:
        view = self._views.setdefault(flow, ReflectorView())
        view.frontier = max(view.frontier, int(self._frontier[flow]))
        return view

    def _resolve_all(self, flow: Ints) -> None:
        if self._awaiting:
            for f in distinct(flow):
                self.resolve(f)

    def resolve(self, flow: int) -> None:
        """Give settled losses of a flow their direction, as far as its reflector has told."""
        if flow not in self._awaiting:
            return
        view = self._view(flow)
        first, last = self._awaiting[flow]
        if view.frontier < first:
            return
        upto = min(last, view.frontier)
        oldest = max(first, int(self.next_seq[flow] - self._slots[flow]))
        if first < oldest:
            self._resolve_prefix(flow, first, min(oldest - 1, upto), view)
        sequence = np.arange(oldest, upto + 1)
        slot = self._base[flow] + (sequence & self._mask[flow])
        mine = self._fate[slot] == LOST
        sequence, slot = sequence[mine], slot[mine]
        known, forward = view.resolve(sequence)
        for mask, fate in ((known & forward, LOST_FORWARD), (known & ~forward, LOST_REVERSE)):
            if mask.any():
                self._fate[slot[mask]] = fate
                at = self._sent_at[slot[mask]]
                for second in np.unique(at // 1_000_000_000):
                    inside = at // 1_000_000_000 == second
                    self._move(flow, int(at[inside][0]), LOST, FATE_COLUMN[fate], int(inside.sum()))
                self._dirty[flow] = min(self._dirty.get(flow, int(sequence[mask][0])), int(sequence[mask][0]))
        if upto >= last:
            del self._awaiting[flow]
        else:
            self._awaiting[flow] = (upto + 1, last)

    def _resolve_prefix(self, flow: int, first: int, last: int, view: ReflectorView) -> None:
        """Losses that have left the ring: an open run holds them in summary."""
        forward = view.covers(first, last)
        for span in self._outages[flow].finder.open_runs():
            if forward is None or span.direction != "round_trip" or span.first_seq > first:
                continue
            count = min(last, span.last_seq) - max(first, span.first_seq) + 1
            to = LOST_FORWARD if forward else LOST_REVERSE
            self._move(flow, span.first_at, LOST, FATE_COLUMN[to], count)
            self._dirty[flow] = min(self._dirty.get(flow, first), first)

    # --- settling ----------------------------------------------------------------------------------------------

    def settle(self, now: int) -> None:
        """Decide every probe whose loss threshold passed by `now`. All replies that arrived by then must be in."""
        while self._log_tail < self._log_head:
            batch = self._due(now)
            if batch is None:
                break
            self._settle(*batch)
        horizon = now - int(self._threshold.max(initial=0))
        self._settle_unsent(horizon)
        self.settled_to = max(self.settled_to, horizon)
        for flow in list(self._dirty):
            self._rebuild(flow, self._dirty.pop(flow))

    def finish(self, now: int) -> None:
        """Decide everything that is left, whatever its age."""
        self._threshold_all(0)
        self.settle(now)

    def _threshold_all(self, ns: int) -> None:
        self._threshold[:] = ns

    def _due(self, now: int) -> tuple[Ints, Ints, Ints] | None:
        size = len(self._log_flow)
        n = min(self._log_head - self._log_tail, 1 << 15)
        place = (self._log_tail + np.arange(n)) & (size - 1)
        flow = self._log_flow[place].astype(np.int64)
        sequence = self._log_seq[place]
        gone = flow < 0
        slot = self._base[flow] + (sequence & self._mask[flow])
        ripe = (self._sent_at[slot] + self._threshold[flow] <= now) | gone
        # The log is in send order; with one loss threshold for all flows this is a prefix. With several, a longer one
        # holds shorter ones back behind it, which delays their verdict and changes nothing else.
        n = int(np.argmin(ripe)) if not ripe.all() else n
        if n == 0:
            return None
        self._log_tail += n
        keep = ~gone[:n]
        return flow[:n][keep], sequence[:n][keep], slot[:n][keep]

    def _settle(self, flow: Ints, sequence: Ints, slot: Ints) -> None:
        fate = self._fate[slot]
        missing = fate == PENDING
        if missing.any():
            fate[missing] = self._classify(flow[missing], sequence[missing], self._sent_at[slot[missing]])
            self._fate[slot[missing]] = fate[missing]
        count = np.bincount(flow, minlength=self._capacity)
        self.settled[:, COLUMN["scheduled"]] += count
        self.settled[:, COLUMN["sent"]] += count
        for value, name in FATE_COLUMN.items():
            which = fate == value
            if which.any():
                count = np.bincount(flow[which], minlength=self._capacity)
                self.settled[:, COLUMN[name]] += count
                if IS_LOST[value]:
                    self.settled[:, COLUMN["lost"]] += count
                    self.live[:, COLUMN["lost"]] += count
                if IS_LOST[value] or value == DROPPED:
                    self.live[:, COLUMN[name]] += count
        troubled = self._troubled[flow] | missing
        calm = ~troubled
        if missing.any():
            # Flows with a loss in this batch are fed whole, so that the edges of the run are exact.
            touched = np.zeros(self._capacity, bool)
            touched[flow[troubled]] = True
            calm = ~touched[flow]
        self._note_clean(flow[calm], sequence[calm], self._sent_at[slot[calm]])
        if not calm.all():
            rest = ~calm
            self._feed(flow[rest], sequence[rest], self._sent_at[slot[rest]], fate[rest])
        self._settled_seq[flow] = sequence + 1

    def _note_clean(self, flow: Ints, sequence: Ints, at: Ints) -> None:
        self._clean_seq[flow] = sequence  # the last assignment of a flow wins, and the log is in order
        self._clean_at[flow] = at

    def _feed(self, flow: Ints, sequence: Ints, at: Ints, fate: npt.NDArray[np.uint8]) -> None:
        order = np.argsort(flow, kind="stable")
        flow, sequence, at, fate = flow[order], sequence[order], at[order], fate[order]
        edge = np.r_[True, flow[1:] != flow[:-1]]
        for start, end in _spans(edge):
            f = int(flow[start])
            outages = self._outages[f]
            if outages.quiet() and self._clean_seq[f] >= 0:
                outages.finder.passed(int(self._clean_at[f]), int(self._clean_seq[f]))
            outages.feed(sequence[start:end], at[start:end], fate[start:end])
            self._troubled[f] = not outages.quiet()
            ok = np.flatnonzero((fate[start:end] == RECEIVED) | (fate[start:end] == LATE))
            if len(ok):
                self._clean_seq[f], self._clean_at[f] = sequence[start + ok[-1]], at[start + ok[-1]]

    def _classify(self, flow: Ints, sequence: Ints, at: Ints) -> npt.NDArray[np.uint8]:
        """Fates of probes that were not answered in time."""
        fate = np.full(len(flow), LOST, np.uint8)
        for drops in self._drops:
            inside = np.flatnonzero((at >= drops.start) & (at <= drops.end) & (fate == LOST))[: drops.left]
            fate[inside] = DROPPED
            drops.left -= len(inside)
        for f in distinct(flow):
            if int(f) not in self._views:
                continue
            view = self._view(int(f))
            mine = np.flatnonzero((flow == f) & (fate == LOST))
            if not len(mine):
                continue
            known, forward = view.resolve(sequence[mine])
            fate[mine[known & forward]] = LOST_FORWARD
            fate[mine[known & ~forward]] = LOST_REVERSE
            unknown = sequence[mine[~known]]
            unknown = unknown[unknown > view.frontier]
            if len(unknown):
                first, last = self._awaiting.get(int(f), (int(unknown[0]), 0))
                self._awaiting[int(f)] = (first, max(last, int(unknown[-1])))
        return fate

    def _settle_unsent(self, horizon: int) -> None:
        if not self._unsent:
            return
        ripe = [u for u in self._unsent if u[0] <= horizon]
        if ripe:
            self._unsent = [u for u in self._unsent if u[0] > horizon]
            for _, flow, count in ripe:
                self.settled[flow, COLUMN["scheduled"]] += count
                self.settled[flow, COLUMN["unsent"]] += count

    # --- outages -----------------------------------------------------------------------------------------------

    def drain_outages(self, *, open_too: bool) -> list[tuple[int, Outage]]:
        """(flow index, outage) for each that is new or changed since the last call."""
        return [(f, o) for f, outages in self._outages.items() for o in outages.drain(open_too=open_too)]

    def drain_corrections(self) -> list[Correction]:
        """Changes of settled counts since the last call."""
        merged: dict[tuple[int, int, str, str], Correction] = {}
        for c in self._corrections:
            key = (c.flow, c.at // 1_000_000_000, c.fro, c.to)
            before = merged.get(key)
            merged[key] = c if before is None else replace(before, count=before.count + c.count)
        self._corrections = []
        return list(merged.values())

    def _rebuild(self, flow: int, lowest: int) -> None:
        """Find the runs of `flow` anew from the last probe before `lowest` that passed both ways."""
        outages = self._outages[flow]
        settled = int(self._settled_seq[flow])
        oldest = max(0, int(self.next_seq[flow] - self._slots[flow]))
        if lowest >= settled:
            return
        sequence = np.arange(oldest, settled)
        slot = self._base[flow] + (sequence & self._mask[flow])
        fate = self._fate[slot]
        passed = np.flatnonzero((fate == RECEIVED) | (fate == LATE))
        before = passed[passed < lowest - oldest] if lowest > oldest else passed[:0]
        at = self._sent_at[slot]
        prefix = self._prefix(flow, oldest) if not len(before) else None
        begin = int(before[-1]) if len(before) else 0
        forgotten = outages.restart(int(sequence[begin]) if len(before) else -1)
        if prefix is not None:
            direction, span, count = prefix
            outages.finder.seed(direction, span.ok_at, span.first_at, span.first_seq, span.last_at, oldest - 1, count)
        outages.feed(sequence[begin:], at[begin:], fate[begin:])
        outages.rematch(forgotten)
        self._troubled[flow] = not outages.quiet()

    def _prefix(self, flow: int, oldest: int) -> tuple[Direction, Span, int] | None:
        """The part of an open run that has left the ring, and the direction it is now known to have."""
        for span in self._outages[flow].finder.open_runs():
            count = oldest - span.first_seq
            if count <= 0:
                continue
            direction = span.direction
            forward = self._view(flow).covers(span.first_seq, oldest - 1) if flow in self._views else None
            if direction == "round_trip" and forward is not None:
                direction = "forward" if forward else "reverse"
            return direction, span, count
        return None


def _spans(edge: Bools) -> list[tuple[int, int]]:
    """(start, end) of each group, given where groups begin."""
    starts = np.flatnonzero(edge)
    ends = np.r_[starts[1:], len(edge)]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
