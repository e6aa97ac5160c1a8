from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from probe.wire.dissect import CHECKSUM_NOT_READY, Batch, address_text, frame_ends, icmp_error, intact, split

MAC = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
SLOT = 256  # octets of a row
FRAMES = [
    MAC / V4 / UDP(sport=862, dport=5000) / Raw(b"even"),
    MAC / V6 / UDP(sport=862, dport=5000) / Raw(b"odd"),
    MAC / V4 / ICMP(type=0, id=9, seq=1) / Raw(b"seven.."),
    MAC / V4 / TCP(flags="PA") / Raw(b"data"),
    MAC / V6 / ICMPv6EchoReply(id=9, seq=1, data=b"seven.."),
    MAC / V6 / TCP(flags="SA", options=[("MSS", 1460)]),
    MAC / V4 / UDP(sport=862, dport=5000) / Raw(b"odd"),
    MAC / ARP(psrc="192.0.2.1", pdst="192.0.2.2", hwsrc="02:00:00:00:00:01"),
]


def slots(frames: list[bytes], octets: int = SLOT) -> np.ndarray:
    """A ring's slots: what a frame does not fill holds an older one's octets."""
    raw = np.full((len(frames), octets), 0xEE, np.uint8)
    for row, frame in zip(raw, frames, strict=True):
        row[: min(len(frame), octets)] = np.frombuffer(frame[:octets], np.uint8)
    return raw


def judge(frames: list[bytes], kept: int = SLOT, status: int = 0) -> list[tuple[int, bool]]:
    octets = slots(frames)
    verdicts = []
    for batch in split(octets):
        n = len(batch.rows)
        have = np.array([min(len(frames[row]), kept) for row in batch.rows], np.int32)
        good = intact(octets, batch, frame_ends(batch, octets), np.full(n, status, np.uint32), have)
        verdicts += zip(batch.rows.tolist(), good.tolist(), strict=True)
    return sorted(verdicts)


def test_frames_are_sorted_by_family_and_protocol():
    found = {(b.family, b.proto): b.rows.tolist() for b in split(slots([bytes(f) for f in FRAMES]))}
    assert found == {(4, 17): [0, 6], (4, 1): [2], (4, 6): [3], (6, 17): [1], (6, 58): [4], (6, 6): [5]}


def test_nothing_of_ours():
    assert split(slots([bytes(FRAMES[-1])])) == []


def test_where_a_packet_ends_is_told_by_its_header_and_not_by_padding():
    # A short frame is padded to 60 octets on Ethernet.
    frame = bytes(FRAMES[6])
    batch = Batch(4, 17, np.array([0]))
    assert frame_ends(batch, slots([frame.ljust(60, b"\xdd")])).tolist() == [14 + 20 + 8 + 3]
    assert judge([frame.ljust(60, b"\xdd")]) == [(0, True)]


def test_scapy_s_frames_are_intact():
    frames = [bytes(f) for f in FRAMES[:-1]]
    assert judge(frames) == [(n, True) for n in range(7)]
    assert judge(frames * 20) == [(n, True) for n in range(140)]


@pytest.mark.parametrize("row", range(7))
def test_a_flipped_bit_is_seen_wherever_it_is(row):
    frame = bytes(FRAMES[row])
    l4 = 34 if FRAMES[row].haslayer(IP) else 54
    addresses = range(26, 34) if l4 == 34 and not FRAMES[row].haslayer(ICMP) else range(0)
    for place in [*addresses, *range(l4, len(frame))]:
        broken = bytearray(frame)
        broken[place] ^= 0x10
        assert judge([bytes(broken), frame])[0] == (0, False), place


def test_udp_without_a_checksum():
    # RFC 768: zero says that there is none; in IPv6 that is not allowed (RFC 8200, section 8.1).
    four, six = (bytes(MAC / ip / UDP(sport=1, dport=2, chksum=0) / Raw(b"data")) for ip in (V4, V6))
    assert judge([four, six]) == [(0, True), (1, False)]


@pytest.mark.parametrize("octets", range(8))
def test_a_packet_that_ends_within_its_transport_header(octets):
    for ip in (V4, V6):
        whole = bytes(MAC / ip / UDP(sport=0x1234, dport=862, chksum=0))
        l4 = len(whole) - 8
        frame = bytearray(whole[: l4 + octets])
        at, length = (16, 20 + octets) if ip is V4 else (18, octets)
        frame[at : at + 2] = length.to_bytes(2, "big")
        judged = judge([bytes(frame)])
        assert [row for row, _ in judged] == [0] and (octets == 0 or not judged[0][1])


def test_what_cannot_be_judged_passes():
    broken = bytearray(bytes(FRAMES[0]))
    broken[-1] ^= 1
    assert judge([bytes(broken)]) == [(0, False)]
    assert judge([bytes(broken)], status=CHECKSUM_NOT_READY) == [(0, True)]  # a local sender left it to a card
    long = bytes(MAC / V4 / UDP(sport=1, dport=2) / Raw(b"x" * 400))
    assert judge([long]) == [(0, True)]  # longer than what is kept
    cut = bytearray(bytes(FRAMES[0]))
    cut[-1] ^= 1
    assert judge([bytes(cut)], kept=len(cut) - 1) == [(0, True)]


@pytest.mark.parametrize("octets", [55, 64, 65, 71, 72])
def test_any_size_will_do(octets):
    frame = bytes(MAC / V4 / UDP(sport=1, dport=2) / Raw(b"x" * (octets - 42)))
    assert len(frame) == octets and judge([frame], octets) == [(0, True)]


@given(st.binary(min_size=20, max_size=200), st.sampled_from([b"\x08\x00", b"\x86\xdd"]))
def test_garbage_does_no_harm(content, eth_type):
    frame = bytes(12) + eth_type + content
    judge([frame, bytes(FRAMES[0])])
    for family in (4, 6):
        icmp_error(frame, family)


@pytest.mark.parametrize(
    ("frame", "family", "expected"),
    [
        (MAC / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3, code=3) / V4 / UDP(sport=777, dport=862), 4,
         (3, 3, "192.0.2.9", 17, 777)),
        (MAC / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=11) / V4 / TCP(sport=778, dport=22), 4,
         (11, 0, "192.0.2.9", 6, 778)),
        (MAC / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3, code=13) / V4 / ICMP(id=779), 4,
         (3, 13, "192.0.2.9", 1, 779)),
        (MAC / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3)
         / IP(src="192.0.2.1", dst="192.0.2.2", options=[b"\x01\x01\x01\x01"]) / UDP(sport=780), 4,
         (3, 0, "192.0.2.9", 17, 780)),
        (MAC / IPv6(src="2001:db8::9", dst="2001:db8::1") / ICMPv6DestUnreach(code=4) / V6 / UDP(sport=781), 6,
         (1, 4, "2001:db8::9", 17, 781)),
        (MAC / IPv6(src="2001:db8::9", dst="2001:db8::1") / ICMPv6TimeExceeded() / V6 / TCP(sport=782), 6,
         (3, 0, "2001:db8::9", 6, 782)),
        (MAC / IPv6(src="2001:db8::9", dst="2001:db8::1") / ICMPv6PacketTooBig(mtu=1280) / V6 / UDP(sport=783), 6,
         (2, 0, "2001:db8::9", 17, 783)),
    ],
)  # fmt: skip
def test_an_icmp_error_names_the_packet_it_is_about(frame, family, expected):
    error = icmp_error(bytes(frame), family)
    assert (error.type, error.code, address_text(error.source), error.proto, error.number) == expected


def test_an_icmp_error_cut_short_is_none():
    whole = bytes(MAC / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3, code=3) / V4 / UDP(sport=777))
    shortest = next(n for n in range(len(whole)) if icmp_error(whole[:n], 4) is not None)
    # Not before the source port is there; routers must quote eight octets (RFC 792), of which we need less.
    assert 14 + 20 + 8 + 20 + 2 <= shortest <= 14 + 20 + 8 + 20 + 8


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_addresses_as_people_write_them(address):
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    assert address_text(address.packed) == str(address)


def test_a_mapped_address_is_written_as_ipv4():
    assert address_text(ipaddress.ip_address("::ffff:198.51.100.7").packed) == "198.51.100.7"


@pytest.mark.parametrize("status", [0, CHECKSUM_NOT_READY])
@pytest.mark.parametrize(
    ("number", "length"), [(0, 0), (0, 20), (0, 27), (2, 0), (2, 20), (2, 27), (3, 0), (3, 20), (3, 39)]
)
def test_a_packet_that_ends_within_its_transport_header_is_not_intact(number, length, status):
    frame = bytearray(bytes(FRAMES[number]))
    frame[16:18] = length.to_bytes(2, "big")
    assert judge([bytes(frame)], status=status) == [(0, False)]
