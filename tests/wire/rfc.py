"""STAMP and TWAMP from the RFCs alone: an implementation that shares nothing with ours, to hold ours against.

Offsets and formats are those of RFC 8762 (sections 4.2 and 4.3), RFC 5357 (sections 4.1.2 and 4.2.1) and RFC 8972.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
from dataclasses import dataclass

NTP_1970 = 2_208_988_800
S_BIT, Z_BIT = 0x8000, 0x4000
U, M, I = 0x80, 0x40, 0x20  # noqa: E741 - the RFC's names
SENDER = struct.Struct("!IIIHH28x")
REFLECTOR = struct.Struct("!IIIHHIIIIIHHB3s")
AUTH_SENDER = struct.Struct("!I12xIIHH68x")  # and 16 octets of HMAC
AUTH_REFLECTOR = struct.Struct("!I12sIIHH4sII8sI12sIIH6sB15s")
TWAMP_SENDER = struct.Struct("!IIIH")


def ntp(unix_ns: int) -> tuple[int, int]:
    seconds, ns = divmod(unix_ns, 10**9)
    return (seconds + NTP_1970) % 2**32, (ns * 2**32) // 10**9


def ptp(unix_ns: int) -> tuple[int, int]:
    seconds, ns = divmod(unix_ns, 10**9)
    return seconds % 2**32, ns


def unix_ns(stamp: tuple[int, int], error: int = 0) -> int:
    """Of a time in the years 1970 to 2036, in the format that an Error Estimate names."""
    seconds, fraction = stamp
    if error & Z_BIT:
        return seconds * 10**9 + fraction
    return (seconds - NTP_1970) * 10**9 + (fraction * 10**9 >> 32)


def error_ns(error: int) -> float:
    return (error & 0xFF) * 2.0 ** ((error >> 8 & 0x3F) - 32) * 1e9


@dataclass(frozen=True)
class Reply:
    """A reflector's packet, field by field."""

    sequence: int
    sent: tuple[int, int]
    error: int
    ssid: int
    received: tuple[int, int]
    sender_sequence: int
    sender_sent: tuple[int, int]
    sender_error: int
    sender_ttl: int
    mbz: bytes  # all of it
    rest: bytes  # behind the base packet

    @classmethod
    def parse(cls, packet: bytes) -> Reply:
        f = REFLECTOR.unpack_from(packet)
        mbz = struct.pack("!H", f[11]) + f[13]
        return cls(f[0], f[1:3], f[3], f[4], f[5:7], f[7], f[8:10], f[10], f[12], mbz, packet[44:])

    @classmethod
    def parse_signed(cls, packet: bytes, key: bytes) -> Reply:
        assert packet[96:112] == signature(key, packet[:96])
        f = AUTH_REFLECTOR.unpack_from(packet)
        mbz = f[1] + f[6] + f[9] + f[11] + f[15] + f[17]
        return cls(f[0], f[2:4], f[4], f[5], f[7:9], f[10], f[12:14], f[14], f[16], mbz, packet[112:])


def signature(key: bytes, signed: bytes) -> bytes:
    """RFC 8762, section 4.4."""
    return hmac.new(key, signed, hashlib.sha256).digest()[:16]


def request(sequence: int, sent: tuple[int, int], error: int = 1, ssid: int = 0, tlvs: bytes = b"") -> bytes:
    return SENDER.pack(sequence, *sent, error, ssid) + tlvs


def signed_request(
    key: bytes, sequence: int, sent: tuple[int, int], error: int = 1, ssid: int = 0, tlvs: bytes = b""
) -> bytes:
    packet = AUTH_SENDER.pack(sequence, *sent, error, ssid)
    return packet + signature(key, packet) + tlvs


def twamp_request(sequence: int, sent: tuple[int, int], error: int = 1, padding: bytes = b"") -> bytes:
    return TWAMP_SENDER.pack(sequence, *sent, error) + padding


def reply(packet: bytes, sequence: int, received: bytes, sent: bytes, error: int, ttl: int) -> bytes:
    """What a reflector sends back, unauthenticated: times as they stand in the packet."""
    request = packet.ljust(16, b"\0")
    head = struct.pack("!I", sequence) + sent + struct.pack("!H", error) + request[14:16] + received
    head += request[0:4] + request[4:12] + request[12:14] + bytes(2) + bytes((ttl,)) + bytes(3)
    return head + packet[44:]


def tlv(kind: int, value: bytes = b"", flags: int = U, length: int | None = None) -> bytes:
    return struct.pack("!BBH", flags, kind, len(value) if length is None else length) + value


def parse_tlvs(octets: bytes) -> list[tuple[int, int, bytes]]:
    """(flags, type, value) of each, up to the first that does not fit."""
    found = []
    while len(octets) >= 4:
        flags, kind, length = struct.unpack_from("!BBH", octets)
        found.append((flags, kind, octets[4 : 4 + length]))
        if len(octets) < 4 + length:
            break
        octets = octets[4 + length :]
    return found


# --- frames ----------------------------------------------------------------------------------------------------------

MACS = bytes.fromhex("020000000002") + bytes.fromhex("020000000001")
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(family: int, address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, address)


def network(family: int, proto: int, body: bytes, *, tos: int = 0, ttl: int = 61, ends: tuple[str, str] | None = None):
    """(IP header, pseudo-header) from the first end to the second."""
    source, target = (packed(family, end) for end in ends or ADDRESSES[family])
    if family == 4:
        header = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(body), 0, 0x4000, ttl, proto, 0) + source + target
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return header, source + target + struct.pack("!HH", proto, len(body))
    header = struct.pack("!IHBB", 6 << 28 | tos << 20, len(body), proto, ttl) + source + target
    return header, source + target + struct.pack("!II", len(body), proto)


def udp_frame(
    family: int, payload: bytes, *, sport: int = 40_000, dport: int = 862, no_checksum: bool = False, **more
) -> bytes:
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    header, pseudo = network(family, 17, body, **more)
    if not no_checksum:
        body = body[:6] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[8:]
    return MACS + struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + header + body


def tcp_frame(
    family: int, flags: int, seq: int, ack: int, data: bytes = b"", *, sport: int = 40_000, dport: int = 8620, **more
) -> bytes:
    body = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65_535, 0, 0) + data
    header, pseudo = network(family, 6, body, **more)
    body = body[:16] + struct.pack("!H", checksum(pseudo + body)) + body[18:]
    return MACS + struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + header + body


@dataclass(frozen=True)
class Datagram:
    """A frame with UDP in it, taken apart and found sound."""

    macs: bytes
    ends: tuple[str, str]
    ports: tuple[int, int]
    tos: int
    ttl: int
    payload: bytes


def parse_udp_frame(frame: bytes) -> Datagram:
    """Raises AssertionError unless every length and checksum is right."""
    family = {0x0800: 4, 0x86DD: 6}[struct.unpack_from("!H", frame, 12)[0]]
    if family == 4:
        assert frame[14] == 0x45 and checksum(frame[14:34]) == 0
        assert struct.unpack_from("!H", frame, 16)[0] == len(frame) - 14 and frame[23] == 17
        tos, ttl, addresses, body = frame[15], frame[22], frame[26:34], frame[34:]
        pseudo = addresses + struct.pack("!HH", 17, len(body))
    else:
        word = struct.unpack_from("!I", frame, 14)[0]
        assert word >> 28 == 6 and struct.unpack_from("!H", frame, 18)[0] == len(frame) - 54 and frame[20] == 17
        tos, ttl, addresses, body = word >> 20 & 0xFF, frame[21], frame[22:54], frame[54:]
        pseudo = addresses + struct.pack("!II", len(body), 17)
    sport, dport, length, told = struct.unpack_from("!HHHH", body)
    assert length == len(body) and told != 0 and checksum(pseudo + body) == 0
    half = len(addresses) // 2
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    ends = tuple(socket.inet_ntop(kind, addresses[at : at + half]) for at in (0, half))
    return Datagram(frame[:12], ends, (sport, dport), tos, ttl, body[8:])
