from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from probe.wire.checksum import (
    MODULUS,
    complement,
    complements,
    pseudo_header_sum,
    row_sums,
    word_sum,
)


def test_the_example_of_rfc_1071():
    # RFC 1071, section 3: the octets 00 01 f2 03 f4 f5 f6 f7 sum to ddf2 (2ddf0, carries folded).
    data = bytes.fromhex("0001 f203 f4f5 f6f7")
    assert word_sum(data) == 0xDDF2
    assert complement(word_sum(data)) == 0xFFFF - 0xDDF2


def test_the_example_of_rfc_1624():
    # RFC 1624, section 4: header checksum DD2F, a word goes from 5555 to 3285: the new checksum is 0000 in the RFC's
    # arithmetic. FFFF is the same number, and the one that UDP may carry.
    rest = MODULUS - 0xDD2F - 0x5555
    assert complement(rest + 0x5555) == 0xDD2F
    assert complement(rest + 0x3285) % MODULUS == 0x0000
    assert complement(rest + 0x3285) == 0xFFFF


@given(st.binary(max_size=200))
def test_a_packet_with_its_checksum_sums_to_nothing(data):
    if len(data) % 2:
        data += b"\0"
    whole = data + complement(word_sum(data)).to_bytes(2, "big")
    assert word_sum(whole) == 0


@given(st.binary(min_size=1, max_size=200))
def test_scapy_agrees(data):
    assert scapy_checksum(data) % MODULUS == complement(word_sum(data)) % MODULUS


@given(st.integers(0, 1 << 70))
def test_a_complement_is_never_zero(total):
    # In UDP a checksum of zero says that there is none (RFC 768).
    word = complement(total)
    assert 1 <= word <= 0xFFFF and (total + word) % MODULUS == 0


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20))
def test_many_complements_are_as_one(totals):
    assert complements(np.array(totals, np.uint64)).tolist() == [complement(t) for t in totals]


@given(st.binary(min_size=3, max_size=60), st.integers(1, 5), st.integers(0, 6), st.integers(0, 60), st.booleans())
def test_row_sums_are_word_sums_of_the_slices(data, rows, first, last, spaced):
    frames = np.frombuffer(data * rows, np.uint8).reshape(rows, len(data)).copy()
    frames[:, 0] = np.arange(rows)
    if spaced:
        wide = np.full((rows, len(data) + 9), 0xAB, np.uint8)
        wide[:, : len(data)] = frames
        frames = wide[:, : len(data)]
    last = min(last, len(data))
    first = min(first, last)
    expected = [word_sum(row[first:last].tobytes()) for row in frames]
    assert row_sums(frames, first, last).tolist() == expected


def test_a_field_of_any_width_adds_its_value():
    # What the compensator rests on: 2^16 is 1 modulo 65535.
    for value in (0, 1, 0x0123456789ABCDEF, (1 << 64) - 1):
        assert word_sum(value.to_bytes(8, "big")) == value % MODULUS


@pytest.mark.parametrize(
    ("source", "target", "protocol", "length", "expected"),
    [
        ("0a000001", "0a000002", 17, 8, 0x0A00 * 2 + 1 + 2 + 17 + 8),
        ("fe80" + "00" * 13 + "01", "ff02" + "00" * 13 + "02", 58, 70_000, (0xFE80 + 0xFF02 + 3 + 58 + 70_000)),
    ],
)
def test_the_pseudo_header(source, target, protocol, length, expected):
    assert pseudo_header_sum(bytes.fromhex(source), bytes.fromhex(target), protocol, length) == expected % MODULUS
