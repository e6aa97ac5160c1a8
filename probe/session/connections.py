"""TCP beside the probes: handshakes and ends of kept sessions, and closing what fresh ones leave half open.

Control segments have links of their own: on the probes' link they would queue behind frames of the next milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.clock import Clock
from probe.core.arrays import distinct
from probe.core.ledger import Ledger
from probe.link.base import FrameSender
from probe.session.filler import Filler
from probe.session.flows import SYN_STEP, Flow, FlowTable
from probe.session.tcp import SERIAL, Segment, State, TcpClient
from probe.wire import layout
from probe.wire.dissect import address_text

Ints = npt.NDArray[np.int64]
Tell = Callable[[dict[str, Any]], None]


class Connections:
    """The TCP sessions of a sender's flows.

    Args:
        table: Flows.
        ledger: Knows which probe comes next.
        clock: For retries.
        tell: Called with each event.
        anchor: Unix time minus monotonic time.
        on_established: Called when probes of a flow may start.
        on_ended: Called with the flow and the time (CLOCK_MONOTONIC ns) when its session has ended.
    """

    def __init__(
        self,
        table: FlowTable,
        ledger: Ledger,
        clock: Clock,
        tell: Tell,
        anchor: int,
        *,
        on_established: Callable[[Flow], None],
        on_ended: Callable[[Flow, int], None],
    ):
        self._table, self._ledger, self._clock = table, ledger, clock
        self._tell, self._anchor = tell, anchor
        self._on_established, self._on_ended = on_established, on_ended
        self._opening: dict[int, Flow] = {}  # whose handshake is not over
        self._ahead = np.zeros(table.capacity, np.int64)  # scratch
        self._links: list[FrameSender] = []
        self._fillers: list[Filler] = []

    def add_link(self, link: FrameSender) -> None:
        """The control link of the next transmitter, in the order of their numbers."""
        self._links.append(link)
        self._fillers.append(Filler(link, self._table))

    def open(self, flow: Flow) -> None:
        """Send the SYN of a kept flow."""
        if flow.client is not None:
            self._opening[flow.index] = flow
            self._transmit(flow, flow.client.open(self._clock.mono_ns()))

    def close(self, flow: Flow) -> None:
        """End the session of a kept flow, if it has one, with an exact RST."""
        self._opening.pop(flow.index, None)
        frame = None if flow.client is None else flow.client.close(*self._next(flow.index))
        if frame is not None:
            self._transmit(flow, frame)

    def _next(self, i: int) -> tuple[int, int]:
        """Sequence and acknowledgement number of the probe that would come next."""
        table = self._table
        seq = (int(table.tcp_base[i]) + int(self._ledger.next_seq[i]) * int(table.tcp_step[i])) % SERIAL
        return seq, int(table.tcp_ack[i])

    def _is_end(self, client: TcpClient, i: int, segment: Segment) -> bool:
        if client.state is State.ACKED:
            return client.is_end(segment, (client.irs + 1) % SERIAL, 0)
        octets = (int(self._ledger.next_seq[i]) - client.began) * int(self._table.tcp_step[i])
        return client.is_end(segment, int(self._table.tcp_ack[i]), octets)

    def poll(self, now: int) -> None:
        """Retry handshakes, and start probing where the wait for the window is over."""
        for index, flow in list(self._opening.items()):
            client = flow.client
            if client is None or client.state not in (State.SYN_SENT, State.ACKED):
                del self._opening[index]
                continue
            frame = client.poll(now)
            if frame is not None:
                self._transmit(flow, frame)
            elif client.established:
                self._established(flow)

    def take(self, flow: Flow, view: Any, at: int, end: int, family: int) -> bool:
        """Take in a segment of a kept session that is no reply to a probe.

        Args:
            flow: Whose session.
            view: The frame, as `frame_dtype("tcp")`.
            at: When it came, CLOCK_MONOTONIC ns.
            end: Where the packet ends in the frame.
            family: 4 or 6.

        Returns:
            Whether it is of the session.
        """
        client = flow.client
        if client is None:
            return False
        i, before = flow.index, client.state
        octets = end - layout.l4_offset(family) - (int(view["offset"]) >> 4) * 4
        segment = Segment(int(view["flags"]), int(view["seq"]), int(view["ack"]), max(octets, 0))
        ends = before in (State.ACKED, State.ESTABLISHED) and segment.flags & (layout.TCP_RST | layout.TCP_FIN)
        if ends and not segment.flags & layout.TCP_SYN and not self._is_end(client, i, segment):
            return False
        answer = client.receive(segment, at)
        if answer is not None:
            self._transmit(flow, answer)
        if client.state is State.ACKED:
            self._table.peer_ttl[i] = int(view["ttl"])
        if client.established and before is not State.ESTABLISHED:
            self._established(flow)
        if client.state is State.ENDED and before is not State.ENDED:
            self._ledger.count(i, "reset")
            self._tell(
                {
                    "event": "session_end",
                    "flow": i,
                    "cause": "rst" if segment.flags & layout.TCP_RST else "fin",
                    "at_ns": at + self._anchor,
                    "from": address_text(bytes(view["src"])),
                    "ttl": int(view["ttl"]),
                    "peer_ttl": int(self._table.peer_ttl[i]),
                }
            )
            self._on_ended(flow, at)
            if before is State.ESTABLISHED and not segment.flags & layout.TCP_RST:
                # Our half as well, so that no table on the way waits for it.
                self._transmit(flow, client.reset(*self._next(i)))
        return True

    def _established(self, flow: Flow) -> None:
        i, client = flow.index, flow.client
        if client is None:
            return
        client.began = int(self._ledger.next_seq[i])
        step = int(self._table.length[i]) - layout.l4_offset(flow.family) - 20
        self._table.tcp_step[i] = step
        # The next probe is the first octet after the SYN, whatever its number: a renewed session goes on counting.
        self._table.tcp_base[i] = (client.iss + 1 - client.began * step) % SERIAL
        self._table.tcp_ack[i] = (client.irs + 1) % SERIAL
        flow.done = False
        self._on_established(flow)
        self._tell({"event": "established", "flow": i, "at_ns": self._clock.mono_ns() + self._anchor})

    def acknowledge(self, flow: Ints, view: npt.NDArray[Any], octets: Ints) -> None:
        """Acknowledge the furthest octet received, over any hole: the firewall has seen at least as much."""
        end = (view["seq"].astype(np.int64) + octets) % SERIAL
        ahead = (end - self._table.tcp_ack[flow]) % SERIAL
        np.maximum.at(self._ahead, flow, np.where(ahead < SERIAL // 2, ahead, 0))
        # Each flow as often as it comes, with the same result every time.
        self._table.tcp_ack[flow] = (self._table.tcp_ack[flow] + self._ahead[flow]) % SERIAL
        self._ahead[flow] = 0

    def close_half_open(self, flow: Ints, sequence: Ints) -> None:
        """Close what the SYNs of fresh flows may have opened at the peer, answered or not."""
        syn = self._table.tcp_base[flow] + (sequence * SYN_STEP) % SERIAL
        self.send_resets(flow, self._table.ids(flow, sequence), (syn + 1) % SERIAL)

    def send_resets(self, flow: Ints, ports: Ints, seq: Ints) -> None:
        """Close half-open connections of fresh flows: from `ports`, with the sequence numbers that the peer expects."""
        of = self._table.transmitter[flow]
        for transmitter in distinct(of):
            mine = np.flatnonzero(of == transmitter)
            link = self._links[transmitter]
            while len(mine):
                first, count = link.free(len(mine))
                if not count:
                    return
                part, mine = mine[:count], mine[count:]
                link.send(count, self._fillers[transmitter].fill_resets(first, flow[part], ports[part], seq[part]))

    def _transmit(self, flow: Flow, frame: bytes) -> None:
        """Send a control segment; if the link is busy it is lost, as on any network."""
        link = self._links[int(self._table.transmitter[flow.index])]
        first, count = link.free(1)
        if count:
            link.view(layout.raw_dtype(link.slot_octets))[first, : len(frame)] = np.frombuffer(frame, np.uint8)
            link.send(1, np.array([len(frame)], np.int32))
