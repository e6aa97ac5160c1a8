"""What a run means, in a person's words: rules as data, each with its evidence and what to check first.

`RULES` is the whole knowledge: code, summary, a `find` that returns evidence lines (none: the rule does not
apply) and the first things to check. `Facts` is gathered once from the judged flows and the merged timeline;
rules only read it. Where HA state was not observed, rules about it stay silent instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from probe.core.ending import icmp_words
from probe.core.events import SessionEnd, TimelineEvent
from probe.core.remedies import remedies
from probe.core.timeline import became_primary, best_told, origin
from probe.core.verdict import FlowRecord, Span, incident_of, overlap_ns

# Paths on which a FortiGate pair translates addresses. Any other path word is taken as routed without NAT.
NAT_PATHS = frozenset({"ingress", "egress"})
# An outage of which our own stalls cover more than this share has edges that are ours, not the network's.
UNRELIABLE_SHARE = 0.05
FRESH_OK = frozenset({"unaffected", "survived"})
KEPT_OK = frozenset({"unaffected", "survived", "rebound", "lost", "reset"})
_MUTATIONS = ("AssociateAddress", "ReplaceRoute", "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses")


@dataclass(frozen=True)
class Facts:
    """What the rules look at. Flows are judged; events ascend by time; times are Unix epoch ns."""

    flows: Sequence[FlowRecord]
    events: Sequence[TimelineEvent]
    trigger_ns: int = 0  # 0: nobody pulled one
    watched: frozenset[str] = frozenset()  # "aws", "fortigate": HA sources that were configured
    end_ns: int = 0
    unwatched: frozenset[str] = frozenset()  # "Address", "Route": what the AWS watchers were not to look at

    @cached_property
    def since_ns(self) -> int:
        """Where the failover may begin. Polled changes reach back by their uncertainty."""
        return self.trigger_ns or (self.events[0].at_ns if self.events else 0)

    @cached_property
    def incident(self) -> Span | None:
        """From the trigger (or first loss) to the last recovery, or to the end where something stays dark."""
        span = incident_of(self.flows)
        if span is None:
            return None
        ends = span[1]
        if any(f.verdict in ("dark", "half") for f in self.flows):
            ends = max(ends, self.end_ns)
        return min(span[0], origin(self.events, self.flows, self.trigger_ns)), ends

    def named(self, *events: str) -> list[TimelineEvent]:
        """Events of these names since the failover began."""
        return [e for e in self.events if e.event in events and e.at_ns + e.uncertainty_ns >= self.since_ns]

    @cached_property
    def takeovers(self) -> list[TimelineEvent]:
        """One event per change of the primary unit, told once however many sources tell it."""
        found: list[TimelineEvent] = []
        for event in best_told(self.named("role_change")):
            if became_primary(event) and (not found or found[-1].detail.get("unit") != event.detail.get("unit")):
                found.append(event)
        return found

    @cached_property
    def eips(self) -> list[TimelineEvent]:
        """Elastic IPs that moved, each move once: as polled, else as the unit's calls tell."""
        return self.named("eip_moved", "private_ip_moved") or self._calls_ok("Address")

    @cached_property
    def routes(self) -> list[TimelineEvent]:
        """Routes that moved, as for `eips`."""
        return self.named("route_moved") or self._calls_ok("Route")

    @cached_property
    def refused(self) -> list[TimelineEvent]:
        """Calls to the cloud that failed and were not made good later, nor seen to have worked all the same."""
        calls = best_told(self.named("api_call"))
        good = {_aim(e) for e in calls if not _failed(e)}
        return [e for e in calls if _failed(e) and _aim(e) not in good and not self._worked(e)]

    @cached_property
    def errors(self) -> list[str]:
        """What went wrong with the units' calls, in the tellers' words."""
        told = [*self.refused, *self.named("awsd_error")]
        return list(dict.fromkeys(str(e.detail.get("error") or "no answer") for e in told))

    def left_behind(self, kind: str) -> list[str]:
        """What the watcher last saw at another unit than the new primary; `kind` is "Address" or "Route"."""
        signs = [e for e in self.named("signals_disagree", "signals_agree") if e.source == "aws"]
        if not signs or not self.takeovers or self.blind_at_end("aws"):
            return []
        primary = self.takeovers[-1].detail.get("unit")
        words = ("route ",) if kind == "Route" else ("eip ", "private_ip ")
        said = dict(signs[-1].detail.get("signals") or {})
        if primary not in said.values():
            return []  # nothing followed it, or the two watchers name the units differently
        been = {_signal(e) for e in self.moves if e.detail.get("to_unit") == primary}
        added = {_signal(e) for e in self.moves if not e.detail.get("from")}  # what nobody had was not left behind
        return [
            f"{signal} {'points back' if signal in been else 'still points'} at {unit or 'nobody'}, not at {primary}"
            for signal, unit in said.items()
            if signal.startswith(words) and unit != primary and signal not in added - been
        ]

    @cached_property
    def moves(self) -> list[TimelineEvent]:
        """Changes in the cloud, as polled."""
        return self.named("eip_moved", "private_ip_moved", "route_moved")

    @cached_property
    def astray(self) -> list[str]:
        """What an earlier failover of this run had moved, and the next one left with a unit that is primary no more."""
        owners = {_signal(e): e for e in self.moves if e.detail.get("to_unit")}
        units = {str(e.detail["to_unit"]) for e in owners.values()}
        if len(units) != 1 or self.blind_at_end("aws"):
            return []
        (owner,) = units
        known = {str(e.detail.get(key)) for e in self.moves for key in ("from_unit", "to_unit")}
        last_ns = max(e.at_ns + e.uncertainty_ns for e in owners.values())
        after = [e for e in best_told(self.named("role_change")) if e.at_ns - e.uncertainty_ns > last_ns]
        stepped_down = [e for e in after if e.detail.get("unit") == owner]
        if stepped_down and became_primary(stepped_down[-1]):
            return []
        taken = [e for e in after if became_primary(e) and str(e.detail.get("unit")) in known - {owner}]
        if not stepped_down and not taken:
            return []
        new = f", not at {taken[-1].detail['unit']}" if taken else ", which has stepped down"
        return [f"{signal} still points at {owner}{new}" for signal in owners]

    def blind_at_end(self, watcher: str) -> bool:
        """Whether a watcher was blind when the run ended, so that what it saw last need not be so any more."""
        turns = [e for e in self.events if e.event.startswith("watcher_") and e.detail.get("watcher") == watcher]
        return bool(turns) and turns[-1].event == "watcher_down"

    @cached_property
    def split(self) -> list[TimelineEvent]:
        """Signs that both units are primary at once: one that took over, and one that never stood down."""
        told = self.named("two_primaries")
        if told or not self.takeovers:
            return told
        taker = self.takeovers[-1].detail.get("unit")
        alone = [e for e in self.named("heartbeat_lost") if e.detail.get("unit") != taker]
        down = {e.detail.get("unit") for e in self.named("role_change") if not became_primary(e)}
        return [e for e in alone if e.detail.get("unit") not in down]

    @cached_property
    def conflicts(self) -> list[str]:
        """Where sources contradict each other: told, and left to the reader."""
        calls = self.named("api_call")
        lines = [f"conflict: {_call(e)}, yet the cloud shows it moved" for e in calls if _failed(e) and self._worked(e)]
        last: dict[tuple[str, str], dict[str, TimelineEvent]] = {}
        for e in calls:
            if e.detail.get("result") != "unconfirmed":
                last.setdefault(_aim(e), {})[str(e.detail.get("via") or e.source)] = e
        for told in last.values():
            if len({_failed(e) for e in told.values()}) > 1:
                words = ", ".join(f"{who}: {'failed' if _failed(e) else 'ok'}" for who, e in told.items())
                lines.append(f"conflict: {' '.join(_aim(next(iter(told.values()))))}: {words}")
        return list(dict.fromkeys(lines))

    def _worked(self, call: TimelineEvent) -> bool:
        """Whether the watcher saw what a call asked for come true, whatever the call was answered."""
        target, unit = str(call.detail.get("target")), call.detail.get("unit")
        for move in self.named("eip_moved", "private_ip_moved", "route_moved"):
            d = move.detail
            names = (d.get("address"), d.get("allocation_id"), f"{d.get('route_table')} {d.get('destination')}")
            if target in names and d.get("to_unit") == unit:
                return True
        return False

    @property
    def cloud_seen(self) -> bool:
        """Whether anyone looked at the cloud, so that "did not move" can be said."""
        return "aws" in self.watched or bool(self.named("api_call", "eip_moved", "route_moved", "private_ip_moved"))

    def looked(self, kind: str) -> bool:
        """Whether anyone would have seen a move of this kind: "Address" or "Route"."""
        return self.cloud_seen and (
            kind not in self.unwatched or any(kind in str(e.detail.get("operation")) for e in self.named("api_call"))
        )

    @property
    def failover_seen(self) -> bool:
        """Whether HA itself was seen to act."""
        return bool(self.takeovers or self.eips or self.routes)

    def path_down(self, *paths: str) -> list[FlowRecord]:
        """Flows that show a path (any, when none is named) to be down for new sessions at the end."""
        fresh = [f for f in self.flows if f.session == "fresh" and (not paths or f.path in paths)]
        down = [f for f in fresh if f.verdict in ("dark", "half")]
        covered = {(f.agent, f.path, f.protocol) for f in fresh}
        alone = [f for f in self.flows if f.session == "kept" and (f.agent, f.path, f.protocol) not in covered]
        return down + [f for f in alone if (not paths or f.path in paths) and f.verdict in ("dark", "half")]

    def with_verdict(self, *verdicts: str, nat: bool | None = None) -> list[FlowRecord]:
        """Kept flows with one of these verdicts, on translated paths only (or on the others only) if asked."""
        return [
            f
            for f in self.flows
            if f.session == "kept" and f.verdict in verdicts and (nat is None or (f.path in NAT_PATHS) == nat)
        ]

    def _calls_ok(self, kind: str) -> list[TimelineEvent]:
        return [
            e
            for e in best_told(self.named("api_call"))
            if e.detail.get("result", "ok") == "ok"
            and str(e.detail.get("operation")) in _MUTATIONS
            and kind in str(e.detail["operation"])
        ]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One finding about a run."""

    code: str
    summary: str
    evidence: tuple[str, ...]
    check_first: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a diagnosis."""
        return {
            "code": self.code,
            "summary": self.summary,
            "evidence": list(self.evidence),
            "check_first": list(self.check_first),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of knowledge. `find` returns evidence; an empty list means that the rule does not apply."""

    code: str
    summary: str
    find: Callable[[Facts], list[str]]
    check_first: tuple[str, ...] = ()
    caveat: bool = False  # true of a clean failover as well
    cloud: bool = False  # about calls to the cloud: where one failed, its remedy takes the place of `check_first`

    def diagnosis(self, evidence: Sequence[str], facts: Facts) -> Diagnosis:
        """What it says with this evidence."""
        known = remedies(facts.errors) if self.cloud else []
        summary = " ".join([self.summary, *(one.cause for one in known)])
        checks = tuple(line for one in known for line in one.check_first) or self.check_first
        return Diagnosis(self.code, summary, tuple(evidence), checks)


def _call(e: TimelineEvent) -> str:
    operation, target = e.detail.get("operation", "call"), e.detail.get("target", "")
    return f"{e.detail.get('unit', 'a unit')}: {operation} {target}: {e.detail.get('error') or 'no answer'}"


def _aim(e: TimelineEvent) -> tuple[str, str]:
    return str(e.detail.get("operation")), str(e.detail.get("target"))


def _failed(e: TimelineEvent) -> bool:
    # A call whose answer nobody saw (a capture that ended early) may well have succeeded.
    return (e.detail.get("result") or "ok") not in ("ok", "unconfirmed")


def _signal(e: TimelineEvent) -> str:
    """The watcher's name of what a move is about, as in `signals`."""
    d = e.detail
    if e.event == "route_moved":
        return f"route {d.get('route_table')} {d.get('destination')}"
    return f"{e.event.removesuffix('_moved')} {d.get('address')}"


def _move(e: TimelineEvent) -> str:
    d = e.detail
    what = (
        d.get("address") or " ".join(str(d[k]) for k in ("route_table", "destination") if d.get(k)) or d.get("target")
    )
    to = d.get("to_unit") or d.get("to") or d.get("unit")
    return f"{e.event.replace('_', ' ')}: {what} to {to}"


def flow_label(f: FlowRecord) -> str:
    """How evidence names a flow."""
    return f"{f.agent}/{f.name}" if f.agent else f.name


def _verdicts(flows: Sequence[FlowRecord]) -> list[str]:
    return [_verdict(f) for f in flows]


def _verdict(f: FlowRecord) -> str:
    return f"{flow_label(f)} ({f.path} {f.protocol}, {f.session}): {f.verdict}"


def _no_failover(facts: Facts) -> list[str]:
    if not facts.trigger_ns or facts.failover_seen:
        return []
    moved = "no role change and no move in the cloud was seen"
    if facts.incident is None:
        return [f"no flow of {len(facts.flows)} had an outage", moved]
    # Loss alone is no failover, but only who has looked all the time can say so.
    if not facts.watched or facts.path_down() or _blind(facts):
        return []
    return [moved, *map(_loss, [f for f in facts.flows if f.outages])]


def _loss(flow: FlowRecord) -> str:
    share = flow.counts.lost / max(flow.counts.sent, 1)
    return (
        f"{flow_label(flow)} ({flow.path} {flow.protocol}): {flow.counts.lost} of {flow.counts.sent} probes lost"
        f" ({share:.0%}), {len(flow.outages)} outages"
    )


def _both_missing(facts: Facts) -> list[str]:
    """Neither side is whole: nothing moved although it should have, or some of each was refused or left behind."""
    if facts.astray and facts.path_down():
        return [*_why(facts), *_roles(facts), *facts.astray, *_verdicts(facts.path_down())]
    if _eip_only(facts) or _routes_only(facts):
        return []
    calls = [_call(e) for e in facts.refused if str(e.detail.get("operation")) in _MUTATIONS]
    left = facts.left_behind("Address") + facts.left_behind("Route")
    if calls or left:
        return [*calls, *left, *_verdicts(facts.path_down())]
    expected = facts.takeovers or facts.path_down()
    looked = [words for kind, words in (("Address", "Elastic IP"), ("Route", "route")) if facts.looked(kind)]
    if not looked or not expected or facts.eips or facts.routes:
        return []
    still = f"no {' and no '.join(looked)} moved"
    return [*_why(facts), *_roles(facts), still, *_verdicts(facts.path_down())]


def _eip_only(facts: Facts) -> list[str]:
    """Elastic IPs are where they should be; routes were refused, left behind, or none moved and paths are down."""
    if not facts.eips or facts.astray or _missing(facts, "Address"):
        return []
    missing = _missing(facts, "Route")
    down = [f for f in facts.path_down() if missing or f.path != "ingress"]
    if not missing and (facts.routes or not down or not facts.looked("Route")):
        return []
    moved = [*map(_move, facts.routes)] or ["no route moved"]
    return [*map(_move, facts.eips), *missing, *moved, *_verdicts(down)]


def _routes_only(facts: Facts) -> list[str]:
    """As `_eip_only`, the other way round."""
    if not facts.routes or facts.astray or _missing(facts, "Route"):
        return []
    missing, down = _missing(facts, "Address"), facts.path_down(*NAT_PATHS)
    if not missing and (facts.eips or not down or not facts.looked("Address")):
        return []
    moved = [*map(_move, facts.eips)] or ["no Elastic IP moved"]
    return [*map(_move, facts.routes), *missing, *moved, *_verdicts(down)]


def _missing(facts: Facts, kind: str) -> list[str]:
    """Calls of a kind that were refused, and what was left behind."""
    return [*_refused(facts, kind), *facts.left_behind(kind)]


def _refused(facts: Facts, kind: str) -> list[str]:
    return [_call(e) for e in facts.refused if kind in str(e.detail.get("operation"))]


def _why(facts: Facts) -> list[str]:
    """What units said of calls that came to nothing; of one failure told twice, the call."""
    lines = [_call(e) for e in facts.refused]
    if not lines:
        lines = [
            f"{e.detail.get('unit')}: awsd was refused: {e.detail.get('error')}" for e in facts.named("awsd_error")
        ]
    return lines + [f"{e.detail.get('unit')}: awsd failed: {e.detail.get('error')}" for e in facts.named("awsd_failed")]


def _roles(facts: Facts) -> list[str]:
    return [f"{e.detail.get('unit')} became primary" for e in facts.takeovers]


def _split(facts: Facts) -> list[str]:
    lines = []
    for event in facts.split:
        units = event.detail.get("units") or []
        who = event.detail.get("unit")
        at_s = f"{(event.at_ns - facts.since_ns) / 1e9:+.1f} s"
        if units:
            lines.append(f"{at_s}: {' and '.join(units)} answer as primary at the same time")
        else:
            lines.append(f"{at_s}: {who} lost its peer's heartbeat and did not step down")
    return [*_roles(facts), *lines, *map(_move, [*facts.eips, *facts.routes])] if lines else []


def _ingress_dark(facts: Facts) -> list[str]:
    dark = [f for f in facts.path_down("ingress") if f.verdict == "dark"]
    if not facts.eips or not dark or facts.astray or _missing(facts, "Address") or _missing(facts, "Route"):
        return []
    # A VIP takes ingress alone along: where another path is down as a whole, there is another reason.
    down = {flow_label(f) for f in facts.path_down()}
    for path in {f.path for f in facts.flows} - {"ingress"}:
        there = [f for f in facts.flows if f.path == path]
        if all(flow_label(f) in down for f in [f for f in there if f.session == "fresh"] or there):
            return []
    return [*map(_move, [*facts.eips, *facts.routes]), *_verdicts(dark)]


def _not_synchronised(facts: Facts) -> list[str]:
    return [_verdict(f) + _icmp(f) for f in facts.with_verdict("lost", nat=False)]


def _resets(facts: Facts) -> list[str]:
    return [_ended(f, end) for f, end in _reset_ends(facts) if not _by_peer(end, facts)]


def _peer_resets(facts: Facts) -> list[str]:
    return [_ended(f, end) for f, end in _reset_ends(facts) if _by_peer(end, facts)]


def _by_peer(end: SessionEnd, facts: Facts) -> bool:
    """Of a sender that is not known (a stream's kernel does not tell), the others speak: whoever alone sent theirs."""
    senders = {other.by for _, other in _reset_ends(facts)}
    return end.by == "peer" or (end.by == "unknown" and "peer" in senders and "firewall" not in senders)


def _reset_ends(facts: Facts) -> list[tuple[FlowRecord, SessionEnd]]:
    return [(f, f.session_end) for f in facts.with_verdict("reset") if f.session_end is not None]


_SENDERS = {
    "peer": "as many routers away as the far end",
    "firewall": "not the far end",
    "unknown": "whether of the far end is not known",
}


def _ended(flow: FlowRecord, end: SessionEnd) -> str:
    beside = f" (the far end's replies: {end.peer_ttl})" if end.peer_ttl else ""
    source = f" from {end.source}, TTL {end.ttl}{beside}: {_SENDERS[end.by]}" if end.source else ""
    return f"{flow_label(flow)} ({flow.path}): {end.cause.upper()}{source}"


def _nat_lost(facts: Facts) -> list[str]:
    return [_verdict(f) + _icmp(f) for f in facts.with_verdict("lost", "rebound", nat=True)]


def _icmp(flow: FlowRecord) -> str:
    end = flow.session_end
    if end is None or end.cause != "icmp":
        return ""
    return f"; ICMP {icmp_words(end.source, end.icmp_type, end.icmp_code)} from {end.source}"


def _one_direction(facts: Facts) -> list[str]:
    lines = []
    for flow in (f for f in facts.flows if f.verdict == "half"):
        stuck = ", ".join(sorted({o.direction for o in flow.open_outages})) or "one direction"
        lines.append(f"{flow_label(flow)} ({flow.path} {flow.protocol}): {stuck} still dark at the end")
    return lines + _split_routes(facts)


def _split_routes(facts: Facts) -> list[str]:
    """Routes that lead to different units while a path is down.

    Of a path without any reply a sender cannot tell which direction is dark; the routes can.
    """
    down = facts.path_down()
    leads = {
        (e.detail.get("route_table"), e.detail.get("destination")): str(e.detail["to_unit"])
        for e in facts.routes
        if e.detail.get("to_unit")
    }
    if not down or len(set(leads.values())) < 2:
        return []
    told = [f"route {destination} in {table} leads to {unit}" for (table, destination), unit in leads.items()]
    return [*told, *_verdicts(down)]


def _second(facts: Facts) -> list[str]:
    # What happened before the trigger (an election, an earlier drill) is not this run's second failover.
    if len(facts.takeovers) < 2:
        return [] if _stayed(facts) else _moved_again(facts)
    first = facts.takeovers[0].at_ns
    return [
        f"{e.detail.get('unit')} became primary {(e.at_ns - first) / 1e9:+.1f} s after the first{_reason(facts, e)}"
        for e in facts.takeovers
    ]


def _stayed(facts: Facts) -> bool:
    """Whether one unit took over and was not told to have stepped down: what moves again is somebody else's doing."""
    if not facts.takeovers:
        return False
    taken = facts.takeovers[-1]
    later = [e for e in facts.named("role_change") if e.detail.get("unit") == taken.detail.get("unit")]
    return not any(e.at_ns > taken.at_ns and not became_primary(e) for e in later)


def _moved_again(facts: Facts) -> list[str]:
    """Elastic IPs that changed their owner more than once; two watchers may tell one change."""
    owners: dict[str, list[str]] = {}
    for e in facts.named("eip_moved"):
        address, to = e.detail.get("allocation_id") or e.detail.get("address"), str(e.detail.get("to_unit"))
        seen = owners.setdefault(str(address), [])
        if seen[-1:] != [to]:
            seen.append(to)
    return [f"{one} moved {len(to)} times" for one, to in sorted(owners.items()) if len(to) > 1 and one != "None"]


def _reason(facts: Facts, takeover: TimelineEvent) -> str:
    """Why a unit became primary, in its own words, as far as told."""
    told = takeover.detail.get("reason")
    if not told:
        unit = takeover.detail.get("unit")
        near = [e for e in facts.named("primary_selected") if e.detail.get("unit") == unit]
        near.sort(key=lambda e: abs(e.at_ns - takeover.at_ns))
        told = near[0].detail.get("reason") if near else ""
    return f": {told}" if told else ""


def _unreliable(facts: Facts) -> list[str]:
    lines = [
        f"{flow_label(f)}: not observed for most of the incident" for f in facts.flows if f.verdict == "unobserved"
    ]
    for flow in facts.flows:
        for outage in flow.outages:
            length = max(outage.end_ns - outage.start_ns, 1)
            if outage.unobserved_ns > UNRELIABLE_SHARE * length:
                lines.append(
                    f"{flow_label(flow)}: {outage.unobserved_ns / 1e6:.0f} ms of an outage of {length / 1e6:.0f} ms"
                    " are our own stalls or drops"
                )
    return lines


def _blind(facts: Facts) -> list[str]:
    if facts.incident is None:
        return []
    lines = []
    for start, end, event in _down_spans(facts):
        shared = overlap_ns((start, end), facts.incident)
        if shared:
            reason = event.detail.get("reason") or "no reason given"
            lines.append(f"watcher {event.detail.get('watcher')}: blind for {shared / 1e9:.1f} s of it ({reason})")
    return lines


def _down_spans(facts: Facts) -> list[tuple[int, int, TimelineEvent]]:
    """Spans in which a watcher knew nothing; one that never came back is blind to the end of the run."""
    open_at: dict[tuple[str, str], TimelineEvent] = {}
    spans = []
    for event in facts.events:
        key = (str(event.detail.get("agent", "")), str(event.detail.get("watcher")))
        if event.event == "watcher_down":
            before = open_at.setdefault(key, event)
            if before is not event and before.detail.get("answering") != event.detail.get("answering"):
                spans.append((_blind_since(before), event.at_ns, before))  # another unit fell silent, or one is back
                open_at[key] = event
        elif event.event == "watcher_up" and key in open_at:
            spans.append((_blind_since(open_at[key]), event.at_ns, open_at.pop(key)))
    last = max(facts.end_ns, facts.events[-1].at_ns if facts.events else 0)
    spans += [(_blind_since(e), last, e) for e in open_at.values()]
    # One unit of two that does not answer is what a crash looks like, and the other one still told its role.
    return [span for span in spans if not span[2].detail.get("answering")]


def _blind_since(down: TimelineEvent) -> int:
    """A watcher finds out that it is blind when a question has timed out: it is so from its last answer on."""
    last = down.detail.get("last_answer_ns") or down.detail.get("last_success_ns")
    return min(int(last), down.at_ns) if last else down.at_ns


def _clean(facts: Facts) -> list[str]:
    """A failover after which every path carries new sessions; `diagnose` adds: and no other rule objects."""
    if not facts.failover_seen and (not facts.trigger_ns or facts.incident is None):
        return []
    if facts.path_down() or any(f.verdict not in (FRESH_OK if f.session == "fresh" else KEPT_OK) for f in facts.flows):
        return []
    # With nothing fresh beside it, a session that did not come back leaves its path unproven.
    proven = {(f.path, f.protocol) for f in facts.flows if f.session == "fresh"}
    if any(f.verdict in ("lost", "reset") and (f.path, f.protocol) not in proven for f in facts.flows):
        return []
    moves = [_move(e) for e in [*facts.eips, *facts.routes]]
    seen = _roles(facts) + moves or ["HA state was not observed: outages began and ended after the trigger"]
    kept = [f for f in facts.flows if f.session == "kept"]
    alive = [f for f in kept if f.verdict in ("unaffected", "survived")]
    return [*seen, f"{len(alive)} of {len(kept)} old sessions survived", f"new sessions work on {_paths(facts)}"]


def _paths(facts: Facts) -> str:
    return ", ".join(dict.fromkeys(f.path for f in facts.flows)) or "no path"


# In the order a person should read them: the verdict on the failover first, then causes, then caveats.
RULES: tuple[Rule, ...] = (
    Rule("failover_clean", "The failover worked: every path carries new sessions again.", _clean),
    Rule(
        "no_failover_seen",
        "No failover was seen after the trigger; loss, where there was any, has another cause.",
        _no_failover,
        (
            "`get system ha status` on both units: is the pair formed, did the primary change?",
            "Do the probed paths cross the pair at all? Compare the routes' targets with its interfaces.",
            "Loss without a move: errors and drops of the interfaces on the way, the far end's log, another change.",
        ),
    ),
    Rule(
        "split_brain",
        "Both units are primary at once: the heartbeat between them is lost while both live.",
        _split,
        (
            "`get system ha status` and `diagnose sys ha status` on both units: does each see the other?",
            "Security groups and the network ACL between the heartbeat interfaces: all traffic between the two.",
            "`show system ha` on both: hbdev, unicast-hb-peerip, the same group name, id and password.",
            "The Elastic IPs and routes follow whichever unit acted last; sessions are no longer synchronised.",
        ),
    ),
    Rule(
        "eip_routes_not_moved",
        "Elastic IPs or routes did not move to the new primary.",
        _both_missing,
        (
            "`diagnose debug application awsd -1` on the new primary: is the call made, and what is answered?",
            "The instance role: ec2:AssociateAddress, ec2:ReplaceRoute and ec2:Describe*.",
            "The HA management interface: DNS and a way to the EC2 API (endpoint or Internet).",
            "Security groups between the heartbeat interfaces: did the cluster ever form?",
        ),
        cloud=True,
    ),
    Rule(
        "eip_moved_routes_not",
        "The Elastic IPs moved, routes did not: ingress may work, what takes those routes does not.",
        _eip_only,
        (
            "`diagnose test application awsd 4` on the new primary: is the table listed? awsd moves routes of its"
            " own VPC that point at an interface of the peer; never those of a transit gateway, nor of another VPC.",
            "The instance role: ec2:ReplaceRoute and ec2:DescribeRouteTables.",
            "A route that points back: something else writes it as well (a script, `terraform apply`). CloudTrail,"
            " event ReplaceRoute, tells who.",
            "By hand: `aws ec2 replace-route --route-table-id RTB --destination-cidr-block CIDR --network-interface-id"
            " ENI`",
        ),
        cloud=True,
    ),
    Rule(
        "routes_moved_eip_not",
        "The routes moved, Elastic IPs did not: east-west may work, ingress and egress do not.",
        _routes_only,
        (
            "The instance role: ec2:AssociateAddress and ec2:DescribeAddresses.",
            "Is the Elastic IP on port1's primary address, or on a secondary one that the peer lacks?",
            "By hand: `aws ec2 associate-address --allocation-id EIPALLOC --network-interface-id ENI"
            " --private-ip-address IP`",
        ),
        cloud=True,
    ),
    Rule(
        "moved_but_ingress_dark",
        "The cloud moved, yet ingress stays dark: the VIP is likely bound to the old unit's address.",
        _ingress_dark,
        (
            "The VIP's `extip` on the new primary: 0.0.0.0 on port1 matches either unit's address.",
            "Or `config system vdom-exception` with firewall.vip, and same-named VIPs on each unit.",
        ),
    ),
    Rule(
        "sessions_not_synchronised",
        "Old sessions without NAT were lost although new ones work: the new primary did not know them.",
        _not_synchronised,
        (
            "`config system ha`: session-pickup enable (TCP); session-pickup-connectionless for UDP and ICMP.",
            "`session-pickup-delay`: only sessions older than 30 s are synchronised when it is enabled.",
            "Proxy-inspected sessions are never failed over.",
        ),
    ),
    Rule(
        "firewall_resets_sessions",
        "Old sessions were ended by a firewall's RST or FIN instead of a silent drop.",
        _resets,
        (
            "`reset-sessionless-tcp` on the new primary sends a RST for a TCP segment without a session.",
            "The sender's address and TTL tell whether the firewall or the far end ended the session.",
        ),
    ),
    Rule(
        "peer_resets_sessions",
        "Old sessions were ended by a RST or FIN of the far end itself, not of a firewall.",
        _peer_resets,
        (
            "Did the reflector, its host or the service there restart? It knew the session no more.",
            "A load balancer in front of the far end, which may have chosen another host.",
        ),
    ),
    Rule(
        "second_failover",
        "A second failover followed the first.",
        _second,
        (
            "`execute ha failover set` is sticky: its `unset` may fail straight back.",
            "`get system ha status`: the reason given for the selection (override, priority, uptime).",
        ),
    ),
    Rule(
        "one_direction_dark",
        "One direction came back, the other did not.",
        _one_direction,
        (
            "Do both directions' routes point at the same unit? A stateful firewall drops the other half.",
            "Security groups and policies on the way of the dark direction.",
        ),
    ),
    Rule(
        "nat_sessions_lost",
        "Old sessions through NAT were lost or translated anew. Across availability zones this is expected:"
        " the units have different addresses, so clients must reconnect.",
        _nat_lost,
        (
            "Nothing to repair across zones. Within one zone (secondary addresses move) they can survive: check"
            " session-pickup.",
        ),
        caveat=True,
    ),
    Rule(
        "probe_unreliable",
        "Our own stalls or drops hide part of what happened: there, results are less certain than they look.",
        _unreliable,
        ("Load on the probing host, and `haprobe preflight` there. Lower the rates, or give it a core of its own.",),
        caveat=True,  # what is proven is: a flow that was not observed enough has no verdict that counts as clean
    ),
    Rule(
        "watcher_blind",
        "HA state was unknown for part of the outage: changes in it are known only as an interval.",
        _blind,
        (
            "Give the watcher a way to the EC2 API that does not cross the pair, such as an interface endpoint.",
            "Likewise to the units' own management addresses.",
        ),
        caveat=True,
    ),
)


def diagnose(facts: Facts) -> list[Diagnosis]:
    """Every rule that applies, in the order of `RULES`.

    `failover_clean` is given only when nothing but caveats stands beside it.
    """
    found = []
    for rule in RULES:
        evidence = rule.find(facts)
        if evidence:
            found.append((rule, rule.diagnosis(evidence, facts)))
    objections = [rule for rule, _ in found if rule.code != "failover_clean" and not rule.caveat]
    ordered = [d for _, d in found if d.code != "failover_clean" or not objections]
    # Right after a clean bill comes what a person would otherwise take for a fault.
    ordered.sort(key=lambda d: (d.code != "failover_clean", bool(objections) or d.code != "nat_sessions_lost"))
    if ordered and facts.conflicts:
        ordered[0] = replace(ordered[0], evidence=(*ordered[0].evidence, *facts.conflicts))
    return ordered


def table_markdown() -> str:
    """The rules as the documentation shows them."""
    lines = ["| code | meaning | check first |", "|---|---|---|"]
    lines += [f"| `{r.code}` | {r.summary} | {' '.join(r.check_first)} |" for r in RULES]
    return "\n".join(lines) + "\n"
