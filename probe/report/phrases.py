"""Words, figures and row order shared by the text and HTML reports. Reads a result document, returns plain values.

Durations print with the resolution their bounds allow a person to use: seconds to the millisecond. Instants print
in UTC, and relative to the trigger (or to the first loss where nothing was triggered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from probe.core.diagnosis import RULES
from probe.core.timeline import origin
from probe.core.verdict import shown, worst
from probe.report.assess import event_of, record_of

PROTOCOLS = ("icmp", "udp", "tcp", "stream")

# Verdict to (symbol, tone, what it means). Symbol and word say it all; colour only repeats it.
VERDICTS: dict[str, tuple[str, str, str]] = {
    "unaffected": ("✓", "good", "no outage"),
    "survived": ("↻", "good", "an outage, then the same session was answered again"),
    "recovered": ("↻", "good", "an outage, then new sessions work again"),
    "rebound": ("⇄", "warn", "works again, but behind another translated address or port"),
    "lost": ("✗", "warn", "the old session stays dark, new ones work"),
    "reset": ("⊘", "warn", "the old session was ended by a RST or FIN"),
    "half": ("◐", "bad", "one direction is back, the other is not"),
    "dark": ("■", "bad", "not back, neither old sessions nor new ones"),
    "unobserved": ("?", "none", "our own stalls or drops: nothing can be said"),
}
ENDED_BY = {"peer": "sent by the far end", "firewall": "not by the far end", "unknown": "by whom is not known"}
DIRECTIONS = {"round_trip": ("↔", "round trip"), "forward": ("→", "forward"), "reverse": ("←", "reverse")}

CAVEATS = frozenset(rule.code for rule in RULES if rule.caveat)

# What happens to many flows together is one line of the timeline.
BUNCHED = frozenset({"outage_start", "outage_end", "session_end"})
TOGETHER_NS = 100_000_000
# Two outages of a flow closer than this many probes are one absence for whoever uses the flow.
ADJACENT_PROBES = 3

HA_EVENTS = frozenset(
    {"trigger", "heartbeat_lost", "role_change", "eip_moved", "route_moved", "private_ip_moved"}
    | {"watcher_down", "watcher_up", "two_primaries", "one_primary"}
)


def duration(ns: float) -> str:
    """5.065 s, 34.0 ms, 812 µs, 3 min 02.0 s."""
    size = abs(ns)
    if size >= 120e9:
        minutes, tenths = divmod(round(size / 1e8), 600)  # rounded first: 60.0 s are a minute
        return f"{'-' if ns < 0 else ''}{minutes} min {tenths / 10:04.1f} s"
    if size >= 1e9:
        return f"{ns / 1e9:.3f} s"
    if size >= 1e6:
        return f"{ns / 1e6:.1f} ms"
    return f"{ns / 1e3:.0f} µs" if size else "0"


def brief(ns: float) -> str:
    """A duration in three figures, for narrow places."""
    size = abs(ns)
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if size >= scale or unit == "µs":
            value = ns / scale
            places = max(0, 2 - len(str(int(abs(value)))) + 1)
            return f"{value:.{places}f} {unit}"
    raise AssertionError("unreachable")


def utc(ns: int, *, date: bool = False) -> str:
    """UTC to the millisecond, rounded down as clocks are read."""
    instant = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    head = instant.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S")
    return f"{head}.{ns // 1_000_000 % 1000:03d}"


def exact_utc(ns: int | None) -> str:
    """UTC to the nanosecond, as raw records have it."""
    return "-" if ns is None else f"{utc(ns)[:-3]}{ns % 1_000_000_000:09d}"


def relative(ns: int, zero_ns: int) -> str:
    """Seconds from the trigger, signed, to the millisecond."""
    return f"{(ns - zero_ns) / 1e9:+.3f} s"


def origin_ns(document: Mapping[str, Any]) -> int:
    """The instant that relative times count from; the start of the run where nothing happened."""
    flows = [record_of(f) for f in document["flows"]]
    events = [event_of(e) for e in document["timeline"]]
    return origin(events, flows, document["run"]["trigger"]["at_ns"]) or int(document["run"]["started_ns"])


def origin_word(document: Mapping[str, Any]) -> str:
    """What that instant is."""
    if document["run"]["trigger"]["at_ns"] or any(e["event"] == "trigger" for e in document["timeline"]):
        return "the trigger"
    return "the first loss" if any(f["outages"] for f in document["flows"]) else "the start"


@dataclass(frozen=True, slots=True)
class Away:
    """The longest time a flow was not usable, whatever the direction; 0 when it always was."""

    ns: int = 0
    still: bool = False  # not back when the run ended: `ns` is a lower bound
    # As the bounds of its outages, with what was not observed and how well TX times are known.
    lower_ns: int = 0  # first to last lost
    upper_ns: int | None = 0  # last answered before to first answered after; None where either was not seen

    def __str__(self) -> str:
        return f"> {duration(self.ns)}" if self.still else duration(self.ns)


def kind(flow: Mapping[str, Any]) -> str:
    """A flow's protocol, for tables by protocol: a stream is one of its own."""
    return "stream" if is_stream(flow) else str(flow["protocol"])


def label(flow: Mapping[str, Any]) -> str:
    """AGENT/NAME, as documents, evidence and errors name a flow."""
    return f"{flow['agent']}/{flow['name']}" if flow["agent"] else str(flow["name"])


Naming = Callable[[Mapping[str, Any]], str]


def naming(document: Mapping[str, Any]) -> Naming:
    """How to name a document's flows in narrow places: NAME, and AGENT/NAME where several agents have one of it."""
    agents: dict[str, set[str]] = {}
    for flow in document["flows"]:
        agents.setdefault(flow["name"], set()).add(flow["agent"])
    return lambda flow: label(flow) if len(agents.get(flow["name"], ())) > 1 else str(flow["name"])


def is_stream(flow: Mapping[str, Any]) -> bool:
    """Whether a flow is a stream: it has stalls where others have outages."""
    return flow.get("stack") == "kernel"


def observed(flow: Mapping[str, Any]) -> bool:
    """Whether no outage means that there was none: not so for a flow of which nothing can be said."""
    return flow["verdict"] != "unobserved" or bool(flow["outages"] or stalls(flow))


def ended(flow: Mapping[str, Any]) -> bool:
    """Whether a packet ended its session: that session does not come back, whatever new ones do."""
    cause = (flow["session_end"] or {}).get("cause", "none")
    return flow["session"] == "kept" and cause not in ("none", "silent")  # RSTs to new sessions are answers


def away(flow: Mapping[str, Any]) -> Away:
    """The absence of a flow to show: one that never ended, however long an earlier one was, else the longest."""
    return max(absences(flow), key=lambda a: (a.still, a.ns), default=Away())


def absences(flow: Mapping[str, Any]) -> list[Away]:
    """All absences of a flow: outages that touch (forward, then reverse) count as one; of a stream its stalls."""
    if is_stream(flow):
        return list(map(_frozen_for, stalls(flow)))
    joined: list[list[Mapping[str, Any]]] = []
    until = 0
    for outage in sorted(flow["outages"], key=lambda o: (o["start_ns"], o["end_ns"])):
        if joined and outage["start_ns"] - until <= ADJACENT_PROBES * flow["interval_ns"]:
            joined[-1].append(outage)
            until = max(until, outage["end_ns"])
        else:
            joined.append([outage])
            until = outage["end_ns"]
    return list(map(_absence, joined))


def _frozen_for(stall: Mapping[str, Any]) -> Away:
    """A stall as an absence: its times are exact."""
    length = stall["duration_ns"]
    return Away(length, stall["censored"] == "end", length, length if stall["censored"] == "no" else None)


def _absence(outages: Sequence[Mapping[str, Any]]) -> Away:
    """Outages that touch, the first to start first, as one."""
    start, end = outages[0]["start_ns"], max(o["end_ns"] for o in outages)
    edges = [o["edges_ns"] for o in outages]
    inner = max(e["last_lost"] for e in edges) - min(e["first_lost"] for e in edges)
    lower = max(0, inner + sum(_beyond(o, "lower", "first_lost", "last_lost") for o in outages))
    upper = None
    if all(o["censored"] == "no" for o in outages):
        outer = end - min(e["last_ok"] for e in edges)
        upper = outer + sum(_beyond(o, "upper", "last_ok", "first_ok") for o in outages)
    return Away(end - start, any(o["censored"] == "end" for o in outages), lower, upper)


def _beyond(outage: Mapping[str, Any], bound: str, first: str, last: str) -> int:
    """How much longer an outage's bound is than the time between two of its edges, in ns; the lower one is shorter."""
    edges = outage["edges_ns"]
    return int(outage["duration_ns"][bound] - (edges[last] - edges[first]))


@dataclass(frozen=True, slots=True)
class Cell:
    """One half of a matrix cell: old sessions or new ones of a protocol on a path."""

    verdict: str
    away: Away
    flows: tuple[str, ...]
    share: str = ""  # `3 of 10`: how many of its flows the verdict is true of, where they differ

    @property
    def symbol(self) -> str:
        return VERDICTS[self.verdict][0]

    @property
    def tone(self) -> str:
        return VERDICTS[self.verdict][1]

    @property
    def meaning(self) -> str:
        return VERDICTS[self.verdict][2]

    @property
    def figure(self) -> str:
        """The absence in three figures, where it says more than the verdict does."""
        return brief(self.away.ns) if self.away.ns and self.verdict in ("survived", "recovered", "rebound") else ""


@dataclass(frozen=True, slots=True)
class Row:
    """One path of the matrix."""

    path: str
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  # (protocol, session)


def matrix_rows(document: Mapping[str, Any]) -> tuple[list[str], list[Row]]:
    """Protocols that occur, in the usual order, and one row per path in the document's order."""
    groups: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for flow in document["flows"]:
        groups.setdefault(flow["path"], {}).setdefault((kind(flow), flow["session"]), []).append(flow)
    rows = [Row(path, {key: _cell(key[1], flows) for key, flows in cells.items()}) for path, cells in groups.items()]
    present = {kind(f) for f in document["flows"]}
    return [p for p in PROTOCOLS if p in present], rows


def _cell(session: str, flows: Sequence[Mapping[str, Any]]) -> Cell:
    verdict = worst(f["verdict"] for f in flows)
    longest = max((away(f) for f in flows), key=lambda a: (a.still, a.ns))
    same = sum(f["verdict"] == verdict for f in flows)
    share = f"{same} of {len(flows)}" if same < len(flows) else ""
    return Cell(shown(verdict, session == "fresh"), longest, tuple(f["name"] for f in flows), share)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a person at a terminal felt of a path: one stream beside the packets of its path."""

    name: str
    text: str  # path dark 5.200 s, stream frozen 7.900 s, survived
    stalls: tuple[str, ...]  # one line each


def frozen(document: Mapping[str, Any]) -> list[Frozen]:
    """Every stream that stalled or ended, beside the longest absence of its agent's packets on the same path.

    New sessions tell how long the path was dark; where there are none, the old ones do.
    """
    told = []
    for flow in filter(is_stream, document["flows"]):
        if not stalls(flow) and not ended(flow):
            continue
        beside = [f for f in document["flows"] if (f["agent"], f["path"]) == (flow["agent"], flow["path"])]
        packets = [f for f in beside if not is_stream(f)]
        packets = [f for f in packets if f["session"] == "fresh"] or packets
        dark = max(map(away, packets), key=lambda a: (a.still, a.ns), default=None)
        parts = [] if dark is None else [f"path dark {dark}" if dark.ns else "path not dark"]
        stalled = away(flow)
        parts.append(f"stream frozen {stalled}" if stalled.ns else "stream not frozen")
        again = flow["stream"]["reconnected"]
        parts.append(flow["verdict"] + (f", a new one at {utc(again[0]['at_ns'])}" if again else ""))
        told.append(Frozen(label(flow), ", ".join(parts), tuple(_stall_line(s) for s in stalls(flow))))
    return told


def stalls(flow: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What a stream has where others have outages; nothing of any other flow."""
    found: Sequence[Mapping[str, Any]] = (flow.get("stream") or {}).get("stalls", ())
    return found


def _stall_line(stall: Mapping[str, Any]) -> str:
    still = stall["censored"] == "end"
    length = f"> {duration(stall['duration_ns'])}, still frozen" if still else duration(stall["duration_ns"])
    times = "once" if stall["retransmissions"] == 1 else f"{stall['retransmissions']} times"
    parts = [f"{utc(stall['start_ns'])} {'on' if still else 'to ' + utc(stall['end_ns'])} UTC: {length}"]
    parts.append(f"sent again {times}, RTO up to {duration(stall['rto_max_ns'])}")
    parts.append(f"{stall['waiting_max']} keystrokes waiting")
    if stall["next_try_ns"]:
        parts.append(f"next try at {utc(stall['next_try_ns'])}")
    return "; ".join(parts)


def by_path(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Flows by path, in the document's order."""
    paths: dict[str, list[Mapping[str, Any]]] = {}
    for flow in document["flows"]:
        paths.setdefault(flow["path"], []).append(flow)
    return paths


def plus_minus(outage: Mapping[str, Any]) -> str:
    """Half the width between the bounds."""
    bounds = outage["duration_ns"]
    return duration((bounds["upper"] - bounds["lower"]) / 2)


def estimate(outage: Mapping[str, Any]) -> str:
    """`5.065 s ± 2.0 ms`, or a lower bound where an end was not seen."""
    if outage["censored"] != "no":
        side = "still open" if outage["censored"] == "end" else "began before"
        return f"> {duration(outage['duration_ns']['lower'])}, {side}"
    return f"{duration(outage['duration_ns']['estimate'])} ± {plus_minus(outage)}"


def bounds(outage: Mapping[str, Any]) -> str:
    """`5.0623..5.0663 s`, finer than the estimate: bounds are exact."""
    lower, upper = outage["duration_ns"]["lower"], outage["duration_ns"]["upper"]
    return f"{lower / 1e9:.4f} .. {upper / 1e9:.4f} s" if outage["censored"] == "no" else f"> {lower / 1e9:.4f} s"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the timeline for people."""

    at_ns: int
    uncertainty_ns: int
    source: str
    event: str
    text: str
    tone: str = "none"  # none | good | bad | ha


def timeline_lines(document: Mapping[str, Any]) -> list[Line]:
    """The timeline, with outages that begin or end together, and sessions that end together, told in one line."""
    lines: list[Line] = []
    bunch: dict[str, list[Mapping[str, Any]]] = {}
    named = naming(document)

    def flush(key: str) -> None:
        if bunch.get(key):
            lines.append(_bunched(bunch.pop(key), len(document["flows"]), named))

    for event in document["timeline"]:
        name = event["event"]
        if name in BUNCHED:
            # Sessions that ended in different ways are different news.
            key = name + (_how_ended(event["detail"]) if name == "session_end" else "")
            if bunch.get(key) and event["at_ns"] - bunch[key][0]["at_ns"] > TOGETHER_NS:
                flush(key)
            bunch.setdefault(key, []).append(event)
        else:
            tone = "ha" if name in HA_EVENTS else "none"
            text = describe(event, named)
            lines.append(Line(event["at_ns"], event["uncertainty_ns"], event["source"], name, text, tone))
    for key in list(bunch):
        flush(key)
    return sorted(lines, key=lambda line: line.at_ns)


def _bunched(events: list[Mapping[str, Any]], total: int, named: Naming) -> Line:
    first = events[0]
    name, at_ns, uncertainty = first["event"], first["at_ns"], max(e["uncertainty_ns"] for e in events)
    if name == "session_end" and len(events) == 1:
        return Line(at_ns, uncertainty, first["source"], name, describe(first, named))
    names = list(dict.fromkeys(named(_flow_of(e["detail"])) for e in events))
    who = names[0] if len(names) == 1 else f"{len(names)} of {total} flows: {_short(names)}"
    if name == "session_end":
        return Line(
            at_ns, uncertainty, first["source"], name, f"session ended ({_how_ended(first['detail'])}) on {who}"
        )
    word, tone = ("begins", "bad") if name == "outage_start" else ("ends", "good")
    directions = dict.fromkeys(e["detail"].get("direction", "") for e in events)
    sides = ", ".join(DIRECTIONS[d][1] for d in directions if d in DIRECTIONS)
    return Line(at_ns, uncertainty, "probe", name, f"loss {word} ({sides}) on {who}", tone)


def _how_ended(detail: Mapping[str, Any]) -> str:
    return f"{detail.get('cause', '?')}{sent_by(detail)}"


def _short(names: Sequence[str]) -> str:
    """Flow names, with NAME and NAME-fresh told as one."""
    both = [n for n in names if f"{n}-fresh" in names]
    folded = [f"{n}(-fresh)" if n in both else n for n in names if n.removesuffix("-fresh") not in both or n in both]
    return ", ".join(folded[:6]) + (f" and {len(folded) - 6} more" if len(folded) > 6 else "")


def _flow_of(detail: Mapping[str, Any]) -> dict[str, Any]:
    """What names the flow that an event is about."""
    return {"agent": detail.get("agent") or "", "name": detail.get("flow") or "?"}


def describe(event: Mapping[str, Any], named: Naming = label) -> str:
    """One event as a short sentence; an event this version does not know is told by its detail."""
    d: Mapping[str, Any] = event["detail"]
    name = event["event"]
    if name == "trigger":
        return _join("trigger", d.get("kind"), d.get("unit"), d.get("command"))
    if name == "role_change":
        return f"{d.get('unit', '?')} becomes {d.get('role', '?')}" + (f" (says {d['via']})" if d.get("via") else "")
    if name == "primary_selected":
        return f"{d.get('unit', '?')} is primary because {d.get('reason', '?')}"
    if name == "ha_history":
        return f"HA history of {d.get('unit', '?')}: {d.get('text', '')}"
    if name == "two_primaries":
        return f"{' and '.join(d.get('units') or ())} are primary at the same time"
    if name == "one_primary":
        return f"{d.get('unit', '?')} alone is primary again"
    if name == "awsd_error":
        return f"awsd of {d.get('unit', '?')} was refused: {d.get('error', '?')}"
    if name == "heartbeat_lost":
        return f"{d.get('unit', '?')} lost its peer's heartbeat"
    if name in ("eip_moved", "private_ip_moved"):
        what = "EIP" if name == "eip_moved" else "private address"
        return f"{what} {d.get('address', '?')} moved{_from_to(d)}"
    if name == "route_moved":
        return f"route {d.get('destination', '?')} in {d.get('route_table', '?')} moved{_from_to(d)}"
    if name == "instance_state_changed":
        return f"instance of {d.get('unit') or d.get('instance_id', '?')} is {d.get('to') or 'gone'}"
    if name in ("signals_disagree", "signals_agree"):
        if name == "signals_agree":
            return f"everything points at {d.get('unit', '?')}"
        said = ", ".join(f"{signal} at {unit or 'none'}" for signal, unit in (d.get("signals") or {}).items())
        return f"mid-failover, the signals disagree: {said}"
    if name in ("api_call", "instance_call"):
        result = d.get("result", "ok")
        outcome = result if result in ("ok", "unconfirmed") else f"failed: {d.get('error') or result}"
        return f"{d.get('unit', '?')} calls {_join(d.get('operation'), d.get('target'))}: {outcome}"
    if name == "applied":
        return f"data plane follows: {_join(d.get('what'), d.get('target'))}" + (
            f" to {d['to']}" if d.get("to") else ""
        )
    if name in ("watcher_down", "watcher_up"):
        watcher = f"watcher {d.get('watcher', '?')}" + (f" of {d['agent']}" if d.get("agent") else "")
    if name == "watcher_down" and d.get("answering"):
        return f"{watcher} hears {', '.join(d['answering'])} alone: {d.get('reason', '')}"
    if name in ("watcher_down", "watcher_up"):
        word = "blind" if name == "watcher_down" else "sees again"
        last_ns = d.get("last_answer_ns") or d.get("last_success_ns")
        # It finds out by a timeout: what it knows is older than this line.
        since = f", last answer {duration(event['at_ns'] - last_ns)} before" if word == "blind" and last_ns else ""
        return f"{watcher} {word}{since}" + (f": {d['reason']}" if d.get("reason") else "")
    if name in ("stall_start", "stall_end"):
        what = "what is typed does not come back" if name == "stall_start" else "echo is back"
        return f"{named(_flow_of(d))}: {what}"
    if name == "session_end":
        return f"{named(_flow_of(d))}: session ended ({_how_ended(d)})"
    if name == "forwarding":
        return f"{d.get('unit', '?')} {'forwards' if d.get('enabled') else 'stops forwarding'}"
    if name == "sessions_committed":
        return f"{d.get('unit', '?')} takes over the synchronised sessions"
    if name == "sessions":
        return _session_table(d)
    if name == "loss":
        return f"{d.get('percent', '?')} % of the packets to {d.get('towards', '?')} are dropped on the way"
    if name == "cut":
        ended_ns, began_ns = d.get("ended_before_ns"), d.get("began_after_ns")
        lasted = "a while" if ended_ns is None or began_ns is None else duration(ended_ns - began_ns)
        return f"all packets to {d.get('towards', '?')} are dropped on the way for {lasted}"
    if name == "route_added":
        return f"route {d.get('destination', '?')} to {d.get('target', '?')} is added to table {d.get('table', '?')}"
    if name == "route_rewritten":
        return f"route {d.get('destination', '?')} of table {d.get('table', '?')} is pointed at {d.get('target', '?')}"
    if name in ("watchers_cut_off", "watchers_restored"):
        return f"the watchers' way to the API and the units is {'cut' if name.endswith('off') else 'there again'}"
    if name == "agent_restarted":
        return f"agent {d.get('agent', '?')} is killed and started anew"
    detail = ", ".join(f"{k} {v}" for k, v in d.items() if not isinstance(v, dict | list))
    return str(name).replace("_", " ") + (f": {detail}" if detail else "")


def sent_by(d: Mapping[str, Any]) -> str:
    """Who ended a session, of a session end or its event; nothing where nobody did."""
    if not d.get("from"):
        return ""
    who = ENDED_BY.get(d.get("by", "unknown"), ENDED_BY["unknown"])
    beside = f", the far end's is {d['peer_ttl']}" if d.get("peer_ttl") else ""
    return f" from {d['from']}, TTL {d.get('ttl', 0)}{beside}: {who}"


def _session_table(d: Mapping[str, Any]) -> str:
    """A firewall's table of the kept sessions, as the lab reads it."""
    if d.get("error"):
        return f"session table of {d.get('unit') or '?'}: {d['error']}"
    flows: Mapping[str, Mapping[str, Any] | None] = d.get("flows") or {}
    kinds: dict[str, list[str]] = {}
    for flow, entry in flows.items():
        kinds.setdefault("holds" if d.get("moment") == "before" else _session(entry), []).append(flow)
    told = [f"{kind} {', '.join(names)}" for kind, names in sorted(kinds.items())]
    return f"session table of {d.get('unit', '?')}: " + ("; ".join(told) or "no kept session of the agents")


def _session(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "does not know"
    if not entry["way"]:
        return "knows, with a translation that leads nowhere,"
    return "has made anew" if entry["known"] == "anew" else "knows"


def _from_to(d: Mapping[str, Any]) -> str:
    source, target = d.get("from_unit") or d.get("from"), d.get("to_unit") or d.get("to")
    return (f" from {source}" if source else "") + (f" to {target}" if target else "")


def _join(*words: object) -> str:
    return " ".join(str(w) for w in words if w)


def headline(document: Mapping[str, Any]) -> tuple[str, str]:
    """Tone and sentence that a person should read first."""
    findings = document["diagnosis"]
    if findings:
        code = findings[0]["code"]
        tone = "good" if code == "failover_clean" else "warn" if code in CAVEATS else "bad"
        return tone, str(findings[0]["summary"])
    if not document["flows"]:
        return "none", "Nothing was measured."
    tone = VERDICTS[worst(f["verdict"] for f in document["flows"])][1]
    return tone, _summary(document["flows"])


def _summary(flows: Sequence[Mapping[str, Any]]) -> str:
    """How many flows were away or frozen, and for how long. Sessions that ended have a diagnosis."""
    gone = [f for f in flows if absences(f)]
    if not gone:
        return "No outage on any flow."
    longest = max(map(away, gone), key=lambda a: (a.still, a.ns))
    still = sum(away(f).still for f in gone)
    end = f"{still} not back" if still else "all answered again"
    streams = sum(map(is_stream, gone))
    what = "froze" if streams == len(gone) else "had an outage or froze" if streams else "had an outage"
    return f"{len(gone)} of {len(flows)} flows {what}, the longest {longest}; {end}."


def quiet(document: Mapping[str, Any]) -> bool:
    """Whether no flow was away or frozen, and no session ended."""
    return not any(absences(f) or ended(f) for f in document["flows"])


def unobserved_lines(document: Mapping[str, Any]) -> list[str]:
    """Warnings about time that says nothing about the network; an agent's flows with the same causes are told
    together.
    """
    told: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for flow in document["flows"]:
        causes = ", ".join(sorted({u["cause"].replace("_", " ") for u in flow["unobserved"]}))
        if causes:
            told.setdefault((flow["agent"], causes), []).append(flow)
    return [_unobserved_line(agent, causes, flows) for (agent, causes), flows in told.items()]


def _unobserved_line(agent: str, causes: str, flows: Sequence[Mapping[str, Any]]) -> str:
    totals = [sum(u["end_ns"] - u["start_ns"] for u in f["unobserved"]) for f in flows]
    spans = max(len(f["unobserved"]) for f in flows)
    inside = [sum(o["unobserved_ns"] for o in f["outages"]) for f in flows]
    most = "up to " if len(flows) > 1 else ""
    text = f"{most}{duration(max(totals))} unobserved{f' in {spans} spans' if spans > 1 else ''} ({causes}), "
    touched = f"{most}{duration(max(inside))} of it inside outages" if any(inside) else "none of it inside an outage"
    return f"{_who(agent, [f['name'] for f in flows])}: {text}{touched}"


def _who(agent: str, names: Sequence[str]) -> str:
    who = names[0] if len(names) == 1 else f"{len(names)} flows ({_short(names)})"
    return f"{agent}: {who}" if agent else who


def clock_statement(document: Mapping[str, Any]) -> str:
    """How far the instants can be trusted. Durations do not depend on it."""
    clock = document["run"]["clock"]
    source = f" ({clock['source']})" if clock["source"] else ""
    if clock["max_error_ns"] is None:
        offset = "offset from UTC unknown"
    else:
        offset = f"within {duration(clock['max_error_ns'])} of UTC"
    state = "synchronised" if clock["synchronised"] else "not synchronised"
    return (
        f"Clock {state}{source}, {offset}. Durations come from TX times on one monotonic clock and do not depend on it."
    )


def phase_rows(document: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str, str, str]]:
    """Name, meaning, start relative to the origin, length, uncertainty, share of the full recovery."""
    zero = origin_ns(document)
    for p in document["phases"]:
        length = duration(p["end_ns"] - p["start_ns"])
        share = "-" if p.get("share") is None else f"{100 * p['share']:.0f} %"
        start, uncertainty = relative(p["start_ns"], zero), duration(p["uncertainty_ns"])
        yield p["name"], PHASES.get(p["name"], ""), start, length, uncertainty, share


def phase_gaps(document: Mapping[str, Any]) -> list[str]:
    """Why phases are missing from a document that has some."""
    found = {p["name"] for p in document["phases"]}
    if not found:
        return []
    down = [e["detail"] for e in document["timeline"] if e["event"] == "watcher_down"]
    blind = sorted({str(d.get("watcher") or "?") for d in down})
    because = f" (blind for some time: {', '.join(blind)})" if blind else ""
    lines = []
    for names, why in _GAPS:
        missing = [name for name in names if name not in found]
        if missing:
            lines.append(f"not told: {', '.join(missing)}: {why}{because if names != _GAPS[-1][0] else ''}")
    return lines


_GAPS = (
    (("detect", "role_change"), "no source saw a role change"),
    (("cloud_api",), "no source saw a change of the cloud, or a call that was to make one"),
    (("data_plane", "full_recovery"), "not every path came back, or nothing was ever dark"),
)

PHASES = {
    "detect": "until the pair noticed",
    "role_change": "until work on the cloud began",
    "cloud_api": "first to last work on the cloud",
    "data_plane": "last call that mattered to last flow back",
    "full_recovery": "until every path was back",
}


def budget(result: Mapping[str, Any]) -> str:
    """One budget's limit and what was measured."""
    return f"{result['name']}: {budget_value(result)} (limit {budget_limit(result)})"


def budget_kind(result: Mapping[str, Any]) -> str:
    """What a budget limits, in the word of its file."""
    return "max_outage" if isinstance(result["limit"], int | float) else "verdict"


def budget_limit(result: Mapping[str, Any]) -> str:
    """What a budget allows."""
    limit = result["limit"]
    return limit if isinstance(limit, str) else " or ".join(limit) if isinstance(limit, list) else duration(limit)


def budget_value(result: Mapping[str, Any]) -> str:
    """What was measured against a budget."""
    value, unobserved, unbounded = result["value"], result.get("unobserved", ()), result.get("unbounded", ())
    if value is None:
        told = "" if unobserved else "nothing was measured that it applies to"
    elif value == 0 and unbounded:
        told = ""  # nothing beside what has no bound
    else:
        told = duration(value) if isinstance(value, int | float) else str(value)
    longer = f"longer than is known on {_short(unbounded)}" if unbounded else ""
    blind = f"nothing is known of {_short(unobserved)}" if unobserved else ""
    return ", and ".join(filter(None, (told, longer, blind)))
