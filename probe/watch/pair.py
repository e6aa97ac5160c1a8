"""Which two instances of an account are an HA pair, what of it moves in a failover, and how sure that is. No I/O.

Raw answers of EC2 in, a `Pair` out. Roles are judged by what the cloud shows: awsd moves every route that points at
an interface of the unit that was active, and the elastic IPs of those of its interfaces whose peers have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probe.errors import UsageError
from probe.watch.ec2 import destination_of

# Images of the marketplace are called "FortiGate-VM64-AWS build3596 (7.6.4) GA-..." and the like.
IMAGE_NAME = re.compile(r"^FortiGate-VM64-AWS", re.I)
UNIT_NAME = re.compile(r"forti-?gate|fgt|fgcp", re.I)
MAX_CANDIDATES_TOLD = 8


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a unit, and what it is for."""

    id: str
    index: int  # device index: 0 is port1
    address: str
    role: str  # "public" | "private" | "management" | "heartbeat or unused"
    secondary: tuple[str, ...] = ()

    @property
    def port(self) -> str:
        return f"port{self.index + 1}"


@dataclass(frozen=True, slots=True)
class Unit:
    """One FortiGate."""

    name: str
    instance: str
    state: str
    zone: str
    interfaces: tuple[Interface, ...]
    management: str = ""  # an address to reach it by that does not move


@dataclass(frozen=True, slots=True)
class Eip:
    """An elastic IP and the interface it is associated with."""

    allocation: str
    address: str
    interface: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two units, what moves between them, and what was not certain."""

    region: str
    vpc: str
    units: tuple[Unit, Unit]
    eips: tuple[Eip, ...]  # that move
    tables: Mapping[str, tuple[str, ...]]  # route table to its destinations that point at the pair
    moving_interfaces: tuple[str, ...]  # whose secondary private addresses move
    active: str  # the unit that everything points at; "" if that is not one
    doubts: tuple[str, ...] = field(default=())


def candidates(instances: Iterable[Mapping[str, Any]], images: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The instances that look like FortiGates, by their image's name or their own.

    Args:
        instances: As DescribeInstances has them.
        images: Image id to name, as far as known.
    """
    return [
        one
        for one in instances
        if len(one.get("NetworkInterfaces", ())) > 1
        and (IMAGE_NAME.search(images.get(str(one.get("ImageId")), "")) or UNIT_NAME.search(name_of(one)))
    ]


def name_of(instance: Mapping[str, Any]) -> str:
    """An instance's Name tag, "" without one."""
    return next((str(tag["Value"]) for tag in instance.get("Tags", ()) if tag["Key"] == "Name"), "")


def choose(found: Sequence[Mapping[str, Any]], how: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The two instances of a pair.

    Args:
        found: Instances to choose from.
        how: How they were looked for, for the message.

    Raises:
        UsageError: If there are not exactly two that can be one; lists what there is.
    """
    by_vpc: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        by_vpc.setdefault(str(one.get("VpcId", "")), []).append(one)
    pairs = [ones for ones in by_vpc.values() if len(ones) == 2]
    if len(pairs) == 1 and len(by_vpc) == 1:
        first, second = sorted(pairs[0], key=lambda one: (name_of(one), str(one["InstanceId"])))
        return first, second
    told = [f"  {one['InstanceId']}  {name_of(one) or '(no name)'}  {one.get('VpcId', '')}" for one in found]
    more = [f"  and {len(told) - MAX_CANDIDATES_TOLD} more"] if len(told) > MAX_CANDIDATES_TOLD else []
    what = "no instance" if not found else f"{len(found)} instance{'s' if len(found) > 1 else ''}"
    raise UsageError(
        "\n".join(
            [
                f"no HA pair found: {what} {how}; two in one VPC are needed",
                *told[:MAX_CANDIDATES_TOLD],
                *more,
                "name them: --instance ID --instance ID, or --tag KEY=VALUE, or --name PATTERN",
            ]
        )
    )


def analyse(
    region: str,
    instances: tuple[Mapping[str, Any], Mapping[str, Any]],
    addresses: Sequence[Mapping[str, Any]],
    tables: Sequence[Mapping[str, Any]],
) -> Pair:
    """All there is to know about a pair.

    Args:
        region: Where it is.
        instances: Its two instances.
        addresses: The elastic IPs of the account.
        tables: The route tables of the account.
    """
    first, second = instances
    doubts: list[str] = []
    enis = [(str(one["InstanceId"]), eni) for one in instances for eni in one["NetworkInterfaces"]]
    index_of = {str(eni["NetworkInterfaceId"]): _index(eni) for _, eni in enis}
    owner = {str(eni["NetworkInterfaceId"]): instance for instance, eni in enis}
    eips = [
        Eip(str(a["AllocationId"]), str(a.get("PublicIp", "")), str(a["NetworkInterfaceId"]))
        for a in addresses
        if a.get("NetworkInterfaceId") in index_of and a.get("AllocationId")
    ]
    holders: dict[int, set[str]] = {}
    for eip in eips:
        holders.setdefault(index_of[eip.interface], set()).add(owner[eip.interface])
    # An address on the same port of both units is each unit's own: it is how one reaches the passive one.
    own = {index for index, who in holders.items() if len(who) == 2}
    moving = tuple(eip for eip in eips if index_of[eip.interface] not in own)
    routes = _routes(tables, index_of)
    inside = {table: ones for table, ones in routes.items() if _vpc(tables, table) == first.get("VpcId")}
    routed = {index_of[target] for ones in inside.values() for _, target in ones}
    public = {index_of[eip.interface] for eip in moving}
    roles = {
        **dict.fromkeys(own, "management"),
        **dict.fromkeys(routed, "private"),
        **dict.fromkeys(public, "public"),
    }
    names = _names(first, second)
    units = tuple(_unit(name, one, roles, eips, own) for name, one in zip(names, (first, second), strict=True))
    secondary = tuple(e.id for unit in units for e in unit.interfaces if _moves(e, units))
    pointed = {owner[eip.interface] for eip in moving} | {owner[t] for ones in inside.values() for _, t in ones}
    active = next(iter(pointed)) if len(pointed) == 1 else ""
    doubts += _doubts(first, second, names, moving, inside, routes, own & routed, pointed)
    return Pair(
        region=region,
        vpc=str(first.get("VpcId", "")),
        units=(units[0], units[1]),
        eips=moving,
        tables={table: tuple(destination for destination, _ in ones) for table, ones in inside.items()},
        moving_interfaces=secondary,
        active=next((unit.name for unit in units if unit.instance == active), ""),
        doubts=tuple(doubts),
    )


def _doubts(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    names: tuple[str, str],
    moving: Sequence[Eip],
    inside: Mapping[str, Any],
    routes: Mapping[str, Any],
    routed_management: set[int],
    pointed: set[str],
) -> list[str]:
    doubts = []
    for one, name in zip((first, second), names, strict=True):
        state = one["State"]["Name"]
        if state != "running":
            doubts.append(f"{name} is {state}, not running")
    indices = [sorted(_index(e) for e in one["NetworkInterfaces"]) for one in (first, second)]
    if indices[0] != indices[1]:
        doubts.append(
            f"the units have different ports ({indices[0]} and {indices[1]} by device index): are they a pair?"
        )
    if not moving:
        doubts.append("no elastic IP was found that moves: ingress will not be watched")
    if not inside:
        doubts.append("no route table of the VPC points at either unit: add those of the transit or workload subnets")
    elsewhere = sorted(set(routes) - set(inside))
    if elsewhere:
        doubts.append(
            f"{', '.join(elsewhere)} in another VPC point at the pair too; awsd was only ever seen to move routes of"
            " its own VPC, so they are left out"
        )
    if routed_management:
        ports = ", ".join(f"port{index + 1}" for index in sorted(routed_management))
        doubts.append(
            f"a route points at {ports}, which looks like the management port: awsd moves such routes as well, and may"
            " cut the passive unit off from the API"
        )
    if len(pointed) > 1:
        doubts.append("elastic IPs and routes point at different units: a failover is under way, or one went wrong")
    return doubts


def _routes(tables: Sequence[Mapping[str, Any]], index_of: Mapping[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Route table to its (destination, interface) that point at the pair."""
    found: dict[str, list[tuple[str, str]]] = {}
    for table in tables:
        for route in table.get("Routes", ()):
            if route.get("NetworkInterfaceId") in index_of:
                entry = (destination_of(route), str(route["NetworkInterfaceId"]))
                found.setdefault(str(table["RouteTableId"]), []).append(entry)
    return found


def _vpc(tables: Sequence[Mapping[str, Any]], table_id: str) -> Any:
    return next((table.get("VpcId") for table in tables if table["RouteTableId"] == table_id), None)


def _index(eni: Mapping[str, Any]) -> int:
    return int(eni["Attachment"]["DeviceIndex"])


def _unit(name: str, instance: Mapping[str, Any], roles: Mapping[int, str], eips: Sequence[Eip], own: set[int]) -> Unit:
    interfaces = tuple(
        Interface(
            id=str(eni["NetworkInterfaceId"]),
            index=_index(eni),
            address=str(eni.get("PrivateIpAddress", "")),
            role=roles.get(_index(eni), "heartbeat or unused"),
            secondary=tuple(
                str(one["PrivateIpAddress"]) for one in eni.get("PrivateIpAddresses", ()) if not one.get("Primary")
            ),
        )
        for eni in sorted(instance["NetworkInterfaces"], key=_index)
    )
    ids = {one.id for one in interfaces if one.index in own}
    return Unit(
        name=name,
        instance=str(instance["InstanceId"]),
        state=str(instance["State"]["Name"]),
        zone=str(instance.get("Placement", {}).get("AvailabilityZone", "")),
        interfaces=interfaces,
        management=next((eip.address for eip in eips if eip.interface in ids), ""),
    )


def _moves(interface: Interface, units: Sequence[Unit]) -> bool:
    """Whether a port's secondary addresses move: one unit has some there, its peer (in the same zone) has none."""
    peers = [e for unit in units for e in unit.interfaces if e.index == interface.index]
    same_zone = len({unit.zone for unit in units}) == 1
    return same_zone and len(peers) == 2 and sum(bool(e.secondary) for e in peers) == 1


def _names(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """Names for the units that a config takes: their own where these differ."""
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", name_of(one)).strip("-")[:64] for one in (first, second)]
    if not all(names) or names[0] == names[1]:
        return "fgt-a", "fgt-b"
    return names[0], names[1]
