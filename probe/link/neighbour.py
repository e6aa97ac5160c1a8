"""The kernel's tables about one target: route, link and neighbour, asked over rtnetlink (pyroute2).

The tables are asked, never guessed, and the MAC is what the kernel's own ARP or neighbour discovery has found; an
empty datagram to the next hop makes it ask (`poke`). Nothing is ever sent on a probe's 5-tuple. `path` makes waiting
and watching out of this.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal

from pyroute2.netlink.exceptions import NetlinkError

from probe.errors import PeerError, UsageError
from probe.link import abi

# linux/rtnetlink.h, linux/neighbour.h
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent
NUD_FAILED = 0x20
_RTM_NEIGHBOUR = {28, 29}
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18  # link, neigh, v4 addr route rule, v6 the same
_NLMSGHDR = struct.Struct("=IHHII")
_NDMSG_IFINDEX = struct.Struct("=4xi")

_DISCARD_PORT = 9


@dataclass(frozen=True, slots=True)
class Path:
    """How to reach a target from this host.

    Attributes:
        kind: `ethernet`: put a frame for `destination_mac` on `interface`. `local`: the target is on this host, or
            the interface has no Ethernet; hand an IP packet to the kernel.
        ifindex: Of the interface it leaves by; loopback for a target on this host.
        interface: Its name.
        source_ip: The address the kernel would send from, or the one asked for.
        gateway: Next hop's address; empty when the target itself is on the link.
        source_mac: Of the interface; 6 octets, zero where it has none.
        destination_mac: Of the next hop; zero for `local`.
        mtu: Largest IP packet, octets.
        target: What was asked for.
    """

    kind: Literal["ethernet", "local"]
    ifindex: int
    interface: str
    source_ip: str
    gateway: str
    source_mac: bytes
    destination_mac: bytes
    mtu: int
    target: str = ""

    @property
    def next_hop(self) -> str:
        """Whose MAC it is."""
        return self.gateway or self.target


@dataclass(frozen=True, slots=True)
class Want:
    """What to look up.

    Attributes:
        target: The address to reach.
        source: To send from; None: as the kernel chooses.
        interface: To leave by; None: as the kernel routes.
        kept: To send from as long as this host has that address, as the kernel does in a session that it began with it.
    """

    target: str
    source: str | None = None
    interface: str | None = None
    kept: str = ""


def check_address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an IP address") from error
    return text


def look_up(ipr: Any, want: Want) -> tuple[Path, int]:
    """Path as the kernel's tables have it now, and its neighbour's state; no MAC yet: empty `destination_mac`."""
    if want.source is not None:
        _check_own(want.source)
    want, route = _chosen(ipr, want)
    ifindex = int(route.get("oif"))
    try:
        link = ipr.link("get", index=ifindex)[0]
    except NetlinkError as error:
        raise PeerError(f"no route to {want.target}: its interface is gone") from error
    gateway = str(route.get("gateway") or (route.get("via") or {}).get("addr") or "")
    address = link.get("address") or ""
    metrics = route.get("metrics")
    path = Path(
        kind="local",
        ifindex=ifindex,
        interface=str(link.get("ifname")),
        source_ip=str(want.source or route.get("prefsrc") or ""),
        gateway=gateway,
        source_mac=_mac(address) or bytes(6),
        destination_mac=bytes(6),
        mtu=int((metrics.get("mtu") if metrics else None) or link.get("mtu")),
        target=want.target,
    )
    ethernet = link["ifi_type"] == abi.ARPHRD_ETHER and not link["flags"] & abi.IFF_NOARP
    if route["type"] == _RTN_LOCAL or not ethernet:
        return path, 0
    mac, state = _neighbour(ipr, path.next_hop, ifindex)
    return replace(path, kind="ethernet", destination_mac=mac), state


def _check_own(source: str) -> None:
    """The kernel's answers to a foreign source differ by version and route; binding to it does not."""
    family = socket.AF_INET if ip_address(check_address(source)).version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((source, 0))
        except OSError as error:
            raise UsageError(f"source {source} is not an address of this host") from error


def _chosen(ipr: Any, want: Want) -> tuple[Want, Any]:
    """The route to take; from the kept address, if the kernel would choose another and this host has that one still."""
    try:
        route = _route(ipr, want)
    except PeerError:  # there may be one for packets from the kept address alone
        if not _keeps(ipr, want):
            raise
    else:
        if not want.kept or route.get("prefsrc") == want.kept or not _keeps(ipr, want):
            return want, route
    want = replace(want, source=want.kept)
    return want, _route(ipr, want)


def _keeps(ipr: Any, want: Want) -> bool:
    """Whether this host has the kept address, be its interface up or down: so long a session of the kernel's has it."""
    if want.source is not None or not want.kept:
        return False
    family = socket.AF_INET6 if ":" in want.kept else socket.AF_INET
    own = (address.get("local") or address.get("address") for address in ipr.addr("dump", family=family))
    return want.kept in own


def _route(ipr: Any, want: Want) -> Any:
    """The route the kernel would take (RTM_GETROUTE)."""
    target, _, scope = want.target.partition("%")
    query: dict[str, Any] = {"dst": target}
    if want.source is not None:
        query["src"] = want.source
    interface = want.interface or scope
    if interface:
        try:
            query["oif"] = socket.if_nametoindex(interface)
        except OSError as error:
            raise UsageError(f"no interface {interface} on this host") from error
    via = "".join([f" from {want.source}" if want.source else "", f" through {interface}" if interface else ""])
    try:
        route = ipr.route("get", **query)[0]
    except NetlinkError as error:
        raise PeerError(f"no route to {want.target}{via}") from error
    if route["type"] not in (_RTN_UNICAST, _RTN_LOCAL):
        raise PeerError(f"no route to {want.target}{via}: not a host's address, or its route discards")
    return route


def _neighbour(ipr: Any, next_hop: str, ifindex: int) -> tuple[bytes, int]:
    """(MAC, NUD state) of a next hop; no MAC while the kernel holds none that it would use itself."""
    try:
        entry = ipr.neigh("get", dst=next_hop.partition("%")[0], ifindex=ifindex)[0]
    except NetlinkError:  # ENOENT
        return b"", 0
    state = int(entry["state"])
    return (_mac(entry.get("lladdr") or "") if state & _NUD_USABLE else b""), state


def _mac(text: str) -> bytes:
    octets = bytes.fromhex(text.replace(":", ""))
    return octets if len(octets) == 6 else b""


def poke(path: Path) -> None:
    """Make the kernel find out who the next hop is: one empty datagram, one hop far, to the discard port."""
    next_hop = path.next_hop.partition("%")[0]
    v4 = ip_address(next_hop).version == 4
    with socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.setblocking(False)
        with suppress(PermissionError):  # allowed to all since Linux 5.7
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.interface.encode())
        if v4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            sock.sendto(b"", (next_hop, _DISCARD_PORT))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            sock.sendto(b"", (next_hop, _DISCARD_PORT, 0, path.ifindex))


def notifications() -> socket.socket:
    """A socket that the kernel writes to whenever a link, address, route, rule or neighbour changes."""
    doorbell = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    doorbell.setblocking(False)
    doorbell.bind((0, _GROUPS))
    return doorbell


def changed_interfaces(doorbell: socket.socket) -> set[int] | None:
    """Empty the notifications: interfaces whose neighbours changed, or None if anything else may have too."""
    interfaces: set[int] = set()
    everything = False
    while True:
        try:
            data = doorbell.recv(1 << 16)
        except BlockingIOError:
            return None if everything else interfaces
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # the kernel had more to say than the buffer holds
                raise
            everything = True
            continue
        offset = 0
        while offset + _NLMSGHDR.size <= len(data):
            length, kind = _NLMSGHDR.unpack_from(data, offset)[:2]
            if kind in _RTM_NEIGHBOUR:
                interfaces.add(_NDMSG_IFINDEX.unpack_from(data, offset + _NLMSGHDR.size)[0])
            else:
                everything = True
            offset += max((length + 3) & ~3, _NLMSGHDR.size)
