"""The fate of every probe of every flow.

Each flow owns a ring of slots in shared arrays (core/rings.py). A log in send order settles probes as their loss
threshold passes. In steady state a batch costs a few array operations; Python objects appear only for flows that have
lost something.

Memory depends on rates and the loss threshold, never on how long a run lasts: a ring holds about a minute of a
flow's probes, within bounds, which is also how long a late reply can still correct the record. Of a flow that lost
something, the runs below a *floor* within its ring are kept in summary (core/summary.py), so that an outage may
outlast the ring.

All flows settle together, when the longest loss threshold of them has passed: `settled` is an exact account of the
probes sent up to `settled_to`.

Time is an argument everywhere: `at` is nanoseconds of one monotonic clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.account import Account, Correction, tally
from probe.core.arrays import all_are, count_in, cumcount, distinct, only, order_of, spans
from probe.core.direction import ReflectorView
from probe.core.drops import MANY, Drops, Excuses, LinkLoss
from probe.core.events import Outage
from probe.core.fate import (
    COLUMN,
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
from probe.core.outage import FlowOutages, RunFinder, TxError
from probe.core.rings import Rings
from probe.core.summary import Change, Summary
from probe.core.told import Reports, Told
from probe.core.unsettled import Unsettled

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Fates = npt.NDArray[np.uint8]

RETENTION_S = 60
MIN_SLOTS, MAX_SLOTS = 1 << 6, 1 << 18
ON_ITS_WAY_NS = 1_000_000_000  # a reply, at most, when a link of ours goes: some once took seconds


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a batch of replies turned out to be. Arrays of the batch's length, in its order."""

    answered: Bools  # first copy, within the loss threshold
    late: Bools
    duplicate: Bools
    unknown: Bools  # no probe of ours has that sequence, or it is too old to tell
    rtt_ns: Ints  # reply time minus TX time; meaningless where unknown


class Ledger:
    """All flows of one sender.

    Args:
        capacity: Number of flow indices, fixed.
        live: Counters to keep up to date at once; int64, shape (capacity, COLUMNS). May live in shared memory.
        settled: The same for probes sent up to `settled_to` alone, all settled. Moves on in steps; a fate that changes
            afterwards is amended here and told by `drain_corrections`.
    """

    def __init__(self, capacity: int, live: Ints | None = None, settled: Ints | None = None):
        self._rings, self._account, self._told = Rings(capacity), Account(capacity, live, settled), Told(capacity)
        self.live, self.settled = self._account.live, self._account.settled
        self.next_seq = np.zeros(capacity, np.int64)
        self.max_seen = np.full(capacity, -1, np.int64)
        self.last_answered_at = np.zeros(capacity, np.int64)  # TX time of the newest probe that was answered
        self.last_sent_at = np.zeros(capacity, np.int64)
        self._capacity = capacity
        self._horizon = 0  # everything sent up to here is settled
        self._rate = np.zeros(capacity, np.float64)
        self._threshold = np.zeros(capacity, np.int64)
        self._settled_seq = np.zeros(capacity, np.int64)  # everything below is settled
        self._clean_at = np.zeros(capacity, np.int64)
        self._clean_earlier = np.zeros(capacity, np.int64)
        self._clean_seq = np.full(capacity, -1, np.int64)
        self._troubled = np.zeros(capacity, bool)  # has an open loss run
        self._stirred: set[int] = set()  # flows that may have something new to tell of outages
        self._open: dict[int, None] = {}  # flows in an outage or a run of losses, in the order of their turn
        self._longest = 0  # threshold that every ring is large enough for
        self._log = Unsettled()
        self._excuses = Excuses(self._take_off)
        self._outages: dict[int, FlowOutages] = {}
        self._awaiting: dict[int, tuple[int, int]] = {}  # flow to the range of losses whose direction may yet be told
        self._dirty: dict[int, int] = {}  # flow to the lowest sequence whose fate was corrected
        # Flows that lost something that is still in their ring: the last sequence missed, and the state of their runs
        # before `_floor`. Nothing below that can be corrected.
        self._missed: dict[int, int] = {}
        self._past: dict[int, Summary] = {}
        self._floor = np.zeros(capacity, np.int64)
        # Below, losses that are not settled yet get no direction: they belong to an outage that has none as a whole.
        self._undirected = np.zeros(capacity, np.int64)
        self._max_rtt = 0
        # Called, if set, with (flow, first, last, was, fate): arrays of runs of sequences that have another fate from
        # now on. Of the runs, only probes with the fate `was` are meant. What a reply changes is not told.
        self.on_fate: Callable[[Any, Ints, Ints, int, Any], None] | None = None
        # Called between the steps of what may take long when many flows are concerned.
        self.relieve: Callable[[], None] = lambda: None

    @property
    def settled_to(self) -> int:
        """Up to where `settled` counts, ns."""
        return self._account.settled_to

    # --- flows -------------------------------------------------------------------------------------------------

    def add(self, flow: int, name: str, rate_pps: float, threshold_ns: int, min_probes: int) -> None:
        """Begin to account for flow index `flow`, from sequence 0."""
        self._rate[flow], self._threshold[flow] = rate_pps, threshold_ns
        if not self._outages:
            self._longest = 0
        self._rings.add(flow, self._slots_needed(flow))
        for array in (self.next_seq, self._settled_seq, self._clean_at, self.last_answered_at, self.last_sent_at):
            array[flow] = 0
        self.max_seen[flow] = self._clean_seq[flow] = -1
        self._troubled[flow] = False
        self._floor[flow] = self._undirected[flow] = 0
        self._account.add(flow)
        self._told.add(flow)
        if threshold_ns > self._longest:
            self._longest = threshold_ns
            for other in self._outages:  # those with a shorter one settle later from now on
                slots = self._slots_needed(other)
                if slots > self._rings.slots[other]:
                    self._rings.grow(other, slots, int(self.next_seq[other]))
        self._outages[flow] = FlowOutages(name, min_probes)

    def remove(self, flow: int) -> None:
        """Stop accounting for a flow; its slots are free for others."""
        self._log.remove(flow)
        self._excuses.remove(flow)
        self._threshold[flow] = 0
        for part in (self._rings, self._account, self._told):
            part.remove(flow)
        self._stirred.discard(flow)
        self._open.pop(flow, None)
        tables: tuple[dict[int, Any], ...] = (
            self._outages,
            self._awaiting,
            self._dirty,
            self._missed,
            self._past,
        )
        for table in tables:
            table.pop(flow, None)

    def _slots_needed(self, flow: int) -> int:
        """Ring size: about a minute, within bounds, but always what can be sent before it settles, twice."""
        longest_s = int(self._threshold.max(initial=0)) / 1e9
        rate = float(self._rate[flow])
        wanted = min(rate * max(RETENTION_S, 2 * longest_s), MAX_SLOTS)
        return 1 << int(max(MIN_SLOTS, wanted, 2 * rate * (longest_s + 1)) - 1).bit_length()

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
        self._make_room(flow, sequence)
        count_in(self.next_seq, flow)
        slot = self._rings.index(flow, sequence)
        self._rings.fate[slot] = EMPTY  # nothing can answer it yet
        self._rings.sent_at[slot] = at
        return sequence

    def stamp(self, flow: Ints, sequence: Ints, at: Ints, error: TxError | None = None) -> None:
        """These probes have left, at these times: they count as scheduled and sent. Each flow's in their order.

        Args:
            flow: Flow index of each probe.
            sequence: Its sequence.
            at: When it left, ns.
            error: By how much it may have left earlier and later; None: by no more than is common.
        """
        if not len(flow):
            return
        slot = self._rings.index(flow, sequence)
        self._rings.fate[slot] = PENDING
        self._rings.sent_at[slot] = at
        self._rings.earlier[slot], self._rings.later[slot] = error or (0, 0)
        self._log.add(flow, sequence, at)
        tally(self.live, ("scheduled", "sent"), flow)
        self.last_sent_at[flow] = at

    def withdraw(self, flow: Ints, sequence: Ints) -> None:
        """The last probes allocated to these flows will not be sent: their numbers are free again."""
        self._rings.fate[self._rings.places(flow, sequence)] = EMPTY
        self.next_seq -= np.bincount(flow, minlength=self._capacity)

    def _make_room(self, flow: Ints, sequence: Ints) -> None:
        """Before their slots become those of other probes, settle what is not settled yet: that is far behind."""
        one = only(flow)
        of = flow if one is None else one
        over = sequence - self._rings.slots[of] >= self._settled_seq[of]
        for f in distinct(flow[over]) if over.any() else []:
            self._overrun(f, int((sequence[flow == f] - self._rings.slots[f]).max()))

    def _overrun(self, flow: int, last: int) -> None:
        """Settle a flow's probes up to sequence `last`, whatever their age.

        Nobody can tell any more whether those that were not answered will be. That is our own doing: it excuses them.
        """
        sent = self._log.of_flow(flow, last)
        if not len(sent.at):
            return
        waiting = sent.where(self._rings.fate[self._rings.places(flow, sent.sequence)] == PENDING)
        if len(waiting.at):
            ours = Drops(int(waiting.at[0]), int(waiting.at[-1]), len(waiting.at), flow, untold=True)
            ours.give(waiting.flow, waiting.at)
            self._excuses.add(ours)
        self._settle(sent.flow, sent.sequence, overrun=True)
        if flow in self._missed:
            self._summarise(flow, last + 1)

    def unsent(self, flow: Ints, due: Ints) -> None:
        """Slots of the schedule that passed without a probe."""
        self._account.unsent(flow, due)

    def unobserved(self, flow: int, start: int, end: int) -> None:
        """The flow did not probe on schedule from `start` to `end`."""
        self._outages[flow].unobserved(start, end)
        self._stirred.add(flow)

    # --- receiving ---------------------------------------------------------------------------------------------

    def receive(self, flow: Ints, sequence: Ints, at: Ints) -> Arrivals:
        """Account for replies.

        Args:
            flow: Flow index of each reply.
            sequence: The probe each answers; anything, also nonsense.
            at: When it arrived.
        """
        one = only(flow)
        usual = self._receive_run(one, sequence, at) if one is not None else None
        if usual is not None:
            return usual
        n = len(flow)
        oldest = np.maximum(self.next_seq[flow] - self._rings.slots[flow], self._floor[flow])
        known = (sequence >= 0) & (sequence < self.next_seq[flow]) & (sequence >= oldest)
        slot = np.where(known, self._rings.places(flow, sequence), 0)
        fate = np.where(known, self._rings.fate[slot], EMPTY)
        known &= fate != EMPTY
        rtt = at - self._rings.sent_at[slot]
        # The last assignment to an element wins, so writing backwards leaves the first copy's position.
        backwards = np.flatnonzero(known)[::-1]
        self._rings.scratch[slot[backwards]] = backwards
        first = known & (self._rings.scratch[slot] == np.arange(n))
        in_time = rtt <= self._threshold[flow]
        new = first & (fate != RECEIVED) & (fate != LATE)
        answered = new & in_time
        late = new & ~in_time
        open_still = fate == PENDING
        self._correct(flow, sequence, slot, fate, answered, late)
        self._rings.fate[slot[answered]] = RECEIVED
        self._rings.fate[slot[late]] = LATE
        duplicate = known & ~new
        fresh = (("received", answered & open_still), ("late", late & open_still), ("duplicate", duplicate))
        for column, mask in fresh:
            if mask.any():
                tally(self.live, (column,), flow[mask])
        if new.any():
            self._reordering(flow[new], sequence[new])
            np.maximum.at(self.last_answered_at, flow[new], self._rings.sent_at[slot[new]])
        if answered.any():
            self._max_rtt = max(int(rtt[answered].max()), self._max_rtt - self._max_rtt // 256)
        return Arrivals(answered, late, duplicate, ~known, rtt)

    def _receive_run(self, flow: int, sequence: Ints, at: Ints) -> Arrivals | None:
        """`receive` of one flow's next replies, in order and in time; None when they are anything else."""
        if sequence[0] <= self.max_seen[flow] or sequence[-1] >= self.next_seq[flow]:
            return None
        slot = self._rings.run(flow, sequence)
        if slot is None or sequence[0] < self._oldest(flow) or not all_are(self._rings.fate[slot], PENDING):
            return None
        rtt = at - self._rings.sent_at[slot]
        longest = int(rtt.max())
        if longest > self._threshold[flow]:
            return None
        self._rings.fate[slot] = RECEIVED
        self.live[flow, COLUMN["received"]] += len(sequence)
        self.max_seen[flow] = sequence[-1]
        self.last_answered_at[flow] = max(self.last_answered_at[flow], self._rings.sent_at[slot.stop - 1])
        self._max_rtt = max(longest, self._max_rtt - self._max_rtt // 256)
        every, none = np.ones(len(at), bool), np.zeros(len(at), bool)
        return Arrivals(answered=every, late=none, duplicate=none, unknown=none, rtt_ns=rtt)

    def _reordering(self, flow: Ints, sequence: Ints) -> None:
        """Count first copies that arrived behind a higher sequence (RFC 4737, section 3.3)."""
        if len(flow) > 1 and flow.min() != flow.max():
            order = order_of(flow)
            flow, sequence = flow[order], sequence[order]
        edge = np.r_[True, flow[1:] != flow[:-1]]
        before = np.r_[0, sequence[:-1]]
        before[edge] = self.max_seen[flow[edge]]
        if (sequence > before).all():
            self.max_seen[flow] = sequence
            return
        for start, end in spans(edge):
            f, seq = flow[start], sequence[start:end]
            top = np.maximum.accumulate(np.r_[self.max_seen[f], seq])
            self.live[f, COLUMN["reordered"]] += int((seq < top[:-1]).sum())
            self.max_seen[f] = top[-1]

    def _correct(self, flow: Ints, sequence: Ints, slot: Ints, fate: Fates, answered: Bools, late: Bools) -> None:
        """A reply to a probe that was already settled as lost or dropped takes that back."""
        settled = np.flatnonzero((answered | late) & (fate != PENDING))
        for f in distinct(flow[settled]) if len(settled) else []:
            mine = settled[flow[settled] == f]
            for value in distinct(fate[mine]):
                for to, which in (("received", answered), ("late", late)):
                    some = mine[(fate[mine] == value) & which[mine]]
                    if len(some):
                        self._account.move(f, self._rings.sent_at[slot[some]], value, to)
            lowest = int(sequence[mine].min())
            self._doubt(f, lowest)

    def fates(self, flow: int, sequence: Ints) -> Fates:
        """What became of these probes so far (`fate`); EMPTY of those that are not remembered or were not sent.

        Of an outage that outlasts the ring, the probes that it no longer holds are remembered once their ways are told.
        """
        held = (sequence >= self._oldest(flow)) & (sequence < self.next_seq[flow])
        fates: Fates = np.where(
            held, self._rings.fate[np.where(held, self._rings.places(flow, sequence), 0)], np.uint8(EMPTY)
        )
        past = self._past.get(flow)
        return fates if past is None or held.all() else np.where(held, fates, past.fates(sequence))

    def unanswered(self, flow: Ints, sequence: Ints) -> Bools:
        """Which of these probes have left and have no answer so far; none of those that are not remembered."""
        fate = self._rings.fate[self._rings.places(flow, sequence)]
        held = sequence >= self.next_seq[flow] - self._rings.slots[flow]
        unanswered: Bools = held & ((fate == PENDING) | IS_LOST[fate])
        return unanswered

    def count(self, flow: int, column: str, n: int = 1) -> None:
        """Add to a count that no law binds: corrupt, reset, icmp_error."""
        self.live[flow, COLUMN[column]] += n

    def dropped(self, start: int, end: int, count: int) -> None:
        """Our receive ring lost `count` frames between `start` and `end`: that many missing replies are our own
        doing.
        """
        self._excuses.add(Drops(self._first_hit(start), end, count))

    def interface_dropped(self, start: int, end: int, count: int) -> None:
        """An interface of ours had no room for `count` frames, which showed between `start` and `end`.

        They may have been anybody's. So the flows that went unobserved are those that missed something, which is known
        only later (`drain_excused`).
        """
        self._excuses.add_late(self._first_hit(start), start, end, count)

    def _first_hit(self, start: int) -> int:
        """TX time of the first probe whose reply may have met what was dropped from `start` on."""
        return start - max(self._max_rtt * 2, 10_000_000)

    def drain_excused(self) -> list[tuple[int, int, int]]:
        """(flow, first, last) since the last call: the TX times between which probes of a flow were excused, for drops
        of an interface or of a reflector. Once for each flow and each telling of drops.
        """
        return self._excuses.drain()

    def link_lost(self, flow: Ints, at: int, blind_ns: int) -> Ints:
        """The link of these flows was found gone at `at`, perhaps `blind_ns` late: what they sent since they were
        last answered, and is missing, was not the network's to lose. Nor were replies that were on their way.

        Returns:
            Since when, of each flow.
        """
        on_its_way = min(2 * self._max_rtt, ON_ITS_WAY_NS)
        since: Ints = np.maximum(self.last_answered_at[flow], at - blind_ns - on_its_way)
        every = np.full(self._capacity, at, np.int64)
        every[flow] = since
        self._excuses.add(LinkLoss(int(since.min()), at, MANY, since=every), settled_too=True)
        return since

    # --- what the reflector tells ------------------------------------------------------------------------------

    def their_drops(self, flow: Ints, at: Ints, drops: Ints) -> None:
        """Take in how many frames our own reflector had no room for (`Told.drops`).

        That many missing probes of the flow, around the time of the reply that tells, are the instrument's doing and
        not the network's. Several flows may be excused for the same drops: rather too many than an outage that was
        none.
        """
        for f, start, end, lost in self._told.drops(flow, at, drops):
            theirs = Drops(start, end, lost, f, untold=True)
            if f in self._missed:  # some may have been settled as lost before it told
                sequence = np.arange(self._oldest(f), int(self._settled_seq[f]))
                self._take_off(theirs, np.full(len(sequence), f), sequence)
            self._excuses.add(theirs)

    def _take_off(self, drops: Drops, flow: Ints, sequence: Ints) -> None:
        """Excuse some of these settled probes, the first that may be."""
        held = sequence >= np.maximum(self.next_seq - self._rings.slots, self._floor)[flow]
        flow, sequence = flow[held], sequence[held]
        slot = self._rings.places(flow, sequence)
        fate, at = self._rings.fate[slot], self._rings.sent_at[slot]
        mine = np.flatnonzero(drops.may_excuse(flow, at, fate))[: drops.left]
        drops.give(flow[mine], at[mine])
        for f in distinct(flow[mine]):
            for value in LOST_FATES:
                self._attribute(f, sequence[mine[(flow[mine] == f) & (fate[mine] == value)]], value, DROPPED)
            self.relieve()

    def reports(self, flow: Ints, sequence: Ints, report: Reports) -> None:
        """Take in what our own reflector says in a batch of replies: which losses were on the way out.

        Args:
            flow: Flow index of each reply.
            sequence: The probe it answers.
            report: The reports' columns.
        """
        for f, first, last, to in self._told.reports(flow, sequence, report, self.relieve):
            self._take_back(f, first, last, to)
        self._resolve_all(flow)

    def numbers(self, flow: Ints, sequence: Ints, q: Ints) -> None:
        """Take in the numbers that a reflector which is not ours gave its replies (RFC 8762, section 4.3)."""
        self._told.numbers(flow, sequence, q)
        self._resolve_all(flow)

    def _resolve_all(self, flow: Ints) -> None:
        if self._awaiting:
            for f in distinct(flow):
                self.resolve(f)
                self.relieve()

    def resolve(self, flow: int) -> None:
        """Give settled losses of a flow their direction, as far as its reflector has told."""
        if flow not in self._awaiting:
            return
        view = self._told.view(flow)
        first, last = self._awaiting[flow]
        if view.frontier < first:
            return
        if not self._resolve_past(flow, view):
            return
        first, last = self._awaiting[flow]
        upto = min(last, view.frontier)
        sequence = np.arange(max(first, self._oldest(flow)), upto + 1)
        sequence = sequence[self._rings.fate[self._rings.places(flow, sequence)] == LOST]
        known, forward = view.resolve(sequence)
        self._attribute(flow, sequence[known & forward], LOST, LOST_FORWARD)
        self._attribute(flow, sequence[known & ~forward], LOST, LOST_REVERSE)
        if not known.all():
            self._doubt(flow, int(sequence[~known][0]))
        if upto >= last:
            del self._awaiting[flow]
        else:
            self._awaiting[flow] = (max(first, upto + 1), last)

    def _oldest(self, flow: int) -> int:
        """The lowest sequence whose fate is at hand and may be corrected."""
        return max(0, int(self.next_seq[flow] - self._rings.slots[flow]), int(self._floor[flow]))

    def _attribute(self, flow: int, sequence: Ints, fate: int, to: int) -> None:
        if not len(sequence):
            return
        slot = self._rings.places(flow, sequence)
        self._rings.fate[slot] = to
        if self.on_fate is not None:
            self.on_fate(flow, sequence, sequence, fate, to)
        self._account.move(flow, self._rings.sent_at[slot], fate, FATE_COLUMN[to])
        self._doubt(flow, int(sequence[0]))

    def _doubt(self, flow: int, lowest: int) -> None:
        """The runs of a flow are to be found anew, as far as they reach to this sequence or behind it."""
        self._dirty[flow] = min(self._dirty.get(flow, lowest), lowest)

    def _take_back(self, flow: int, first: int, last: int, to: int, fate: int = LOST_FORWARD) -> None:
        """These were not lost as `fate` says, or perhaps not."""
        last = min(last, int(self._settled_seq[flow]) - 1)
        sequence = np.arange(max(first, self._oldest(flow)), last + 1)
        wrong = sequence[self._rings.fate[self._rings.places(flow, sequence)] == fate]
        self._attribute(flow, wrong, fate, to)

    def _resolve_past(self, flow: int, view: ReflectorView) -> bool:
        """Give an outage that has outlasted the ring its directions. It gets them as a whole, or is one of round trips:
        not one way as far as the ring holds it, and unknown before.

        Returns:
            Whether that is done, so that losses in the ring may get theirs.
        """
        past = self._past.get(flow)
        stretch = past.stretch() if past is not None else None
        if past is None or stretch is None:
            return True
        end = self._first_passed(flow)
        if view.frontier < end - 1:
            self._undirected[flow] = end
            return False
        first, last = self._awaiting[flow]
        forward = view.forward_within(stretch[0], end - 1)
        changes = past.tell_apart(forward) if forward is not None else None
        if changes is not None:
            self._undirected[flow] = 0
            self._awaiting[flow] = (self._oldest(flow), max(last, end - 1))
        else:
            changes = past.make_one()
            self._undirected[flow] = end
            self._awaiting[flow] = (max(first, end), last)
            for fate in (LOST_FORWARD, LOST_REVERSE):
                self._take_back(flow, 0, end - 1, LOST, fate)
        self._change(flow, changes)
        return True

    def _change(self, flow: int, changes: list[Change]) -> None:
        """Losses below the floor have other fates from now on."""
        for parts, was, to in changes:
            self._account.move(flow, parts["last_at"], was, FATE_COLUMN[to], parts["count"])
            if self.on_fate is not None:
                self.on_fate(flow, parts["first"], parts["last"], was, to)
        self._dirty[flow] = self._oldest(flow)

    # --- settling ----------------------------------------------------------------------------------------------

    def settle(self, now: int) -> None:
        """Decide every probe whose loss threshold passed by `now`. All replies that arrived by then must be in."""
        self._settle_to(now - int(self._threshold.max(initial=0)))

    def conclude(self, now: int) -> None:
        """As `settle`, and further, up to the oldest probe that may still be answered: waiting changes nothing there.

        Without, an outage whose last loss has just been settled would seem to have no end, though the probes behind it
        were answered long ago.
        """
        horizon = now - int(self._threshold.max(initial=0))
        for sent in self._log:
            pending = self._rings.fate[self._rings.places(sent.flow, sent.sequence)] == PENDING
            waiting = sent.at[pending & (sent.at > horizon)]
            if len(waiting):
                self._settle_to(int(waiting[0]) - 1)
                return
        self._settle_to(now, last=True)

    def finish(self, now: int) -> None:
        """Decide everything that is left, whatever its age."""
        self._threshold[:] = 0
        self._settle_to(now, last=True)

    def _settle_to(self, horizon: int, *, last: bool = False) -> None:
        self._horizon = max(self._horizon, horizon)
        # First, so that an outage whose direction has become known is one with what is settled now, and keeps its id.
        self._rebuild_all()
        for sent in self._log.up_to(self._horizon):
            self._settle(sent.flow, sent.sequence)
            self.relieve()
        self._rebuild_all()  # where some of what was settled now has a direction, and what was lost with it has none
        for flow in self._crowded():
            self._summarise(flow)
            self.relieve()
        self._excuses.retire(self._horizon, last=last)
        self._account.close(self._horizon, last=last)

    def _settle(self, flow: Ints, sequence: Ints, *, overrun: bool = False) -> None:
        one = only(flow)
        if one is not None and not self._troubled[one]:
            run = self._rings.run(one, sequence)
            if run is not None and all_are(self._rings.fate[run], RECEIVED):
                for name in ("scheduled", "sent", "received"):
                    self._account.closed[one, COLUMN[name]] += len(sequence)
                self._note_clean(one, sequence[-1], run.stop - 1)
                self._settled_seq[one] = sequence[-1] + 1
                return
        slot = self._rings.places(flow, sequence)
        fate = self._rings.fate[slot]
        missing = fate == PENDING
        if missing.any():
            if overrun:
                fate[missing] = DROPPED
            else:
                fate[missing] = self._classify(flow[missing], sequence[missing], self._rings.sent_at[slot[missing]])
            self._rings.fate[slot[missing]] = fate[missing]
            if self.on_fate is not None:
                self.on_fate(flow[missing], sequence[missing], sequence[missing], PENDING, fate[missing])
            lost = missing & IS_LOST[fate]
            if lost.any():
                self._excuses.note_lost(flow[lost], sequence[lost], self._rings.sent_at[slot[lost]])
        tally(self._account.closed, ("scheduled", "sent"), flow)
        for value in distinct(fate):
            name, of = FATE_COLUMN[value], flow[fate == value]
            tally(self._account.closed, (name,), of)
            if IS_LOST[value]:
                tally(self._account.closed, ("lost",), of)
                tally(self.live, ("lost",), of)
            if IS_LOST[value] or value == DROPPED:
                tally(self.live, (name,), of)
        troubled = self._troubled[flow] | missing
        calm = ~troubled
        if missing.any():
            # Flows with a loss in this batch are fed whole, so that the edges of the run are exact.
            touched = np.zeros(self._capacity, bool)
            touched[flow[troubled]] = True
            calm = ~touched[flow]
        self._note_clean(flow[calm], sequence[calm], slot[calm])
        if not calm.all():
            rest = ~calm
            self._feed(flow[rest], sequence[rest], slot[rest], fate[rest])
        self._settled_seq[flow] = sequence + 1

    def _note_clean(self, flow: int | Ints, sequence: int | Ints, slot: int | Ints) -> None:
        self._clean_seq[flow] = sequence  # the last assignment of a flow wins, and the log is in order
        self._clean_at[flow] = self._rings.sent_at[slot]
        self._clean_earlier[flow] = self._rings.earlier[slot]

    def _passed(self, finder: RunFinder, flow: int) -> None:
        """Let the flow's last clean probe be what a finder begins with."""
        finder.passed(int(self._clean_at[flow]), int(self._clean_seq[flow]), int(self._clean_earlier[flow]))

    def _begin_at(self, finder: RunFinder, flow: int, sequence: int) -> None:
        """Let that probe, which passed both ways, be what a finder begins with."""
        slot = int(self._rings.places(flow, np.array([sequence]))[0])
        finder.passed(int(self._rings.sent_at[slot]), sequence, int(self._rings.earlier[slot]))

    def _columns(self, slot: Ints) -> tuple[Ints, Fates, TxError]:
        """What a finder is fed with, of the probes in these slots."""
        rings = self._rings
        return rings.sent_at[slot], rings.fate[slot], TxError(rings.earlier[slot], rings.later[slot])

    def _feed(self, flow: Ints, sequence: Ints, slot: Ints, fate: Fates) -> None:
        order = order_of(flow)
        flow, sequence, slot, fate = flow[order], sequence[order], slot[order], fate[order]
        edge = np.r_[True, flow[1:] != flow[:-1]]
        for start, end in spans(edge):
            self.relieve()
            f = int(flow[start])
            outages = self._outages[f]
            self._stirred.add(f)
            if outages.quiet() and self._clean_seq[f] >= 0:
                self._passed(outages.finder, f)
            self._note_missed(f, sequence[start:end], fate[start:end])
            at, _, error = self._columns(slot[start:end])
            outages.feed(sequence[start:end], at, fate[start:end], error)
            self._troubled[f] = not outages.quiet()
            ok = np.flatnonzero((fate[start:end] == RECEIVED) | (fate[start:end] == LATE))
            if len(ok):
                self._note_clean(f, sequence[start + ok[-1]], slot[start + ok[-1]])

    def _note_missed(self, flow: int, sequence: Ints, fate: Fates) -> None:
        missed = np.flatnonzero((fate != RECEIVED) & (fate != LATE))
        if not len(missed):
            return
        if flow not in self._missed:
            # All that is in the ring so far has passed: the oldest of it will do as the state to begin with.
            past = RunFinder()
            oldest = self._oldest(flow)
            if 0 < oldest < sequence[0]:
                self._begin_at(past, flow, oldest)
                self._floor[flow] = oldest + 1
            elif oldest and self._clean_seq[flow] >= 0:
                self._passed(past, flow)
            self._past[flow] = Summary(past, int(self._rate[flow] * self._threshold[flow] / 1e9) + 2)
        self._missed[flow] = int(sequence[missed[-1]])

    def _crowded(self) -> list[int]:
        """Flows that have missed something and have filled most of their ring since."""
        if not self._missed:
            return []
        full = self.next_seq - self._floor > self._rings.slots - self._rings.slots // 8
        return [flow for flow in np.flatnonzero(full).tolist() if flow in self._missed]

    def _summarise(self, flow: int, least: int = 0) -> None:
        """Before the ring overwrites them, fold a flow's oldest fates into its past. They are final then.

        Args:
            flow: Which.
            least: All settled below this sequence, at least.
        """
        slots, following = int(self._rings.slots[flow]), int(self.next_seq[flow])
        floor = min(max(following - slots + slots // 4, least), int(self._settled_seq[flow]))
        if floor <= self._oldest(flow):  # nothing more has been settled
            return
        sequence = np.arange(self._oldest(flow), floor)
        slot = self._rings.places(flow, sequence)
        past = self._past[flow]
        at, fate, error = self._columns(slot)
        past.feed(sequence, at, fate, error, self._account.step_of)
        self._floor[flow] = max(floor, int(self._floor[flow]))
        self._outages[flow].forget_below(min(floor, past.open_from()))
        self._stirred.add(flow)
        if past.finder.quiet() and self._missed[flow] < floor and flow not in self._dirty:
            del self._missed[flow], self._past[flow]

    def _classify(self, flow: Ints, sequence: Ints, at: Ints) -> Fates:
        """Fates of probes that were not answered in time."""
        fate = np.full(len(flow), LOST, np.uint8)
        for f in distinct(flow):
            view = self._told.view(f)
            mine = np.flatnonzero(flow == f)
            known, forward = view.resolve(sequence[mine])
            known &= sequence[mine] >= self._undirected[f]
            fate[mine[known & forward]] = LOST_FORWARD
            fate[mine[known & ~forward]] = LOST_REVERSE
            unknown = sequence[mine[~known]]
            if known.any() and (len(unknown) or self._outages[f].finder.is_open("round_trip")):
                self._doubt(f, int(sequence[mine[0]]))
            unknown = unknown[unknown > view.frontier]
            if len(unknown):
                first, last = self._awaiting.get(f, (int(unknown[0]), 0))
                self._awaiting[f] = (first, max(last, int(unknown[-1])))
            self.relieve()
        self._excuses.classify(flow, at, fate)
        return fate

    # --- outages -----------------------------------------------------------------------------------------------

    def drain_outages(self, *, open_too: bool, most: int = 1 << 62) -> list[tuple[int, Outage]]:
        """(flow index, outage) for each that is new or changed since the last call.

        Args:
            open_too: Also those still open that have only grown,
            most: of at most so many flows, in turn.
        """
        found = []
        growing = list(itertools.islice(self._open, most)) if open_too else []
        for f in sorted(self._stirred.union(growing)):
            self.relieve()
            outages = self._outages[f]
            found += [(f, o) for o in outages.drain(open_too=open_too)]
            if outages.quiet():
                self._open.pop(f, None)
            else:
                self._open.setdefault(f)
        for f in growing:
            if f in self._open:
                del self._open[f]
                self._open[f] = None  # behind all others
        self._stirred.clear()
        return found

    def count_open(self) -> int:
        """How many flows are in an outage or a run of losses, as far as told."""
        return len(self._open)

    def drain_corrections(self) -> list[Correction]:
        """Changes of settled counts since the last call."""
        return self._account.drain_corrections()

    def _rebuild_all(self) -> None:
        for flow in list(self._dirty):
            self._rebuild(flow, self._dirty.pop(flow))
            self.relieve()

    def _rebuild(self, flow: int, lowest: int) -> None:
        """Find the runs of `flow` anew, from the last probe before `lowest` that passed both ways or from the floor."""
        outages = self._outages[flow]
        settled, oldest = int(self._settled_seq[flow]), self._oldest(flow)
        past = self._past.get(flow)
        if max(lowest, oldest) >= settled and past is None:
            return
        begin = self._last_passed(flow, oldest, max(lowest, oldest))
        if begin is None:
            start, finder = oldest, RunFinder() if past is None else past.finder.copy()
        else:
            start, finder = begin + 1, RunFinder()
            self._begin_at(finder, flow, begin)
        self._stirred.add(flow)
        renewed, closed = past.take_renewed() if past is not None else (start, [])
        forgotten = outages.restart(min(start, renewed), finder, closed)
        sequence = np.arange(start, settled)
        slot = self._rings.places(flow, sequence)
        at, fate, error = self._columns(slot)
        self._make_one(flow, sequence, fate)
        outages.feed(sequence, at, fate, error)
        outages.rematch(forgotten)
        self._troubled[flow] = not outages.quiet()
        passed = np.flatnonzero((fate == RECEIVED) | (fate == LATE))
        if len(passed) and sequence[passed[-1]] > self._clean_seq[flow]:
            self._note_clean(flow, sequence[passed[-1]], slot[passed[-1]])

    def _make_one(self, flow: int, sequence: Ints, fate: Fates) -> None:
        """Where the directions of a part of an outage will never be known, let it have none: it would be told twice,
        and neither length would be right. Changes `fate` in place.
        """
        unknown = (fate == LOST) & (sequence <= self._told.view(flow).frontier)
        if not unknown.any():
            return
        stretch = np.cumsum((fate == RECEIVED) | (fate == LATE))  # in which no probe passed both ways
        mixed = np.bincount(stretch, unknown)[stretch] >= self._outages[flow].min_probes
        for value in (LOST_FORWARD, LOST_REVERSE):
            wrong = mixed & (fate == value)
            self._attribute(flow, sequence[wrong], value, LOST)
            fate[wrong] = LOST
        self._dirty.pop(flow, None)  # they are being found anew

    def _last_passed(self, flow: int, first: int, end: int) -> int | None:
        """The last sequence in [first, end) that passed both ways. Most often it is near: look there first."""
        step = 256
        while end > first:
            sequence = np.arange(max(first, end - step), end)
            fate = self._rings.fate[self._rings.places(flow, sequence)]
            passed = np.flatnonzero((fate == RECEIVED) | (fate == LATE))
            if len(passed):
                return int(sequence[passed[-1]])
            end -= len(sequence)
            step *= 4
        return None

    def _first_passed(self, flow: int) -> int:
        """The first sequence in the ring that passed both ways; else the next to be sent."""
        following = int(self.next_seq[flow])
        sequence = np.arange(self._oldest(flow), following)
        fate = self._rings.fate[self._rings.places(flow, sequence)]
        passed = (fate == RECEIVED) | (fate == LATE)
        return int(sequence[passed.argmax()]) if passed.any() else following
