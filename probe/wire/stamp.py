"""STAMP numbers: timestamps, Error Estimates, TLV header (RFC 8762, RFC 8972, RFC 4656 section 4.1.2)."""

from __future__ import annotations

import hmac
import math

import numpy as np
import numpy.typing as npt

from probe.wire.sizes import STAMP_HMAC

SHORTEST_KEY = 16
NTP_EPOCH_OFFSET_S = 2_208_988_800  # 1900-01-01 to 1970-01-01
NS = 1_000_000_000
STRANGE_NS = 365 * 86_400 * NS  # a clock this far from ours is none, or in another format

SYNCHRONISED = 0x8000  # S bit of an Error Estimate
PTP_FORMAT = 0x4000  # Z bit: the timestamps that it covers are PTPv2's, not NTP's (RFC 8186, section 2.3)

TLV_UNKNOWN = 0x80  # U flag: set by the sender, cleared by a reflector that understands the TLV
TLV_MALFORMED = 0x40
TLV_EXTRA_PADDING = 1
TLV_REPORT = 240  # ours, from the experimental range 240-251 (RFC 8972, section 5.1)


def ntp_from_unix_ns(unix_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64-bit NTP timestamps: seconds since 1900 (modulo 2^32) above a 32-bit fraction, rounded up.

    Rounding up makes `unix_ns_from_ntp` give back the same nanosecond.
    """
    ns = unix_ns.astype(np.uint64)
    seconds = ns // np.uint64(NS)
    rest = ns - seconds * np.uint64(NS)
    fraction = ((rest << np.uint64(32)) + np.uint64(NS - 1)) // np.uint64(NS)
    return (((seconds + np.uint64(NTP_EPOCH_OFFSET_S)) & np.uint64(0xFFFFFFFF)) << np.uint64(32)) + fraction


def ntp_time(unix_ns: int) -> int:
    """`ntp_from_unix_ns` of one instant."""
    seconds, rest = divmod(unix_ns, NS)
    return ((seconds + NTP_EPOCH_OFFSET_S & 0xFFFFFFFF) << 32) + ((rest << 32) + NS - 1) // NS


def unix_ns_from_ntp(stamp: npt.NDArray[np.uint64], near_unix_s: int) -> npt.NDArray[np.int64]:
    """Unix nanoseconds of NTP timestamps, in the NTP era nearest to `near_unix_s` (era 1 starts in 2036)."""
    seconds = (stamp >> np.uint64(32)).astype(np.int64) - NTP_EPOCH_OFFSET_S
    era = np.rint((near_unix_s - seconds) / 2.0**32).astype(np.int64)
    fraction = stamp & np.uint64(0xFFFFFFFF)
    return (seconds + era * 2**32) * NS + ((fraction * np.uint64(NS)) >> np.uint64(32)).astype(np.int64)


def reflector_ns(raw: npt.NDArray[np.uint64], near: npt.NDArray[np.int64], *, ntp: bool) -> npt.NDArray[np.int64]:
    """A reflector's times as Unix ns, by its clock; 0 where it told none, or none that can be read.

    Args:
        raw: As they stood in the replies; 0: none.
        near: Our own times of about then, Unix ns.
        ntp: Whether they are NTP timestamps (STAMP) and not Unix ns (our TCP replies).
    """
    if not len(raw):
        return np.zeros(0, np.int64)
    ns = unix_ns_from_ntp(raw, int(near[0]) // NS) if ntp else raw.astype(np.int64)
    # STAMP also allows PTP's format (RFC 8762, section 4.2.1); read as NTP it lies decades away.
    return np.where((raw != 0) & (np.abs(ns - near) < STRANGE_NS), ns, 0)


def elapsed_ns(
    earlier: npt.NDArray[np.uint64], later: npt.NDArray[np.uint64], estimate: npt.NDArray[np.uint16]
) -> npt.NDArray[np.int64]:
    """Time between two timestamps of one packet, less than half an hour apart; 0 for anything longer or negative.

    Args:
        earlier: As they stand in the packet: 64-bit NTP, or PTPv2 truncated (32-bit seconds, 32-bit nanoseconds).
        later: Likewise.
        estimate: The Error Estimate that covers both, whose Z bit tells their format.
    """
    ptp = estimate & PTP_FORMAT != 0
    difference = (later - earlier).astype(np.int64)
    elapsed = np.where((difference >= 0) & (difference < 1 << 43), difference, 0)
    elapsed = (elapsed >> 32) * NS + ((elapsed & 0xFFFFFFFF) * NS >> 32)
    if ptp.any():
        seconds = (later >> np.uint64(32)).astype(np.int64) - (earlier >> np.uint64(32)).astype(np.int64)
        seconds = (seconds + (1 << 31)) % (1 << 32) - (1 << 31)  # the 32 bits go round in 2106
        rest = [(stamp & np.uint64(0xFFFFFFFF)).astype(np.int64) for stamp in (earlier, later)]
        in_ptp = seconds * NS + rest[1] - rest[0]
        sane = (in_ptp >= 0) & (in_ptp < NS << 11) & (rest[0] < NS) & (rest[1] < NS)
        elapsed = np.where(ptp, np.where(sane, in_ptp, 0), elapsed)
    return elapsed


def sign(key: bytes, signed: bytes) -> bytes:
    """HMAC-SHA-256 truncated to 128 bits, over the first six 16-octet blocks of a packet (RFC 8762, section 4.4)."""
    return hmac.digest(key, signed, "sha256")[:STAMP_HMAC]


def load_key(text: bytes) -> bytes:
    """The key in a key file: its content without the line end.

    Raises:
        ValueError: If it is shorter than SHORTEST_KEY octets.
    """
    key = text.rstrip(b"\r\n")
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"the key has {len(key)} octets; at least {SHORTEST_KEY} are needed")
    return key


def error_estimate(max_error_ns: int, *, synchronised: bool) -> int:
    """The 16-bit Error Estimate of our NTP timestamps (Z = 0), rounded up: Multiplier * 2^(Scale - 32) seconds.

    Args:
        max_error_ns: Bound on the offset from UTC.
        synchronised: Whether an external source keeps the clock in step with UTC: the S bit.
    """
    value = max(math.ceil(max_error_ns * 2**32 / NS), 1)  # a multiplier of 0 is illegal (RFC 4656, section 4.1.2)
    scale = 0
    while value > 255:
        value = (value + 1) // 2
        scale += 1
    return (SYNCHRONISED if synchronised else 0) | scale << 8 | value
