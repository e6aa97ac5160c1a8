"""What a Session-Reflector says to the TLVs of a request (RFC 8972, section 4).

Extra Padding, Class of Service, Timestamp Information, Follow-Up Telemetry and, with a key, HMAC are answered; so is
our own report, by the reflector itself. All others go back as they came, marked as not understood: Direct Measurement
counts other packets than ours, an Access Report is for a host that has two ways to go, and Location asks for a policy
on what may be told, while our report already says what a translation made of the sender.

Requests of ours are handled as arrays: no TLV behind the report, or one Extra Padding up to the end. Any other chain is
walked in a loop.
"""

from __future__ import annotations

import hmac
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.clock import Clock
from probe.wire import sizes
from probe.wire.stamp import TLV_EXTRA_PADDING, TLV_MALFORMED, TLV_UNKNOWN, ntp_from_unix_ns
from probe.wire.tlv import (
    SYNC_UNKNOWN,
    TLV_CLASS_OF_SERVICE,
    TLV_FOLLOW_UP,
    TLV_HMAC,
    TLV_INTEGRITY,
    TLV_TIMESTAMP_INFORMATION,
    Tlv,
    chain,
    class_of_service,
    follow_up,
    set_flags,
    signature_place,
    timestamp_information,
    tlv_signature,
)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
UInt64s = npt.NDArray[np.uint64]
MAX_FOLLOWED = 4096  # sessions whose last reply is remembered, the one that asked longest ago goes first
_REPORT = sizes.TLV_HEADER + sizes.TLV_VALUE
_AUTH_SENDER_SEQ = slice(48, 52)  # RFC 8762, section 4.3.2


class Extensions:
    """Answers chains of TLVs in place.

    Args:
        clock: For the time at which replies have left.
        key: For HMAC TLVs; empty in unauthenticated mode.
        sync_source: How our clock is kept, a number of Timestamp Information (wire/tlv.py).
    """

    def __init__(self, clock: Clock, key: bytes = b"", sync_source: int = SYNC_UNKNOWN):
        self._clock, self._key, self.sync_source = clock, key, sync_source
        self._left: dict[int, tuple[int, int]] = {}  # session to the number and NTP time of the last reply that left
        self._leaving: list[tuple[int, int, int]] = []  # row, session and number of those that are about to

    def answer(
        self,
        frames: npt.NDArray[np.uint8],
        family: int,
        start: int,
        base: int,
        ends: Ints,
        ours: Any,
        key: UInt64s,
        q: Ints,
    ) -> None:
        """Answer what stands behind the base packets of a batch of replies.

        Args:
            frames: The replies, turned round, base packets filled in.
            family: 4 or 6.
            start: Where the STAMP packet begins in each.
            base: Octets of the base packet.
            ends: Where each frame ends.
            ours: Which carry our report, answered already, as their first TLV.
            key: Session of each.
            q: Number of each.
        """
        self._leaving.clear()
        for first, which in ((base, ~ours), (base + _REPORT, ours)):
            at = start + first
            rows = np.flatnonzero(which & (ends > at))
            if not len(rows):
                continue
            padded = _padded(frames, at, rows, ends[rows])
            frames[rows[padded], at] = 0
            for i in rows[~padded].tolist():
                # A chain without a flag, which every sender of one sets, is the padding of a sender that knows none.
                if not frames[i, at : int(ends[i])].any():
                    continue
                self._walk(frames[i, : int(ends[i])], family, start, first, (i, int(key[i]), int(q[i])))

    def left(self, count: int) -> None:
        """The first `count` replies of the last batch have just left."""
        if not self._leaving:
            return
        now = int(ntp_from_unix_ns(np.array([self._clock.wall_ns()], np.int64))[0])
        for row, session, number in self._leaving:
            if row < count:
                self._left.pop(session, None)
                self._left[session] = (number, now)
        while len(self._left) > MAX_FOLLOWED:
            del self._left[next(iter(self._left))]

    def _walk(
        self, frame: npt.NDArray[np.uint8], family: int, start: int, first: int, reply: tuple[int, int, int]
    ) -> None:
        packet = bytearray(frame[start:].tobytes())
        tlvs = list(chain(packet, first))
        if self._key and not self._authentic(packet, first, tlvs):
            for tlv in tlvs:
                packet[tlv.at] = packet[tlv.at] & TLV_UNKNOWN | TLV_INTEGRITY | (0 if tlv.sound else TLV_MALFORMED)
        else:
            dscp = None
            tos = traffic_class(frame, family)
            for tlv in tlvs:
                if tlv.sound and tlv.type == TLV_CLASS_OF_SERVICE:
                    packet[tlv.value], dscp = class_of_service(bytes(packet[tlv.value]), tos)
                    set_flags(packet, tlv, understood=True)
                else:
                    set_flags(packet, tlv, understood=tlv.sound and self._understood(packet, tlv, reply))
            if self._key:
                self._sign(packet, first, tlvs)
            if dscp is not None:
                set_traffic_class(frame, family, dscp << 2 | tos & 3)
        frame[start:] = np.frombuffer(packet, np.uint8)

    def _understood(self, packet: bytearray, tlv: Tlv, reply: tuple[int, int, int]) -> bool:
        """Fill in a sound TLV's value; whether there is anything that we can truthfully say."""
        if tlv.type == TLV_TIMESTAMP_INFORMATION and self.sync_source != SYNC_UNKNOWN:
            packet[tlv.value] = timestamp_information(bytes(packet[tlv.value]), self.sync_source)
        elif tlv.type == TLV_FOLLOW_UP:
            self._leaving.append(reply)
            told = self._left.get(reply[1])
            packet[tlv.value] = bytes(16) if told is None else follow_up(*told)
        else:
            return tlv.type == TLV_EXTRA_PADDING or (tlv.type == TLV_HMAC and bool(self._key))
        return True

    def _authentic(self, packet: bytearray, first: int, tlvs: list[Tlv]) -> bool:
        """Whether a request's TLVs are signed as they must be; padding alone need not be (section 4.8)."""
        if not all(tlv.sound for tlv in tlvs):
            return False
        if all(tlv.type == TLV_EXTRA_PADDING for tlv in tlvs):
            return True
        place = signature_place(tlvs)
        if place is None:
            return False
        genuine = tlv_signature(self._key, packet[_AUTH_SENDER_SEQ], packet[first : place.at])
        return hmac.compare_digest(genuine, packet[place.value])

    def _sign(self, packet: bytearray, first: int, tlvs: list[Tlv]) -> None:
        place = signature_place(tlvs)
        if place is not None:
            packet[place.value] = tlv_signature(self._key, packet[:4], packet[first : place.at])


def _padded(frames: npt.NDArray[np.uint8], at: int, rows: Ints, ends: Ints) -> Bools:
    """In which rows one Extra Padding TLV reaches from `at` to the end."""
    length = ends - at - sizes.TLV_HEADER
    head = frames[rows, at + 1 : at + sizes.TLV_HEADER].astype(np.int64)
    padded: Bools = (head[:, 0] == TLV_EXTRA_PADDING) & (length >= 0) & (head[:, 1] << 8 | head[:, 2] == length)
    return padded


def traffic_class(frame: npt.NDArray[np.uint8], family: int) -> int:
    """DSCP and ECN of a frame: an octet of its own in IPv4, across two in IPv6."""
    if family == 4:
        return int(frame[15])
    return (int(frame[14]) << 4 | int(frame[15]) >> 4) & 0xFF


def set_traffic_class(frame: npt.NDArray[np.uint8], family: int, value: int) -> None:
    """Write DSCP and ECN into a frame; the IPv4 header's checksum is left to whoever sends it."""
    if family == 4:
        frame[15] = value
    else:
        frame[14], frame[15] = 0x60 | value >> 4, (value & 0x0F) << 4 | int(frame[15]) & 0x0F
