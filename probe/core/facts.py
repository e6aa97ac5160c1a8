"""What is known of a run, as the rules of a diagnosis look at it: gathered once, from judged flows and merged events.

Questions that several rules ask are answered here: who took over, what moved, what was refused or left behind, where
sources contradict each other. What follows from it is for `clues` and `diagnosis`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from probe.core.events import TimelineEvent
from probe.core.sight import Sight, sights
from probe.core.timeline import became_primary, best_told, origin
from probe.core.verdict import FlowRecord, Span, incident_of

# Paths on which a FortiGate pair translates addresses. Any other path word is taken as routed without NAT.
NAT_PATHS = frozenset({"ingress", "egress"})
MUTATIONS = ("AssociateAddress", "ReplaceRoute", "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses")
WORKS = frozenset({"unaffected", "survived"})  # verdicts of new sessions


@dataclass(frozen=True)
class Facts:
    """What the rules look at. Flows are judged; events ascend by time; times are Unix epoch ns."""

    flows: Sequence[FlowRecord]
    events: Sequence[TimelineEvent]
    trigger_ns: int = 0  # 0: nobody pulled one
    watched: frozenset[str] = frozenset()  # "aws", "fortigate": HA sources that were configured
    end_ns: int = 0
    unwatched: frozenset[str] = frozenset()  # "Address", "Route": what the AWS watchers were not to look at
    watchers: Mapping[str, int] = field(default_factory=dict)  # how many there are of a name, where that is known

    @cached_property
    def since_ns(self) -> int:
        """Where the failover may begin. Polled changes reach back by their uncertainty."""
        return self.trigger_ns or (self.events[0].at_ns if self.events else 0)

    @cached_property
    def incident(self) -> Span | None:
        """From the trigger (or first loss) to the last recovery, or to the end where something stays dark."""
        span = incident_of(self.flows) or self._stalled
        if span is None:
            return None
        ends = span[1]
        if any(f.verdict in ("dark", "half") and flow_id(f) not in self.forlorn for f in self.flows):
            ends = max(ends, self.end_ns)
        return min(span[0], origin(self.events, self.flows, self.trigger_ns)), ends

    @cached_property
    def _stalled(self) -> Span | None:
        """First to last stall of the streams on whose path no packets tell, which know better what the network does."""
        told = {(f.agent, f.path) for f in self.flows if f.stack == "packet"}
        stalls = [stall for f in self.flows if (f.agent, f.path) not in told for stall in f.stalls]
        return (min(s.start_ns for s in stalls), max(s.end_ns for s in stalls)) if stalls else None

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
        return self._landed("eip_moved", "private_ip_moved") or self._calls_ok("Address")

    @cached_property
    def routes(self) -> list[TimelineEvent]:
        """Routes that moved, as for `eips`."""
        return self._landed("route_moved") or self._calls_ok("Route")

    def _landed(self, *names: str) -> list[TimelineEvent]:
        """Moves of these names, but of what was taken from a unit and in the end given to nobody."""
        last = {signal_of(e): e.detail.get("to") for e in self.named(*names)}
        return [e for e in self.named(*names) if last[signal_of(e)] != ""]

    @cached_property
    def refused(self) -> list[TimelineEvent]:
        """Calls to the cloud that failed and were not made good later, nor seen to have worked all the same."""
        calls = best_told(self.named("api_call"))
        good = {aim(e) for e in calls if not failed(e)}
        return [e for e in calls if failed(e) and aim(e) not in good and not self._worked(e)]

    @cached_property
    def errors(self) -> list[str]:
        """What went wrong with the units' calls, in the tellers' words."""
        told = [*self.refused, *self.named("awsd_error")]
        return list(dict.fromkeys(str(e.detail.get("error") or "no answer") for e in told))

    def left_behind(self, kind: str) -> list[str]:
        """What points at another unit than the new primary in the end; `kind` is "Address" or "Route"."""
        primary, pointing = self.primary, self._pointing
        # Nothing may have followed it, or the two watchers name the units differently.
        if not primary or primary not in pointing.values() or self.sight("aws").lost:
            return []
        words = ("route ",) if kind == "Route" else ("eip ", "private_ip ")
        been = {signal_of(e) for e in self.moves if e.detail.get("to_unit") == primary}
        first = {signal_of(e): e for e in reversed(self.moves)}
        # What nobody had before was not left behind.
        added = {signal for signal, e in first.items() if not e.detail.get("from")}
        return [
            f"{signal} {_how(unit, signal in been)} at {unit or 'no unit'}, not at {primary}"
            for signal, unit in pointing.items()
            if signal.startswith(words) and unit != primary and signal not in added - been
        ]

    @cached_property
    def primary(self) -> str:
        """The unit that took over last and was not told to have stepped down since; "" where it is not known.

        Where nobody could tell of roles, it is the only one that anything moved to.
        """
        if self.takeovers:
            taken = self.takeovers[-1]
            told = best_told(self.named("role_change"))
            later = [e for e in told if e.at_ns > taken.at_ns and not became_primary(e)]
            unit = taken.detail.get("unit")
            return "" if any(e.detail.get("unit") == unit for e in later) else str(unit or "")
        watched = "fortigate" in self.watched and self.sight("fortigate").whole_since(self.since_ns)
        units = {str(e.detail["to_unit"]) for e in self.moves if e.detail.get("to_unit")}
        return units.pop() if len(units) == 1 and not watched and not self.named("role_change") else ""

    @cached_property
    def _pointing(self) -> dict[str, str]:
        """The unit that each signal points at in the end: as last told of all together, and what moved since then."""
        pictures = [e for e in self.named("signals_disagree", "signals_agree") if e.source == "aws"]
        newest = max(pictures, key=_known_ns, default=None)
        pointing = {} if newest is None else dict(newest.detail.get("signals") or {})
        for e in sorted(self.moves, key=_known_ns):
            units = e.detail.get("from_unit") or e.detail.get("to_unit")  # none: not of the pair, nor ever was
            if (newest is None or _known_ns(e) > _known_ns(newest)) and (units or signal_of(e) in pointing):
                pointing[signal_of(e)] = str(e.detail.get("to_unit") or "")
        return pointing

    @cached_property
    def moves(self) -> list[TimelineEvent]:
        """Changes in the cloud, as polled."""
        return self.named("eip_moved", "private_ip_moved", "route_moved")

    @cached_property
    def astray(self) -> list[str]:
        """What an earlier failover of this run had moved, and the next one left with a unit that is primary no more."""
        owners = {signal_of(e): e for e in self.moves if e.detail.get("to_unit")}
        units = {str(e.detail["to_unit"]) for e in owners.values()}
        if len(units) != 1 or self.sight("aws").lost:
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

    @cached_property
    def sights(self) -> dict[str, Sight]:
        """What watchers could see, by their name."""
        return sights(self.events, self.end_ns, self.watchers)

    def sight(self, watcher: str) -> Sight:
        """What the watchers of a name could see; as if never blind where none tells."""
        return self.sights.get(watcher, Sight())

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
        lines = [
            f"conflict: {call_words(e)}, yet the cloud shows it moved" for e in calls if failed(e) and self._worked(e)
        ]
        last: dict[tuple[str, str], dict[str, TimelineEvent]] = {}
        for e in calls:
            if e.detail.get("result") != "unconfirmed":
                last.setdefault(aim(e), {})[str(e.detail.get("via") or e.source)] = e
        for told in last.values():
            if len({failed(e) for e in told.values()}) > 1:
                words = ", ".join(f"{who}: {'failed' if failed(e) else 'ok'}" for who, e in told.items())
                lines.append(f"conflict: {' '.join(aim(next(iter(told.values()))))}: {words}")
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
        if any(kind in str(e.detail.get("operation")) for e in self.named("api_call")):
            return True
        # Who was blind before the move and has not compared since, sees none either.
        return self.cloud_seen and kind not in self.unwatched and self.sight("aws").whole_since(self.since_ns)

    @property
    def failover_would_show(self) -> bool:
        """Whether anyone watched what changes in a failover: roles, or what moves."""
        moves = "aws" in self.watched and any(map(self.looked, ("Address", "Route")))
        return moves or "fortigate" in self.watched

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
        dark = [f for f in alone if f.verdict in ("dark", "half") and flow_id(f) not in self.forlorn]
        return down + [f for f in dark if not paths or f.path in paths]

    @cached_property
    def forlorn(self) -> frozenset[tuple[str, str]]:
        """Old TCP sessions (`flow_id`) that stay dark where new ones, if of another protocol, work.

        By all that is known they are lost, and no sign of a path that is down: UDP and ICMP would work again without a
        new session, and a stream that gave up has tried one.
        """
        fresh = [f for f in self.flows if f.session == "fresh"]
        works = {(f.agent, f.path) for f in fresh if f.verdict in WORKS}
        twins = {(f.agent, f.path) for f in fresh if f.protocol == "tcp"}
        return frozenset(
            flow_id(f)
            for f in self.flows
            if (f.session, f.protocol, f.verdict) == ("kept", "tcp", "dark")
            and (f.agent, f.path) in works - twins
            and not (f.stack == "kernel" and f.end_cause == "silent")
        )

    @cached_property
    def _translated(self) -> frozenset[tuple[str, str]]:
        return translated_paths((f.agent, f.path, f.verdict) for f in self.flows)

    def with_verdict(self, *verdicts: str, nat: bool | None = None) -> list[FlowRecord]:
        """Kept flows with one of these verdicts, on translated paths only (or on the others only) if asked."""
        lost = self.forlorn if "lost" in verdicts else ()
        return [
            f
            for f in self.flows
            if f.session == "kept"
            and (f.verdict in verdicts or flow_id(f) in lost)
            and (nat is None or ((f.agent, f.path) in self._translated) == nat)
        ]

    def _calls_ok(self, kind: str) -> list[TimelineEvent]:
        return [
            e
            for e in best_told(self.named("api_call"))
            if e.detail.get("result", "ok") == "ok"
            and str(e.detail.get("operation")) in MUTATIONS
            and kind in str(e.detail["operation"])
        ]


def translated_paths(flows: Iterable[tuple[str, str, str]]) -> frozenset[tuple[str, str]]:
    """Agent and path of those whose sessions pass a NAT: known by the path's word, or as one of them came back behind
    another translated address.

    Args:
        flows: Agent, path and verdict of each.
    """
    return frozenset((agent, path) for agent, path, verdict in flows if path in NAT_PATHS or verdict == "rebound")


def flow_id(flow: FlowRecord) -> tuple[str, str]:
    """A flow's name is its agent's."""
    return flow.agent, flow.name


def call_words(e: TimelineEvent) -> str:
    operation, target = e.detail.get("operation", "call"), e.detail.get("target", "")
    return f"{e.detail.get('unit', 'a unit')}: {operation} {target}: {e.detail.get('error') or 'no answer'}"


def aim(e: TimelineEvent) -> tuple[str, str]:
    return str(e.detail.get("operation")), str(e.detail.get("target"))


def failed(e: TimelineEvent) -> bool:
    # A call whose answer nobody saw (a capture that ended early) may well have succeeded.
    return (e.detail.get("result") or "ok") not in ("ok", "unconfirmed")


def _known_ns(e: TimelineEvent) -> int:
    """When a change that was polled had been seen."""
    return e.at_ns + e.uncertainty_ns


def _how(unit: str, was_right: bool) -> str:
    return "points" if not unit else "points back" if was_right else "still points"


def signal_of(e: TimelineEvent) -> str:
    """The watcher's name of what a move is about, as in `signals`."""
    d = e.detail
    if e.event == "route_moved":
        return f"route {d.get('route_table')} {d.get('destination')}"
    return f"{e.event.removesuffix('_moved')} {d.get('address')}"


def move_words(e: TimelineEvent) -> str:
    d = e.detail
    what = (
        d.get("address") or " ".join(str(d[k]) for k in ("route_table", "destination") if d.get(k)) or d.get("target")
    )
    to = d.get("to_unit") or d.get("to") or d.get("unit") or "nobody"
    return f"{e.event.replace('_', ' ')}: {what} to {to}"
