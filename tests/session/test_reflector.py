"""The reflector as STAMP's and TWAMP's senders see it, byte for byte (RFC 8762, RFC 8972 section 3, RFC 5357)."""

from __future__ import annotations

import errno
import random
import socket
import struct
from ipaddress import ip_address

import pytest
from scapy.contrib import stamp as scapy_stamp
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from probe.border import Channel
from probe.session.ours import KEPT_NS
from probe.session.reflector import run
from tests.wire import rfc

from .reflecting import ESTIMATE, WALL, Bench

KEY = b"0123456789abcdef"
SENT = WALL - 5_000_000


def payloads(frames: list[bytes]) -> list[bytes]:
    return [rfc.parse_udp_frame(frame).payload for frame in frames]


def ask(bench: Bench, *requests: bytes, family: int = 4, **more) -> list[bytes]:
    return payloads(bench.answers(*(rfc.udp_frame(family, r, **more) for r in requests)))


@pytest.mark.parametrize("family", [4, 6])
def test_a_reply_to_a_stamp_sender_byte_for_byte(family):
    bench = Bench()
    request = rfc.request(7, rfc.ntp(SENT), error=0x8587, ssid=0xBEEF)
    [frame] = bench.answers(rfc.udp_frame(family, request, tos=0x48, ttl=61))
    back = rfc.parse_udp_frame(frame)
    here, there = rfc.ADDRESSES[family]
    assert (back.ends, back.ports) == ((there, here), (862, 40_000))
    assert back.macs == rfc.MACS[6:] + rfc.MACS[:6]
    assert (back.ttl, back.tos) == (255, 0x48)
    got = rfc.Reply.parse(back.payload)
    received, sent = (rfc.unix_ns(stamp) for stamp in (got.received, got.sent))
    assert (received, sent) == (WALL, WALL + 1000)
    stamps = {name: struct.pack("!II", *getattr(got, name)) for name in ("received", "sent")}
    assert back.payload == rfc.reply(request, 0, error=ESTIMATE, ttl=61, **stamps)
    assert (got.ssid, got.sender_error, got.sender_sequence, got.sender_ttl) == (0xBEEF, 0x8587, 7, 61)


def test_replies_are_numbered_in_a_session_of_their_own():
    bench = Bench()
    assert [rfc.Reply.parse(r).sequence for r in ask(bench, *(rfc.request(n, (0, 0)) for n in (5, 9, 6)))] == [0, 1, 2]
    [reply] = ask(bench, rfc.request(10, (0, 0)))
    assert (rfc.Reply.parse(reply).sequence, rfc.Reply.parse(reply).sender_sequence) == (3, 10)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("other", ["port", "ssid", "source", "target"])
def test_a_session_is_addresses_port_and_ssid(family, other):
    # RFC 8972, section 3; a reflector may have several addresses.
    bench = Bench()
    one, two = rfc.ADDRESSES[family]
    third = {4: "192.0.2.3", 6: "2001:db8::3"}[family]
    changed = {
        "port": {"sport": 40_001},
        "ssid": {},
        "source": {"ends": (third, two)},
        "target": {"ends": (one, third)},
    }[other]
    plain, tagged = rfc.request(0, (0, 0), ssid=1), rfc.request(0, (0, 0), ssid=2 if other == "ssid" else 1)
    frames = [rfc.udp_frame(family, plain), rfc.udp_frame(family, tagged, **changed)]
    numbers = [rfc.Reply.parse(p).sequence for p in payloads(bench.answers(*frames, *frames, frames[0]))]
    assert numbers == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ask_for", [1, 30])
def test_what_is_only_passed_on_is_left_alone(family, ask_for):
    """A router sees the probes of others, to other reflectors, with its own MAC address."""
    bench = Bench()
    here, there = rfc.ADDRESSES[family]
    further = {4: "192.0.2.77", 6: "2001:db8::77"}[family]
    bench.elsewhere = {ip_address(further).packed}
    to = [there, further] * ask_for
    frames = [rfc.udp_frame(family, rfc.request(n, (0, 0)), ends=(here, end)) for n, end in enumerate(to)]
    assert bench.answers(*(frame for frame, end in zip(frames, to, strict=True) if end == further)) == []
    replies = [rfc.Reply.parse(p).sender_sequence for p in payloads(bench.answers(*frames))]
    assert replies == [n for n, end in enumerate(to) if end == there]


@pytest.mark.parametrize("many", [1, 30])
def test_what_is_said_of_our_clock_is_what_is_known_of_it_now(many):
    bench = Bench()
    requests = [rfc.request(n, (0, 0)) for n in range(many)]
    assert {rfc.Reply.parse(p).error for p in ask(bench, *requests)} == {ESTIMATE}
    bench.reflector.tell_clock(0x1234, 0)
    assert {rfc.Reply.parse(p).error for p in ask(bench, *requests)} == {0x1234}


def test_the_control_process_tells_it_between_two_packets_or_many():
    """A reflector that is never idle listens as well."""
    bench, said = Bench(), [{"error_estimate": 0x1234, "sync_source": 0}]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Channel(theirs).send(said[0])
        seen: list[int] = []

        def enough() -> bool:
            seen.extend(rfc.Reply.parse(payload).error for payload in payloads([f for _, f in bench.outward.arrived()]))
            bench.inward.carry(rfc.udp_frame(4, rfc.request(len(seen), (0, 0))))
            bench.clock.advance(1000)
            return 0x1234 in seen or len(seen) > 1000

        run(bench.reflector, Channel(ours), [], enough)
    assert seen[0] == ESTIMATE and seen[-1] == 0x1234


def test_an_address_that_has_come_is_found():
    bench = Bench()
    there = rfc.ADDRESSES[4][1]
    bench.elsewhere = {ip_address(there).packed}
    assert ask(bench, rfc.request(0, (0, 0))) == []
    bench.elsewhere = set()
    assert ask(bench, rfc.request(1, (0, 0))) == [], "not asked again yet"
    bench.clock.advance(KEPT_NS)
    assert len(ask(bench, rfc.request(2, (0, 0)))) == 1


def test_an_interface_that_has_gone_meanwhile_costs_a_reply_and_no_more():
    bench = Bench()
    outward, bench.transmitter_on = bench.transmitter_on, gone
    assert ask(bench, rfc.request(0, (0, 0))) == []
    assert ask(bench, *(rfc.request(n, (0, 0)) for n in range(1, 30))) == []
    bench.transmitter_on = outward
    assert len(ask(bench, rfc.request(30, (0, 0)))) == 1


def gone(_ifindex: int, _octets: int) -> None:
    raise OSError(errno.ENXIO, "No such device or address")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("octets", [0, 1, 2, 27, 29])
def test_a_twamp_sender_with_little_padding_gets_the_base_packet(family, octets):
    """RFC 8762, section 4.6; 27 octets are what RFC 5357 recommends, and make both directions 41 octets long."""
    bench = Bench()
    padding = random.Random(octets).randbytes(octets)
    request = rfc.twamp_request(3, rfc.ntp(SENT), 0x8587, padding)
    [reply] = ask(bench, request, family=family)
    got = rfc.Reply.parse(reply)
    stamps = {name: struct.pack("!II", *getattr(got, name)) for name in ("received", "sent")}
    assert reply == rfc.reply(request, 0, error=ESTIMATE, ttl=61, **stamps) and len(reply) == 44
    assert rfc.unix_ns(got.sender_sent) in (SENT, SENT - 1)


@pytest.mark.parametrize("octets", [30, 41, 100, 999])
def test_a_twamp_sender_with_more_gets_as_much_back(octets):
    bench = Bench()
    request = rfc.twamp_request(3, rfc.ntp(SENT), 1, bytes(octets))
    [reply] = ask(bench, request)
    assert len(reply) == len(request) == 14 + octets
    got = rfc.Reply.parse(reply)
    assert (got.sequence, got.sender_sequence, got.ssid, got.mbz) == (0, 3, 0, bytes(5))
    # Zeros are a chain of TLVs of a type that nobody knows; nothing but flags is touched.
    assert bytes(octet & ~(rfc.U | rfc.M) for octet in got.rest) == request[44:]


@pytest.mark.parametrize("octets", [0, 1, 27, 41])
def test_padding_of_twamp_is_no_ssid(octets):
    """Padding may differ from packet to packet (RFC 5357, section 4.1.2); what is not there is no number at all."""
    bench = Bench()
    rng = random.Random(1)
    numbers = []
    for n in range(40):
        request = rfc.twamp_request(n, (1, 2), 1, rng.randbytes(octets))
        [reply] = ask(bench, request)
        numbers.append(rfc.Reply.parse(reply).sequence)
        bench.inward.receiver.stale = rng.randbytes(bench.inward.receiver.slot_octets)
    assert numbers == list(range(40))


@pytest.mark.parametrize("octets", range(14))
def test_less_than_twamp_s_least_is_not_answered(octets):
    assert ask(Bench(), bytes(octets)) == []


def test_a_sender_may_use_either_format_and_ours_is_told_by_our_own_estimate():
    """RFC 8762, section 4.2.1: each side chooses; the Z bit of an Error Estimate covers the packet's own timestamps."""
    bench = Bench()
    for stamp, error in ((rfc.ptp(SENT), 0xC587), (rfc.ntp(SENT), 0x8587)):
        [reply] = ask(bench, rfc.request(0, stamp, error))
        got = rfc.Reply.parse(reply)
        assert got.error == ESTIMATE and not got.error & rfc.Z_BIT
        assert abs(rfc.unix_ns(got.sent, got.error) - bench.clock.wall) <= 1
        assert (got.sender_sent, got.sender_error) == (stamp, error)
        assert abs(rfc.unix_ns(got.sender_sent, got.sender_error) - SENT) <= 1


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tail", [b"", rfc.tlv(1, bytes(20))])
def test_an_authenticated_reply_byte_for_byte(family, tail):
    bench = Bench(key=KEY)
    request = rfc.signed_request(KEY, 9, rfc.ptp(SENT), error=0xC587, ssid=0x1234, tlvs=tail)
    [reply] = ask(bench, request, family=family)
    got = rfc.Reply.parse_signed(reply, KEY)
    assert (got.sequence, got.sender_sequence, got.ssid, got.sender_error, got.sender_ttl) == (0, 9, 0x1234, 0xC587, 61)
    assert got.sender_sent == rfc.ptp(SENT) and got.error == ESTIMATE
    assert got.mbz == bytes(len(got.mbz)) and len(got.mbz) == 12 + 4 + 8 + 12 + 6 + 15
    assert (rfc.unix_ns(got.received), rfc.unix_ns(got.sent)) == (WALL, WALL + 1000)
    assert len(reply) == len(request) and got.rest == tail.replace(b"\x80", b"\0", 1)


@pytest.mark.parametrize("place", [0, 5, 27, 60, 95, 96, 111])
def test_a_changed_octet_is_not_answered(place):
    packet = bytearray(rfc.signed_request(KEY, 9, rfc.ntp(SENT)))
    packet[place] ^= 1
    assert ask(Bench(key=KEY), bytes(packet)) == []
    assert ask(Bench(key=KEY), rfc.signed_request(b"another key of ours", 9, rfc.ntp(SENT))) == []
    assert ask(Bench(key=KEY), rfc.request(9, rfc.ntp(SENT), tlvs=bytes(80))) == []


def test_what_scapy_s_stamp_layer_asks_is_answered_and_understood():
    """An independent implementation of the base packets. Its TLV flags are the wrong way round, so none are sent."""
    bench = Bench()
    asked = scapy_stamp.STAMPSessionSenderTestUnauthenticated(
        seq=77, ts=3_971_000_000.25, ssid=0x4321, err_estimate=scapy_stamp.ErrorEstimate(S=1, scale=5, multiplier=135)
    )
    ethernet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    frame = bytes(ethernet / IP(src="192.0.2.1", dst="192.0.2.2", ttl=33) / UDP(sport=40_000, dport=862) / asked)
    [reply] = bench.answers(frame)
    told = Ether(reply)[scapy_stamp.STAMPSessionReflectorTestUnauthenticated]
    assert (told.seq, told.ssid, told.seq_sender, told.ttl_sender) == (0, 0x4321, 77, 33)
    assert (told.err_estimate.S, told.err_estimate.Z) == (1, 0)
    assert (told.err_estimate.scale, told.err_estimate.multiplier) == (ESTIMATE >> 8 & 0x3F, ESTIMATE & 0xFF)
    assert (told.err_estimate_sender.scale, told.err_estimate_sender.multiplier) == (5, 135)
    assert (told.mbz1, told.mbz2) == (0, 0) and float(told.ts_sender) == 3_971_000_000.25
    for stamp, wall in ((told.ts_rx, WALL), (told.ts, WALL + 1000)):
        assert abs(float(stamp) - rfc.NTP_1970 - wall / 1e9) < 1e-5
    # Built again from what Scapy understood, it is the same packet but for the last bits of its fractions.
    again = bytes(told)
    assert again[:4] == reply[42:46] and again[12:16] == reply[54:58] and again[24:28] == reply[66:70]


def test_a_header_that_claims_more_than_has_come_is_not_answered():
    """The rest of the slot holds what others sent. IPv4 may do without the checksum that would tell."""
    frame = rfc.udp_frame(4, rfc.request(1, (0, 0), tlvs=rfc.tlv(1, bytes(60))), no_checksum=True)
    assert len(Bench().answers(frame)) == 1
    assert Bench().answers(frame[:-40]) == []


def test_longer_frames_than_are_kept_whole_are_not_answered():
    bench = Bench()
    longest = rfc.request(1, (0, 0), tlvs=rfc.tlv(1, bytes(1492 - 48)))
    assert [len(r) for r in ask(bench, longest)] == [1492]
    assert ask(bench, rfc.request(1, (0, 0), tlvs=rfc.tlv(1, bytes(1493 - 48)))) == []


@pytest.mark.parametrize("octets", range(9))
def test_a_packet_that_ends_within_its_udp_header_is_not_answered(octets):
    frame = bytearray(rfc.udp_frame(4, b"", no_checksum=True))[: 34 + octets]
    frame[16:18] = struct.pack("!H", 20 + octets)
    assert Bench().answers(bytes(frame)) == Bench(key=KEY).answers(bytes(frame)) == []


@pytest.mark.parametrize("off", [-1, 1])
def test_a_datagram_that_disagrees_about_its_length_is_not_answered(off):
    frame = bytearray(rfc.udp_frame(4, rfc.request(1, (0, 0)), no_checksum=True))
    frame[38:40] = struct.pack("!H", 52 + off)
    assert Bench().answers(bytes(frame)) == []


def test_a_sequence_beyond_all_bounds_ends_nothing():
    """Our own TLV with numbers that no arithmetic of 64 bits can follow."""
    bench = Bench()
    for sequence in (0, 1 << 63, (1 << 64) - 1, 5, 1 << 62, (1 << 62) - 1, 6, 1 << 63):
        value = struct.pack("!QQHHI", 77, sequence, 1, 0, 0) + bytes(52)
        probe = rfc.udp_frame(4, rfc.request(0, (0, 0), tlvs=rfc.tlv(240, value)))
        assert len(bench.answers(probe, probe)) == 2


@pytest.mark.parametrize("family", [4, 6])
def test_nor_does_it_in_tcp(family):
    bench = Bench()
    l4 = 34 if family == 4 else 54
    [accepted] = bench.answers(rfc.tcp_frame(family, 0x02, 100, 0))
    ours = struct.unpack_from("!I", accepted, l4 + 4)[0]
    assert len(bench.answers(rfc.tcp_frame(family, 0x10, 101, ours + 1))) == 1
    seq = 101
    for sequence, replies in ((0, 1), (1 << 63, 0), (1, 1), ((1 << 64) - 1, 0), (2, 1)):
        data = struct.pack("!IBBHQQQ", 0x68617072, 1, 0, 0, 77, sequence, 0) + bytes(16 + 52)
        assert len(bench.answers(rfc.tcp_frame(family, 0x18, seq, ours + 1, data))) == replies
        seq += len(data)
