"""Received slots sorted into what they are, and checked: columns in, columns out, no state."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import distinct, pick
from probe.wire import layout, sizes
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
    """Whether each packet has a whole transport header and its checksum is right. A sum that cannot be judged passes.

    Args:
        octets: The frames, one a row.
        batch: Which rows.
        ends: Of the packets, from `frame_ends`.
        status: TP_STATUS words of the rows.
        kept: Octets kept of each of them.
    """
    l4 = layout.l4_offset(batch.family)
    header = sizes.TCP_HEADER if batch.proto == layout.IPPROTO_TCP else sizes.UDP_HEADER  # ICMP's is as long as UDP's
    good = ends >= l4 + header
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
        if batch.proto == layout.IPPROTO_UDP and batch.family == 4 and end >= l4 + sizes.UDP_HEADER:
            ok |= (frames[:, l4 + 6] == 0) & (frames[:, l4 + 7] == 0)
        good[which] &= ok
    return good


# Destination unreachable, time exceeded; what is too big has a type of its own in IPv6, in the middle.
ICMP_ERRORS = {4: (3, 11), 6: (1, 2, 3)}
_ECHO_REQUEST = {4: 8, 6: 128}
_ICMP_OF = {4: layout.IPPROTO_ICMP, 6: layout.IPPROTO_ICMPV6}


@dataclass(frozen=True, slots=True)
class IcmpError:
    """A message of the types in ICMP_ERRORS, and the packet of ours that it is about.

    Attributes:
        type: Of the message.
        code: Likewise.
        source: Address of the host or router that sent it.
        proto: Of the quoted packet.
        number: Our source port, or ICMP identifier.
        data: What is quoted of an echo request's data; empty for the others.
    """

    type: int
    code: int
    source: bytes
    proto: int
    number: int
    data: bytes


def icmp_error(frame: bytes, family: int) -> IcmpError | None:
    """Take an ICMP error apart (RFC 792; RFC 4443 section 3); None when it is not about anything we could have sent.

    A quote may end anywhere behind the first 8 octets of what follows the IP header. Of that header nothing counts but
    what says where the rest stands: the way here changed it, and may have translated its addresses.
    """
    l4 = layout.l4_offset(family)
    quote = frame[l4 + 8 :]
    if len(quote) < 20 or frame[l4] not in ICMP_ERRORS[family] or quote[0] >> 4 != family:
        return None
    header = (quote[0] & 15) * 4 if family == 4 else 40
    later_fragment = family == 4 and (quote[6] & 0x1F or quote[7])
    if header < 20 or len(quote) < header + 6 or later_fragment:
        return None
    proto, source = (quote[9], frame[26:30]) if family == 4 else (quote[6], frame[22:38])
    inner = quote[header:]
    echo = proto == _ICMP_OF[family] and inner[0] == _ECHO_REQUEST[family]
    if not echo and proto not in (layout.IPPROTO_TCP, layout.IPPROTO_UDP):
        return None
    (number,) = struct.unpack_from("!H", inner, 4 if echo else 0)
    return IcmpError(frame[l4], frame[l4 + 1], source, proto, number, inner[8:] if echo else b"")


def address_text(packed: bytes) -> str:
    """An address of 4 or 16 octets as people write it."""
    if len(packed) == 4:
        return ".".join(map(str, packed))
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return address_text(packed[12:])
    return str(ipaddress.ip_address(packed))
