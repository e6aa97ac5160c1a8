"""What the stand-ins' session tables say of the agents' kept sessions: read with pyroute2, in a unit's namespace.

A kept session is found by its mark, which the firewall gives to whatever has seen many packets (`firewall.KEPT_MARK`):
no port or identifier has to be known. From then on it is asked for by its tuple, on whichever unit. `truth` says what
the readings imply.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyroute2 import Conntrack
from pyroute2.conntrack import NFCTAttrTuple
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import IPS_ASSURED, IPS_SEEN_REPLY, TCP_CONNTRACK_TO_NAME

from probe.lab import namespace
from probe.lab.agents import TCP_PORT, UDP_PORT
from probe.lab.firewall import KEPT_MARK
from probe.lab.plan import CLUSTER_EIP, INTERNET, JUMP, UNITS, WORKLOAD_A, WORKLOAD_B, Plan

WINDOW_S = 0.3
"""Between the two looks that tell whether packets still pass: many intervals of the slowest flow that gets a mark."""

_NUMBER = {"icmp": socket.IPPROTO_ICMP, "udp": socket.IPPROTO_UDP, "tcp": socket.IPPROTO_TCP}
_PORT = {"icmp": None, "udp": UDP_PORT, "tcp": TCP_PORT}
_ECHO_REQUEST = 8


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept session as its client sends it. Of ingress the address is the one behind the Elastic IP."""

    flow: str  # as the agents name it: "egress-tcp"
    protocol: str
    source: str
    target: str
    number: int  # source port, or ICMP identifier

    def tuple(self) -> NFCTAttrTuple:
        """The original direction, as the kernel keeps it."""
        if self.protocol == "icmp":
            icmp = {"icmp_id": self.number, "icmp_type": _ECHO_REQUEST, "icmp_code": 0}
            return NFCTAttrTuple(saddr=self.source, daddr=self.target, proto=_NUMBER["icmp"], **icmp)
        ports = {"sport": self.number, "dport": _PORT[self.protocol]}
        return NFCTAttrTuple(saddr=self.source, daddr=self.target, proto=_NUMBER[self.protocol], **ports)


@dataclass(frozen=True, slots=True)
class Entry:
    """One session in one unit's table."""

    target: str  # original destination
    seen_as: tuple[str, int]  # source that the far end sees, before any Elastic IP; port or ICMP identifier
    state: str  # TCP's; else "assured", "replied" or "unreplied"
    made_ns: int  # Unix epoch; 0: unknown
    packets: tuple[int, int]  # original direction, reply direction


def paths(plan: Plan) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Path to its client, and to what its packets may be addressed when they reach a unit."""
    inside = tuple(dict.fromkeys(plan.eni_of(unit, "port1").port_address for unit in UNITS))
    return {"east-west": (WORKLOAD_A, (WORKLOAD_B,)), "egress": (WORKLOAD_A, (INTERNET,)), "ingress": (JUMP, inside)}


def find(plan: Plan, unit: str) -> dict[str, Kept]:
    """The kept sessions that a unit forwards, by flow. What has had too few packets for a mark is not found."""
    where = {(source, target): path for path, (source, targets) in paths(plan).items() for target in targets}
    protocols = {number: name for name, number in _NUMBER.items()}
    found: dict[str, Kept] = {}
    # The newest last: of a drill before this one there may be sessions that have not timed out yet.
    for message in sorted(namespace.inside(plan.namespace_path(unit), _marked), key=_made_ns):
        original = NFCTAttrTuple.from_netlink(socket.AF_INET, message.get_attr("CTA_TUPLE_ORIG"))
        path = where.get((original.saddr, original.daddr))
        protocol = protocols.get(original.proto)
        if path is None or protocol is None or (protocol != "icmp" and original.dport != _PORT[protocol]):
            continue
        number = original.icmp_id if protocol == "icmp" else original.sport
        flow = f"{path}-{protocol}"
        found[flow] = Kept(flow, protocol, original.saddr, original.daddr, number)
    return found


def read(plan: Plan, unit: str, kept: Mapping[str, Kept]) -> dict[str, Entry]:
    """What a unit's table holds of these sessions, by flow; what it does not know is left out."""
    return namespace.inside(plan.namespace_path(unit), _read, plan, kept)


def account(
    plan: Plan, unit: str, kept: Mapping[str, Kept], eips: Mapping[str, str], forwarding_ns: int
) -> dict[str, Any]:
    """A unit's table for the timeline: per flow None (it knows nothing), or a record that `truth` understands.

    Args:
        plan: The lab.
        unit: Whose table.
        kept: The sessions.
        eips: Elastic IPs in use: public to private address.
        forwarding_ns: Since when the unit forwards (Unix epoch): what is older was handed over to it, or its own.
    """
    first = read(plan, unit, kept)
    time.sleep(WINDOW_S)
    last = read(plan, unit, kept)
    public = {private: address for address, private in eips.items()}
    flows: dict[str, Any] = {}
    for flow in kept:
        entry = last.get(flow)
        flows[flow] = None if entry is None else _record(flow, entry, first.get(flow), public, eips, forwarding_ns)
    return flows


def _record(
    flow: str,
    entry: Entry,
    earlier: Entry | None,
    public: Mapping[str, str],
    eips: Mapping[str, str],
    forwarding_ns: int,
) -> dict[str, Any]:
    path = flow.rpartition("-")[0]
    address, number = entry.seen_as
    before = earlier.packets if earlier is not None else (0, 0)
    # A translation leads somewhere only while the Elastic IP belongs to the address it uses.
    way = {"egress": address in public, "ingress": eips.get(CLUSTER_EIP) == entry.target}.get(path, True)
    return {
        "known": "anew" if entry.made_ns > forwarding_ns else "kept",
        "state": entry.state,
        "seen_as": f"{public.get(address, address)}:{number}",
        "translated": address,
        "way": way,
        "out": entry.packets[0] - before[0],
        "back": entry.packets[1] - before[1],
    }


def _marked() -> list[Any]:
    with Conntrack() as table:
        return list(table.dump(mark=KEPT_MARK))


def _read(plan: Plan, kept: Mapping[str, Kept]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    with Conntrack() as table:
        for flow, one in kept.items():
            entries = [entry for way in _ways(plan, one) if (entry := _get(table, way)) is not None]
            if entries:  # of ingress there may be an old one beside one to the unit's own address: the one that is used
                found[flow] = max(entries, key=lambda entry: (entry.made_ns, sum(entry.packets)))
    return found


def _ways(plan: Plan, one: Kept) -> Iterator[Kept]:
    """The session by every address that its packets may have when they reach a unit."""
    for source, targets in paths(plan).values():
        if one.source == source and one.target in targets:
            yield from (replace(one, target=target) for target in targets)


def _get(table: Any, one: Kept) -> Entry | None:
    try:
        message = table.entry("get", tuple_orig=one.tuple())
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise
    return _entry(message, one.protocol)


def _entry(message: Any, protocol: str) -> Entry:
    original = NFCTAttrTuple.from_netlink(socket.AF_INET, message.get_attr("CTA_TUPLE_ORIG"))
    reply = NFCTAttrTuple.from_netlink(socket.AF_INET, message.get_attr("CTA_TUPLE_REPLY"))
    status = message.get_attr("CTA_STATUS")
    state = "assured" if status & IPS_ASSURED else "replied" if status & IPS_SEEN_REPLY else "unreplied"
    if protocol == "tcp":
        info = message.get_attr("CTA_PROTOINFO").get_attr("CTA_PROTOINFO_TCP")
        state = TCP_CONNTRACK_TO_NAME.get(info.get_attr("CTA_PROTOINFO_TCP_STATE"), "?")
    number = reply.icmp_id if protocol == "icmp" else reply.dport
    return Entry(
        original.daddr,
        (reply.daddr, number),
        state,
        _made_ns(message),
        (_packets(message, "CTA_COUNTERS_ORIG"), _packets(message, "CTA_COUNTERS_REPLY")),
    )


def _made_ns(message: Any) -> int:
    stamp = message.get_attr("CTA_TIMESTAMP")
    return int(stamp.get_attr("CTA_TIMESTAMP_START") or 0) if stamp else 0


def _packets(message: Any, name: str) -> int:
    counters = message.get_attr(name)
    return int(counters.get_attr("CTA_COUNTERS_PACKETS") or 0) if counters else 0
