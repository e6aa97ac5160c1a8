"""When HA watchers could see, and when they were blind, by what they tell of themselves: `watcher_down`, `watcher_up`.

Each watcher is one agent's. Where several agents watch, HA state is unknown only while all watchers of a name are
blind. Times are Unix epoch ns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from probe.core.events import TimelineEvent

TURNS = frozenset({"watcher_down", "watcher_up"})


@dataclass(frozen=True, slots=True)
class Blind:
    """A time in which a watcher knew nothing."""

    start_ns: int
    end_ns: int
    reason: str = ""
    lasting: bool = False  # it was still blind when the run ended
    unprepared: bool = False  # it had had no answer before, so that it cannot tell what changed in the meantime


@dataclass(frozen=True, slots=True)
class Sight:
    """What the watchers of one name could see between them.

    Attributes:
        watchers: The blind times of each, ascending; none of a watcher that never was blind.
    """

    watchers: tuple[tuple[Blind, ...], ...] = ()

    @property
    def lost(self) -> bool:
        """Whether nobody saw anything when the run ended: what was seen last need not be so any more."""
        return bool(self.watchers) and all(spans and spans[-1].lasting for spans in self.watchers)

    def whole_since(self, since_ns: int) -> bool:
        """Whether somebody knows all that changed since then, if only from what is different after a blind time."""

        def misses(span: Blind) -> bool:
            return span.lasting or (span.unprepared and span.end_ns >= since_ns)

        return not self.watchers or any(not any(map(misses, spans)) for spans in self.watchers)

    def blind(self) -> tuple[Blind, ...]:
        """When all of them were blind, ascending."""
        return functools.reduce(_shared, self.watchers) if self.watchers else ()


def sights(events: Sequence[TimelineEvent], end_ns: int, watchers: Mapping[str, int]) -> dict[str, Sight]:
    """The sight of the watchers of each name.

    Args:
        events: The merged timeline, ascending.
        end_ns: When the run ended.
        watchers: How many there are of a name; where it is not known, those count that told of themselves.
    """
    found: dict[str, list[tuple[Blind, ...]]] = {name: [] for name in watchers}
    told: dict[tuple[str, str], list[TimelineEvent]] = {}
    for event in events:
        if event.event in TURNS:
            told.setdefault(_whose(event), []).append(event)
    for (_, name), turns in told.items():
        found.setdefault(name, []).append(_spans(turns, max(end_ns, events[-1].at_ns)))
    for name, watching in found.items():
        if ("", name) not in told:  # whoever tells without a name may be any of them
            watching.extend([()] * (watchers.get(name, 0) - len(watching)))
    return {name: Sight(tuple(watching)) for name, watching in found.items()}


def still_down(events: Iterable[TimelineEvent]) -> list[TimelineEvent]:
    """The newest `watcher_down` of each watcher that has told no `watcher_up` since; events ascend."""
    last = {_whose(event): event for event in events if event.event in TURNS}
    return sorted((e for e in last.values() if e.event == "watcher_down"), key=lambda event: event.at_ns)


def untold_ups(events: Iterable[TimelineEvent], at_ns: int, reason: str) -> list[TimelineEvent]:
    """A `watcher_up` for each watcher that is down and has been replaced by another: that one tells for itself.

    Args:
        events: What is told so far, ascending.
        at_ns: When the other one began.
        reason: Why, in words for a timeline.
    """
    return [
        TimelineEvent(at_ns, down.source, "watcher_up", 0, {**_subject(down), "reason": reason})
        for down in still_down(events)
    ]


def _subject(event: TimelineEvent) -> dict[str, str]:
    return {key: event.detail[key] for key in ("agent", "watcher") if key in event.detail}


def _whose(event: TimelineEvent) -> tuple[str, str]:
    return str(event.detail.get("agent", "")), str(event.detail.get("watcher"))


def _spans(turns: Sequence[TimelineEvent], end_ns: int) -> tuple[Blind, ...]:
    """One watcher's blind times."""
    downs: list[tuple[TimelineEvent, TimelineEvent | None]] = []  # and what ended each; None: nothing
    down: TimelineEvent | None = None
    for event in turns:
        if event.event == "watcher_up":
            if down is not None:
                downs.append((down, event))
            down = None
        elif down is None or down.detail.get("answering") != event.detail.get("answering"):
            if down is not None:
                downs.append((down, event))  # another unit fell silent, or one is back
            down = event
    if down is not None:
        downs.append((down, None))
    # One unit of two that does not answer is what a crash looks like, and the other one still told its role.
    return tuple(_blind(begun, ended, end_ns) for begun, ended in downs if not begun.detail.get("answering"))


def _blind(down: TimelineEvent, ended: TimelineEvent | None, end_ns: int) -> Blind:
    # A watcher finds out that it is blind when a question has timed out: it is so from its last answer on.
    last_ns = down.detail.get("last_answer_ns", down.detail.get("last_success_ns"))
    return Blind(
        start_ns=min(int(last_ns), down.at_ns) if last_ns else down.at_ns,
        end_ns=end_ns if ended is None else ended.at_ns,
        reason=str(down.detail.get("reason") or ""),
        lasting=ended is None,
        unprepared=last_ns == 0,
    )


def _shared(some: Sequence[Blind], others: Sequence[Blind]) -> tuple[Blind, ...]:
    """The times that are in both, each with the reason of who was blind last."""
    both = []
    for one in some:
        for other in others:
            start_ns, end_ns = max(one.start_ns, other.start_ns), min(one.end_ns, other.end_ns)
            if start_ns < end_ns:
                later = max(one, other, key=lambda span: span.start_ns)
                both.append(Blind(start_ns, end_ns, later.reason, one.lasting and other.lasting))
    return tuple(both)
