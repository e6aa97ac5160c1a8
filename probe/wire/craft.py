"""One template frame per flow, built once by Scapy in the control process.

The engine copies the template into ring slots and fills in the fields that vary (VARYING): nothing else of a probe
is ever computed per packet. All varying fields are zero in a template. Where a kind has a compensator, the template's
checksum is final; where it has none, the checksum field is zero and the engine computes it from `Template.rest`.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

from probe.core.events import FlowSpec
from probe.wire import layout, sizes
from probe.wire.checksum import complement, pseudo_header_sum, word_sum
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_REPORT, TLV_UNKNOWN

PROTO = {
    layout.ICMP4: layout.IPPROTO_ICMP,
    layout.ICMP6: layout.IPPROTO_ICMPV6,
    layout.UDP: layout.IPPROTO_UDP,
    layout.UDP_BASE: layout.IPPROTO_UDP,
    layout.UDP_AUTH: layout.IPPROTO_UDP,
    layout.TCP: layout.IPPROTO_TCP,
    layout.SYN: layout.IPPROTO_TCP,
}
_CHECKSUM_AT = {
    layout.IPPROTO_ICMP: 2,
    layout.IPPROTO_ICMPV6: 2,
    layout.IPPROTO_UDP: 6,
    layout.IPPROTO_TCP: 16,
}
COMPENSATED = (layout.ICMP4, layout.ICMP6, layout.UDP, layout.TCP)


@dataclass(frozen=True, slots=True)
class Template:
    """A frame to copy, and what the engine must know about it.

    Attributes:
        kind: One of `layout`'s kinds.
        family: 4 or 6.
        frame: From the Ethernet header on.
        rest: Word sum of pseudo-header and transport part without checksum and varying fields, modulo 65535.
    """

    kind: int
    family: int
    frame: bytes
    rest: int


def kind_of(spec: FlowSpec, family: int) -> int:
    """The template kind that a flow's probes use."""
    if spec.protocol == "icmp":
        return layout.ICMP4 if family == 4 else layout.ICMP6
    if spec.protocol == "udp" and spec.key_file is not None:
        return layout.UDP_AUTH
    if spec.protocol == "udp":
        size = sizes.effective_size("udp", spec.size) + sizes.IP_HEADER[family] - sizes.IP_HEADER[4]
        room = size - sizes.IP_HEADER[family] - sizes.UDP_HEADER
        return layout.UDP if room >= sizes.UDP_PAYLOAD else layout.UDP_BASE
    return layout.SYN if spec.session == "fresh" else layout.TCP


def flow_template(
    spec: FlowSpec,
    *,
    source: str,
    target: str,
    source_mac: bytes,
    target_mac: bytes,
    session: int,
    error_estimate: int,
) -> Template:
    """Build the template of a flow.

    Args:
        spec: What to probe; `size` counts octets of IP packet.
        source: Our address.
        target: The peer's address, same family.
        source_mac: Of the interface; six zero octets where there is none.
        target_mac: Of the next hop.
        session: 64-bit number that tells this flow of this run from every other.
        error_estimate: STAMP Error Estimate of our clock (wire/stamp.py).
    """
    family = ipaddress.ip_address(target).version
    kind = kind_of(spec, family)
    size = sizes.effective_size(spec.protocol, spec.size)
    if family == 6:
        size += sizes.IP_HEADER[6] - sizes.IP_HEADER[4]
    payload_room = size - sizes.IP_HEADER[family]
    if kind == layout.UDP_AUTH:
        payload_room = max(payload_room, sizes.UDP_HEADER + sizes.STAMP_AUTH)
    transport = _transport(kind, spec.port, payload_room, session, error_estimate)
    network = _network(spec, family, source, target)
    ethernet = target_mac + source_mac + struct.pack("!H", layout.ETH_IP if family == 4 else layout.ETH_IPV6)
    packet = bytearray(bytes(network / transport))
    at = sizes.IP_HEADER[family] + _CHECKSUM_AT[PROTO[kind]]
    packet[at : at + 2] = b"\0\0"
    rest = _pseudo_sum(source, target, kind, len(packet) - sizes.IP_HEADER[family])
    rest = (rest + word_sum(bytes(packet[sizes.IP_HEADER[family] :]))) % 0xFFFF
    if kind in COMPENSATED:
        struct.pack_into("!H", packet, at, complement(rest))
    return Template(kind, family, bytes(ethernet) + bytes(packet), rest)


def _pseudo_sum(source: str, target: str, kind: int, length: int) -> int:
    if PROTO[kind] == layout.IPPROTO_ICMP:
        return 0  # ICMPv4 alone has no pseudo-header
    a, b = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    return pseudo_header_sum(a, b, PROTO[kind], length)


def _network(spec: FlowSpec, family: int, source: str, target: str) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    proto = PROTO[kind_of(spec, family)]
    if family == 4:
        # DF with a constant id of 0 is allowed for packets that are never fragmented (RFC 6864).
        return IP(src=source, dst=target, tos=spec.dscp << 2, ttl=spec.ttl, id=0, flags="DF", proto=proto)
    return IPv6(src=source, dst=target, tc=spec.dscp << 2, hlim=spec.ttl, nh=proto)


def _transport(kind: int, port: int, room: int, session: int, error_estimate: int) -> Any:
    from scapy.layers.inet import ICMP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest
    from scapy.packet import Raw

    if kind == layout.ICMP4:
        return ICMP(type=8, id=0, seq=0) / Raw(cookie(session).ljust(room - sizes.ICMP_HEADER, b"\0"))
    if kind == layout.ICMP6:
        return ICMPv6EchoRequest(id=0, seq=0, data=cookie(session).ljust(room - sizes.ICMP_HEADER, b"\0"))
    if kind == layout.UDP_AUTH:
        content = struct.pack("!I12x8xHH84x", 0, error_estimate, session & 0xFFFF or 1)
        return UDP(sport=0, dport=port) / Raw(_with_padding(content, room - sizes.UDP_HEADER))
    if kind in (layout.UDP, layout.UDP_BASE):
        content = stamp_request(session, error_estimate, room - sizes.UDP_HEADER, report=kind == layout.UDP)
        # The class is built field by field: with port 862 Scapy would otherwise take the payload apart again.
        return UDP(sport=0, dport=port) / Raw(content)
    if kind == layout.TCP:
        content = cookie(session).ljust(room - sizes.TCP_HEADER, b"\0")
        return TCP(sport=0, dport=port, seq=0, ack=0, flags="PA", window=layout.PROBE_WINDOW) / Raw(content)
    return TCP(sport=0, dport=port, seq=0, flags="S", window=layout.PROBE_WINDOW, options=[("MSS", 1460)])


def cookie(session: int) -> bytes:
    """Our payload with sequence, time and compensator zero (layout.py)."""
    return struct.pack("!IBBHQQQ", layout.MAGIC, layout.VERSION, 0, 0, session, 0, 0)


def stamp_request(session: int, error_estimate: int, octets: int, *, report: bool) -> bytes:
    """A Session-Sender test packet, unauthenticated, sequence and timestamp zero (RFC 8762, section 4.2.1).

    Args:
        session: Our session number; its low 16 bits, never 0, are the SSID.
        error_estimate: Of our clock.
        octets: Length wanted, at least the base packet's.
        report: Whether to append our TLV, which asks our own reflector for its report.
    """
    packet = struct.pack("!IQHH28x", 0, 0, error_estimate, session & 0xFFFF or 1)
    if report:
        packet += struct.pack("!BBHQQHHI", TLV_UNKNOWN, TLV_REPORT, sizes.TLV_VALUE, session, 0, layout.VERSION, 0, 0)
        packet += bytes(sizes.REPORT)
    return _with_padding(packet, octets)


def _with_padding(packet: bytes, octets: int) -> bytes:
    """A STAMP packet made `octets` long by an Extra Padding TLV, if there is room for one (RFC 8972, section 4.1)."""
    padding = octets - len(packet)
    if padding >= sizes.TLV_HEADER:
        packet += struct.pack("!BBH", TLV_UNKNOWN, TLV_EXTRA_PADDING, padding - sizes.TLV_HEADER)
        packet += bytes(padding - sizes.TLV_HEADER)
    return packet
