"""Frames that our own hosts dropped: so many missing probes are nobody else's doing.

`Drops` and `LinkLoss` say which probes may be excused, `Excuses` holds them until all those probes have their fate.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from probe.core.arrays import distinct, order_of, spans
from probe.core.fate import DROPPED, IS_LOST, LOST, LOST_FORWARD, LOST_REVERSE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# A network card may tell its driver only once a second how many frames it had no room for (ENA with its keep-alive,
# i40e and ice in their service tasks).
COUNTED_LATE_NS = 1_000_000_000
# What was lost is remembered for drops that are found late: so long beyond what is just settled.
REMEMBERED_NS = COUNTED_LATE_NS + 1_000_000_000
MANY = 1 << 62


@dataclass(slots=True)
class Drops:
    """What was dropped in a span of time; `left` of it may still be given to missing probes.

    Attributes:
        start, end: TX times of the probes that may have met it, ns.
        flow: Whose reflector dropped it; -1: this host dropped what was for any flow.
        earlier: It may as well have met probes from here on: those are excused when all of the span have their fate.
        untold: Whether flows are yet to hear that they went unobserved: only those that missed something did.
    """

    start: int
    end: int
    left: int
    flow: int = -1
    earlier: int = MANY
    untold: bool = False
    _given: dict[int, tuple[int, int]] = field(default_factory=dict)

    def may_excuse(self, flow: Ints, at: Ints, fate: npt.NDArray[np.uint8]) -> Bools:
        """Which of these probes: flow, TX time and fate of each."""
        # What never came to the reflector was not dropped here, and what did come to it not there.
        other_way = LOST_REVERSE if self.flow < 0 else LOST_FORWARD
        may: Bools = (at >= self.start) & (at <= self.end) & ((fate == LOST) | (fate == other_way))
        return may if self.flow < 0 else may & (flow == self.flow)

    def give(self, flow: Ints, at: Ints) -> None:
        """These probes, sent at `at`, are excused."""
        self.left -= len(flow)
        if not self.untold or not len(flow):
            return
        order = order_of(flow)
        flow, at = flow[order], at[order]
        for start, end in spans(np.r_[True, flow[1:] != flow[:-1]]):
            f, first, last = int(flow[start]), int(at[start:end].min()), int(at[start:end].max())
            known = self._given.get(f, (first, last))
            self._given[f] = min(known[0], first), max(known[1], last)

    def excused(self) -> list[tuple[int, int, int]]:
        """(flow, first, last) of each flow that is yet to hear of it: TX times of the probes it was excused."""
        return [(f, first, last) for f, (first, last) in self._given.items()]

    def forget(self, flow: int) -> bool:
        """This flow is no more; whether any other may be concerned."""
        self._given.pop(flow, None)
        return self.flow != flow


@dataclass(slots=True)
class LinkLoss(Drops):
    """A link of ours was found gone at `end`: all that is missing of what flows had sent there shortly before.

    Attributes:
        since: By flow index, the TX time after which; `end` where a flow is not on that link.
    """

    since: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def may_excuse(self, flow: Ints, at: Ints, fate: npt.NDArray[np.uint8]) -> Bools:
        may: Bools = (at > self.since[flow]) & (at <= self.end) & IS_LOST[fate]
        return may


class Excuses:
    """What our own hosts have dropped of late, and what was lost of late, which may yet turn out to be that.

    Args:
        take_off: Called with drops, flows and sequences of settled probes: excuses those that may be.
    """

    def __init__(self, take_off: Callable[[Drops, Ints, Ints], None]):
        self._take_off = take_off
        self._drops: list[Drops] = []
        self._excused: list[tuple[int, int, int]] = []  # of drops that have been dealt with
        self._lost: deque[tuple[Ints, Ints, Ints]] = deque()  # flow, sequence and TX time of what was settled as lost
        self._dropping_to = -1  # when drops whose count may be late were last told

    def add(self, drops: Drops, *, settled_too: bool = False) -> None:
        """Excuse probes that are yet to have their fate, or those that were settled as lost of late as well."""
        self._drops.append(drops)
        if settled_too:
            self._excuse_lost(drops)

    def add_late(self, first_hit: int, start: int, end: int, count: int) -> None:
        """Drops that showed between `start` and `end` and may have happened before.

        What is left over excuses earlier probes than those sent from `first_hit` on, once these have their fate. Where
        the count rises again and again, nobody can tell which rise is whose, and the oldest probes come first.
        """
        goes_on, self._dropping_to = start <= self._dropping_to, end
        drops = Drops(first_hit, end, count, earlier=first_hit - COUNTED_LATE_NS, untold=True)
        self.add(drops, settled_too=not goes_on)
        for every in self._drops if goes_on else ():
            self._widen(every)

    def classify(self, flow: Ints, at: Ints, fate: npt.NDArray[np.uint8]) -> None:
        """Excuse some of these probes, which have just been found lost: their fates are changed in place."""
        if not self._drops or not IS_LOST[fate].any():
            return
        concerned = {-1, *distinct(flow)}
        for drops in self._drops:
            if drops.left and drops.flow in concerned:
                inside = np.flatnonzero(drops.may_excuse(flow, at, fate))[: drops.left]
                fate[inside] = DROPPED
                drops.give(flow[inside], at[inside])

    def note_lost(self, flow: Ints, sequence: Ints, at: Ints) -> None:
        """These were settled as lost; TX times ascending."""
        self._lost.append((flow, sequence, at))

    def retire(self, horizon: int, *, last: bool) -> None:
        """Done with drops that are used up, or whose probes, sent up to `horizon`, all have their fate."""
        while self._lost and self._lost[0][2][-1] < horizon - REMEMBERED_NS:
            self._lost.popleft()
        over = [last or not drops.left or drops.end < horizon for drops in self._drops]
        if not any(over):
            return
        for drops in itertools.compress(self._drops, over):
            self._widen(drops)
            self._excused += drops.excused()
        self._drops = [drops for drops, gone in zip(self._drops, over, strict=True) if not gone]

    def drain(self) -> list[tuple[int, int, int]]:
        """(flow, first, last) of what was excused and is yet to be told, since the last call."""
        excused, self._excused = self._excused, []
        return excused

    def remove(self, flow: int) -> None:
        """Forget a flow."""
        lost = ((f != flow, f, sequence, at) for f, sequence, at in self._lost)
        self._lost = deque((f[keep], sequence[keep], at[keep]) for keep, f, sequence, at in lost if keep.any())
        self._excused = [entry for entry in self._excused if entry[0] != flow]
        self._drops = [drops for drops in self._drops if drops.forget(flow)]

    def _widen(self, drops: Drops) -> None:
        """Let drops whose count may be late excuse earlier probes as well."""
        if drops.left and drops.earlier < drops.start:
            drops.start = drops.earlier
            self._excuse_lost(drops)

    def _excuse_lost(self, drops: Drops) -> None:
        recent = [lost for lost in self._lost if lost[2][-1] >= drops.start]
        if recent and drops.left:
            flow, sequence, _ = (np.concatenate(column) for column in zip(*recent, strict=True))
            self._take_off(drops, flow, sequence)
