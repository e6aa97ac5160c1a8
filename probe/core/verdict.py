"""One verdict per flow, from how it and its twin ended. Pure: records in, words out.

Two steps, both tables a reader can check by eye. `condition` reduces a flow to one of five conditions at the
end of the run; `RULES` maps (how the session ended, own condition, rebound, twin's condition) to the verdict,
first match wins. A kept flow is the old session, its fresh twin the new one: only the pair tells a lost
session (`lost`) from a path that is down (`dark`). What can happen to either in a run is in `HAPPENINGS`; with both
tables the documentation draws which verdict may follow which.

This module does not decide what an outage is (`core/outage.py`), nor draws anything (`report/`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from probe.core.events import Counts, Outage, Protocol, Session, SessionEnd, Stack, StallRecord, Unobserved, Verdict

Condition = Literal["clean", "back", "half", "dark", "unknown"]
Span = tuple[int, int]

CONDITIONS: dict[Condition, str] = {
    "clean": "no outage or stall, and no loss that matters",
    "back": "one or more outages or stalls, all of them over; the same 5-tuple or ICMP id is answered again",
    "half": "an outage still open in one direction while the other passes",
    "dark": "an outage still open in both directions, a stream still stalled or given up, or never answered",
    "unknown": "we did not send on schedule, or dropped replies ourselves, for most of the time that matters",
}

# Scattered losses shorter than an outage. Below this share they are the network's everyday noise; at or above
# it, calling the flow untouched would mislead.
LOSS_THAT_MATTERS = 0.01
# Above this share of unobserved time, a silence (or its absence) says nothing about the network.
UNOBSERVED_SHARE = 0.5

WORST_FIRST: tuple[Verdict, ...] = (
    "dark",
    "half",
    "reset",
    "lost",
    "rebound",
    "unobserved",
    "survived",
    "unaffected",
)


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """One flow of a finished (or still running) span: what verdict, phases and diagnosis look at."""

    name: str
    protocol: Protocol
    session: Session
    path: str
    agent: str = ""
    target: str = ""
    interval_ns: int = 1_000_000
    counts: Counts = field(default_factory=Counts)
    outages: tuple[Outage, ...] = ()
    unobserved: tuple[Unobserved, ...] = ()
    session_end: SessionEnd | None = None
    stack: Stack = "packet"
    stalls: tuple[StallRecord, ...] = ()  # of a stream, which has no outages
    reconnected: bool = False  # a stream whose session ended has a new one, which works
    rebound: bool = False  # the reflector saw another translated address or port after the outage
    verdict: Verdict = "unobserved"

    @property
    def column(self) -> str:
        """Its column of the matrix: streams have one of their own."""
        if self.stack == "kernel":
            return "stream"
        return self.protocol if self.session == "kept" else f"{self.protocol}-new"

    @property
    def open_outages(self) -> tuple[Outage, ...]:
        """Outages that had not ended when the span ended."""
        return tuple(o for o in self.outages if o.censored == "end")

    @property
    def closed_outages(self) -> tuple[Outage, ...]:
        """Outages after which probes were answered again."""
        return tuple(o for o in self.outages if o.censored != "end")

    @property
    def end_cause(self) -> str:
        """How a kept session ended; `none` for a fresh flow, whose RSTs are answers."""
        if self.session != "kept" or self.session_end is None:
            return "none"
        return self.session_end.cause


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the verdict table. An empty set means "any"."""

    verdict: Verdict
    because: str
    condition: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    twin: frozenset[str] = frozenset()
    rebound: bool | None = None

    def matches(self, condition: str, ended: str, twin: str, rebound: bool) -> bool:
        return (
            (not self.condition or condition in self.condition)
            and (not self.ended or ended in self.ended)
            and (not self.twin or twin in self.twin)
            and (self.rebound is None or rebound == self.rebound)
        )


def _any_of(*names: str) -> frozenset[str]:
    return frozenset(names)


# First match wins. `twin` is the condition of the flow's counterpart, or "none" where it has no counterpart.
RULES: tuple[Rule, ...] = (
    Rule("reset", "the session was ended by a RST or FIN", ended=_any_of("rst", "fin")),
    Rule("unobserved", "our own stalls or drops cover the time that matters", condition=_any_of("unknown")),
    Rule(
        "rebound",
        "answered, but behind another translated address or port than before",
        condition=_any_of("clean", "back"),
        rebound=True,
    ),
    Rule("unaffected", "no outage", condition=_any_of("clean")),
    Rule("survived", "the same session was answered again after every outage", condition=_any_of("back")),
    Rule("half", "one direction is back, the other is not", condition=_any_of("half")),
    Rule("lost", "the old session stays dark, new ones work", condition=_any_of("dark"), twin=_any_of("clean", "back")),
    Rule(
        "half",
        "the old session stays dark, new ones pass in one direction only",
        condition=_any_of("dark"),
        twin=_any_of("half"),
    ),
    Rule("dark", "nothing is back, or no twin tells otherwise", condition=_any_of("dark")),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What `RULES` look at: how a flow stands so far."""

    condition: str = "clean"
    ended: str = "none"
    twin: str = "clean"
    rebound: bool = False

    @property
    def rule(self) -> Rule:
        """The row that decides."""
        return _rule(self)


@functools.cache
def _rule(standing: Standing) -> Rule:
    asked = (standing.condition, standing.ended, standing.twin, standing.rebound)
    return next(r for r in RULES if r.matches(*asked))


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that changes how a flow stands, where `when` holds: what of it, from which values, to which."""

    what: str
    change: dict[str, str | bool]
    when: dict[str, frozenset[str]]

    def after(self, standing: Standing) -> Standing | None:
        """How a flow stands afterwards; None where this cannot happen."""
        possible = all(getattr(standing, name) in values for name, values in self.when.items())
        return replace(standing, **self.change) if possible else None  # type: ignore[arg-type]


_OK = _any_of("clean", "back")
HAPPENINGS: tuple[Happening, ...] = (
    Happening("silence", {"condition": "dark"}, {"condition": _OK}),
    Happening("silence in one direction", {"condition": "half"}, {"condition": _OK}),
    Happening("the other direction falls silent", {"condition": "dark"}, {"condition": _any_of("half")}),
    Happening("one direction is back", {"condition": "half"}, {"condition": _any_of("dark")}),
    Happening("answered again", {"condition": "back"}, {"condition": _any_of("half", "dark")}),
    Happening("another translation", {"condition": "back", "rebound": True}, {"condition": _any_of("half", "dark")}),
    Happening("another translation", {"rebound": True}, {"condition": _OK}),
    Happening("new sessions fail", {"twin": "dark"}, {"twin": _OK}),
    Happening("new sessions pass one way", {"twin": "half"}, {"twin": _any_of("dark")}),
    Happening("new sessions work", {"twin": "back"}, {"twin": _any_of("half", "dark")}),
    Happening("RST or FIN", {"ended": "rst"}, {"ended": _any_of("none")}),
    Happening("we stall", {"condition": "unknown"}, {"ended": _any_of("none")}),
)


def condition(flow: FlowRecord, incident: Span | None = None) -> Condition:
    """How a flow stands at the end of its span.

    Args:
        flow: The flow; `verdict` is not looked at.
        incident: Start and end (Unix epoch ns) of the time in which any flow of the run was in an outage. A flow
            without an outage that was not observed for most of it is `unknown`, not `clean`.
    """
    counts = flow.counts
    if counts.received + counts.late + counts.lost == 0:
        return "unknown"  # every probe unsent, dropped by us or still pending
    if flow.end_cause == "silent" and flow.stack == "kernel":
        return "dark"  # whatever its later sessions do
    if any(stall.censored == "end" for stall in flow.stalls):
        return "dark"
    still_open = flow.open_outages
    if still_open:
        dark_ns = sum(o.end_ns - o.start_ns for o in still_open)
        blind_ns = sum(o.unobserved_ns for o in still_open)
        if blind_ns > UNOBSERVED_SHARE * dark_ns:
            return "unknown"
        directions = {o.direction for o in still_open}
        return "half" if directions in ({"forward"}, {"reverse"}) else "dark"
    if counts.received + counts.late == 0:
        return "dark"
    if flow.outages or flow.stalls:
        return "back"
    if _blind(flow, incident):
        return "unknown"
    return "back" if counts.lost >= LOSS_THAT_MATTERS * counts.sent else "clean"


def judge(flow: FlowRecord, twin: FlowRecord | None = None, *, incident: Span | None = None) -> Verdict:
    """The verdict on one flow.

    Args:
        flow: A kept flow, or a fresh one (which is judged by itself: its twin tells nothing about new sessions).
        twin: The flow's counterpart of the other session kind, if there is one.
        incident: See `condition`.
    """
    return explain(flow, twin, incident=incident).verdict


def explain(flow: FlowRecord, twin: FlowRecord | None = None, *, incident: Span | None = None) -> Rule:
    """The row of the table that decides about a flow; arguments as for `judge`."""
    return decided(flow, condition(flow, incident), None if twin is None else condition(twin, incident))


def decided(flow: FlowRecord, own: Condition, twin: Condition | None) -> Rule:
    """The same, from the conditions of the flow and its twin."""
    other = "none" if twin is None or flow.session == "fresh" else twin
    if flow.reconnected:
        other = "back"  # its own next session tells that new ones work
    return Standing(own, flow.end_cause, other, flow.rebound and flow.session == "kept").rule


def judge_all(flows: Sequence[FlowRecord]) -> list[FlowRecord]:
    """The same flows in the same order, each with its verdict, judged with its twin."""
    span = incident_of(flows)
    pairs = twins(flows)
    return [
        replace(flow, verdict=judge(flow, flows[pairs[i]] if i in pairs else None, incident=span))
        for i, flow in enumerate(flows)
    ]


def again_all(flows: Sequence[FlowRecord]) -> list[int | None]:
    """When a session worked again, for each flow: as recorded, else by its twin; None where that is not known."""
    pairs = twins(flows)
    return [_again(flow, flows[pairs[i]] if i in pairs else None) for i, flow in enumerate(flows)]


def _again(flow: FlowRecord, twin: FlowRecord | None) -> int | None:
    end = flow.session_end
    if end is None or flow.end_cause == "none" or end.again_ns is not None or twin is None:
        return None if end is None else end.again_ns
    since = min([o.start_ns for o in flow.open_outages] + [end.at_ns])
    # Both notice the same fault by their own next probe.
    until = end.at_ns + 2 * (flow.interval_ns + twin.interval_ns)
    touching = [o for o in twin.outages if o.end_ns > since and o.start_ns <= until]
    episodes = {o.episode for o in touching}
    same = [o for o in twin.outages if o in touching or (o.episode in episodes and o.end_ns > since)]
    if twin.counts.received == 0 or any(o.censored == "end" for o in same):
        return None
    return max((o.end_ns for o in same), default=end.at_ns)


def incident_of(flows: Iterable[FlowRecord]) -> Span | None:
    """Start of the first outage to the end of the last one that ended (Unix epoch ns); None without an outage.

    Where none has ended, it goes on to the last probe known to be lost.
    """
    outages = [o for flow in flows for o in flow.outages]
    if not outages:
        return None
    ended = [o for o in outages if o.censored != "end"]
    start = min(o.start_ns for o in outages)
    return start, max([o.start_ns for o in outages] + [o.end_ns for o in ended or outages])


def twins(flows: Sequence[FlowRecord]) -> dict[int, int]:
    """Index of each flow to the index of its twin: NAME and NAME-fresh of one agent, else alike in all but session."""
    by_name = {(f.agent, f.name, f.session): i for i, f in enumerate(flows)}
    by_kind: dict[tuple[str, str, str, str, str], int] = {}
    for i, f in enumerate(flows):
        if f.stack == "packet":  # a stream is nobody's twin
            by_kind.setdefault((f.agent, f.path, f.protocol, f.target, f.session), i)
    pairs: dict[int, int] = {}
    for i, f in enumerate(flows):
        other: Session = "fresh" if f.session == "kept" else "kept"
        name = f"{f.name}-fresh" if other == "fresh" else f.name.removesuffix("-fresh")
        found = by_name.get((f.agent, name, other))
        if found is None:
            found = by_kind.get((f.agent, f.path, f.protocol, f.target, other))
        if found is not None:
            pairs[i] = found
    return pairs


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one a person should see when several flows share a cell."""
    return min(verdicts, key=WORST_FIRST.index)


def matrix(flows: Iterable[FlowRecord]) -> dict[str, dict[str, str]]:
    """Path to {protocol: verdict on old sessions, protocol-new: verdict on new ones}, from judged flows.

    New sessions cannot survive anything: where a fresh flow was dark and is answered again, its cell says
    `recovered`.
    """
    cells: dict[str, dict[str, list[Verdict]]] = {}
    for flow in flows:
        cells.setdefault(flow.path, {}).setdefault(flow.column, []).append(flow.verdict)
    return {
        path: {column: shown(worst(verdicts), column.endswith("-new")) for column, verdicts in row.items()}
        for path, row in cells.items()
    }


def shown(verdict: Verdict, fresh: bool) -> str:
    """The word a person reads: `survived` of a fresh flow is `recovered`."""
    return "recovered" if fresh and verdict == "survived" else verdict


def table_markdown() -> str:
    """The two tables above, as the documentation shows them."""
    lines = ["| condition | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in CONDITIONS.items()]
    lines += ["", "| session ended | condition | rebound | twin | verdict | because |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        cells = [_words(rule.ended), _words(rule.condition)]
        cells += ["any" if rule.rebound is None else "yes", _words(rule.twin), f"`{rule.verdict}`", rule.because]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def machine_mermaid() -> str:
    """Which verdict a kept flow with a twin may go over to, and by what: drawn from `RULES` and `HAPPENINGS`."""
    edges: dict[tuple[str, str], list[str]] = {}
    seen, waiting = set(), [Standing()]
    while waiting:
        standing = waiting.pop(0)
        if standing in seen:
            continue
        seen.add(standing)
        for happening in HAPPENINGS:
            after = happening.after(standing)
            if after is None:
                continue
            waiting.append(after)
            one, other = standing.rule.verdict, after.rule.verdict
            if one != other and happening.what not in edges.setdefault((one, other), []):
                edges[one, other].append(happening.what)
    lines = ["stateDiagram-v2", f"    [*] --> {Standing().rule.verdict}"]
    lines += [f"    {one} --> {other}: {' or '.join(what)}" for (one, other), what in sorted(edges.items())]
    return "\n".join(lines) + "\n"


def _words(names: frozenset[str]) -> str:
    return " or ".join(f"`{n}`" for n in sorted(names)) or "any"


def _blind(flow: FlowRecord, incident: Span | None) -> bool:
    """Whether a flow without outages was unobserved for most of the time that matters."""
    if incident is None:
        watched_ns = flow.counts.scheduled * flow.interval_ns
        blind_ns = sum(u.end_ns - u.start_ns for u in flow.unobserved)
    else:
        watched_ns = incident[1] - incident[0]
        blind_ns = sum(overlap_ns((u.start_ns, u.end_ns), incident) for u in flow.unobserved)
    return blind_ns > UNOBSERVED_SHARE * watched_ns


def overlap_ns(one: Span, other: Span) -> int:
    """Length of what two spans share; 0 when they are apart."""
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))
