"""Frames that our own hosts dropped: so many missing probes are nobody else's doing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from probe.core.arrays import order_of, spans
from probe.core.fate import IS_LOST, LOST, LOST_FORWARD, LOST_REVERSE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# A network card may tell its driver only once a second how many frames it had no room for (ENA with its keep-alive,
# i40e and ice in their service tasks).
COUNTED_LATE_NS = 1_000_000_000
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
