"""Where fields stand: octets written from the RFCs, read through the record types."""

from __future__ import annotations

import numpy as np
import pytest

from probe.wire import layout

ETHERNET = "02 00 00 00 00 02  02 00 00 00 00 01  "
IPV4 = ETHERNET + (
    "08 00"
    "45 48 00 48"  # version and length of header, DSCP 18, total length 72
    "00 00 40 00"  # identification, DF
    "3f 11 12 34"  # TTL 63, UDP, checksum
    "c0 00 02 01"
    "c0 00 02 02"
)
IPV6 = ETHERNET + (
    "86 dd"
    "64 80 00 00"
    "00 34 11 3f"  # payload length 52, next header UDP, hop limit 63
    "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01"
    "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02"
)
UDP = "c0 00 03 5e 00 34 ab cd"  # ports 49152 and 862, length 52, checksum
# RFC 8762, section 4.2.1: what a Session-Sender sends, unauthenticated; SSID after RFC 8972, section 3.
STAMP_SENDER = (
    "00 00 00 2a"  # 0   Sequence Number
    "e6 8a 00 01 80 00 00 00"  # 4   Timestamp
    "85 87"  # 12  Error Estimate
    "12 34" + "00 " * 28  # 14  SSID  # 16  MBZ
)
# Section 4.3.1: what a Session-Reflector answers.
STAMP_REFLECTOR = (
    "00 00 00 07"  # 0   Sequence Number, its own
    "e6 8a 00 01 c0 00 00 00"  # 4   Timestamp T3
    "88 a8"  # 12  Error Estimate
    "12 34"  # 14  SSID
    "e6 8a 00 01 a0 00 00 00"  # 16  Receive Timestamp T2
    "00 00 00 2a"  # 24  Session-Sender Sequence Number
    "e6 8a 00 01 80 00 00 00"  # 28  Session-Sender Timestamp
    "85 87"  # 36  Session-Sender Error Estimate
    "00 00"  # 38  MBZ
    "3f"  # 40  Session-Sender TTL
    "00 00 00"  # 41  MBZ
)
# Section 4.3.2: the same, authenticated.
STAMP_AUTH_REFLECTOR = (
    "00 00 00 07"
    + "00 " * 12  # 0   Sequence Number, MBZ
    + "e6 8a 00 01 c0 00 00 00"  # 16  Timestamp
    "88 a8"  # 24  Error Estimate
    "12 34"  # 26  SSID
    "00 00 00 00"  # 28  MBZ
    "e6 8a 00 01 a0 00 00 00"  # 32  Receive Timestamp
    "00 00 00 00 00 00 00 00"  # 40  MBZ
    "00 00 00 2a"
    + "00 "
    * 12  # 48  Session-Sender Sequence Number, MBZ
    + "e6 8a 00 01 80 00 00 00"  # 64  Session-Sender Timestamp
    "85 87"  # 72  Session-Sender Error Estimate
    "00 00 00 00 00 00"  # 74  MBZ
    "3f"
    + "00 " * 15  # 80  Session-Sender TTL, MBZ
    + "99 " * 16  # 96  HMAC
)
TCP = (
    "c0 00 21 ac"  # ports 49152 and 8620
    "00 00 10 00"  # sequence number
    "00 00 20 00"  # acknowledgement number
    "50 18 ff ff"  # header of five words, PSH and ACK, window
    "ab cd 00 00"
)
COOKIE = (
    "68 61 70 72"  # "hapr"
    "01 00 00 ff"  # version, flags, compensator
    "01 02 03 04 05 06 07 08"  # session
    "00 00 00 01 00 00 00 2a"  # sequence
    "17 97 9c fe 36 2a 00 00"  # Unix time, ns
)
REPORT = (
    "00 00 00 0b"  # boot
    "00 00 00 0c"  # q
    "00 00 00 0d"  # gap total
    "00 00 00 0e"  # gap index
    "00 00 00 00 00 00 00 0f"  # gap start
    "80 00 00 01"  # gap length, FILLED
    "00 00 00 10"  # drops
    "00 00 00 00 00 00 00 00 00 00 ff ff c6 33 64 07"  # seen address
    "cf 0e 3d 00"  # seen port, seen TTL, spare
)
TLV = (
    "00 f0 00 4c"  # flags, type 240, length of value
    "01 02 03 04 05 06 07 08"  # session
    "00 00 00 01 00 00 00 2a"  # sequence
    "00 01 00 ff 00 00 00 00" + REPORT  # version, compensator, reserved
)
HEADERS = {4: IPV4, 6: IPV6}
RECORDED = {
    "boot": 11,
    "q": 12,
    "gap_total": 13,
    "gap_index": 14,
    "gap_start": 15,
    "gap_length": 0x80000001,
    "drops": 16,
    "seen_port": 53006,
    "seen_ttl": 61,
}


def record(text: str, name: str, family: int) -> np.ndarray:
    octets = bytes.fromhex(HEADERS[family] + text)
    dtype = layout.frame_dtype(name, family)
    return np.frombuffer(octets.ljust(dtype.itemsize, b"\0"), dtype, 1)[0]


def check(found: np.ndarray, **expected: int) -> None:
    assert {name: int(found[name]) for name in expected} == expected


@pytest.mark.parametrize("family", [4, 6])
def test_network(family):
    found = record(UDP, "network", family)
    check(found, eth_type=0x0800 if family == 4 else 0x86DD, proto=17, ttl=63)
    assert bytes(found["eth_dst"])[-1] == 2 and bytes(found["eth_src"])[-1] == 1
    assert bytes(found["src"])[-1] == 1 and bytes(found["dst"])[-1] == 2
    if family == 4:
        check(found, vihl=0x45, tos=0x48, ip_length=72, ip_id=0, ip_checksum=0x1234, src32=0xC0000201, dst32=0xC0000202)
    else:
        check(found, payload_length=52)


@pytest.mark.parametrize("family", [4, 6])
def test_stamp(family):
    base = {"sport": 49152, "dport": 862, "udp_length": 52, "checksum": 0xABCD}
    sender = {"stamp_seq": 42, "stamp_time": 0xE68A000180000000, "error_estimate": 0x8587, "ssid": 0x1234}
    for name in ("udp_base", "udp_sender"):
        check(record(UDP + STAMP_SENDER, name, family), **base, **sender)
    reflected = {
        "stamp_seq": 7,
        "stamp_time": 0xE68A0001C0000000,
        "error_estimate": 0x88A8,
        "ssid": 0x1234,
        "received_time": 0xE68A0001A0000000,
        "sender_seq": 42,
        "sender_time": 0xE68A000180000000,
        "sender_error": 0x8587,
        "sender_ttl": 63,
    }
    check(record(UDP + STAMP_REFLECTOR, "udp_base_reply", family), **base, **reflected)
    found = record(UDP + STAMP_REFLECTOR + TLV, "udp", family)
    check(found, **base, **reflected, tlv_flags=0, tlv_type=240, tlv_length=76, version=1, comp=255, **RECORDED)
    check(found, session=0x0102030405060708, sequence=(1 << 32) + 42)
    authenticated = record(UDP + STAMP_AUTH_REFLECTOR, "udp_auth_reply", family)
    check(authenticated, **base, **reflected)
    assert bytes(authenticated["hmac"]) == b"\x99" * 16


@pytest.mark.parametrize("family", [4, 6])
def test_tcp(family):
    times = "00 00 00 00 00 00 00 05" + "00 00 00 00 00 00 00 06"
    found = record(TCP + COOKIE + times + REPORT, "tcp", family)
    header = {"sport": 49152, "dport": 8620, "seq": 0x1000, "ack": 0x2000, "offset": 0x50, "flags": 0x18}
    check(found, **header, window=0xFFFF, checksum=0xABCD, magic=layout.MAGIC, comp=255, received_time=5, reply_time=6)
    check(found, session=0x0102030405060708, sequence=(1 << 32) + 42, sent=0x17979CFE362A0000, **RECORDED)
    check(record(TCP, "tcp_header", family), **header)


@pytest.mark.parametrize("family", [4, 6])
def test_icmp(family):
    # RFC 792: type, code, checksum, identifier, sequence number, data.
    found = record("08 00 ab cd 12 34 00 2a" + COOKIE, "icmp", family)
    check(found, type=8, code=0, checksum=0xABCD, id=0x1234, seq16=42, magic=layout.MAGIC, version=1, comp=255)
    check(found, sequence=(1 << 32) + 42)


def test_compensators_stand_at_even_offsets():
    # A word at an odd offset would be added with its octets swapped.
    for name in ("icmp", "udp", "udp_sender", "tcp"):
        for family in (4, 6):
            offset = layout.frame_dtype(name, family).fields["comp"][1]
            assert (offset - layout.l4_offset(family)) % 2 == 0


def test_unknown_layout():
    with pytest.raises(ValueError, match="no layout named 'sctp'"):
        layout.frame_dtype("sctp", 4)


def test_every_kind_has_a_name():
    kinds = [getattr(layout, name.upper()) for name in ("udp", "udp_base", "udp_auth", "tcp", "syn", "icmp4", "icmp6")]
    assert sorted(kinds) == list(range(len(layout.KIND_NAMES)))


def test_a_slot_as_octets():
    assert layout.raw_dtype(128).itemsize == 128
