"""Small things done to a whole frame at event rate: lengths, header checksums, sums of the transport part."""

from __future__ import annotations

from probe.wire import layout
from probe.wire.checksum import pseudo_header_sum, word_sum


def set_network_length(packet: bytearray, family: int, transport_octets: int) -> None:
    """Make the IP header fit a transport part of that length: length field, and checksum for IPv4."""
    if family == 4:
        packet[16:18] = (20 + transport_octets).to_bytes(2, "big")
        packet[24:26] = b"\0\0"
        packet[24:26] = (0xFFFF - word_sum(bytes(packet[14:34])) % 0xFFFF).to_bytes(2, "big")
    else:
        packet[18:20] = transport_octets.to_bytes(2, "big")


def transport_sum(packet: bytes, family: int) -> int:
    """Word sum, modulo 65535, of the pseudo-header and the transport part of a frame as it stands."""
    l4 = layout.l4_offset(family)
    source, target = (packet[26:30], packet[30:34]) if family == 4 else (packet[22:38], packet[38:54])
    proto = packet[23] if family == 4 else packet[20]
    pseudo = 0 if proto == layout.IPPROTO_ICMP else pseudo_header_sum(source, target, proto, len(packet) - l4)
    return (pseudo + word_sum(packet[l4:])) % 0xFFFF
