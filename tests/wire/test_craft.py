"""Templates, with Scapy as the judge of what they are."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from probe.core.events import FlowSpec
from probe.wire import layout, sizes
from probe.wire.craft import COMPENSATED, cookie, flow_template, kind_of, stamp_request
from probe.wire.packet import transport_sum

SOURCE = {4: "192.0.2.1", 6: "2001:db8::1"}
TARGET = {4: "198.51.100.7", 6: "2001:db8:1::7"}
KINDS = {
    "icmp": {"protocol": "icmp", "port": 0},
    "udp": {"protocol": "udp"},
    "udp_base": {"protocol": "udp", "size": 72},
    "udp_auth": {"protocol": "udp", "key_file": "/etc/key"},
    "tcp": {"protocol": "tcp"},
    "syn": {"protocol": "tcp", "session": "fresh"},
}
ERROR = 0x8587


def spec(name: str, **more: Any) -> FlowSpec:
    fields = {"session": "kept", "port": 8620, "dscp": 46, "ttl": 9, **KINDS[name], **more}
    return FlowSpec("a", path="p", target="t", rate_pps=1000.0, **fields)


def build(name: str, family: int, session: int = 0x0123456789ABCDEF, **more: Any):
    return flow_template(
        spec(name, **more),
        source=SOURCE[family],
        target=TARGET[family],
        source_mac=bytes.fromhex("020000000001"),
        target_mac=bytes.fromhex("020000000002"),
        session=session,
        error_estimate=ERROR,
    )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", KINDS)
def test_scapy_reads_back_what_was_asked_for(name, family):
    template = build(name, family)
    assert template.family == family
    frame = Ether(template.frame)
    assert (frame.src, frame.dst) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    network = frame[IP if family == 4 else IPv6]
    assert (network.src, network.dst) == (SOURCE[family], TARGET[family])
    if family == 4:
        assert (network.ttl, network.tos >> 2, network.id, str(network.flags)) == (9, 46, 0, "DF")
        assert network.len == len(template.frame) - 14
        right = IP(template.frame[14:])
        del right.chksum
        assert network.chksum == IP(bytes(right)).chksum
    else:
        assert (network.hlim, network.tc >> 2, network.plen) == (9, 46, len(template.frame) - 54)
    transport = {"icmp": ICMP if family == 4 else ICMPv6EchoRequest, "tcp": TCP, "syn": TCP}.get(name, UDP)
    inner = frame[transport]
    if transport is UDP:
        assert (inner.sport, inner.dport, inner.len) == (0, 8620, len(bytes(inner)))
    elif transport is TCP:
        assert (inner.sport, inner.dport, inner.seq, inner.window) == (0, 8620, 0, 65535)
        assert str(inner.flags) == ("PA" if name == "tcp" else "S")
        assert inner.dataofs == (5 if name == "tcp" else 6)
    else:
        assert (inner.type, inner.code, inner.id, inner.seq) == ((8 if family == 4 else 128), 0, 0, 0)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", KINDS)
def test_the_checksum_is_final_or_left_to_the_engine(name, family):
    template = build(name, family)
    assert template.kind == kind_of(spec(name), family)
    if template.kind in COMPENSATED:
        assert transport_sum(template.frame, family) == 0
        packet = (IP if family == 4 else IPv6)(template.frame[14:])
        field = "cksum" if name == "icmp" and family == 6 else "chksum"
        told = getattr(packet.payload, field)
        delattr(packet.payload, field)
        assert getattr(type(packet)(bytes(packet)).payload, field) == told
    else:
        dtype = layout.frame_dtype("tcp_header" if name == "syn" else "udp_base", family)
        offset = dtype.fields["checksum"][1]
        assert template.frame[offset : offset + 2] == b"\0\0"
        assert transport_sum(template.frame, family) == template.rest


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [300, 301, 1400])
def test_padding_grows_the_packet_and_keeps_it_right(name, family, size):
    template = build(name, family, size=size)
    if name != "syn":
        # The size is that of an IPv4 packet; in IPv6 the same payload has a longer header.
        assert len(template.frame) == 14 + size + (20 if family == 6 else 0)
    if template.kind in COMPENSATED:
        assert transport_sum(template.frame, family) == 0


def test_a_syn_stays_small_whatever_the_size():
    assert len(build("syn", 4, size=1400).frame) == 14 + 20 + 24


def test_kinds():
    assert [kind_of(spec(n), 4) for n in KINDS] == [
        layout.ICMP4,
        layout.UDP,
        layout.UDP_BASE,
        layout.UDP_AUTH,
        layout.TCP,
        layout.SYN,
    ]
    assert kind_of(spec("icmp"), 6) == layout.ICMP6


def test_port_862_is_no_exception():
    # Scapy knows that port's protocol and must not take our payload apart to build it anew.
    assert build("udp", 4, port=862).frame[42:] == build("udp", 4).frame[42:]


def test_stamp_as_rfc_8762_draws_it():
    packet = stamp_request(0x1122334455667788, ERROR, 44, report=False)
    assert packet == bytes.fromhex(
        "00 00 00 00"  # Sequence Number
        "00 00 00 00 00 00 00 00"  # Timestamp
        "85 87"  # Error Estimate
        "77 88" + "00 " * 28  # SSID  # MBZ
    )


def test_a_session_number_that_ends_in_zeros_has_an_ssid_all_the_same():
    # An SSID of zero means that there is none (RFC 8972, section 3).
    assert struct.unpack_from("!H", stamp_request(0x1234_0000, ERROR, 44, report=False), 14) == (1,)


def test_tlvs_are_marked_unknown_and_fill_the_packet():
    # RFC 8972, section 4: the sender sets U = 0x80; the reflector clears it if it understands the TLV.
    packet = stamp_request(7, ERROR, sizes.UDP_PAYLOAD + 20, report=True)
    assert len(packet) == sizes.UDP_PAYLOAD + 20
    tlvs, at = [], 44
    while at < len(packet):
        flags, kind, length = struct.unpack_from("!BBH", packet, at)
        tlvs.append((flags, kind, length))
        at += 4 + length
    assert at == len(packet)
    assert tlvs == [(0x80, 240, sizes.TLV_VALUE), (0x80, 1, 16)]


def test_our_payload():
    assert cookie(0x0102030405060708) == bytes.fromhex("68617072 01000000 0102030405060708") + bytes(16)


def test_the_session_tells_flows_apart():
    assert build("icmp", 4, session=1).frame != build("icmp", 4, session=2).frame
