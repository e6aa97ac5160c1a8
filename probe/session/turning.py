"""Turning requests round: frames copied out of a ring, both ends swapped, our report written in. No state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import pick
from probe.session.peers import Answer
from probe.wire import layout, sizes
from probe.wire.fields import offset

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
REPLY_TTL = 255  # RFC 5357, section 4.2.1
LONGEST_REQUEST = sizes.ETHERNET + sizes.MAX_SIZE + sizes.IP_HEADER[6] - sizes.IP_HEADER[4]  # of frame; rings keep more
_U64 = np.uint64
_MIX = _U64(0x9E3779B97F4A7C15)  # odd: spreads an address over all bits


def _pairs(family: int) -> list[tuple[int, int, int]]:
    """Where both ends stand, side by side: the first's, the second's, the octet behind it."""
    pairs = []
    for one, other in (("eth_dst", "eth_src"), ("src", "dst"), ("sport", "dport")):
        first, second = (offset("tcp", family, name) for name in (one, other))
        pairs.append((first, second, 2 * second - first))
    return pairs


_ENDS = {family: _pairs(family) for family in (4, 6)}
_TTL_AT = {family: offset("network", family, "ttl") for family in (4, 6)}


def rows_as(octets: npt.NDArray[np.uint8], rows: Ints, name: str, family: int) -> npt.NDArray[Any]:
    """The given frames as records; they may share memory with them."""
    return layout.records(pick(octets, rows), name, family)


def turn_round(reply: npt.NDArray[Any]) -> None:
    """Swap both ends of each frame: MAC and IP addresses, ports."""
    for a, b in (("eth_src", "eth_dst"), ("src", "dst"), ("sport", "dport")):
        first = reply[a].copy()
        reply[a] = reply[b]
        reply[b] = first


def turn(frame: bytearray, family: int) -> None:
    """`turn_round` of one frame, and the TTL of a reply."""
    for first, second, end in _ENDS[family]:
        frame[first:end] = frame[second:end] + frame[first:second]
    frame[_TTL_AT[family]] = REPLY_TTL


def turned(frame: bytes, family: int) -> bytes:
    """A TCP frame's headers with both ends swapped."""
    packet = bytearray(frame[: layout.l4_offset(family) + sizes.TCP_HEADER])
    turn(packet, family)
    return bytes(packet)


def mapped(address: npt.NDArray[Any], family: int) -> npt.NDArray[Any]:
    """Addresses as 16 octets, IPv4 in its mapped form (RFC 4291, section 2.5.5.2)."""
    if family == 6:
        return address
    out = np.zeros((len(address), 16), np.uint8)
    out[:, 10:12] = 0xFF
    out[:, 12:] = np.frombuffer(address.tobytes(), np.uint8).reshape(-1, 4)
    return out.view("V16").reshape(-1)


def mapped_one(address: bytes) -> bytes:
    """`mapped` of one address."""
    return address if len(address) == 16 else b"\0" * 10 + b"\xff\xff" + address


def _address_digest(view: npt.NDArray[Any], family: int, end: str = "src") -> UInt64s:
    if family == 4:
        return np.asarray(view[f"{end}32"].astype(_U64))
    halves = np.frombuffer(view[end].tobytes(), ">u8").reshape(-1, 2).astype(_U64)
    digest: UInt64s = halves[:, 0] * _MIX ^ halves[:, 1]
    return digest


def extended(raw: npt.NDArray[np.uint8], rows: Ints, ends: Ints, family: int) -> Bools:
    """Which unauthenticated requests can have an SSID (RFC 8972, section 3).

    In a TWAMP sender's packet padding stands there, which may be another in each packet, and where STAMP has zeros.
    """
    ssid_end = layout.l4_offset(family) + sizes.UDP_HEADER + 16
    base_end = ssid_end + sizes.STAMP_BASE - 16
    whole: Bools = (ends >= base_end) & ~pick(raw, rows)[:, ssid_end:base_end].any(axis=1)
    return whole


def sender_key(view: npt.NDArray[Any], family: int, ssid: npt.NDArray[Any]) -> UInt64s:
    """Session of a sender that is not ours: both addresses, its port, SSID (RFC 8972, section 3)."""
    low = view["sport"].astype(_U64) << _U64(16) | ssid.astype(_U64)
    target = _address_digest(view, family, "dst") * _MIX
    key: UInt64s = (_address_digest(view, family) << _U64(32)) ^ low ^ target | _U64(1 << 63)
    return key


def connection_key(view: npt.NDArray[Any], family: int) -> UInt64s:
    """A TCP connection to our port: address and port of the other end."""
    return (_address_digest(view, family) << _U64(16)) ^ view["sport"].astype(_U64)


def connection_key_one(source: bytes, sport: int) -> int:
    """`connection_key` of one frame, whose address has four or sixteen octets."""
    digest = int.from_bytes(source[-8:], "big")
    if len(source) == 16:
        digest ^= int.from_bytes(source[:8], "big") * int(_MIX)
    return (digest << 16) & 0xFFFF_FFFF_FFFF_FFFF ^ sport


def write_report(reply: npt.NDArray[Any], which: Any, answer: Answer, ttl: Any, family: int, drops: int) -> None:
    """Fill the report (wire/layout.py) of the replies under `which`, after they were turned round."""
    for name in ("boot", "q", "gap_total", "gap_index", "gap_length"):
        reply[name][which] = getattr(answer, name)[which] & 0xFFFFFFFF
    reply["gap_start"][which] = answer.gap_start[which]
    reply["drops"][which] = drops & 0xFFFFFFFF
    reply["seen_address"][which] = mapped(reply["dst"], family)[which]  # turned round already: dst is the sender
    reply["seen_port"][which] = reply["dport"][which]
    reply["seen_ttl"][which] = ttl[which]
