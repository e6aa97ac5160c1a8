from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from probe.link.bpf import JEQ, LD_B, Assembler, flag_filter, probe_filter

from .cbpf import Skb, run

SNAP = 190
E4 = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="10.0.0.2", dst="10.0.0.1")
E6 = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IPv6(src="fd00::2", dst="fd00::1")
FILTER = probe_filter(
    udp_ports=[(61000, 61009), (62000, 62000)],
    tcp_ports=range(63000, 63010),
    icmp_ids=[(7, 9)],
    udp_reflect=862,
    tcp_reflect=8620,
    snaplen=SNAP,
)


def skb(packet: Packet, **metadata: int) -> Skb:
    data = bytes(packet)
    return Skb(data, protocol=int.from_bytes(data[12:14], "big"), **metadata)


ACCEPTED = {
    "udp, lowest port": E4 / UDP(dport=61000),
    "udp, highest port": E4 / UDP(dport=61009),
    "udp, second range": E4 / UDP(dport=62000),
    "udp to the reflector": E4 / UDP(dport=862),
    "udp6": E6 / UDP(dport=61005),
    "udp6 to the reflector": E6 / UDP(dport=862),
    "tcp, lowest port": E4 / TCP(dport=63000, flags="SA"),
    "tcp, highest port": E4 / TCP(dport=63009, flags="R"),
    "tcp to the reflector": E4 / TCP(dport=8620, flags="S"),
    "tcp6": E6 / TCP(dport=63001),
    "tcp6 to the reflector": E6 / TCP(dport=8620),
    "echo reply": E4 / ICMP(type=0, id=7),
    "echo reply, highest id": E4 / ICMP(type=0, id=9),
    "echo reply 6": E6 / ICMPv6EchoReply(id=8),
    "unreachable": E4 / ICMP(type=3, code=3) / IPerror(dst="10.0.0.9") / UDPerror(sport=61000),
    "time exceeded": E4 / ICMP(type=11) / IPerror(dst="10.0.0.9") / UDPerror(sport=1),
    "too big 6": E6 / ICMPv6PacketTooBig(mtu=1280) / Raw(bytes(40)),
    "unreachable 6": E6 / ICMPv6DestUnreach() / Raw(bytes(40)),
    "time exceeded 6": E6 / ICMPv6TimeExceeded() / Raw(bytes(40)),
    "first and only fragment, DF": Ether() / IP(dst="10.0.0.1", flags="DF") / UDP(dport=61000),
}
DROPPED = {
    "udp below": E4 / UDP(dport=60999),
    "udp above": E4 / UDP(dport=61010),
    "udp between": E4 / UDP(dport=61999),
    "udp from the port, not to it": E4 / UDP(sport=61000, dport=53),
    "udp to a tcp port": E4 / UDP(dport=63000),
    "tcp to a udp port": E4 / TCP(dport=61000),
    "tcp above": E4 / TCP(dport=63010),
    "tcp6 elsewhere": E6 / TCP(dport=22),
    "echo request": E4 / ICMP(type=8, id=7),
    "echo reply of another": E4 / ICMP(type=0, id=10),
    "echo request 6": E6 / ICMPv6EchoRequest(id=8),
    "echo reply 6 of another": E6 / ICMPv6EchoReply(id=6),
    "redirect": E4 / ICMP(type=5) / IPerror() / UDPerror(),
    "neighbour solicitation": E6 / ICMPv6ND_NS(),
    "arp": Ether() / ARP(),
    "other protocol": Ether() / IP(dst="10.0.0.1", proto=47) / Raw(bytes(40)),
    "later fragment": Ether() / IP(dst="10.0.0.1", frag=1) / UDP(dport=61000),
    "more fragments": Ether() / IP(dst="10.0.0.1", flags="MF") / UDP(dport=61000),
    "ip options": Ether() / IP(dst="10.0.0.1", options=b"\x01\x01\x01\x00") / UDP(dport=61000),
    "ipv6 extension header": E6 / IPv6ExtHdrDestOpt() / UDP(dport=61000),
    "not version 4": Ether(type=0x0800) / Raw(b"\x65" + bytes(E4[IP] / UDP(dport=61000))[1:]),
    "truncated": Ether(type=0x0800) / Raw(bytes(E4[IP] / UDP(dport=61000))[:23]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name):
    assert run(FILTER, skb(ACCEPTED[name])) == SNAP


@pytest.mark.parametrize("name", DROPPED)
def test_drops(name):
    assert run(FILTER, skb(DROPPED[name])) == 0


@pytest.mark.parametrize(
    ("octets", "passes"), [(59, False), (60, True), (100, True), (190, True), (191, False), (1500, False)]
)
def test_only_frames_of_some_lengths(octets, passes):
    program = probe_filter(udp_reflect=862, snaplen=1600, shortest=60, longest=190)
    frame = skb(E4 / UDP(dport=862) / Raw(bytes(octets - 42)))
    assert len(frame.data) == octets and run(program, frame) == (1600 if passes else 0)


@pytest.mark.parametrize(
    "metadata",
    [{"vlan_tag_present": 1, "vlan_tag": 0xE005}, {"pkttype": 3}, {"pkttype": 4}, {"hatype": 65534}],
    ids=str,
)
def test_drops_by_metadata(metadata):
    assert run(FILTER, skb(ACCEPTED["udp, lowest port"], **metadata)) == 0


@pytest.mark.parametrize("priority", range(8))
def test_a_tag_of_priority_alone_is_no_vlan(priority):
    assert run(FILTER, skb(ACCEPTED["udp6"], vlan_tag_present=1, vlan_tag=priority << 13)) == SNAP
    assert run(FILTER, skb(DROPPED["udp above"], vlan_tag_present=1, vlan_tag=priority << 13)) == 0


def test_loopback_counts_as_ethernet():
    assert run(FILTER, skb(ACCEPTED["udp, lowest port"], hatype=772)) == SNAP


@pytest.mark.parametrize("head", [E4, E6], ids=["4", "6"])
def test_flags_of_tcp_from_some_ports(head):
    program = flag_filter(0x07, [(7, 8), (443, 443)], SNAP)

    def passes(packet: Packet, **metadata: int) -> bool:
        whole = skb(head / packet)
        return run(program, Skb(whole.data[14:], whole.protocol, **metadata)) == SNAP

    assert all(passes(TCP(sport=port, dport=1, flags=flags)) for port in (7, 8, 443) for flags in ("R", "FA", "SA"))
    assert not any(passes(TCP(sport=7, dport=1, flags=flags)) for flags in ("A", "PA", "U"))
    assert not any(passes(TCP(sport=port, dport=7, flags="R")) for port in (6, 9, 444))
    assert not passes(TCP(sport=7, dport=1, flags="R"), pkttype=3)
    assert not passes(UDP(sport=7, dport=1) / Raw(bytes([0xFF] * 20)))


@pytest.mark.parametrize("name", [*ACCEPTED, *DROPPED])
def test_one_program_for_interfaces_with_and_without_ethernet_header(name):
    frame = skb(ACCEPTED.get(name) or DROPPED[name])
    for hatype in (65534, 65535, 512, 768, 778, 823):  # none, void, PPP, IPIP, GRE, GRE over IPv6
        packet = Skb(frame.data[14:], frame.protocol, hatype=hatype)
        assert run(FILTER, packet) == (SNAP if name in ACCEPTED else 0)
        assert run(FILTER, Skb(frame.data, frame.protocol, hatype=hatype)) == 0


@pytest.mark.parametrize(
    ("octets", "passes"), [(59, False), (60, True), (100, True), (190, True), (191, False), (1500, False)]
)
def test_lengths_count_the_header_that_is_not_there(octets, passes):
    program = probe_filter(udp_reflect=862, snaplen=1600, shortest=60, longest=190)
    frame = skb(E4 / UDP(dport=862) / Raw(bytes(octets - 42)))
    assert run(program, Skb(frame.data[14:], frame.protocol, hatype=65534)) == (1600 if passes else 0)


@pytest.mark.parametrize("name", ["udp, lowest port", "tcp6", "echo reply", "unreachable 6"])
def test_with_an_ethernet_header_only(name):
    program = probe_filter(
        udp_ports=range(61000, 61010), tcp_ports=[(63001, 63001)], icmp_ids=[(7, 7)], snaplen=99, link_octets=14
    )
    frame = skb(ACCEPTED[name])
    assert run(program, frame) == run(program, skb(ACCEPTED[name], hatype=772)) == 99
    assert run(program, Skb(frame.data[14:], frame.protocol, hatype=65534)) == 0


@pytest.mark.parametrize("name", ["udp, lowest port", "tcp6", "echo reply", "unreachable 6"])
def test_without_ethernet_header_only(name):
    program = probe_filter(
        udp_ports=range(61000, 61010), tcp_ports=[(63001, 63001)], icmp_ids=[(7, 7)], snaplen=99, link_octets=0
    )
    frame = skb(ACCEPTED[name])
    assert run(program, Skb(frame.data[14:], frame.protocol, hatype=65534)) == 99
    assert run(program, Skb(frame.data[14:], frame.protocol, hatype=1)) == 0


def test_a_reflector_alone_hears_no_icmp():
    program = probe_filter(udp_reflect=862, snaplen=SNAP)
    assert run(program, skb(E4 / UDP(dport=862))) == SNAP
    for name in ("unreachable", "time exceeded 6", "echo reply", "tcp, lowest port", "udp, lowest port"):
        assert run(program, skb(ACCEPTED[name])) == 0


def test_nothing_wanted_drops_all():
    program = probe_filter(snaplen=SNAP)
    assert not any(run(program, skb(packet)) for packet in ACCEPTED.values())


@given(
    ranges=st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 300)), max_size=80),
    port=st.integers(0, 65535),
    version=st.sampled_from([E4, E6]),
)
def test_ranges_mean_what_they_say(ranges, port, version):
    pairs = [(low, min(low + length, 65535)) for low, length in ranges]
    program = probe_filter(udp_ports=pairs, tcp_ports=pairs, icmp_ids=pairs, snaplen=SNAP)
    wanted = any(low <= port <= high for low, high in pairs)
    for transport in (UDP(dport=port), TCP(dport=port)):
        assert bool(run(program, skb(version / transport))) == wanted


def test_too_many_ranges():
    with pytest.raises(ValueError, match="too many port ranges"):
        probe_filter(udp_ports=[(port, port) for port in range(1000, 1600, 2)], snaplen=SNAP)


@pytest.mark.parametrize("bad", [(5, 4), (-1, 4), (0, 65536)])
def test_bad_range(bad):
    with pytest.raises(ValueError, match="from 0 to 65535"):
        probe_filter(udp_ports=[bad], snaplen=SNAP)


def test_assembler_refuses_a_long_jump():
    asm = Assembler()
    asm.jump(JEQ, 1, yes="drop")
    for _ in range(256):
        asm.load(LD_B, 0)
    asm.finish(1)
    with pytest.raises(ValueError, match="jump of 256"):
        asm.assemble()
