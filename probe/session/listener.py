"""The TCP side of a reflector, without the kernel's stack: handshakes, ends, and what numbers its replies carry.

SYN is answered with SYN/ACK, and after the handshake comes one extra acknowledgement whose window is scaled
(session/tcp.py says why). Data is answered with data of the same length.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.arrays import distinct
from probe.session.tcp import SERIAL, SYN_OPTIONS, control_segment
from probe.session.turning import turned
from probe.wire import layout

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
HALF_OPEN_NS = 10_000_000_000
# Longer than of other sessions (session/peers.py), which come back by themselves: a connection that is forgotten in a
# long outage is reset after it, and that would be our doing.
IDLE_NS = 4 * 3600 * 1_000_000_000


@dataclass(slots=True)
class Connection:
    """One established connection.

    Attributes:
        next_seq: Sequence number of our next reply.
        ack: Furthest octet received.
        last_ns: Last use, CLOCK_MONOTONIC.
    """

    next_seq: int
    ack: int
    last_ns: int


class Listener:
    """All connections to the reflector's TCP port.

    Args:
        rng: For initial sequence numbers.
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._connections: dict[int, Connection] = {}
        self._half_open: dict[int, tuple[int, int]] = {}  # connection key to (our initial number, time)

    def __len__(self) -> int:
        return len(self._connections)

    def expire(self, now: int) -> None:
        """Forget handshakes that were not finished, and connections that fell silent without an end."""
        for key in [k for k, (_, at) in self._half_open.items() if now - at > HALF_OPEN_NS]:
            del self._half_open[key]
        for key in [k for k, c in self._connections.items() if now - c.last_ns > IDLE_NS]:
            del self._connections[key]

    def connected(self, key: UInt64s) -> npt.NDArray[np.bool_]:
        """Which frames belong to an established connection."""
        known = {k: k in self._connections for k in distinct(key)}
        return np.array([known[k] for k in key.tolist()], bool)

    def numbers(self, key: UInt64s, seq: Ints, octets: Ints, now: int) -> tuple[Ints, Ints]:
        """Our sequence and acknowledgement numbers for replies to a batch: acknowledge the furthest octet seen."""
        ours, acks = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
        for k in distinct(key):
            connection = self._connections[k]
            connection.last_ns = now
            rows = np.flatnonzero(key == k)
            ahead = (seq[rows] + octets[rows] - connection.ack) % SERIAL
            ahead = np.maximum.accumulate(np.where(ahead < SERIAL // 2, ahead, 0))
            acks[rows] = (connection.ack + ahead) % SERIAL
            connection.ack = int(acks[rows[-1]])
            sent = np.cumsum(octets[rows])
            ours[rows] = (connection.next_seq + np.r_[0, sent[:-1]]) % SERIAL
            connection.next_seq = int((connection.next_seq + sent[-1]) % SERIAL)
        return ours, acks

    def knows(self, key: int) -> bool:
        """Whether there is an established connection `key`."""
        return key in self._connections

    def numbers_few(self, key: list[int], seq: list[int], octets: list[int], now: int) -> list[tuple[int, int]]:
        """`numbers` for a few replies, without arrays: (sequence, acknowledgement) of each."""
        before = {k: self._connections[k].ack for k in key}
        told = []
        for k, start, carried in zip(key, seq, octets, strict=True):
            connection = self._connections[k]
            connection.last_ns = now
            ahead = (start + carried - before[k]) % SERIAL
            if (connection.ack - before[k]) % SERIAL < ahead < SERIAL // 2:
                connection.ack = (before[k] + ahead) % SERIAL
            told.append((connection.next_seq, connection.ack))
            connection.next_seq = (connection.next_seq + carried) % SERIAL
        return told

    def receive(self, frame: bytes, family: int, key: int, view: Any, data: bool, now: int) -> bytes | None:
        """Take in a segment that is not data of an established connection.

        Args:
            frame: As received.
            family: 4 or 6.
            key: Its connection.
            view: The frame's header fields.
            data: Whether it carries a probe.
            now: CLOCK_MONOTONIC ns.

        Returns:
            A frame to answer with, if any.
        """
        flags, seq, ack = int(view["flags"]), int(view["seq"]), int(view["ack"])
        back = turned(frame, family)
        if flags & layout.TCP_RST:
            self._connections.pop(key, None)
            self._half_open.pop(key, None)
        elif flags & layout.TCP_SYN:
            self._connections.pop(key, None)
            iss, _ = self._half_open.get(key, (self._rng.getrandbits(32), 0))
            self._half_open[key] = (iss, now)
            answer = layout.TCP_SYN | layout.TCP_ACK
            return control_segment(back, family, answer, iss, (seq + 1) % SERIAL, SYN_OPTIONS)
        elif key in self._half_open and ack == (self._half_open[key][0] + 1) % SERIAL:
            iss, _ = self._half_open.pop(key)
            connection = self._connections[key] = Connection((iss + 1) % SERIAL, seq, now)
            return control_segment(back, family, layout.TCP_ACK, connection.next_seq, seq)
        elif flags & layout.TCP_FIN and key in self._connections:
            connection = self._connections.pop(key)
            answer = layout.TCP_FIN | layout.TCP_ACK
            return control_segment(back, family, answer, connection.next_seq, (seq + 1) % SERIAL)
        elif key not in self._connections and (data or flags & layout.TCP_FIN):
            # As any host would: no such connection (RFC 9293, section 3.10.7.1).
            return control_segment(back, family, layout.TCP_RST, ack, 0, window=0)
        return None
