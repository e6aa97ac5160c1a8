"""STAMP extensions (RFC 8972, section 4): the chain of TLVs behind a base packet, and what a reflector fills in.

::

     0       1       2       4
     +-------+-------+-------+------------------+
     | flags | type  |length |      value       |     flags: U 0x80, M 0x40, I 0x20, the others zero
     +-------+-------+-------+------------------+

A sender sets U; whoever understands a TLV clears it. M marks the TLV at which a chain stops making sense, I every TLV
of a chain whose HMAC is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from probe.wire.sizes import STAMP_HMAC, TLV_HEADER
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_MALFORMED, TLV_UNKNOWN, sign

TLV_INTEGRITY = 0x20
TLV_TIMESTAMP_INFORMATION, TLV_CLASS_OF_SERVICE, TLV_FOLLOW_UP, TLV_HMAC = 3, 4, 7, 8

# Length of the value of the types that we answer: shortest and longest (None: any).
_LENGTHS: dict[int, tuple[int, int | None]] = {
    TLV_TIMESTAMP_INFORMATION: (4, None),
    TLV_CLASS_OF_SERVICE: (4, 4),
    TLV_FOLLOW_UP: (16, 16),
    TLV_HMAC: (STAMP_HMAC, STAMP_HMAC),
}

# How a clock is kept, for Timestamp Information (RFC 8972, section 4.3). There is no number for "nobody knows".
SYNC_UNKNOWN, SYNC_NTP, SYNC_PTP, SYNC_GNSS, SYNC_FREE_RUNNING = 0, 1, 2, 4, 5
METHOD_SOFTWARE = 2  # how a timestamp is taken: by software on this host


@dataclass(frozen=True, slots=True)
class Tlv:
    """One TLV of a chain, by place.

    Attributes:
        at: Where its flags stand, in the octets that were searched.
        type: As sent; -1 when there is no room for it.
        end: One past its value, by its own length; what is not whole ends where the packet does.
        sound: Whether it fits the packet, and its length its type.
    """

    at: int
    type: int
    end: int
    sound: bool

    @property
    def value(self) -> slice:
        """Where its value stands."""
        return slice(self.at + TLV_HEADER, self.end)


def chain(packet: bytes | bytearray, at: int) -> Iterator[Tlv]:
    """The TLVs of `packet` from `at` to its end. The first unsound one is the last: behind it all is guesswork."""
    end = len(packet)
    while at < end:
        if end - at < TLV_HEADER:
            yield Tlv(at, -1, end, False)
            return
        kind, length = struct.unpack_from("!BH", packet, at + 1)
        shortest, longest = _LENGTHS.get(kind, (0, None))
        past = at + TLV_HEADER + length
        sound = past <= end and length >= shortest and (longest is None or length <= longest)
        yield Tlv(at, kind, min(past, end), sound)
        if not sound:
            return
        at = past


def signature_place(tlvs: list[Tlv]) -> Tlv | None:
    """The HMAC TLV of a sound chain, if it stands where it must: behind everything but Extra Padding (section 4.8)."""
    behind = [tlv for tlv in tlvs if tlv.type != TLV_EXTRA_PADDING]
    found = [tlv for tlv in tlvs if tlv.type == TLV_HMAC]
    return found[0] if len(found) == 1 and found[0] is behind[-1] else None


def tlv_signature(key: bytes, sequence: bytes | bytearray, tlvs: bytes | bytearray) -> bytes:
    """What an HMAC TLV holds: it covers the packet's Sequence Number and all TLVs in front of it (section 4.8)."""
    return sign(key, bytes(sequence) + bytes(tlvs))


def set_flags(packet: bytearray, tlv: Tlv, *, understood: bool) -> None:
    """The flags of a TLV in a reply: reserved bits are never passed on."""
    if not tlv.sound:
        packet[tlv.at] = packet[tlv.at] & TLV_UNKNOWN | TLV_MALFORMED
    else:
        packet[tlv.at] = 0 if understood else TLV_UNKNOWN


def class_of_service(value: bytes, tos: int) -> tuple[bytes, int]:
    """The value of a Class of Service TLV in a reply, and the DSCP to send that with (section 4.4).

    Args:
        value: As asked: the DSCP wanted for the reply stands in the first 6 bits.
        tos: DSCP and ECN that the request arrived with.
    """
    wanted = value[0] >> 2
    return struct.pack("!I", wanted << 26 | (tos >> 2) << 20 | (tos & 3) << 18), wanted


def timestamp_information(value: bytes, sync_source: int) -> bytes:
    """The value of a Timestamp Information TLV in a reply: both our times are of one clock, taken by software."""
    return bytes((sync_source, METHOD_SOFTWARE) * 2) + value[4:]


def follow_up(number: int, stamp: int) -> bytes:
    """The value of a Follow-Up Telemetry TLV: when our reply `number` left, as an NTP timestamp (section 4.7)."""
    return struct.pack("!IQB3x", number & 0xFFFFFFFF, stamp, METHOD_SOFTWARE)
