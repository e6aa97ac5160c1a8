"""Remote-write bodies, read back by others: snappy by Arrow, protobuf by hand from the wire."""

from __future__ import annotations

import math
import struct

import pyarrow
import pytest

from probe.export.remote_format import STALE, body, label_octets, series_octets

MESSAGE = bytes.fromhex(
    "0a 29"  # WriteRequest.timeseries
    "0a 0d  0a 08 5f5f6e616d655f5f  12 01 6d"  # TimeSeries.labels: __name__="m"
    "0a 06  0a 01 61  12 01 62"  # a="b"
    "12 10  09 000000000000f83f  10 ffa7a4e0ac32"  # samples: value 1.5, timestamp 1729999999999
)


def unpacked(octets: bytes) -> bytes:
    length, shift = 0, 0
    for octet in octets:
        length |= (octet & 127) << shift
        shift += 7
        if octet < 128:
            break
    return pyarrow.decompress(octets, decompressed_size=length, codec="snappy", asbytes=True)


def test_a_request_octet_by_octet():
    labels = label_octets({"a": "b", "empty": "", "__name__": "m"})
    assert unpacked(body([series_octets(labels, 1_729_999_999_999, 1.5)])) == MESSAGE


@pytest.mark.parametrize("octets", [0, 1, 127, 128, 65_535, 65_536, 65_537, 200_000])
def test_any_length_comes_back_through_snappy(octets: int):
    content = bytes(range(256)) * (octets // 256 + 1)
    assert unpacked(body([content[:octets]])) == content[:octets]


def test_the_stale_marker_is_one_nan_alone():
    assert math.isnan(STALE)
    assert series_octets(b"", 0, STALE).find(struct.pack("<Q", 0x7FF0000000000002)) > 0
