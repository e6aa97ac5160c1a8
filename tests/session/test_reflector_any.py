"""Whatever arrives, a reflector either says nothing or answers as it should; it never fails, and never amplifies."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.wire import rfc

from .reflecting import ESTIMATE, Bench

KEY = b"0123456789abcdef"
OURS = rfc.tlv(240, struct.pack("!QQHHI", 77, 0, 1, 0, 0) + bytes(52))
families = st.sampled_from([4, 6])
anything = st.binary(max_size=300) | st.binary(min_size=1400, max_size=1472)
probes = st.sampled_from(
    [
        rfc.twamp_request(1, (2, 3), 4),
        rfc.request(1, (2, 3), 4, 5),
        rfc.request(1, (2, 3), 4, 5, OURS),
        rfc.request(1, (2, 3), 4, 5, OURS + rfc.tlv(1, bytes(9)) + rfc.tlv(4, bytes(4)) + rfc.tlv(7, bytes(16))),
        rfc.signed_request(KEY, 1, (2, 3), 4, 5),
        rfc.signed_request(KEY, 1, (2, 3), 4, 5, rfc.tlv(4, bytes(4)) + rfc.tlv(8, bytes(16))),
    ]
)
changes = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8)


def changed(octets: bytes, edits: list[tuple[int, int]]) -> bytes:
    out = bytearray(octets)
    for place, value in edits:
        if out:
            out[place % len(out)] = value
    return bytes(out)


def check(request: bytes, frames: list[bytes], family: int) -> None:
    """One answer, or none to what is too short to be a request."""
    if len(request) < 14:
        assert frames == []
        return
    [frame] = frames
    back = rfc.parse_udp_frame(frame)
    here, there = rfc.ADDRESSES[family]
    assert (back.ends, back.ports, back.macs) == ((there, here), (862, 40_000), rfc.MACS[6:] + rfc.MACS[:6])
    assert len(back.payload) == max(len(request), 44)
    got = rfc.Reply.parse(back.payload)
    assert struct.pack("!IIIH", got.sender_sequence, *got.sender_sent, got.sender_error) == request[:14]
    assert struct.pack("!H", got.ssid) == request[14:16].ljust(2, b"\0")
    assert (got.error, got.sender_ttl, got.mbz) == (ESTIMATE, 61, bytes(5))


@settings(deadline=None)
@given(anything | st.builds(changed, probes, changes), families)
def test_any_datagram(request, family):
    check(request, Bench().answers(rfc.udp_frame(family, request)), family)


@settings(deadline=None)
@given(st.lists(anything | st.builds(changed, probes, changes), min_size=2, max_size=6), families)
def test_any_datagrams_at_once(requests, family):
    frames = [rfc.udp_frame(family, request) for request in requests]
    answers = Bench().answers(*frames)
    due = [request for request in requests if len(request) >= 14]
    assert len(answers) == len(due)
    for request, answer in zip(due, answers, strict=True):
        check(request, [answer], family)


@settings(deadline=None)
@given(anything | st.builds(changed, probes, changes), families)
@example(rfc.signed_request(KEY, 1, (2, 3)), 4)
def test_any_datagram_to_a_reflector_with_a_key(request, family):
    answers = Bench(key=KEY).answers(rfc.udp_frame(family, request))
    if len(request) < 112 or request[96:112] != rfc.signature(KEY, request[:96]):
        assert answers == []
        return
    [frame] = answers
    payload = rfc.parse_udp_frame(frame).payload
    got = rfc.Reply.parse_signed(payload, KEY)
    assert len(payload) == len(request) and got.mbz == bytes(len(got.mbz))
    assert struct.pack("!I", got.sender_sequence) == request[:4]


def tcp_frame(family: int, segment: bytes) -> bytes:
    header, pseudo = rfc.network(family, 6, segment)
    segment = segment[:16] + bytes(2) + segment[18:]
    segment = segment[:16] + struct.pack("!H", rfc.checksum(pseudo + segment)) + segment[18:]
    return rfc.MACS + struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + header + segment


segments = st.builds(
    lambda seq, ack, offset, flags, rest: (
        struct.pack("!HHIIBBHHH", 40_000, 8620, seq, ack, offset, flags, 9, 0, 0) + rest
    ),
    *[st.integers(0, 2**32 - 1)] * 2,
    st.sampled_from([0x50]) | st.integers(0, 255),
    st.sampled_from([0x02, 0x10, 0x18, 0x04, 0x11]) | st.integers(0, 255),
    anything,
)


@settings(deadline=None)
@given(st.lists(segments, min_size=1, max_size=5), families)
def test_any_segments(sequence, family):
    bench = Bench()
    for segment in sequence:
        answers = bench.answers(tcp_frame(family, segment))
        assert len(answers) <= 1
        for frame in answers:
            l4 = 34 if family == 4 else 54
            proto = frame[23] if family == 4 else frame[20]
            length = struct.unpack_from("!H", frame, 16 if family == 4 else 18)[0]
            assert proto == 6 and length == len(frame) - 14 - (0 if family == 4 else 40)
            assert frame[l4 : l4 + 4] == struct.pack("!HH", 8620, 40_000)


@pytest.mark.parametrize("key", [b"", KEY])
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_frame(key, data):
    """Headers as well: what they claim must not lead anywhere."""
    family = data.draw(families)
    frame = rfc.udp_frame(family, data.draw(probes), no_checksum=data.draw(st.booleans()))
    frame = changed(frame, data.draw(st.lists(st.tuples(st.integers(12, 70), st.integers(0, 255)), max_size=6)))
    frame = frame[: data.draw(st.integers(14, len(frame)) | st.just(len(frame)))] + data.draw(st.binary(max_size=9))
    for answer in Bench(key=key).answers(frame):
        assert len(answer) <= max(len(frame), 14 + (20 if answer[12:14] == b"\x08\x00" else 40) + 8 + 44)
        if answer[12:14] == b"\x08\x00":
            assert answer[14] & 0xF0 == frame[14] & 0xF0


@settings(deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_octets(frames):
    assert Bench().answers(*frames) == []
