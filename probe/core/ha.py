"""HA state as the cloud shows it, and the changes between two such pictures. Sans-IO.

A poller never sees a change happen. It sees an old answer, then a new one, and all it can honestly say is that
the change lies between the moment it *asked* for the last answer that still showed the old owner and the
moment it *received* the first that showed the new one. Every change here carries that interval, and a spell
in which nothing could be read simply makes it wider.

The same holds for the roles that the firewalls themselves tell (`RoleChange`).

This module says what changed in the cloud's own view. The cloud is eventually consistent, so packets may follow
an earlier or a later clock: that comparison belongs to the timeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from probe.core.events import TimelineEvent

Kind = Literal["eip", "route", "private_ip", "instance"]
KINDS: tuple[Kind, ...] = ("eip", "route", "private_ip", "instance")
ChangeKind = Literal["eip", "route", "private_ip", "route_state", "eip_association", "private_ip_eip", "instance_state"]
Units = Mapping[str, Sequence[str]]  # unit name to the ids of its network interfaces and of its instance

EVENT_OF: dict[ChangeKind, str] = {
    "eip": "eip_moved",
    "route": "route_moved",
    "private_ip": "private_ip_moved",
    "route_state": "route_state_changed",
    "eip_association": "eip_associated_again",
    "private_ip_eip": "private_ip_eip_changed",
    "instance_state": "instance_state_changed",
}


class EipOwner(NamedTuple):
    """Where an Elastic IP points. Empty strings: it is not associated."""

    address: str
    eni: str
    private_ip: str = ""
    association_id: str = ""  # new at every association, so it betrays a move there and back between two polls


class RouteTarget(NamedTuple):
    """Where a route points: an interface id or any other target's id, and the cloud's state of the route."""

    target: str
    state: str = "active"  # active | blackhole | filtered


class PrivateIpOwner(NamedTuple):
    """The interface that holds a secondary private address, and the Elastic IP that comes along with it."""

    eni: str
    public_ip: str = ""


class Span(NamedTuple):
    """When an answer was asked for and received: Unix epoch nanoseconds."""

    requested_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class HaSnapshot:
    """What one round of polling saw.

    `spans` gives each kind its own request and response time, since the kinds are asked one after another; a kind
    without an entry was not answered in this round and its mapping says nothing. Left at None, everything was
    answered within the whole round.
    """

    requested_ns: int
    received_ns: int
    eips: Mapping[str, EipOwner] = field(default_factory=dict)  # by allocation id
    routes: Mapping[tuple[str, str], RouteTarget] = field(default_factory=dict)  # by (route table id, destination)
    private_ips: Mapping[str, PrivateIpOwner] = field(default_factory=dict)  # by address
    instances: Mapping[str, str] = field(default_factory=dict)  # instance id to state: running, stopping, ...
    spans: Mapping[Kind, Span] | None = None
    left: frozenset[str] = frozenset()  # association ids that were followed by another: none ever comes back
    been: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # all targets a route was seen to have

    def span(self, kind: Kind) -> Span | None:
        """When this kind was asked and answered; None when it was not."""
        if self.spans is None:
            return Span(self.requested_ns, self.received_ns)
        return self.spans.get(kind)

    def on_top_of(self, previous: HaSnapshot | None) -> HaSnapshot:
        """This round, with the kinds it has no answer for taken from `previous`, under their old spans.

        It is what the next round has to be compared with: a kind that goes blind keeps the last time it was seen.
        """
        if previous is None:
            return replace(self, been=_targets(self, {}))
        parts: dict[Kind, HaSnapshot] = {k: self if self.span(k) else previous for k in KINDS}
        spans = {k: span for k in KINDS if (span := parts[k].span(k)) is not None}
        return replace(
            self,
            eips=parts["eip"].eips,
            routes=parts["route"].routes,
            private_ips=parts["private_ip"].private_ips,
            instances=parts["instance"].instances,
            spans=spans,
            left=previous.left | _replaced(previous.eips, parts["eip"].eips),
            been=_targets(self, previous.been),
        )

    def up_to_date(self, previous: HaSnapshot | None) -> HaSnapshot:
        """This round, without its answer about addresses if that is older than what `previous` knows.

        EC2 is eventually consistent: an answer may still, or once more, show what was before. Of addresses that shows,
        as every association has an id of its own; of routes nothing would.
        """
        if previous is None or not any(owner.association_id in previous.left for owner in self.eips.values()):
            return self
        spans = {kind: span for kind in KINDS if (span := self.span(kind)) is not None}
        spans.pop("eip", None)
        return replace(self, eips={}, spans=spans)


def _replaced(before: Mapping[str, EipOwner], after: Mapping[str, EipOwner]) -> frozenset[str]:
    """Association ids of addresses that have another one by now; what merely vanished may come back."""
    both = [(before[one].association_id, after[one].association_id) for one in before.keys() & after.keys()]
    return frozenset(old for old, new in both if old and new and old != new)


def _targets(
    snapshot: HaSnapshot, before: Mapping[tuple[str, str], frozenset[str]]
) -> dict[tuple[str, str], frozenset[str]]:
    """Every target that a route was seen to have, with those of a newer snapshot."""
    newer = {key: before.get(key, frozenset()) | {route.target} for key, route in snapshot.routes.items()}
    return {**before, **newer}


@dataclass(frozen=True, slots=True)
class HaChange:
    """One owner replaced by another, somewhere in `[last_seen_old_ns, first_seen_new_ns]`."""

    kind: ChangeKind
    # eip: address, allocation_id; route: route_table, destination; private_ip: address; instance: instance_id, unit
    key: Mapping[str, str]
    old: str
    new: str
    old_unit: str  # "" when no configured unit owns it
    new_unit: str
    last_seen_old_ns: int
    first_seen_new_ns: int

    @property
    def at_ns(self) -> int:
        """Middle of the interval."""
        return (self.last_seen_old_ns + self.first_seen_new_ns) // 2

    @property
    def uncertainty_ns(self) -> int:
        """Half of the interval, rounded up so that `at_ns` plus and minus it covers both ends."""
        return (self.first_seen_new_ns - self.last_seen_old_ns + 1) // 2

    def to_timeline(self) -> TimelineEvent:
        """The change as an entry of the timeline."""
        detail = {
            **self.key,
            "from": self.old,
            "to": self.new,
            "from_unit": self.old_unit,
            "to_unit": self.new_unit,
            "last_seen_old_ns": self.last_seen_old_ns,
            "first_seen_new_ns": self.first_seen_new_ns,
        }
        return TimelineEvent(self.at_ns, "aws", EVENT_OF[self.kind], self.uncertainty_ns, detail)


@dataclass(frozen=True, slots=True)
class RoleChange:
    """One unit's HA role replaced by another, somewhere in `[last_seen_old_ns, first_seen_new_ns]`."""

    unit: str
    old: str
    new: str
    last_seen_old_ns: int
    first_seen_new_ns: int

    def to_timeline(self) -> TimelineEvent:
        """The change as an entry of the timeline: the middle of the interval, give or take half of it."""
        detail = {
            "unit": self.unit,
            "role": self.new,
            "from": self.old,
            "last_seen_old_ns": self.last_seen_old_ns,
            "first_seen_new_ns": self.first_seen_new_ns,
        }
        middle_ns = (self.last_seen_old_ns + self.first_seen_new_ns) // 2
        half_ns = (self.first_seen_new_ns - self.last_seen_old_ns + 1) // 2
        return TimelineEvent(middle_ns, "fortigate", "role_change", half_ns, detail)


def sole_primary(roles: Mapping[str, str]) -> str:
    """The unit that alone calls itself primary; "" when two do, none does, or any unit's role is unknown."""
    primaries = [unit for unit, role in roles.items() if role == "primary"]
    return primaries[0] if len(primaries) == 1 and "unknown" not in roles.values() else ""


def unit_of(units: Units, eni: str) -> str:
    """Name of the unit an interface (or an instance) belongs to; "" when none claims it."""
    return next((name for name, ids in units.items() if eni and eni in ids), "")


def changes(previous: HaSnapshot, current: HaSnapshot, units: Units) -> list[HaChange]:
    """What differs between two snapshots, oldest possible instant first.

    Only kinds answered in both are compared. Something that appears or disappears changed from or to "".

    Args:
        previous: The last known state, usually a `HaSnapshot.on_top_of`, so that blind spells are spanned.
        current: The newest round.
        units: Interfaces and instance of each HA unit.
    """
    found: list[HaChange] = []
    for kind in KINDS:
        before, after = previous.span(kind), current.span(kind)
        if before is None or after is None:
            continue
        ends = (before.requested_ns, after.received_ns)
        for change_kind, key, old, new in _differences(kind, previous, current):
            named = key | {"unit": unit_of(units, key["instance_id"])} if kind == "instance" else key
            found.append(HaChange(change_kind, named, old, new, unit_of(units, old), unit_of(units, new), *ends))
    return sorted(found, key=lambda change: change.last_seen_old_ns)


_Difference = tuple[ChangeKind, dict[str, str], str, str]


def _differences(kind: Kind, previous: HaSnapshot, current: HaSnapshot) -> list[_Difference]:
    if kind == "eip":
        return _eip_differences(previous.eips, current.eips)
    if kind == "route":
        return _route_differences(previous.routes, current.routes)
    if kind == "private_ip":
        return _private_ip_differences(previous.private_ips, current.private_ips)
    states = _pairs(previous.instances, current.instances, "")
    return [("instance_state", {"instance_id": one}, old, new) for one, old, new in states if old != new]


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any], nothing: Any) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every key of either, in order."""
    return [(key, before.get(key, nothing), after.get(key, nothing)) for key in sorted(before.keys() | after.keys())]


def _eip_differences(before: Mapping[str, EipOwner], after: Mapping[str, EipOwner]) -> list[_Difference]:
    found: list[_Difference] = []
    for allocation, old, new in _pairs(before, after, EipOwner("", "")):
        key = {"address": new.address or old.address, "allocation_id": allocation}
        if (old.eni, old.private_ip) != (new.eni, new.private_ip):
            key |= {"from_private_ip": old.private_ip, "to_private_ip": new.private_ip}
            found.append(("eip", key, old.eni, new.eni))
        elif old.association_id != new.association_id:
            found.append(("eip_association", key, old.eni, new.eni))
    return found


def _route_differences(
    before: Mapping[tuple[str, str], RouteTarget], after: Mapping[tuple[str, str], RouteTarget]
) -> list[_Difference]:
    nowhere = RouteTarget("", "")
    found: list[_Difference] = []
    for table, destination in sorted(before.keys() | after.keys()):
        old = before.get((table, destination), nowhere)
        new = after.get((table, destination), nowhere)
        key = {"route_table": table, "destination": destination}
        if old.target != new.target:
            found.append(("route", key, old.target, new.target))
        elif old.state != new.state:
            found.append(("route_state", key | {"target": new.target}, old.state, new.state))
    return found


def _private_ip_differences(
    before: Mapping[str, PrivateIpOwner], after: Mapping[str, PrivateIpOwner]
) -> list[_Difference]:
    found: list[_Difference] = []
    for address, old, new in _pairs(before, after, PrivateIpOwner("")):
        key = {"address": address, "public_ip": new.public_ip or old.public_ip}
        if old.eni != new.eni:
            found.append(("private_ip", key, old.eni, new.eni))
        elif old.public_ip != new.public_ip:
            found.append(("private_ip_eip", {"address": address}, old.public_ip, new.public_ip))
    return found


def signals(snapshot: HaSnapshot, units: Units) -> dict[str, str]:
    """What everything watched says about who is active, each on its own.

    Routes to anything but an interface (internet, transit or NAT gateways) say nothing about the pair, nor do those to
    an interface of somebody else, another appliance say, that were never seen to lead to a unit.

    Returns:
        "eip 203.0.113.10", "route rtb-1 0.0.0.0/0" or "private_ip 10.0.0.9" to the unit it points at; "" for an
        address that is not associated, a black hole, or an interface of no known unit.
    """
    said = {f"eip {owner.address or one}": owner.eni for one, owner in snapshot.eips.items()}
    for (table, destination), route in snapshot.routes.items():
        targets = {route.target, *snapshot.been.get((table, destination), ())}
        if route.target.startswith("eni-") and any(unit_of(units, target) for target in targets):
            said[f"route {table} {destination}"] = route.target if route.state == "active" else ""
    said |= {f"private_ip {address}": owner.eni for address, owner in snapshot.private_ips.items()}
    return {signal: unit_of(units, eni) for signal, eni in said.items()}


def active_unit(snapshot: HaSnapshot, units: Units) -> str:
    """The unit that everything points at; "" when signals disagree (mid-failover), are missing or unknown."""
    seen = set(signals(snapshot, units).values())
    return seen.pop() if len(seen) == 1 else ""
