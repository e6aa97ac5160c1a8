"""The body of a remote-write request: protobuf `prometheus.WriteRequest` (version 1) in snappy's block format.

Written by hand: the message has two levels and four fields, and a snappy block may consist of literals alone, which
every decoder takes. A series' labels are encoded once (`label_octets`), a sample costs two fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
# The one NaN that ends a series (prometheus model/value.StaleNaN); other NaNs are values.
STALE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
_LITERAL = 1 << 16  # octets of one snappy literal: the most that a length of two octets says


def label_octets(labels: Mapping[str, str]) -> bytes:
    """Labels of a series, `__name__` among them, as fields of a TimeSeries. An empty value is no label."""
    pairs = sorted((name, value) for name, value in labels.items() if value)  # receivers demand the order
    return b"".join(_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in pairs)


def series_octets(labels: bytes, ms: int, value: float) -> bytes:
    """One sample of a series as a field of a WriteRequest; `ms` is Unix epoch in milliseconds."""
    sample = b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(ms)
    return _field(1, labels + _field(2, sample))


def body(series: Iterable[bytes]) -> bytes:
    """A whole request of what `series_octets` gave."""
    message = b"".join(series)
    chunks = (message[at : at + _LITERAL] for at in range(0, len(message), _LITERAL))
    return _varint(len(message)) + b"".join(b"\xf4" + struct.pack("<H", len(c) - 1) + c for c in chunks)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
