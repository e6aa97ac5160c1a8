"""Received slots sorted into what they are, and checked: columns in, columns out, no state."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import distinct, pick
from probe.wire import layout
from probe.wire.checksum import MODULUS, row_sums

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
CHECKSUM_NOT_READY = 8  # TP_STATUS_CSUMNOTREADY: a local sender left the checksum to a card that never saw the frame


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one family and transport, by their row among those they came with."""

    family: int
    proto: int
    rows: Ints


def split(octets: npt.NDArray[np.uint8]) -> list[Batch]:
    """Sort frames, one a row, by family and transport protocol; what is neither IPv4 nor IPv6 is in no batch."""
    batches = []
    kind = layout.records(octets, "network", 4)["eth_type"]
    for family, number in ((4, layout.ETH_IP), (6, layout.ETH_IPV6)):
        of_family = kind == number
        if not of_family.any():
            continue
        rows = np.flatnonzero(of_family)
        proto = pick(layout.records(octets, "network", family)["proto"], rows)
        batches += [Batch(family, p, rows if n == len(rows) else rows[proto == p]) for p, n in _counted(proto)]
        if len(rows) == len(kind):
            break
    return batches


def _counted(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """(value, how many) of each distinct one."""
    if (values == values[0]).all():
        return [(int(values[0]), len(values))]
    unique, counts = np.unique(values, return_counts=True)
    return list(zip(unique.tolist(), counts.tolist(), strict=True))


def frame_ends(batch: Batch, octets: npt.NDArray[np.uint8]) -> Ints:
    """Where each packet ends by its IP header, counted from the start of the frame: Ethernet padding is not counted."""
    network = layout.records(octets, "network", batch.family)
    if batch.family == 4:
        return pick(network["ip_length"], batch.rows).astype(np.int64) + 14
    return pick(network["payload_length"], batch.rows).astype(np.int64) + 54


def intact(
    octets: npt.NDArray[np.uint8], batch: Batch, ends: Ints, status: npt.NDArray[np.uint32], kept: npt.NDArray[np.int32]
) -> Bools:
    """Whether each packet's transport checksum is right. What cannot be judged passes.

    Args:
        octets: The frames, one a row.
        batch: Which rows.
        ends: Of the packets, from `frame_ends`.
        status: TP_STATUS words of the rows.
        kept: Octets kept of each of them.
    """
    l4 = layout.l4_offset(batch.family)
    good = np.ones(len(batch.rows), bool)
    judged = (status & CHECKSUM_NOT_READY == 0) & (ends <= kept) & (ends > l4)
    # Addresses, which the pseudo-header holds, stand right before the transport header.
    first = l4 if batch.proto == layout.IPPROTO_ICMP else 26 if batch.family == 4 else 22
    for end in distinct(ends[judged]):
        which = np.flatnonzero(judged & (ends == end))
        frames = pick(octets, pick(batch.rows, which))
        total = row_sums(frames, first, end)
        if batch.proto != layout.IPPROTO_ICMP:
            total += np.uint64(batch.proto + end - l4)
        ok = total % np.uint64(MODULUS) == 0
        if batch.proto == layout.IPPROTO_UDP and batch.family == 4:
            ok |= (frames[:, l4 + 6] == 0) & (frames[:, l4 + 7] == 0)
        good[which] = ok
    return good


@dataclass(frozen=True, slots=True)
class IcmpError:
    """A destination-unreachable or time-exceeded message, and the packet of ours that it is about."""

    type: int
    code: int
    source: bytes  # address of the host or router that sent it
    proto: int
    number: int  # our source port, or ICMP identifier


def icmp_error(frame: bytes, family: int) -> IcmpError | None:
    """Take an ICMP error apart (RFC 792; RFC 4443 section 3); None when it is not about anything we could have sent."""
    l4 = layout.l4_offset(family)
    inner = frame[l4 + 8 :]
    header = 20 if family == 4 else 40
    if len(inner) < header + 6:
        return None
    if family == 4:
        if inner[0] >> 4 != 4:
            return None
        header = (inner[0] & 15) * 4
        proto, source = inner[9], frame[26:30]
    else:
        proto, source = inner[6], frame[22:38]
    if len(inner) < header + 6:
        return None
    at = header + (4 if proto in (layout.IPPROTO_ICMP, layout.IPPROTO_ICMPV6) else 0)
    (number,) = struct.unpack_from("!H", inner, at)
    return IcmpError(frame[l4], frame[l4 + 1], source, proto, number)


def address_text(packed: bytes) -> str:
    """An address of 4 or 16 octets as people write it."""
    if len(packed) == 4:
        return ".".join(map(str, packed))
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return address_text(packed[12:])
    return str(ipaddress.ip_address(packed))
