"""What a sender makes of what it receives: replies of any STAMP reflector, and ICMP errors about its probes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.session.intake import ERROR_KINDS
from tests.wire import rfc

from .flow import KEY
from .intaking import NAMES, PROBES, Desk

MS, S = 1_000_000, 1_000_000_000
WALL_S = 1_700_000_000


# --- replies of other reflectors -------------------------------------------------------------------------------------


def answer(desk: Desk, name: str, number: int, times: tuple, error: int, tlvs: bytes | None = None) -> bytes:
    """A reply frame by the RFC: `times` are when the probe was received and sent back, as in the packet."""
    family = int(name[-1])
    probe = rfc.parse_udp_frame(desk.sent[name][number])
    received, sent = (struct.pack("!II", *stamp) for stamp in times)
    if name.startswith("udp_auth"):
        p = probe.payload
        head = (
            struct.pack("!I12x", number) + sent + struct.pack("!H", error) + p[26:28] + bytes(4) + received + bytes(8)
        )
        head += p[0:4] + bytes(12) + p[16:24] + p[24:26] + bytes(6) + b"\x40" + bytes(15)
        payload = head + rfc.signature(KEY, head)
    else:
        payload = rfc.reply(probe.payload, number, received, sent, error, 64)
        payload = payload if tlvs is None else payload[:44] + tlvs
    ends = (rfc.ADDRESSES[family][1], rfc.ADDRESSES[family][0])
    return rfc.udp_frame(family, payload, sport=862, dport=probe.ports[0], ends=ends)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("udp")])
@pytest.mark.parametrize(
    ("write", "error"),
    [(rfc.ntp, 0x8587), (rfc.ntp, 0x0001), (rfc.ptp, 0xC587), (rfc.ptp, 0x4001)],
    ids=["ntp", "ntp unsynchronised", "ptp", "ptp unsynchronised"],
)
@pytest.mark.parametrize("inside_ns", [0, 40, 600_000])
@pytest.mark.parametrize("second", [WALL_S, 2**32 - rfc.NTP_1970, 2**32])  # ordinary; NTP's era ends; PTP's ends
def test_the_time_inside_a_reflector_is_not_the_network_s(name, write, error, inside_ns, second):
    """Whichever format its Error Estimate says its timestamps have (RFC 8186, section 2.3)."""
    desk = Desk(name)
    came = second * 10**9 - 20
    desk.receive(answer(desk, name, 0, (write(came), write(came + inside_ns)), error), after_ns=1_000_000)
    assert desk.count(name, "received") == 1
    assert abs(int(desk.shared.flows["rtt_min"][desk.index[name]]) - (1_000_000 - inside_ns)) <= 2


@pytest.mark.parametrize(
    ("times", "error"),
    [
        ((rfc.ntp(WALL_S * 10**9), rfc.ntp(WALL_S * 10**9 - 5)), 0x8587),  # backwards
        ((rfc.ptp(WALL_S * 10**9), rfc.ptp(WALL_S * 10**9 - 5)), 0xC587),
        (((1, 10**9 - 10), (1, 10**9 + 10)), 0xC587),  # no such nanosecond
        (((1, 2**32 - 20), (1, 2**32 - 10)), 0xC587),
        (((1, 2**32 - 1), (2, 0)), 0xC587),
        (((0, 0), (2**31, 0)), 0xC587),
        (((0, 0), (0, 0)), 0x4001),
    ],
)
def test_timestamps_that_make_no_sense_take_nothing_off(times, error):
    desk = Desk("udp_base4")
    desk.receive(answer(desk, "udp_base4", 0, times, error), after_ns=1_000_000)
    assert desk.shared.flows["rtt_min"][desk.index["udp_base4"]] == 1_000_000


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kept", ["unknown", "cut off", "malformed", "same", "twamp"])
def test_a_reflector_may_do_as_it_likes_with_our_tlv(family, kept):
    """One of RFC 8762 copies it, one of RFC 8972 marks it, an older one of TWAMP sends it back in part."""
    desk = Desk()
    name = f"udp{family}"
    sent = rfc.parse_udp_frame(desk.sent[name][3]).payload[44:]
    tlvs = {"unknown": sent, "cut off": b"", "malformed": b"\xc0" + sent[1:], "same": sent, "twamp": b""}[kept]
    frame = answer(desk, name, 3, (rfc.ntp(0), rfc.ntp(5)), 1, tlvs)
    if kept == "twamp":  # RFC 5357, section 4.2.1: 41 octets, padding is left to the reflector
        ends = (rfc.ADDRESSES[family][1], rfc.ADDRESSES[family][0])
        reply = rfc.parse_udp_frame(frame)
        frame = rfc.udp_frame(family, reply.payload[:41], sport=862, dport=reply.ports[1], ends=ends)
    desk.receive(frame)
    assert (desk.count(name, "received"), desk.count(name, "corrupt"), desk.foreign) == (1, 0, 0)
    assert desk.told == []  # no report, so nothing about a translation either


def test_a_reply_that_claims_more_than_has_come_is_corrupt():
    desk = Desk()
    frame = answer(desk, "udp4", 0, ((1, 0), (1, 0)), 1)
    without = frame[:40] + bytes(2) + frame[42:]  # no checksum, which would tell
    desk.receive(without, without[:-30])
    assert (desk.count("udp4", "received"), desk.count("udp4", "corrupt"), desk.count("udp4", "duplicate")) == (1, 1, 0)


@pytest.mark.parametrize("octets", range(9))
def test_a_packet_that_ends_within_its_udp_header_is_corrupt(octets):
    desk = Desk("udp4")
    frame = bytearray(rfc.udp_frame(4, b"", sport=862, dport=desk.ids["udp4"], no_checksum=True))[: 34 + octets]
    frame[16:18] = struct.pack("!H", 20 + octets)
    desk.receive(bytes(frame))
    assert desk.count("udp4", "received") == 0


def test_no_reply_comes_before_its_probe_whatever_the_clocks_say():
    """The arrival is stamped on another clock than the TX time; their conversion errs by fractions of a microsecond."""
    desk = Desk()
    came = []
    desk.intake._on_replies = lambda _flow, _sequence, at, *_: came.extend(at.tolist())
    sent = desk.clock.mono
    desk.receive(answer(desk, "udp_base4", 0, ((WALL_S, 0), (WALL_S, 0)), 1), after_ns=-300)
    assert came == [sent + 1]
    assert desk.shared.flows["rtt_min"][desk.index["udp_base4"]] == 1


def test_the_ttl_of_the_last_reply_is_kept():
    desk = Desk("udp4", "udp_base4")
    reply = bytearray(answer(desk, "udp_base4", 0, ((WALL_S, 0), (WALL_S, 0)), 1))
    desk.receive(bytes(reply))
    assert desk.table.peer_ttl.tolist() == [0, reply[22]]
    later = bytearray(answer(desk, "udp_base4", 1, ((WALL_S, 0), (WALL_S, 0)), 1))
    later[22] = 77
    desk.receive(bytes(later))
    assert desk.table.peer_ttl.tolist() == [0, 77]


# --- up to when all is in --------------------------------------------------------------------------------------------

LAG = 50 * MS  # in which a ring hands over what came


def turns(desk: Desk, *gaps_ns: int) -> list[int]:
    """So much later each time, the ring is emptied: how far behind everything is known to be in then, ns."""
    behind = []
    for gap in gaps_ns:
        desk.clock.advance(gap)
        desk.intake.drain([desk.link.receiver])
        behind.append(desk.clock.mono - desk.intake.drained_to)
    return behind


@pytest.fixture
def lagging():
    desk = Desk("udp4")
    desk.link.receiver.lag_ns = LAG
    turns(desk, *[20 * MS] * 5)
    return desk


def test_all_that_came_before_the_ring_s_lag_is_in(lagging):
    assert turns(lagging, 20 * MS, 1 * MS, LAG) == [LAG] * 3


@pytest.mark.parametrize("stood", [LAG + 1, S, 3600 * S])
def test_after_a_pause_the_ring_has_time_to_catch_up(lagging, stood):
    """The machine may have stood still, and what it had just received is handed over in its own time."""
    begun = lagging.clock.mono
    for gap in (stood, 10 * MS, 10 * MS, 10 * MS, 10 * MS, 9 * MS):
        turns(lagging, gap)
        assert lagging.intake.drained_to <= begun
    assert turns(lagging, 1 * MS, 20 * MS) == [LAG] * 2


@pytest.mark.parametrize("runs", [(), (20,), (5, 5)])
@pytest.mark.parametrize("stands", [60, 95, 1000])
def test_where_pauses_come_again_and_again_what_came_long_before_is_in(lagging, runs, stands):
    """As they do where a container may use a part of a processor."""
    period = [stands * MS, *(ms * MS for ms in runs)]
    behind = turns(lagging, *period * 100)
    assert max(behind) <= 6 * sum(period)
    assert min(behind) >= LAG


# --- ICMP errors -----------------------------------------------------------------------------------------------------

ERRORS = {4: [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0)], 6: [(1, 0), (1, 3), (1, 4), (3, 0), (2, 0)]}
ROUTER = {4: ("198.51.100.9", "192.0.2.1"), 6: ("2001:db8:ff::9", "2001:db8::1")}
IP_OCTETS = {4: 20, 6: 40}


def icmp_error(family: int, kind: int, code: int, quote: bytes, padded: bool = False) -> bytes:
    """From a router that is neither end. With `padded`, the quote is 128 octets long (RFC 4884, section 3)."""
    quote = quote.ljust(128, b"\0") if padded else quote
    words = bytes((0, 128 // (4 if family == 4 else 8), 0, 0)) if padded else bytes(4)
    if padded and family == 6:
        words = bytes((128 // 8, 0, 0, 0))
    body = struct.pack("!BBH", kind, code, 0) + words + quote
    header, pseudo = rfc.network(family, 1 if family == 4 else 58, body, ends=ROUTER[family])
    told = rfc.checksum(body if family == 4 else pseudo + body)
    body = body[:2] + struct.pack("!H", told) + body[4:]
    return rfc.MACS + struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + header + body


@pytest.mark.parametrize("name", NAMES)
def test_an_icmp_error_is_its_flow_s(name):
    """Of every kind and code, however much is quoted: at least 8 octets of what follows the IP header (RFC 792)."""
    family = int(name[-1])
    desk = Desk()
    whole = desk.sent[name][7][14:]
    least = IP_OCTETS[family] + 8
    frames = [icmp_error(family, *error, whole) for error in ERRORS[family]]
    cuts = sorted({least, least + 1, least + 15, least + 16, least + 17, len(whole) - 1})
    frames += [icmp_error(family, *ERRORS[family][0], whole[:cut]) for cut in cuts if cut <= len(whole)]
    frames.append(icmp_error(family, *ERRORS[family][0], whole[:128], padded=True))
    desk.receive(*frames)
    assert desk.errors() == {name: len(frames)}
    assert desk.foreign == 0 and desk.count(name, "received") == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_quote_that_the_way_changed_is_still_its_flow_s(name):
    """TTL, DSCP, checksums, and addresses that a translator has put in place of ours or of the target's."""
    family = int(name[-1])
    desk = Desk()
    quote = bytearray(desk.sent[name][0][14:])
    if family == 4:
        quote[1], quote[8], quote[10:12], quote[12:20] = 0xB8, 1, b"\xde\xad", bytes(range(8))
    else:
        quote[1], quote[7], quote[8:40] = 0x70, 1, bytes(range(32))
    desk.receive(icmp_error(family, *ERRORS[family][0], bytes(quote)))
    assert desk.errors() == {name: 1}


@pytest.mark.parametrize("name", NAMES)
def test_a_quote_with_too_little_is_nobody_s(name):
    family = int(name[-1])
    desk = Desk()
    whole = desk.sent[name][0][14:]
    frames = [icmp_error(family, *ERRORS[family][0], whole[:cut]) for cut in range(IP_OCTETS[family] + 6)]
    desk.receive(*frames)
    assert desk.errors() == {} and desk.foreign == len(frames)


def _edited(quote: bytes, *edits: tuple[int, bytes]) -> bytes:
    out = bytearray(quote)
    for at, octets in edits:
        out[at : at + len(octets)] = octets
    return bytes(out)


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("udp4", [(20, b"\x12\x34")]),  # another's port
        ("udp6", [(40, b"\x12\x34")]),
        ("udp4", [(9, b"\x84")]),  # SCTP
        ("udp4", [(6, b"\x00\x10")]),  # a later fragment has no ports
        ("udp4", [(6, b"\x20\x01")]),
        ("udp4", [(0, b"\x41"), (4, b"\xc3\x52")]),  # a header shorter than there is; 50,002 is the flow's port
        ("udp4", [(0, b"\x65")]),
        ("udp6", [(0, b"\x40")]),
        ("udp4", [(9, b"\x06")]),  # our UDP port, but TCP
        ("udp4", [(9, b"\x3a")]),
        ("icmp4", [(20, b"\0")]),  # about an echo reply that this host's kernel sent
        ("icmp6", [(40, b"\x81")]),
        ("icmp4", [(28, b"ping")]),  # somebody else's echo with our identifier
        ("icmp4", [(36, b"\0\1")]),
        ("icmp6", [(48, b"ping")]),
    ],
)
def test_a_quote_of_what_is_not_ours_is_nobody_s(name, edits):
    family = int(name[-1])
    desk = Desk()
    desk.receive(icmp_error(family, *ERRORS[family][0], _edited(desk.sent[name][0][14:], *edits)))
    assert desk.errors() == {} and desk.foreign == 1


def test_a_quote_of_the_other_family_is_nobody_s():
    desk = Desk()
    desk.receive(icmp_error(4, 3, 1, _edited(desk.sent["udp4"][0][14:], (20, struct.pack("!H", desk.ids["udp6"])))))
    desk.receive(icmp_error(6, 1, 0, desk.sent["udp4"][0][14:].ljust(80, b"\0")))
    assert desk.errors() == {} and desk.foreign == 2


@pytest.mark.parametrize(("family", "kind"), [(4, 4), (4, 5), (4, 12), (4, 1), (6, 4), (6, 11), (6, 136)])
def test_other_messages_are_no_errors(family, kind):
    desk = Desk()
    desk.receive(icmp_error(family, kind, 0, desk.sent[f"udp{family}"][0][14:]))
    assert desk.errors() == {} and desk.foreign == 1


def test_a_damaged_error_counts_for_nobody():
    desk = Desk("udp4")
    frame = icmp_error(4, 3, 1, desk.sent["udp4"][0][14:44])
    desk.receive(frame[:50] + b"\xff" + frame[51:])
    assert desk.errors() == {}


@pytest.mark.parametrize("name", ["icmp4", "udp6", "tcp4"])
def test_errors_about_a_kept_flow_are_told_once_a_second_of_each_kind(name):
    family = int(name[-1])
    desk = Desk(name)
    whole = desk.sent[name][0][14:]
    one, other = (icmp_error(family, *error, whole) for error in ERRORS[family][:2])
    at = desk.clock.mono
    for frames in ([one, one, other], [one, other], []):
        desk.receive(*frames, after_ns=600_000_000)
    desk.receive(one, after_ns=1_000_000)
    told = list(desk.told)
    kinds = [(e["type"], e["code"]) for e in told]
    assert kinds == [*ERRORS[family][:2], ERRORS[family][0]]
    assert [e["at_ns"] - at for e in told] == [600_000_000, 600_000_000, 1_801_000_000]
    assert {(e["flow"], e["from"], e["peer_ttl"]) for e in told} == {(0, ROUTER[family][0], 0)}
    assert {e["ttl"] for e in told} == {one[22 if family == 4 else 21]}
    # However many kinds somebody makes up, only so many are told.
    desk.receive(*(icmp_error(family, ERRORS[family][0][0], code, whole) for code in range(100, 200)))
    assert {e["event"] for e in desk.told} == {"icmp_error"} and len(desk.told) == 3 + ERROR_KINDS - 2


def test_errors_about_a_fresh_flow_are_counted_alone():
    desk = Desk("udp4")
    desk.table.per_id[0] = 1
    desk.receive(icmp_error(4, 3, 13, desk.sent["udp4"][0][14:]))
    assert desk.errors() == {"udp4": 1} and desk.told == []


# --- anything --------------------------------------------------------------------------------------------------------

_desk = Desk()
_frames = [frame for frames in _desk.sent.values() for frame in frames[:1]]
_replies = [answer(_desk, name, 1, ((1, 2), (3, 4)), 0xC001) for name in NAMES if name.startswith("udp")]
_errors = [icmp_error(int(n[-1]), *ERRORS[int(n[-1])][0], _desk.sent[n][0][14:]) for n in NAMES]


@settings(deadline=None)
@given(st.data())
def test_any_frame_is_taken_in(data):
    """A malformed frame is counted, never raised."""
    desk = Desk(*data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)))
    frames = []
    for _ in range(data.draw(st.integers(1, 4))):
        frame = bytearray(data.draw(st.sampled_from(_frames + _replies + _errors) | st.binary(max_size=200)))
        for at, octet in data.draw(st.lists(st.tuples(st.integers(12, 250), st.integers(0, 255)), max_size=6)):
            if at < len(frame):
                frame[at] = octet
        if data.draw(st.booleans()) and len(frame) > 70 and frame[23] == 17:
            frame[40:42] = b"\0\0"
        frames.append(bytes(frame)[: data.draw(st.just(len(frame)) | st.integers(0, len(frame)))])
    desk.receive(*frames)
    for name in desk.index:
        assert desk.count(name, "received") <= PROBES and desk.count(name, "duplicate") <= len(frames)
