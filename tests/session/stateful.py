"""A firewall that follows TCP's windows, as Linux's did before 6.1: whatever leaves a window is dropped.

The checks are those of nf_conntrack_proto_tcp.c, without its allowances: newer kernels, and most firewalls, let more
pass. Nothing is picked up in the middle.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

L4 = 34
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
SERIAL = 1 << 32


def _after(one: int, other: int) -> bool:
    return 0 < (one - other) % SERIAL < SERIAL // 2


@dataclass
class Side:
    """What one end has sent: the highest octet, the highest that the other grants, its own largest window."""

    end: int = 0
    max_end: int = 0
    max_window: int = 0
    scale: int = 0


@dataclass
class Tracked:
    sides: dict[str, Side] = field(default_factory=dict)
    established: bool = False
    closed: bool = False


class Firewall:
    """All sessions through it, by the client's port. Frames that are no IPv4 TCP pass."""

    def __init__(self) -> None:
        self.sessions: dict[int, Tracked] = {}
        self.dropped: list[str] = []

    def passes(self, frame: bytes) -> bool:
        if frame[23] != 6:
            return True
        (total,) = struct.unpack_from("!H", frame, 16)
        sport, dport, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", frame, L4)
        way, port = ("back", dport) if sport == 8620 else ("out", sport)
        header = (offset >> 4) * 4
        length = total - 20 - header + bool(flags & SYN) + bool(flags & FIN)
        reason = self._judge(way, port, flags, seq, seq + length, ack, window, frame[L4 + 20 : L4 + header])
        if reason:
            self.dropped.append(reason)
        return not reason

    def _judge(self, way: str, port: int, flags: int, seq: int, end: int, ack: int, window: int, options: bytes) -> str:
        session = self.sessions.get(port)
        if flags & SYN:
            if way == "out":
                session = self.sessions[port] = Tracked()
            if session is None:
                return "SYN/ACK without a SYN"
            end %= SERIAL
            session.sides[way] = Side(end, (end + window) % SERIAL, window, _scale(options))
            if way == "back":
                self._grant(session.sides["out"], ack, window)
            return ""
        if session is None or len(session.sides) < 2 or session.closed:
            return "no session"
        if not flags & ACK and not flags & RST:
            return "no ACK"
        mine, other = session.sides[way], session.sides["back" if way == "out" else "out"]
        window <<= mine.scale
        end %= SERIAL
        if flags & RST and not flags & ACK:
            ack = other.end
        if _after(seq, mine.max_end):
            return f"{way}: beyond the window"
        if _after(mine.end - other.max_window, end):
            return f"{way}: behind the window"
        if _after(ack, other.end):
            return f"{way}: acknowledges what was not sent"
        if _after(other.end - max(66_000, mine.max_window), ack):
            return f"{way}: acknowledges what is long past"
        mine.end = end if _after(end, mine.end) else mine.end
        mine.max_window = max(mine.max_window, window)
        self._grant(other, ack, window)
        session.closed |= bool(flags & RST)
        return ""

    @staticmethod
    def _grant(side: Side, ack: int, window: int) -> None:
        limit = (ack + max(window, 1)) % SERIAL
        side.max_end = limit if _after(limit, side.max_end) else side.max_end


def _scale(options: bytes) -> int:
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 3:
            return options[at + 2]
        at += 1 if options[at] == 1 else options[at + 1]
    return 0
