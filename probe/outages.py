"""One flow's outages as told: the newest of them with their episodes, and how many there ever were.

An outage may be told anew for a while, so the newest are numbered again with every one that comes. Those before have
their number for good, also when older ones are let go: what an outage costs does not grow with how many there were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from probe.core.events import Outage
from probe.core.outage import with_episodes

MOST = 10_000  # kept; older ones are in the journal
NEWEST = 32  # at least so many are numbered anew with each that comes, at most twice as many
NEVER = 1 << 62


@dataclass(slots=True)
class Total:
    """How many there ever were of something, and how long they took together, kept or let go."""

    count: int = 0
    length_ns: int = 0

    def add(self, length_ns: int) -> None:
        self.count += 1
        self.length_ns += length_ns

    def remove(self, length_ns: int) -> None:
        """One turned out otherwise."""
        self.count -= 1
        self.length_ns -= length_ns


class Extent(NamedTuple):
    """When a flow was in outages, Unix ns: first start, last start, last end of those that ended, last end of all."""

    first: int = NEVER
    last: int = 0
    ended: int = 0
    end: int = 0

    def with_(self, outage: Outage) -> Extent:
        ended = 0 if outage.censored == "end" else outage.end_ns
        return Extent(
            min(self.first, outage.start_ns),
            max(self.last, outage.start_ns),
            max(self.ended, ended),
            max(self.end, outage.end_ns),
        )


@dataclass(slots=True)
class Outages:
    """The outages of one flow, by their ids, which ascend as they are found."""

    total: Total = field(default_factory=Total)  # lengths by their estimates
    _kept: dict[int, Outage] = field(default_factory=dict)
    _newest: dict[int, None] = field(default_factory=dict)  # ids of those whose number may change
    _open: dict[int, None] = field(default_factory=dict)  # of the others, those that go on
    _before: Outage | None = None  # stands for all others in numbering: the end of the last episode among them
    _extent: Extent = field(default_factory=Extent)  # of the others
    _let_go: int = 0  # the highest id of those not kept any more

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def get(self, number: int) -> Outage | None:
        return self._kept.get(number)

    def values(self) -> list[Outage]:
        """All that are kept, as they were told, without episodes for the newest."""
        return list(self._kept.values())

    def recent(self) -> list[Outage]:
        """Those that say how the flow stands, oldest first: all that go on, and the newest of the others."""
        newest = self._newest or [*reversed(self._kept)][:1]  # those may all have been withdrawn
        found = {number: self._kept[number] for number in (*self._open, *newest)}
        return sorted(found.values(), key=lambda o: (o.start_ns, o.id))

    def last(self, most: int) -> list[Outage]:
        """Those that began last, at most so many, oldest first; without episodes."""
        found = self.recent() if most <= len(self._newest) else self.values()
        return sorted(found, key=lambda o: (o.start_ns, o.id))[-most:]

    def extent(self) -> Extent:
        extent = self._extent
        for number in self._newest:
            extent = extent.with_(self._kept[number])
        return extent

    def numbered(self) -> list[Outage]:
        """All that are kept, with their episodes, oldest first."""
        newest = {outage.id: outage for outage in self._number()}
        return sorted(
            (newest.get(number, outage) for number, outage in self._kept.items()), key=lambda o: (o.start_ns, o.id)
        )

    def take(self, outage: Outage) -> Outage:
        """Take in an outage, or what is known better of one; the same with its episode."""
        before = self._kept.get(outage.id)
        if before is not None:
            self.total.remove(before.estimate_ns)
        if outage.withdrawn:
            self._forget(outage.id)
            return outage
        if before is None and outage.id <= self._let_go:
            return outage  # counted long ago
        self.total.add(outage.estimate_ns)
        if before is not None and outage.id not in self._newest:
            return self._amend(replace(outage, episode=before.episode))
        self._kept[outage.id] = outage
        self._newest[outage.id] = None
        numbered = next(o for o in self._number() if o.id == outage.id)
        if len(self._newest) > 2 * NEWEST:
            self._settle(sorted(self._newest)[:NEWEST])
        while len(self._kept) > MOST:
            self._let_oldest_go()
        return numbered

    def _number(self) -> list[Outage]:
        """The newest with their episodes, which go on from those of all before."""
        before = [] if self._before is None else [self._before]
        numbered = with_episodes([*before, *(self._kept[number] for number in self._newest)])
        shift = 0 if self._before is None else self._before.episode - 1
        if not shift:  # as of nearly every flow
            return numbered[len(before) :]
        return [replace(outage, episode=outage.episode + shift) for outage in numbered[len(before) :]]

    def _settle(self, numbers: list[int]) -> None:
        """Have these keep the episode that they are in."""
        numbered = {outage.id: outage for outage in self._number()}
        for number in numbers:
            del self._newest[number]
            self._amend(numbered[number])

    def _amend(self, outage: Outage) -> Outage:
        """One whose number stays."""
        self._kept[outage.id] = outage
        self._extent = self._extent.with_(outage)
        self._open.pop(outage.id, None)
        if outage.censored == "end":
            self._open[outage.id] = None
        before = self._before
        if before is None or (outage.episode, outage.end_ns) > (before.episode, before.end_ns):
            self._before = replace(outage, id=0, start_ns=0)  # first in any order
        return outage

    def _let_oldest_go(self) -> None:
        oldest = next(iter(self._kept))
        if oldest in self._newest:
            self._settle([oldest])
        self._forget(oldest)
        self._let_go = max(self._let_go, oldest)

    def _forget(self, number: int) -> None:
        for place in (self._kept, self._newest, self._open):
            place.pop(number, None)
