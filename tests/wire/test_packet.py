from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from probe.wire.packet import set_network_length, transport_sum

# Both addresses are given: Scapy would ask the network for what is missing.
MAC = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FRAMES = {
    "icmp": MAC / IP(src="192.0.2.1", dst="192.0.2.2") / ICMP() / Raw(b"payload"),
    "udp": MAC / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / Raw(b"odd"),
    "tcp": MAC / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="PA") / Raw(b"payload"),
    "icmp6": MAC / IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(data=b"payload"),
    "udp6": MAC / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / Raw(b"odd"),
    "tcp6": MAC / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(flags="S"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_right_packet_sums_to_nothing(name):
    frame = bytes(FRAMES[name])
    assert transport_sum(frame, 6 if name.endswith("6") else 4) == 0
    broken = frame[:-1] + bytes([frame[-1] ^ 1])
    assert transport_sum(broken, 6 if name.endswith("6") else 4) != 0


@pytest.mark.parametrize("octets", [8, 20, 33, 1480])
def test_the_header_fits_the_transport_part(octets):
    packet = bytearray(bytes(MAC / IP(src="192.0.2.1", dst="198.51.100.2", tos=8, ttl=3) / Raw(b"x" * 99)))
    set_network_length(packet, 4, octets)
    header = IP(bytes(packet[14:34]))
    right = IP(bytes(packet[14:34]))
    del right.chksum
    assert header.len == 20 + octets and header.chksum == IP(bytes(right)).chksum

    packet = bytearray(bytes(MAC / IPv6(src="2001:db8::1", dst="2001:db8::2") / Raw(b"x" * 99)))
    set_network_length(packet, 6, octets)
    assert IPv6(bytes(packet[14:54])).plen == octets
