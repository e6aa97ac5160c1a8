"""CloudTrail's records of EC2 calls as entries of a run's timeline. Sans-IO.

A record tells who called, what was asked for, and with which error it was refused, to the second. Records about other
resources than the run's are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from probe.core.events import TimelineEvent
from probe.core.ha import Units, unit_of

VIA = "cloudtrail"
# What a unit does to take over, and what a drill or a person does to an instance.
TAKEOVER = (
    *("AssociateAddress", "DisassociateAddress", "ReplaceRoute"),
    *("AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"),
)
INSTANCE = ("StopInstances", "StartInstances", "RebootInstances", "TerminateInstances")
# The middle of the second that is named, give or take one: whether fractions are cut off or rounded is not documented.
MIDDLE_NS = 500_000_000
UNCERTAINTY_NS = 1_000_000_000
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_DRY_RUN = "Client.DryRunOperation"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run is about."""

    units: Units  # interfaces and instance of each unit
    ids: frozenset[str]  # everything watched, by id
    regions: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)  # allocation id to public address


def scope_of(document: Mapping[str, Any]) -> Scope:
    """The scope of a run: what its agents' AWS watchers were configured to watch.

    A document holds whatever config it was given: what is not in our form names nothing.
    """
    units: dict[str, list[str]] = {}
    ids: set[str] = set()
    regions: list[str] = []
    for block in _blocks(document["run"].get("config")):
        regions += _words(block.get("region"))
        for unit, named in (*_entries(block.get("units")), *_entries(block.get("instances"))):
            units.setdefault(unit, []).extend(_words(named))
        for kind in ("addresses", "route_tables", "network_interfaces"):
            ids.update(_words(block.get(kind)))
    ids.update(one for ones in units.values() for one in ones)
    moved = (e["detail"] for e in document["timeline"] if e["event"] == "eip_moved")
    addresses = {d["allocation_id"]: d["address"] for d in moved if d.get("allocation_id") and d.get("address")}
    return Scope(units, frozenset(ids), tuple(dict.fromkeys(regions)), addresses)


def _blocks(config: object) -> Iterator[Mapping[str, Any]]:
    """Every `watchers.aws` in a config, or in a mapping of several agents' configs."""
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        if key == "watchers" and isinstance(value, Mapping) and isinstance(value.get("aws"), Mapping):
            yield value["aws"]
        else:
            yield from _blocks(value)


def _entries(value: object) -> Iterable[tuple[str, object]]:
    return value.items() if isinstance(value, Mapping) else ()


def _words(value: object) -> list[str]:
    """One word, or each of a list."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


def timeline_events(
    records: Iterable[Mapping[str, Any]], scope: Scope, start_ns: int, end_ns: int, clock_error_ns: int = 0
) -> list[TimelineEvent]:
    """The records that concern a run, as events, by time.

    Args:
        records: As the field `CloudTrailEvent` holds them, parsed.
        scope: What the run is about.
        start_ns: Of the run, Unix epoch.
        end_ns: Likewise.
        clock_error_ns: Bound on the offset of the run's clock from UTC.
    """
    found: dict[str, TimelineEvent] = {}
    for record in records:
        event = _event(record, scope, clock_error_ns)
        if event is None:
            continue
        # An event that can have happened within the run belongs to it.
        if event.at_ns + event.uncertainty_ns >= start_ns and event.at_ns - event.uncertainty_ns <= end_ns:
            found[event.detail["event_id"]] = event
    return sorted(found.values(), key=lambda event: (event.at_ns, event.detail["event_id"]))


def _event(record: Mapping[str, Any], scope: Scope, clock_error_ns: int) -> TimelineEvent | None:
    operation, error = str(record.get("eventName", "")), str(record.get("errorCode") or "")
    asked = record.get("requestParameters")
    parameters: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {}
    caller, instance = _caller(record)
    named = json.dumps(parameters)
    mine = instance in scope.ids or any(f'"{one}"' in named for one in scope.ids)
    if operation not in (*TAKEOVER, *INSTANCE) or error == _DRY_RUN or not mine:
        return None
    try:
        at = datetime.strptime(str(record["eventTime"]), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return None
    to = str(parameters.get("networkInterfaceId") or "")
    detail = {
        "unit": unit_of(scope.units, instance) or (unit_of(scope.units, to) if instance else "") or caller,
        "operation": operation,
        "target": _target(parameters, scope),
        "to": to,
        "result": "error" if error else "ok",
        "error": error,
        "message": str(record.get("errorMessage") or ""),
        "caller": caller,
        "via": VIA,
        "event_id": str(record.get("eventID") or f"{operation} {record['eventTime']} {_target(parameters, scope)}"),
    }
    name = "api_call" if operation in TAKEOVER else "instance_call"
    at_ns = int(at.timestamp()) * 1_000_000_000 + MIDDLE_NS
    return TimelineEvent(at_ns, "aws", name, UNCERTAINTY_NS + clock_error_ns, detail)


def _caller(record: Mapping[str, Any]) -> tuple[str, str]:
    """Who called, in short, and its instance id when an instance's role did: the session is named after it."""
    identity = record.get("userIdentity") or {}
    arn = str(identity.get("arn") or identity.get("principalId") or identity.get("invokedBy") or "")
    short = arn.rpartition("/")[2].rpartition(":")[2] or "unknown caller"
    return short, short if _INSTANCE_ID.fullmatch(short) else ""


def _target(parameters: Mapping[str, Any], scope: Scope) -> str:
    """What was to be changed, named as in other sources: an address, a table and destination, an instance."""
    allocation = str(parameters.get("allocationId") or "")
    if allocation or parameters.get("publicIp"):
        return str(parameters.get("publicIp") or scope.addresses.get(allocation) or allocation)
    if parameters.get("routeTableId"):
        keys = ("destinationCidrBlock", "destinationIpv6CidrBlock", "destinationPrefixListId")
        destination = next((str(parameters[key]) for key in keys if parameters.get(key)), "")
        return f"{parameters['routeTableId']} {destination}".strip()
    listed = _items(parameters.get("instancesSet"), "instanceId")
    return ", ".join(listed or _items(parameters.get("privateIpAddressesSet"), "privateIpAddress"))


def _items(part: object, key: str) -> list[str]:
    """CloudTrail's form of a list: {"items": [{KEY: ...}]}; a single mapping where it says so."""
    if not isinstance(part, Mapping):
        return []
    items = part.get("items", part.get("privateIpAddress", []))
    found = items if isinstance(items, list) else [items]
    return [str(one[key]) for one in found if isinstance(one, Mapping) and one.get(key)]
