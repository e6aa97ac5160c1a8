"""Chains of TLVs as a Session-Reflector answers them (RFC 8972, section 4)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.session import tlv as tlv_module
from probe.wire.tlv import SYNC_FREE_RUNNING, SYNC_NTP, SYNC_PTP, SYNC_UNKNOWN
from tests.wire import rfc
from tests.wire.rfc import I, M, U, parse_tlvs, tlv

from .reflecting import WALL, Bench

PADDING, LOCATION, TIMESTAMPS, COS, DIRECT, ACCESS, FOLLOW_UP, HMAC, REPORT = 1, 2, 3, 4, 5, 6, 7, 8, 240
KEY = b"0123456789abcdef"
OURS = tlv(REPORT, struct.pack("!QQHHI", 77, 0, 1, 0, 0) + bytes(52))


def answered(bench: Bench, chain: bytes, *, family: int = 4, sequence: int = 0, **more) -> tuple[rfc.Datagram, bytes]:
    """The reply to a request with these TLVs, and its own."""
    [frame] = bench.answers(rfc.udp_frame(family, rfc.request(sequence, (0, 0), ssid=9, tlvs=chain), **more))
    back = rfc.parse_udp_frame(frame)
    assert len(back.payload) == 44 + len(chain)
    return back, back.payload[44:]


@pytest.mark.parametrize("lead", [b"", OURS])
@pytest.mark.parametrize("padding", [0, 1, 7, 300])
def test_extra_padding_is_understood(lead, padding):
    content = bytes(range(256))[:padding]
    _, back = answered(Bench(), lead + tlv(PADDING, content))
    assert back[len(lead) :] == tlv(PADDING, content, flags=0)


@pytest.mark.parametrize("lead", [b"", OURS])
@pytest.mark.parametrize("octets", [1, 3, 4, 29, 1300])
@pytest.mark.parametrize("key", [b"", KEY])
def test_zeros_of_a_sender_without_extensions_come_back_as_they_are(lead, octets, key):
    """RFC 8762, section 4.6. Its padding is no chain of hundreds of TLVs, each of which would take its time."""
    bench = Bench()
    bench.reflector._extensions._key = key
    bench.reflector._extensions._walk = lambda *_: pytest.fail("looked at one by one")
    if not (lead and key):
        _, back = answered(bench, lead + bytes(octets))
        assert back[len(lead) :] == bytes(octets)


@pytest.mark.parametrize("kind", [0, LOCATION, DIRECT, ACCESS, HMAC, 9, 11, 12, 175, 239, 241, 252, 255])
@pytest.mark.parametrize("flags", [U, 0, U | 0x1F])
def test_what_is_not_understood_comes_back_with_u(kind, flags):
    # Reserved flags are not passed on (section 4). A sender sets U itself; one that did not is told all the same.
    value = bytes(range(1, 17))
    _, back = answered(Bench(), tlv(kind, value, flags) + tlv(PADDING, b"xy", flags) + tlv(kind, value, flags))
    assert parse_tlvs(back) == [(U, kind, value), (0, PADDING, b"xy"), (U, kind, value)]


@pytest.mark.parametrize(
    "value", [OURS[4:-1], OURS[4:] + b"\0", OURS[4:20] + b"\0\2" + OURS[22:], OURS[4:12] + b"\xff" + OURS[13:]]
)
def test_an_experiment_of_somebody_else_s_is_not_taken_for_ours(value):
    # Of another length, version, or with a sequence that no probe has: the type is free for anyone's experiment.
    _, back = answered(Bench(), tlv(REPORT, value))
    assert parse_tlvs(back) == [(U, REPORT, value)]


def test_our_report_and_others_behind_it():
    _, back = answered(Bench(), OURS + tlv(COS, bytes(4)) + tlv(99, b"a"))
    report, service, unknown = parse_tlvs(back)
    assert report[:2] == (0, REPORT) and report[2][8:16] == bytes(8)
    assert struct.unpack_from("!II", report[2], 24)[1] == 0  # the first reply
    assert service[:2] == (0, COS) and unknown == (U, 99, b"a")


@pytest.mark.parametrize("lead", [b"", OURS, tlv(PADDING, b"ab"), tlv(99, b"abc")])
@pytest.mark.parametrize(
    "bad",
    [
        tlv(PADDING, b"abc", length=4),
        tlv(99, b"", length=65_535),
        tlv(COS, bytes(4), length=5),
        tlv(COS, bytes(3)) + tlv(99, b"abc"),  # fits, but no Class of Service is that long: what follows is guesswork
        tlv(COS, bytes(5)) + tlv(99, b"abc"),
        tlv(TIMESTAMPS, bytes(3)),
        tlv(FOLLOW_UP, bytes(15)) + tlv(PADDING, b"a"),
        tlv(HMAC, bytes(20)),
        bytes((U,)),
        bytes((U, PADDING)),
        bytes((U, PADDING, 0)),
    ],
)
def test_a_chain_that_makes_no_sense_is_marked_where_it_stops_making_sense(lead, bad):
    _, back = answered(Bench(), lead + bad)
    assert back[len(lead) :] == bytes((bad[0] | M,)) + bad[1:]
    if lead:
        assert back[0] == (U if lead[1] == 99 else 0)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tos", [0, 0x01, 0x4A, 0xB8, 0xFF])
@pytest.mark.parametrize("wanted", [0, 8, 46, 63])
def test_class_of_service(family, tos, wanted):
    """Section 4.4: the reply tells what the request arrived with, and is sent with the class that was asked for."""
    asked = struct.pack("!I", wanted << 26 | 0x03FFFFFF)  # what the sender must leave zero does not come back
    back, chain = answered(Bench(), tlv(COS, asked), family=family, tos=tos)
    told = struct.pack("!I", wanted << 26 | (tos >> 2) << 20 | (tos & 3) << 18)
    assert chain == tlv(COS, told, flags=0)
    assert back.tos == wanted << 2 | tos & 3
    other, _ = answered(Bench(), tlv(PADDING, bytes(4)), family=family, tos=tos)
    assert other.tos == tos


@pytest.mark.parametrize("source", [SYNC_NTP, SYNC_PTP, SYNC_FREE_RUNNING])
def test_timestamp_information(source):
    _, back = answered(Bench(sync_source=source), tlv(TIMESTAMPS, b"\xff" * 4) + tlv(TIMESTAMPS, b"\xff" * 6))
    told = bytes((source, 2, source, 2))
    assert back == tlv(TIMESTAMPS, told, flags=0) + tlv(TIMESTAMPS, told + b"\xff\xff", flags=0)


def test_a_reflector_that_does_not_know_what_its_clock_follows_does_not_make_it_up():
    _, back = answered(Bench(sync_source=SYNC_UNKNOWN), tlv(TIMESTAMPS, bytes(4)))
    assert back == tlv(TIMESTAMPS, bytes(4))


def test_follow_up_telemetry_tells_of_the_reply_before():
    """Section 4.7: its number, and when it left; zeros while there is none."""
    bench = Bench()
    chain = tlv(FOLLOW_UP, b"\xff" * 16)
    _, first = answered(bench, chain)
    assert first == tlv(FOLLOW_UP, bytes(16), flags=0)
    for number in range(3):
        left = rfc.ntp(bench.clock.wall)
        _, back = answered(bench, chain, sequence=number + 1)
        told = struct.unpack("!III", back[4:16])
        assert told[0] == number and told[1] == left[0] and abs(told[2] - left[1]) <= 1
        assert back[16:20] == b"\2\0\0\0"
    _, other = answered(bench, chain, sport=40_001)
    assert other == first


def test_a_reply_that_could_not_be_sent_is_not_told_of():
    bench = Bench()
    chain = tlv(FOLLOW_UP, bytes(16))
    answered(bench, chain)
    bench.outward.sender.fail_next(0, "send_error")
    assert bench.answers(rfc.udp_frame(4, rfc.request(1, (0, 0), ssid=9, tlvs=chain))) == []
    _, back = answered(bench, chain, sequence=2)
    assert back[4:8] == bytes(4) and back[8:16] != bytes(8)


def test_memory_of_follow_ups_is_bounded(monkeypatch):
    monkeypatch.setattr(tlv_module, "MAX_FOLLOWED", 3)
    bench = Bench()
    chain = tlv(FOLLOW_UP, bytes(16))
    fresh = answered(bench, chain)[1]
    assert [answered(bench, chain, sport=port)[1] == fresh for port in (1, 2, 40_000, 3, 40_000, 1)] == [
        True,
        True,
        False,
        True,
        False,
        True,  # made room for port 3
    ]


def test_a_batch_of_all_kinds_keeps_them_apart():
    chains = [
        b"",
        OURS,
        OURS + tlv(PADDING, b"abc"),
        tlv(99, b"a"),
        tlv(PADDING, b"ab"),
        tlv(COS, bytes(4)),
        OURS + b"\x80",
    ]
    alone = [answered(Bench(), chain, tos=0x48)[1] for chain in chains]
    frames = [rfc.udp_frame(4, rfc.request(0, (0, 0), ssid=n, tlvs=chain), tos=0x48) for n, chain in enumerate(chains)]
    together = [rfc.parse_udp_frame(frame).payload[44:] for frame in Bench().answers(*frames)]
    for chain, one, other in zip(chains, alone, together, strict=True):
        own = 80 if chain.startswith(OURS) else 0  # the report differs: one session, and a boot number
        assert one[own:] == other[own:]


@pytest.mark.parametrize("tail", [b"", tlv(PADDING), tlv(PADDING, bytes(700))])
@pytest.mark.parametrize("lead", [b"", OURS])
def test_requests_of_our_own_kind_are_not_walked_one_by_one(monkeypatch, lead, tail):
    monkeypatch.setattr(tlv_module, "chain", None)
    _, back = answered(Bench(), lead + tail)
    assert back[len(lead) :] == tail.replace(b"\x80", b"\0", 1)


# --- authenticated ---------------------------------------------------------------------------------------------------


def signed_chain(tlvs: bytes, sequence: int = 3, behind: bytes = b"", key: bytes = KEY) -> bytes:
    return tlvs + tlv(HMAC, rfc.signature(key, struct.pack("!I", sequence) + tlvs)) + behind


def answered_signed(chain: bytes, sequence: int = 3, **more) -> tuple[rfc.Reply, rfc.Datagram]:
    request = rfc.signed_request(KEY, sequence, (0, 0), ssid=9, tlvs=chain)
    bench = Bench(key=KEY, **more)
    bench.answers(rfc.udp_frame(4, rfc.signed_request(KEY, sequence, (0, 0), ssid=9)))  # the next is number 1
    [frame] = bench.answers(rfc.udp_frame(4, request, tos=0x48))
    back = rfc.parse_udp_frame(frame)
    assert len(back.payload) == len(request)
    return rfc.Reply.parse_signed(back.payload, KEY), back


@pytest.mark.parametrize("behind", [b"", tlv(PADDING, b"abc")])
def test_signed_tlvs_are_answered_and_signed_again(behind):
    """Section 4.8: the HMAC covers the reply's own Sequence Number and the TLVs as they are now."""
    reply, back = answered_signed(
        signed_chain(tlv(COS, b"\xb8\0\0\0") + tlv(99, b"a"), behind=behind), sync_source=SYNC_NTP
    )
    tlvs = tlv(COS, struct.pack("!I", 46 << 26 | 18 << 20), flags=0) + tlv(99, b"a")
    signature = rfc.signature(KEY, struct.pack("!I", 1) + tlvs)
    assert reply.rest == tlvs + tlv(HMAC, signature, flags=0) + behind.replace(b"\x80", b"\0")
    assert reply.sequence == 1 and back.tos == 46 << 2


COS_TLV = tlv(COS, b"\xb8\0\0\0")


@pytest.mark.parametrize(
    "chain",
    [
        COS_TLV,  # not signed at all
        signed_chain(COS_TLV, sequence=4),
        signed_chain(COS_TLV, key=b"another key of ours"),
        signed_chain(COS_TLV).replace(b"\xb8", b"\xb9"),
        signed_chain(b"", behind=COS_TLV),  # not the last
        signed_chain(COS_TLV) + signed_chain(b""),
    ],
)
def test_tlvs_that_are_not_genuine_are_marked_and_not_acted_upon(chain):
    reply, back = answered_signed(chain)
    assert back.tos == 0x48
    assert parse_tlvs(reply.rest) == [(U | I, kind, value) for _, kind, value in parse_tlvs(chain)]


def test_a_signature_that_cannot_be_found_is_a_wrong_one():
    reply, _ = answered_signed(COS_TLV + tlv(99, b"", length=9) + signed_chain(b"")[:8])
    flags = [flags for flags, _, _ in parse_tlvs(reply.rest)]
    assert flags == [U | I, U | I | M]


def test_padding_needs_no_signature():
    reply, _ = answered_signed(tlv(PADDING, b"abc") + tlv(PADDING, b"d"))
    assert parse_tlvs(reply.rest) == [(0, PADDING, b"abc"), (0, PADDING, b"d")]


# --- anything --------------------------------------------------------------------------------------------------------

values = st.binary(max_size=24)
tlvs = st.builds(
    tlv,
    st.sampled_from([PADDING, TIMESTAMPS, COS, FOLLOW_UP, HMAC, REPORT]) | st.integers(0, 255),
    values | st.sampled_from([bytes(4), bytes(16), OURS[4:]]),
    st.integers(0, 255),
    st.none() | st.integers(0, 80) | st.just(65_535),
)
chains = st.builds(
    lambda lead, parts, tail: lead + b"".join(parts) + tail,
    st.sampled_from([b"", OURS]),
    st.lists(tlvs, max_size=6),
    values,
)
ALLOWED = {PADDING: (0, 70_000), TIMESTAMPS: (4, 70_000), COS: (4, 4), FOLLOW_UP: (16, 16), HMAC: (16, 16)}


def flags_by_the_rfc(chain: bytes, understood: set[int]) -> list[tuple[int, int]]:
    """(offset, flags) that a reply's TLVs must have."""
    at, found = 0, []
    lead = len(OURS) if chain[1:].startswith(OURS[1:]) else 0
    if not any(chain[lead:]):  # plain padding: each TLV of a sender has its U set
        return [(0, 0)] if lead else []
    while at < len(chain):
        if len(chain) - at < 4:
            return [*found, (at, chain[at] & U | M)]
        kind, length = struct.unpack_from("!BH", chain, at + 1)
        least, most = ALLOWED.get(kind, (0, 70_000))
        if at + 4 + length > len(chain) or not least <= length <= most:
            return [*found, (at, chain[at] & U | M)]
        found.append((at, 0 if kind in understood or (at == 0 and chain[1:].startswith(OURS[1:])) else U))
        at += 4 + length
    return found


@settings(deadline=None)
@given(chains, st.sampled_from([4, 6]))
def test_every_chain_gets_the_flags_it_must(chain, family):
    _, back = answered(Bench(sync_source=SYNC_NTP), chain, family=family)
    expected = flags_by_the_rfc(chain, {PADDING, TIMESTAMPS, COS, FOLLOW_UP})
    assert [(at, back[at]) for at, _ in expected] == expected
    for at, flags in expected:  # types and lengths never change, nor values that nobody fills in
        assert back[at + 1 : at + 4] == chain[at + 1 : at + 4]
        if flags:
            end = len(chain) if flags & M else at + 4 + struct.unpack_from("!H", chain, at + 2)[0]
            assert back[at + 4 : end] == chain[at + 4 : end]


@settings(deadline=None)
@given(chains, st.booleans())
def test_signed_chains_of_any_kind_are_answered_in_kind(chain, genuine):
    reply, back = answered_signed(signed_chain(chain) if genuine else chain)
    assert reply.sequence == 1 and len(back.payload) - 112 == len(chain) + 20 * genuine
    assert rfc.unix_ns(reply.sent) >= WALL
