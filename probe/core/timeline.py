"""Events of all sources on one clock, and the phases of a failover cut from them.

Phases follow RFC 6412's instants as far as they were seen. They tile the time from the convergence event to the
last recovery, plus one that spans it all:

    trigger or        first sign of        first call to       last call to       last flow
    first loss        a role change        the cloud           the cloud          back
        |---- detect ------|--- role_change ---|---- cloud_api ----|--- data_plane --|
        |------------------------------- full_recovery ------------------------------|

`cloud_api` ends when the last call returns. `data_plane` starts when the last call that can have brought the last
flow back is issued: it may take effect before it returns, and a route that nobody probes may move later still.
Where only polled changes are known, they stand for the calls.

A phase whose source is missing is left out rather than guessed. Times are Unix epoch ns; each phase carries the
uncertainty of both its edges added up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from probe.core.events import Outage, StallRecord, TimelineEvent
from probe.core.sight import still_down
from probe.core.verdict import FlowRecord

PROBE_EVENTS = frozenset({"outage_start", "outage_end", "stall_start", "stall_end", "session_end"})
CLOUD_MOVES = frozenset({"eip_moved", "route_moved", "private_ip_moved"})
# Calls told to the second (CloudTrail) are worth less than changes seen by polling, and more than nothing.
COARSE_NS = 500_000_000
# What a unit does on its own before the role is settled, as far as sources tell.
ROLE_SIGNS = frozenset({"heartbeat_lost", "role_change"})

# Cause before effect where two events carry the same instant.
_RANK = (
    "trigger",
    "heartbeat_lost",
    "role_change",
    "api_call",
    "eip_moved",
    "route_moved",
    "private_ip_moved",
    "applied",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a failover."""

    name: str
    start_ns: int
    end_ns: int
    uncertainty_ns: int
    share: float | None = None  # of the full recovery; None where that was not reached

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a phase."""
        return asdict(self)


@dataclass(frozen=True, slots=True, order=True)
class _Edge:
    at_ns: int
    uncertainty_ns: int


def merge(*sources: Iterable[TimelineEvent]) -> list[TimelineEvent]:
    """Join events of several sources into one list.

    Returns:
        Ascending by `at_ns`; at one instant causes before effects, then in the order given. An event told twice
        (two agents' documents that carry the same watcher's change, say) appears once.
    """
    told = [e for source in sources for e in source]
    # The drill and the lab both record the trigger, of one instant: the one that says more is enough.
    pulled: dict[int, TimelineEvent] = {}
    for event in told:
        if event.event == "trigger" and len(event.detail) > len(pulled.setdefault(event.at_ns, event).detail):
            pulled[event.at_ns] = event
    seen: set[str] = set()
    unique: list[TimelineEvent] = []
    for event in told:
        if event.event == "trigger" and event is not pulled[event.at_ns]:
            continue
        key = json.dumps(event.to_document(), sort_keys=True, default=str)
        if key not in seen:
            seen.add(key)
            unique.append(event)
    return sorted(unique, key=lambda e: (e.at_ns, _rank(e.event)))


def within(events: Iterable[TimelineEvent], first_ns: int, last_ns: int) -> list[TimelineEvent]:
    """Events of a span, and before them the `watcher_down` of each watcher that was blind when it began."""
    told = list(events)
    blind = still_down(e for e in told if e.at_ns + e.uncertainty_ns < first_ns)
    return blind + [e for e in told if first_ns <= e.at_ns + e.uncertainty_ns and e.at_ns <= last_ns]


def _rank(event: str) -> int:
    return _RANK.index(event) if event in _RANK else len(_RANK)


def probe_events(flows: Iterable[FlowRecord]) -> list[TimelineEvent]:
    """Start and end of every outage, and every session end, as timeline events of source `probe`.

    Derived from the flows so that the timeline tells the newest revision of an outage, never an older one. The
    instant is the outage's edge; the uncertainty is the gap to the probe on the other side of it.
    """
    events = []
    for flow in flows:
        who = {"flow": flow.name, "agent": flow.agent}
        for outage in flow.outages:
            where = {**who, "direction": outage.direction, "episode": outage.episode}
            if outage.censored != "start":
                gap = max(0, outage.first_lost_ns - outage.last_ok_ns) if outage.last_ok_ns else 0
                events.append(TimelineEvent(outage.start_ns, "probe", "outage_start", gap, where))
            if outage.censored != "end":
                edge = _recovery(outage)
                events.append(TimelineEvent(edge.at_ns, "probe", "outage_end", edge.uncertainty_ns, where))
        for stall in flow.stalls:
            if stall.censored != "start":
                events.append(TimelineEvent(stall.start_ns, "probe", "stall_start", 0, who))
            if stall.censored != "end":
                events.append(TimelineEvent(stall.end_ns, "probe", "stall_end", 0, who))
        end = flow.session_end
        if end is not None and end.cause != "none" and end.at_ns:
            told: dict[str, Any] = {**who, "cause": end.cause}
            if end.source:
                told |= {"by": end.by, "from": end.source, "ttl": end.ttl, "peer_ttl": end.peer_ttl}
            events.append(TimelineEvent(end.at_ns, "probe", "session_end", 0, told))
    return events


def origin(events: Sequence[TimelineEvent], flows: Sequence[FlowRecord], trigger_ns: int = 0) -> int:
    """The instant everything is told relative to: the trigger, else the first loss, else the first event; 0 if none."""
    if trigger_ns:
        return trigger_ns
    for event in events:
        if event.event == "trigger":
            return event.at_ns
    starts = [o.start_ns for f in flows for o in f.outages]
    return min(starts) if starts else (events[0].at_ns if events else 0)


def phases(events: Sequence[TimelineEvent], flows: Sequence[FlowRecord], *, trigger_ns: int = 0) -> list[Phase]:
    """Cut the first failover of a run into phases.

    Args:
        events: The merged timeline, ascending.
        flows: Judged flows: sessions that are lost for good do not hold back the recovery of their path.
        trigger_ns: When the trigger was pulled; 0 when there was none (then the first loss starts the clock).

    Returns:
        In the order of the table above; without those whose edges were not seen.
    """
    start = _start(events, flows, trigger_ns)
    if start is None:
        return []
    span = first_failover(events, start.at_ns)
    # An outage alone is no failover: a plain measurement has no phases.
    if not trigger_ns and not any(e.event in {"trigger", *ROLE_SIGNS, *CLOUD_MOVES} for e in span):
        return []
    noticed = _not_before(start, _first(span, ROLE_SIGNS))
    cloud = _cloud_edges(span)
    back = last_recovery(flows, start.at_ns, _of_first_failover(events, span, start.at_ns))
    found: list[Phase] = []

    def cut(name: str, begin: _Edge | None, end: _Edge | None) -> None:
        if begin is not None and end is not None:
            # Two edges told by different sources may cross within their uncertainty.
            at = min(begin.at_ns, end.at_ns)
            found.append(Phase(name, at, end.at_ns, begin.uncertainty_ns + end.uncertainty_ns))

    cut("detect", start, noticed)
    cut("role_change", noticed, cloud[0] if cloud else _last(span, ROLE_SIGNS))
    if cloud:
        cut("cloud_api", *cloud)
    cut("data_plane", _before(span, back) or _last(span, ROLE_SIGNS), back)
    cut("full_recovery", start, back)
    return _with_shares(found)


def _with_shares(found: Sequence[Phase]) -> list[Phase]:
    """Each phase's part of the full recovery. `data_plane` may overlap with `cloud_api`, so they need not add up."""
    full = next((p.end_ns - p.start_ns for p in found if p.name == "full_recovery"), 0)
    return [replace(p, share=round((p.end_ns - p.start_ns) / full, 4) if full else None) for p in found]


def first_failover(events: Sequence[TimelineEvent], since_ns: int) -> list[TimelineEvent]:
    """Events from `since_ns` up to, not including, a second takeover."""
    late = [e for e in events if e.at_ns + e.uncertainty_ns >= since_ns]
    second = _second_takeover(late)
    return late if second is None else late[: late.index(second)]


def _second_takeover(events: Sequence[TimelineEvent]) -> TimelineEvent | None:
    """Another unit becoming primary after one has."""
    takeovers = best_told([e for e in events if became_primary(e)])
    return next((e for e in takeovers if e.detail.get("unit") != takeovers[0].detail.get("unit")), None)


def _of_first_failover(
    events: Sequence[TimelineEvent], span: Sequence[TimelineEvent], since_ns: int
) -> Callable[[Outage | StallRecord], bool]:
    """Which outages are the first failover's: not those that a second one makes, before it is told as well.

    An outage that lasts into the second takeover is of the first failover only if it began before that had done its
    work: a crash is dark for seconds until the other unit takes over.
    """
    second = _second_takeover([e for e in events if e.at_ns + e.uncertainty_ns >= since_ns])
    if second is None:
        return lambda dark: True
    again_ns = second.at_ns - second.uncertainty_ns
    worked_ns = max(_done(e).at_ns for e in [*filter(became_primary, span), *_cloud_work(span)])
    return lambda dark: dark.end_ns <= again_ns or dark.start_ns <= worked_ns


def best_told(events: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """Of events that several sources may tell, the lab's own where it tells: it knows the instant."""
    return [e for e in events if e.source == "lab"] or list(events)


def became_primary(event: TimelineEvent) -> bool:
    """Whether an event says that a unit took over."""
    return event.event == "role_change" and event.detail.get("role") in ("primary", "master")


def last_recovery(
    flows: Sequence[FlowRecord], since_ns: int = 0, counts: Callable[[Outage | StallRecord], bool] = lambda dark: True
) -> _Edge | None:
    """The instant the last flow came back for good; None while any path is not back, or nothing ever was away.

    Old sessions that are lost, reset or rebound do not count: their path is back when their twins are. Nor do outages
    that end before `since_ns`, or are not among those that `counts` picks. A stream is back with its kernel's next try,
    later than its path: its stalls count only where no packets tell.
    """
    gone = {"dark", "half", "unobserved"}
    if any(f.verdict in gone for f in flows):
        return None
    ends = [_recovery(o) for f in flows for o in f.closed_outages if o.end_ns >= since_ns and counts(o)]
    told = {f.path for f in flows if f.stack == "packet"}
    over = [s for f in flows if f.path not in told for s in f.stalls if s.censored != "end"]
    ends += [_Edge(s.end_ns, 0) for s in over if s.end_ns >= since_ns and counts(s)]
    return max(ends, key=lambda e: e.at_ns, default=None)


def _recovery(outage: Outage) -> _Edge:
    return _Edge(outage.end_ns, max(0, outage.first_ok_ns - outage.last_lost_ns) if outage.first_ok_ns else 0)


def _start(events: Sequence[TimelineEvent], flows: Sequence[FlowRecord], trigger_ns: int) -> _Edge | None:
    if trigger_ns:
        return _Edge(trigger_ns, 0)
    trigger = _first(events, frozenset({"trigger"}))
    if trigger is not None:
        return trigger
    starts = [o for f in flows for o in f.outages if o.censored != "start"]
    if not starts:
        return None
    first = min(starts, key=lambda o: o.start_ns)
    return _Edge(first.start_ns, max(0, first.first_lost_ns - first.last_ok_ns) if first.last_ok_ns else 0)


def _cloud_edges(span: Sequence[TimelineEvent]) -> tuple[_Edge, _Edge] | None:
    """First and last sign of work on the cloud."""
    work = _cloud_work(span)
    return (_edge(work[0]), max(map(_done, work))) if work else None


def _cloud_work(span: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """A unit's own calls to the cloud where told exactly, else polled changes, else calls told to the second."""
    calls = [e for e in span if e.event == "api_call"]
    exact = [e for e in calls if e.uncertainty_ns < COARSE_NS]
    return best_told(exact or [e for e in span if e.event in CLOUD_MOVES] or calls)


def _done(event: TimelineEvent) -> _Edge:
    """When a cloud event was over: a call is told at its start, with its duration beside it."""
    return _Edge(event.at_ns + round(float(event.detail.get("duration_ms") or 0) * 1e6), event.uncertainty_ns)


def _before(span: Sequence[TimelineEvent], back: _Edge | None) -> _Edge | None:
    """The last work on the cloud that can have caused the recovery: later changes concern what nobody probed."""
    if back is None:
        return None
    work = _cloud_work([e for e in span if e.at_ns - e.uncertainty_ns <= back.at_ns])
    return _edge(work[-1]) if work else None


def _first(events: Sequence[TimelineEvent], names: frozenset[str]) -> _Edge | None:
    named = best_told([e for e in events if e.event in names])
    return _edge(named[0]) if named else None


def _last(events: Sequence[TimelineEvent], names: frozenset[str]) -> _Edge | None:
    return _first(list(reversed(events)), names)


def _edge(event: TimelineEvent) -> _Edge:
    return _Edge(event.at_ns, event.uncertainty_ns)


def _not_before(start: _Edge, edge: _Edge | None) -> _Edge | None:
    """A polled change, which may be told at a middle that lies before its cause, no earlier than the cause."""
    return None if edge is None else _Edge(max(start.at_ns, edge.at_ns), edge.uncertainty_ns)
