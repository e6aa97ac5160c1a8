"""The connection of a kept TCP flow: a real handshake, then probes, with the segments a stateful firewall wants to see.

Sans-IO: frames and times in, frames and events out. States::

    CLOSED ──open──► SYN_SENT ──SYN/ACK──► ACKED ──window or 50 ms──► ESTABLISHED ──RST, FIN──► ENDED
                        │  └── resent after 1 s, 2 s, 4 s, then every 5 s
                        └──RST──► SYN_SENT (refused; tried again)

A SYN/ACK's window is not scaled, so a firewall would let only 64 KiB follow it. The reflector therefore sends one more
acknowledgement at once, with the scaled window; probing starts when that has passed. From then on window scale 14
gives 1 GiB of silence before a never-retransmitting stream could leave the window (65535 << 14 octets).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from probe.wire import layout
from probe.wire.checksum import complement
from probe.wire.packet import set_network_length, transport_sum

MSS = 1460
SYN_OPTIONS = struct.pack("!BBHBBBBBBBB", 2, 4, MSS, 4, 2, 1, 3, 3, layout.PROBE_WINDOW_SCALE, 1, 1)
WINDOW_WAIT_NS = 50_000_000
RETRY_NS = (1_000_000_000, 2_000_000_000, 4_000_000_000, 5_000_000_000)
SERIAL = 1 << 32
END_SPAN = layout.PROBE_WINDOW << layout.PROBE_WINDOW_SCALE  # octets


class State(enum.Enum):
    """Of the connection, as the sender sees it."""

    CLOSED = "closed"
    SYN_SENT = "syn_sent"
    ACKED = "acked"
    ESTABLISHED = "established"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment as received: header fields, and whether it carried data."""

    flags: int
    seq: int
    ack: int
    data_octets: int


class TcpClient:
    """One connection.

    Args:
        template: A probe frame of the flow (wire/craft.py), from which control segments take addresses and port.
        family: 4 or 6.
        port: Our source port.
        iss: Initial send sequence number, random.
    """

    def __init__(self, template: bytes, family: int, port: int, iss: int):
        self.template = template
        self.family = family
        self.port = port
        self.iss = iss
        self.irs = 0  # the peer's initial sequence number
        self.began = 0  # the flow's first probe in this connection
        self.state = State.CLOSED
        self.refused = 0
        self._retry_at = 0
        self._tries = 0

    @property
    def established(self) -> bool:
        """Whether probes may flow."""
        return self.state is State.ESTABLISHED

    def open(self, now: int) -> bytes:
        """Send the SYN, or send it again.

        Returns:
            The frame.
        """
        self.state = State.SYN_SENT
        self._retry_at = now + RETRY_NS[min(self._tries, len(RETRY_NS) - 1)]
        self._tries += 1
        return self._frame(layout.TCP_SYN, self.iss, 0, SYN_OPTIONS)

    def poll(self, now: int) -> bytes | None:
        """What time alone brings: a SYN sent again, or the end of waiting for the window."""
        if self.state is State.SYN_SENT and now >= self._retry_at:
            return self.open(now)
        if self.state is State.ACKED and now >= self._retry_at:
            self.state = State.ESTABLISHED
        return None

    def receive(self, segment: Segment, now: int) -> bytes | None:
        """Take in a control segment of the connection.

        Returns:
            A frame to answer with, if any.
        """
        if self.state is State.SYN_SENT:
            if segment.flags & layout.TCP_RST:
                self.refused += 1
            elif (
                segment.flags & (layout.TCP_SYN | layout.TCP_ACK) == layout.TCP_SYN | layout.TCP_ACK
                and segment.ack == (self.iss + 1) % SERIAL
            ):
                self.irs = segment.seq
                self.state = State.ACKED
                self._retry_at = now + WINDOW_WAIT_NS
                return self._acknowledge()
            return None
        if self.state is State.ACKED and not segment.flags & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN):
            self.state = State.ESTABLISHED
        elif segment.flags & layout.TCP_SYN and self.state in (State.ACKED, State.ESTABLISHED):
            return self._acknowledge()  # our ACK was lost: the SYN/ACK came again
        elif segment.flags & (layout.TCP_RST | layout.TCP_FIN):
            self.state = State.ENDED
        return None

    def is_end(self, segment: Segment, acknowledged: int, octets: int) -> bool:
        """Whether a RST or FIN is of this connection, not forged nor of an earlier one.

        One is if its sequence number is near what we have acknowledged: the peer's own may be ahead by what was lost on
        its way here; a firewall without the session copies our acknowledgement (RFC 9293, section 3.10.7.1), perhaps
        an old one.

        Args:
            segment: As received.
            acknowledged: Furthest octet received.
            octets: Sent so far. The peer has sent as many, but for what was duplicated on the way.
        """
        distance = (segment.seq - acknowledged + SERIAL // 2) % SERIAL - SERIAL // 2
        return abs(distance) <= min(2 * octets, END_SPAN)

    def close(self, seq: int, ack: int) -> bytes | None:
        """An exact RST, so that no table on the way keeps the session.

        Args:
            seq: Sequence number of the probe that would come next.
            ack: Acknowledgement number of our last probe.
        """
        established = self.state is State.ESTABLISHED
        if not established and self.state is not State.ACKED:
            return None
        self.state = State.ENDED
        if not established:
            seq, ack = (self.iss + 1) % SERIAL, (self.irs + 1) % SERIAL
        return self.reset(seq, ack)

    def reset(self, seq: int, ack: int) -> bytes:
        """A RST with these numbers."""
        return self._frame(layout.TCP_RST | layout.TCP_ACK, seq, ack, b"")

    def _acknowledge(self) -> bytes:
        return self._frame(layout.TCP_ACK, (self.iss + 1) % SERIAL, (self.irs + 1) % SERIAL, b"")

    def _frame(self, flags: int, seq: int, ack: int, options: bytes) -> bytes:
        return control_segment(self.template, self.family, flags, seq, ack, options, source_port=self.port)


def control_segment(
    template: bytes,
    family: int,
    flags: int,
    seq: int,
    ack: int,
    options: bytes = b"",
    *,
    source_port: int | None = None,
    window: int = layout.PROBE_WINDOW,
) -> bytes:
    """A segment without data, with the addresses and ports of `template`.

    Args:
        template: A TCP frame.
        family: 4 or 6.
        flags: TCP flags.
        seq: Sequence number.
        ack: Acknowledgement number.
        options: A multiple of four octets.
        source_port: Instead of the template's.
        window: As written in the header.
    """
    l4 = layout.l4_offset(family)
    ports = struct.unpack_from("!HH", template, l4)
    sport = ports[0] if source_port is None else source_port
    header = struct.pack("!HHIIBBHHH", sport, ports[1], seq, ack, (5 + len(options) // 4) << 4, flags, window, 0, 0)
    packet = bytearray(template[:l4] + header + options)
    set_network_length(packet, family, 20 + len(options))
    struct.pack_into("!H", packet, l4 + 16, complement(transport_sum(bytes(packet), family)))
    return bytes(packet)
