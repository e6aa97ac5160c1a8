"""What speaks for each diagnosis: a function per rule that reads the facts and returns lines of evidence, or none.

Where HA state was not observed, they stay silent instead of guessing.
"""

from __future__ import annotations

from collections.abc import Sequence

from probe.core.ending import icmp_words
from probe.core.events import SessionEnd, TimelineEvent
from probe.core.facts import MUTATIONS, NAT_PATHS, WORKS, Facts, call_words, move_words, signal_of
from probe.core.verdict import FlowRecord, overlap_ns

# An outage of which our own stalls cover more than this share has edges that are ours, not the network's.
UNRELIABLE_SHARE = 0.05
KEPT_OK = WORKS | {"rebound", "lost", "reset"}
# EC2 is eventually consistent: for so long after a change an answer may still show what was before.
STALE_NS = 5_000_000_000


def flow_label(f: FlowRecord) -> str:
    """How evidence names a flow."""
    return f"{f.agent}/{f.name}" if f.agent else f.name


def _verdicts(flows: Sequence[FlowRecord]) -> list[str]:
    return [_verdict(f) for f in flows]


def _verdict(f: FlowRecord) -> str:
    return f"{flow_label(f)} ({f.path} {f.protocol}, {f.session}): {f.verdict}"


def no_failover(facts: Facts) -> list[str]:
    if not facts.trigger_ns or facts.failover_seen:
        return []
    moved = "no role change and no move in the cloud was seen"
    if facts.incident is None:
        return [f"no flow of {len(facts.flows)} had an outage", moved]
    # Loss alone is no failover, but only who has looked all the time can say so.
    if not facts.failover_would_show or facts.path_down() or blind(facts):
        return []
    return [moved, *map(_loss, [f for f in facts.flows if f.outages or f.stalls])]


def _loss(flow: FlowRecord) -> str:
    if flow.stalls:
        longest_ns = max(stall.duration_ns for stall in flow.stalls)
        return f"{flow_label(flow)} ({flow.path} stream): {len(flow.stalls)} stalls, up to {longest_ns / 1e9:.1f} s"
    share = flow.counts.lost / max(flow.counts.sent, 1)
    return (
        f"{flow_label(flow)} ({flow.path} {flow.protocol}): {flow.counts.lost} of {flow.counts.sent} probes lost"
        f" ({share:.0%}), {len(flow.outages)} outages"
    )


def both_missing(facts: Facts) -> list[str]:
    """Neither side is whole: nothing moved although it should have, or some of each was refused or left behind."""
    if facts.astray and facts.path_down():
        return [*_why(facts), *_roles(facts), *facts.astray, *_verdicts(facts.path_down())]
    if eip_only(facts) or routes_only(facts):
        return []
    calls = [call_words(e) for e in facts.refused if str(e.detail.get("operation")) in MUTATIONS]
    left = facts.left_behind("Address") + facts.left_behind("Route")
    if calls or left:
        return [*calls, *left, *_verdicts(facts.path_down())]
    expected = facts.takeovers or facts.path_down()
    looked = [words for kind, words in (("Address", "Elastic IP"), ("Route", "route")) if facts.looked(kind)]
    if not looked or not expected or facts.eips or facts.routes:
        return []
    still = f"no {' and no '.join(looked)} moved"
    return [*_why(facts), *_roles(facts), still, *_verdicts(facts.path_down())]


def eip_only(facts: Facts) -> list[str]:
    """Elastic IPs are where they should be; routes were refused, left behind, or none moved and paths are down."""
    if not facts.eips or facts.astray or _missing(facts, "Address"):
        return []
    missing = _missing(facts, "Route")
    down = [f for f in facts.path_down() if missing or f.path != "ingress"]
    if not missing and (facts.routes or not down or not facts.looked("Route")):
        return []
    moved = [*map(move_words, facts.routes)] or ["no route moved"]
    return [*map(move_words, facts.eips), *missing, *moved, *_verdicts(down)]


def routes_only(facts: Facts) -> list[str]:
    """As `eip_only`, the other way round."""
    if not facts.routes or facts.astray or _missing(facts, "Route"):
        return []
    missing, down = _missing(facts, "Address"), facts.path_down(*NAT_PATHS)
    if not missing and (facts.eips or not down or not facts.looked("Address")):
        return []
    moved = [*map(move_words, facts.eips)] or ["no Elastic IP moved"]
    return [*map(move_words, facts.routes), *missing, *moved, *_verdicts(down)]


def _missing(facts: Facts, kind: str) -> list[str]:
    """Calls of a kind that were refused, and what was left behind."""
    return [*_refused(facts, kind), *facts.left_behind(kind)]


def _refused(facts: Facts, kind: str) -> list[str]:
    return [call_words(e) for e in facts.refused if kind in str(e.detail.get("operation"))]


def _why(facts: Facts) -> list[str]:
    """What units said of calls that came to nothing; of one failure told twice, the call."""
    lines = [call_words(e) for e in facts.refused]
    if not lines:
        lines = [
            f"{e.detail.get('unit')}: awsd was refused: {e.detail.get('error')}" for e in facts.named("awsd_error")
        ]
    return lines + [f"{e.detail.get('unit')}: awsd failed: {e.detail.get('error')}" for e in facts.named("awsd_failed")]


def _roles(facts: Facts) -> list[str]:
    return [f"{e.detail.get('unit')} became primary" for e in facts.takeovers]


def split(facts: Facts) -> list[str]:
    lines = []
    for event in facts.split:
        units = event.detail.get("units") or []
        who = event.detail.get("unit")
        at_s = f"{(event.at_ns - facts.since_ns) / 1e9:+.1f} s"
        if units:
            lines.append(f"{at_s}: {' and '.join(units)} answer as primary at the same time")
        else:
            lines.append(f"{at_s}: {who} lost its peer's heartbeat and did not step down")
    return [*_roles(facts), *lines, *map(move_words, [*facts.eips, *facts.routes])] if lines else []


def ingress_dark(facts: Facts) -> list[str]:
    dark = [f for f in facts.path_down("ingress") if f.verdict == "dark"]
    if not facts.eips or not dark or facts.astray or _missing(facts, "Address") or _missing(facts, "Route"):
        return []
    # A VIP takes ingress alone along: where another path is down as a whole, there is another reason.
    down = {flow_label(f) for f in facts.path_down()}
    for path in {f.path for f in facts.flows} - {"ingress"}:
        there = [f for f in facts.flows if f.path == path]
        if all(flow_label(f) in down for f in [f for f in there if f.session == "fresh"] or there):
            return []
    return [*map(move_words, [*facts.eips, *facts.routes]), *_verdicts(dark)]


def not_synchronised(facts: Facts) -> list[str]:
    return [_verdict(f) + _icmp(f) for f in facts.with_verdict("lost", nat=False)]


def resets(facts: Facts) -> list[str]:
    return [_ended(f, end) for f, end in _reset_ends(facts) if not _by_peer(end, facts)]


def peer_resets(facts: Facts) -> list[str]:
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


def nat_lost(facts: Facts) -> list[str]:
    return [_verdict(f) + _icmp(f) for f in facts.with_verdict("lost", "rebound", nat=True)]


def _icmp(flow: FlowRecord) -> str:
    end = flow.session_end
    if end is None or end.cause != "icmp":
        return ""
    return f"; ICMP {icmp_words(end.source, end.icmp_type, end.icmp_code)} from {end.source}"


def one_direction(facts: Facts) -> list[str]:
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


def second(facts: Facts) -> list[str]:
    # What happened before the trigger (an election, an earlier drill) is not this run's second failover.
    if len(facts.takeovers) < 2:
        # Where one took over and stayed, what moves again is somebody else's doing.
        return [] if facts.takeovers and facts.primary else _moved_again(facts)
    first = facts.takeovers[0].at_ns
    return [
        f"{e.detail.get('unit')} became primary {(e.at_ns - first) / 1e9:+.1f} s after the first{_reason(facts, e)}"
        for e in facts.takeovers
    ]


def _moved_again(facts: Facts) -> list[str]:
    """What changed its owner more than once.

    Of routes only where no address is watched, and only if all that moved did so: one alone that goes back was written
    by somebody else.
    """
    owners: dict[str, list[tuple[int, str]]] = {}
    for e in facts.moves:
        # On the way from one unit to the other an address may have been nobody's; two watchers may tell one change.
        unit, seen = str(e.detail.get("to_unit") or ""), owners.setdefault(signal_of(e), [])
        if unit and (not seen or seen[-1][1] != unit):
            seen.append((e.at_ns, unit))
    often = {signal: n for signal, seen in owners.items() if (n := _owners(seen)) > 1}
    routes = [signal for signal, seen in owners.items() if seen and signal.startswith("route ")]
    if "Address" not in facts.unwatched or not often.keys() >= set(routes):
        often = {signal: n for signal, n in often.items() if signal not in routes}
    return [f"{signal} moved {n} times" for signal, n in sorted(often.items())]


def _owners(seen: list[tuple[int, str]]) -> int:
    """How many owners something had one after the other; `seen` are those that were seen, and when (ns)."""
    kept: list[tuple[int, str]] = []
    for at_ns, unit in seen:
        if len(kept) > 1 and kept[-2][1] == unit and at_ns - kept[-1][0] < STALE_NS:
            kept.pop()  # it was not back, an old answer was
        else:
            kept.append((at_ns, unit))
    return len(kept)


def _reason(facts: Facts, takeover: TimelineEvent) -> str:
    """Why a unit became primary, in its own words, as far as told."""
    told = takeover.detail.get("reason")
    if not told:
        unit = takeover.detail.get("unit")
        near = [e for e in facts.named("primary_selected") if e.detail.get("unit") == unit]
        near.sort(key=lambda e: abs(e.at_ns - takeover.at_ns))
        told = near[0].detail.get("reason") if near else ""
    return f": {told}" if told else ""


def unreliable(facts: Facts) -> list[str]:
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


def blind(facts: Facts) -> list[str]:
    if facts.incident is None:
        return []
    lines = []
    for name, sight in facts.sights.items():
        for span in sight.blind():
            shared_ns = overlap_ns((span.start_ns, span.end_ns), facts.incident)
            if shared_ns:
                reason = span.reason or "no reason given"
                lines.append(f"watcher {name}: blind for {shared_ns / 1e9:.1f} s of it ({reason})")
    return lines


def clean(facts: Facts) -> list[str]:
    """A failover after which every path carries new sessions; `diagnose` adds: and no other rule objects."""
    if not facts.failover_seen and (not facts.trigger_ns or facts.incident is None):
        return []
    if facts.path_down() or any(f.verdict not in (WORKS if f.session == "fresh" else KEPT_OK) for f in facts.flows):
        return []
    # With nothing fresh beside it, a session that did not come back leaves its path unproven.
    proven = {(f.path, f.protocol) for f in facts.flows if f.session == "fresh"}
    if any(f.verdict in ("lost", "reset") and (f.path, f.protocol) not in proven for f in facts.flows):
        return []
    moves = [move_words(e) for e in [*facts.eips, *facts.routes]]
    seen = _roles(facts) + moves or ["HA state was not observed: outages began and ended after the trigger"]
    kept = [f for f in facts.flows if f.session == "kept"]
    alive = [f for f in kept if f.verdict in ("unaffected", "survived")]
    return [*seen, f"{len(alive)} of {len(kept)} old sessions survived", f"new sessions work on {_paths(facts)}"]


def _paths(facts: Facts) -> str:
    return ", ".join(dict.fromkeys(f.path for f in facts.flows)) or "no path"
