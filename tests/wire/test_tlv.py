"""Chains of TLVs, against RFC 8972."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.wire.tlv import (
    TLV_CLASS_OF_SERVICE,
    TLV_HMAC,
    Tlv,
    chain,
    class_of_service,
    follow_up,
    set_flags,
    signature_place,
    timestamp_information,
    tlv_signature,
)

from . import rfc

BASE = bytes(44)


def found(octets: bytes) -> list[tuple[int, int, int, bool]]:
    return [(t.at, t.type, t.end, t.sound) for t in chain(BASE + octets, 44)]


def test_a_chain_by_place():
    # Extra Padding of 3, an unknown type without a value, Class of Service.
    octets = bytes.fromhex("80 01 00 03 61 62 63" + "80 63 00 00" + "80 04 00 04 b8 00 00 00")
    assert found(octets) == [(44, 1, 51, True), (51, 99, 55, True), (55, 4, 63, True)]
    [_, _, service] = chain(BASE + octets, 44)
    assert (BASE + octets)[service.value] == b"\xb8\0\0\0"
    assert found(b"") == []


@pytest.mark.parametrize(
    ("octets", "last"),
    [
        ("80", (44, -1, 45, False)),
        ("80 01 00", (44, -1, 47, False)),
        ("80 01 00 04 61 62 63", (44, 1, 51, False)),
        ("80 01 ff ff 61", (44, 1, 49, False)),
        ("80 04 00 03 61 62 63 80 01 00 00", (44, 4, 51, False)),
        ("80 08 00 11" + "00" * 17, (44, 8, 65, False)),
        ("80 03 00 03 00 00 00", (44, 3, 51, False)),
    ],
)
def test_the_first_unsound_tlv_is_the_last(octets, last):
    assert found(bytes.fromhex(octets)) == [last]


@given(st.binary(max_size=60))
def test_any_octets_are_a_chain_that_covers_them_or_breaks(octets):
    tlvs = list(chain(BASE + octets, 44))
    assert [t.at for t in tlvs] == [44, *(t.end for t in tlvs[:-1])][: len(tlvs)]
    assert all(t.sound for t in tlvs[:-1])
    if tlvs and tlvs[-1].sound:
        assert tlvs[-1].end == 44 + len(octets)


def test_flags_of_a_reply():
    packet = bytearray(b"\x9f\x01\x00\x00")
    for tlv, understood, flags in (
        (Tlv(0, 1, 4, True), True, 0),
        (Tlv(0, 1, 4, True), False, 0x80),
        (Tlv(0, 1, 4, False), True, 0xC0),
    ):
        packet[0] = 0x9F
        set_flags(packet, tlv, understood=understood)
        assert packet[0] == flags


def test_class_of_service_is_four_fields_in_a_word():
    # DSCP1 46, DSCP2 10, ECN 2, RP 0 (section 4.4).
    assert class_of_service(bytes.fromhex("bb ff ff ff"), 10 << 2 | 2) == (bytes.fromhex("b8 a8 00 00"), 46)


def test_values_that_a_reflector_fills_in():
    assert timestamp_information(b"\xff" * 4 + b"rest", 1) == b"\1\2\1\2rest"
    assert follow_up((1 << 32) + 5, 0x0102030405060708) == bytes.fromhex("00000005 0102030405060708 02000000")


def test_a_signature_covers_the_number_and_what_stands_before_it():
    key, before = b"k" * 16, rfc.tlv(TLV_CLASS_OF_SERVICE, bytes(4))
    assert tlv_signature(key, b"\0\0\0\7", before) == rfc.signature(key, struct.pack("!I", 7) + before)


@pytest.mark.parametrize(
    ("kinds", "place"),
    [([8], 0), ([4, 8], 1), ([4, 8, 1, 1], 1), ([1, 8], 1), ([4], None), ([], None), ([8, 4], None), ([8, 4, 8], None)],
)
def test_where_an_hmac_must_stand(kinds, place):
    tlvs = [Tlv(20 * n, kind, 20 * n + 20, True) for n, kind in enumerate(kinds)]
    at = signature_place(tlvs)
    assert (at.at // 20 if at else None) == place and (at is None or at.type == TLV_HMAC)
