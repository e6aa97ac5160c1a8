"""Where each field of a frame stands: numpy record types laid over ring slots.

All offsets count from the first octet of the Ethernet header. IPv4 has no options and IPv6 no extension headers
(the kernel filter lets nothing else in), so every field has a fixed place.

Our payload, the *cookie*, in ICMP echo and TCP segments (all big endian)::

     0       4   5   6     8              16             24            32
     +-------+---+---+-----+--------------+--------------+--------------+
     | magic |ver|flg|comp |   session    |   sequence   |  TX unix ns  |
     +-------+---+---+-----+--------------+--------------+--------------+

In TCP, the reflector's receive and send times (8 + 8) and its *report* follow. In UDP the packet is STAMP (RFC 8762)
and an experimental TLV holds session (8), sequence (8), version (2), comp (2), reserved (4) and the report::

     0      4     8           12          16          24           28      32        48      50    51   52
     +------+-----+-----------+-----------+-----------+------------+-------+---------+-------+-----+----+
     | boot |  q  | gap total | gap index | gap start | gap length | drops | address | port  | TTL | -  |
     +------+-----+-----------+-----------+-----------+------------+-------+---------+-------+-----+----+

`q` numbers the reflector's replies of a session. A *gap* is a run of sequences that the reflector did not receive. Its
records of gaps, and of late arrivals that filled one (top bit of the length), only ever grow in number: each reply
tells how many there are so far and repeats one of the newest, so that the sender knows of every lost probe whether
the way out or the way back lost it. The first record, of length 0, names the sequence that the session began with; a
new one goes out with the next reply, before the others have their turn again. `boot` is drawn anew for each session
that the reflector begins. `address` and `port` are where the probe came from as the reflector saw it: what a
translation on the way made of it. `drops` counts what the reflector's own ring lost.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.wire.sizes import ETHERNET, IP_HEADER

MAGIC = 0x68617072  # "hapr"
VERSION = 1

ICMP4, UDP, UDP_BASE, TCP, SYN, ICMP6, UDP_AUTH = range(7)  # kinds of template
KIND_NAMES = ("icmp", "udp", "udp_base", "tcp", "syn", "icmp6", "udp_auth")

IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 = 1, 6, 17, 58
ETH_IP, ETH_IPV6 = 0x0800, 0x86DD
TCP_FIN, TCP_SYN, TCP_RST, TCP_PSH, TCP_ACK = 0x01, 0x02, 0x04, 0x08, 0x10
PROBE_WINDOW = 0xFFFF
PROBE_WINDOW_SCALE = 14

_COOKIE = {
    "magic": (">u4", 0),
    "version": ("u1", 4),
    "comp": (">u2", 6),
    "session": (">u8", 8),
    "sequence": (">u8", 16),
    "sent": (">u8", 24),
}
_REPORT = {
    "boot": (">u4", 0),
    "q": (">u4", 4),
    "gap_total": (">u4", 8),
    "gap_index": (">u4", 12),
    "gap_start": (">u8", 16),
    "gap_length": (">u4", 24),
    "drops": (">u4", 28),
    "seen_address": ("V16", 32),
    "seen_port": (">u2", 48),
    "seen_ttl": ("u1", 50),
}
_ICMP = {"type": ("u1", 0), "code": ("u1", 1), "checksum": (">u2", 2), "id": (">u2", 4), "seq16": (">u2", 6)}
_PORTS = {"sport": (">u2", 0), "dport": (">u2", 2)}
_UDP = {**_PORTS, "udp_length": (">u2", 4), "checksum": (">u2", 6)}
_TCP = {
    **_PORTS,
    "seq": (">u4", 4),
    "ack": (">u4", 8),
    "offset": ("u1", 12),
    "flags": ("u1", 13),
    "window": (">u2", 14),
    "checksum": (">u2", 16),
}
_STAMP_SENDER = {"stamp_seq": (">u4", 0), "stamp_time": (">u8", 4), "error_estimate": (">u2", 12), "ssid": (">u2", 14)}
_STAMP_REFLECTOR = {
    **_STAMP_SENDER,
    "received_time": (">u8", 16),
    "sender_seq": (">u4", 24),
    "sender_time": (">u8", 28),
    "sender_error": (">u2", 36),
    "sender_mbz": (">u2", 38),
    "sender_ttl": ("u1", 40),
    "mbz3": ("V3", 41),
}
_AUTH_SENDER = {
    "stamp_seq": (">u4", 0),
    "stamp_time": (">u8", 16),
    "error_estimate": (">u2", 24),
    "ssid": (">u2", 26),
    "hmac": ("V16", 96),
}
_AUTH_REFLECTOR = {
    **_AUTH_SENDER,
    "mbz1": ("V12", 4),
    "mbz2": ("V4", 28),
    "received_time": (">u8", 32),
    "mbz3": ("V8", 40),
    "sender_seq": (">u4", 48),
    "mbz4": ("V12", 52),
    "sender_time": (">u8", 64),
    "sender_error": (">u2", 72),
    "mbz5": ("V6", 74),
    "sender_ttl": ("u1", 80),
    "mbz6": ("V15", 81),
}
_TLV = {"tlv_flags": ("u1", 0), "tlv_type": ("u1", 1), "tlv_length": (">u2", 2)}
_TLV_SENDER = {"session": (">u8", 4), "sequence": (">u8", 12), "version": (">u2", 20), "comp": (">u2", 22)}

_Fields = dict[str, tuple[str, int]]


def _shift(fields: _Fields, by: int) -> _Fields:
    return {name: (kind, offset + by) for name, (kind, offset) in fields.items()}


def l4_offset(family: int) -> int:
    """Where the transport header starts, from the start of the Ethernet header."""
    return ETHERNET + IP_HEADER[family]


def _network_fields(family: int) -> _Fields:
    ethernet: _Fields = {"eth_dst": ("V6", 0), "eth_src": ("V6", 6), "eth_type": (">u2", 12)}
    if family == 4:
        ip: _Fields = {
            "vihl": ("u1", 0),
            "tos": ("u1", 1),
            "ip_length": (">u2", 2),
            "ip_id": (">u2", 4),
            "ttl": ("u1", 8),
            "proto": ("u1", 9),
            "ip_checksum": (">u2", 10),
            "src": ("V4", 12),
            "dst": ("V4", 16),
            "src32": (">u4", 12),
            "dst32": (">u4", 16),
        }
    else:
        ip = {
            "vihl": ("u1", 0),
            "payload_length": (">u2", 4),
            "proto": ("u1", 6),
            "ttl": ("u1", 7),
            "src": ("V16", 8),
            "dst": ("V16", 24),
        }
    return {**ethernet, **_shift(ip, ETHERNET)}


@cache
def frame_dtype(layout: str, family: int = 4) -> np.dtype[Any]:
    """The record type of a frame.

    Args:
        layout: `network` (Ethernet and IP alone), `icmp`, `udp` (STAMP reflector's base packet and our TLV),
            `udp_sender` (the same as a sender writes it), `udp_base` and `udp_base_reply` (both without our TLV),
            `tcp` (a data segment of ours), `tcp_header`.
        family: 4 or 6.
    """
    l4 = l4_offset(family)
    fields = _network_fields(family)
    if layout == "icmp":
        fields |= _shift(_ICMP, l4) | _shift(_COOKIE, l4 + 8)
    elif layout in ("udp", "udp_sender"):
        base = _STAMP_REFLECTOR if layout == "udp" else _STAMP_SENDER
        fields |= _shift(_UDP, l4) | _shift(base, l4 + 8)
        tlv = l4 + 8 + 44
        fields |= _shift(_TLV, tlv) | _shift(_TLV_SENDER, tlv) | _shift(_REPORT, tlv + 28)
    elif layout in ("udp_base", "udp_base_reply"):
        base = _STAMP_REFLECTOR if layout == "udp_base_reply" else _STAMP_SENDER
        fields |= _shift(_UDP, l4) | _shift(base, l4 + 8)
    elif layout in ("udp_auth", "udp_auth_reply"):
        auth = _AUTH_REFLECTOR if layout == "udp_auth_reply" else _AUTH_SENDER
        fields |= _shift(_UDP, l4) | _shift(auth, l4 + 8)
    elif layout in ("tcp", "tcp_header"):
        fields |= _shift(_TCP, l4)
        if layout == "tcp":
            fields |= _shift(_COOKIE, l4 + 20)
            fields |= _shift({"received_time": (">u8", 32), "reply_time": (">u8", 40)}, l4 + 20)
            fields |= _shift(_REPORT, l4 + 20 + 48)
    elif layout != "network":
        raise ValueError(f"no layout named {layout!r}")
    names = list(fields)
    end = max(offset + np.dtype(kind).itemsize for kind, offset in fields.values())
    return np.dtype(
        {
            "names": names,
            "formats": [fields[n][0] for n in names],
            "offsets": [fields[n][1] for n in names],
            "itemsize": end,
        }
    )


def records(octets: npt.NDArray[np.uint8], layout: str, family: int) -> npt.NDArray[Any]:
    """Frames, one a row of octets, as records that share their memory."""
    dtype = frame_dtype(layout, family)
    view: npt.NDArray[Any] = octets[:, : dtype.itemsize].view(dtype)[:, 0]
    return view


def raw_dtype(octets: int) -> np.dtype[Any]:
    """A slot as plain octets."""
    return np.dtype((np.uint8, (octets,)))
