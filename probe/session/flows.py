"""The flow table of a Session-Sender: one row a flow, as arrays, plus one object for what happens at event rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.session.tcp import TcpClient
from probe.wire import layout
from probe.wire.packet import set_network_length, transport_sum

Ints = npt.NDArray[np.int64]
ONE_ID = 1 << 62  # probes per id of a kept flow: it never takes another
PORT_SPACE = {
    layout.ICMP4: "icmp",
    layout.ICMP6: "icmp",
    layout.UDP: "udp",
    layout.UDP_BASE: "udp",
    layout.UDP_AUTH: "udp",
    layout.TCP: "tcp",
    layout.SYN: "tcp",
}

# A new TCP sequence number per SYN that tells which SYN it was: odd, hence invertible modulo 2^32.
SYN_STEP = 0x10001
SYN_STEP_INVERSE = pow(SYN_STEP, -1, 1 << 32)


@dataclass(slots=True)
class Flow:
    """What is not needed per probe.

    Attributes:
        index: Row in every array.
        name: As configured.
        kind: One of `layout`'s kinds.
        family: 4 or 6.
        target: Address probed.
        transmitter: Key of the link that its frames leave by.
        proto: Key of its port space: "icmp", "udp" or "tcp".
        ids: ICMP identifiers or ports it owns.
        client: The connection of a kept TCP flow.
        limit: Slots to send in all; None: until stopped.
        first_ns: When the schedule begins; 0 while it has not.
    """

    index: int
    name: str
    kind: int
    family: int
    target: str
    transmitter: tuple[str, int]
    proto: str
    interval_ns: int
    session: int
    ids: list[int]
    min_probes: int
    threshold_ns: int
    limit: int | None = None
    lead_ns: int = 0
    key: bytes = b""  # authenticated STAMP
    coarse: bool = False  # a millisecond of slots may leave together
    client: TcpClient | None = None
    first_ns: int = 0
    done: bool = False
    resets: dict[str, int] = field(default_factory=dict)


class FlowTable:
    """Arrays indexed by flow.

    Args:
        capacity: Number of rows.
        frame_octets: Longest template.
    """

    def __init__(self, capacity: int, frame_octets: int):
        self.capacity = capacity
        self.flows: dict[int, Flow] = {}
        self.kind = np.zeros(capacity, np.int64)
        self.family = np.zeros(capacity, np.int64)
        self.transmitter = np.full(capacity, -1, np.int64)
        self.template = np.zeros((capacity, frame_octets), np.uint8)
        self.template_number = np.full(capacity, -1, np.int64)  # another whenever a row's template changes
        self._templates = 0
        self.length = np.zeros(capacity, np.int32)
        self.rest = np.zeros(capacity, np.uint64)  # word sum of what does not vary
        self.session = np.zeros(capacity, np.uint64)
        self.pool_at = np.zeros(capacity, np.int64)  # its ids in the pool
        self.pool_count = np.ones(capacity, np.int64)
        self.per_id = np.full(capacity, ONE_ID, np.int64)  # probes per id
        self.tcp_base = np.zeros(capacity, np.int64)  # TCP sequence number of probe 0
        self.tcp_step = np.zeros(capacity, np.int64)
        self.tcp_ack = np.zeros(capacity, np.int64)
        self.peer_ttl = np.zeros(capacity, np.int64)  # of the last reply, on arrival; 0: none came
        self.reset_template = np.zeros((capacity, 80), np.uint8)  # closes a half-open connection; fresh TCP only
        self.reset_length = np.zeros(capacity, np.int32)
        self.reset_rest = np.zeros(capacity, np.uint64)
        self.pool = np.zeros(0, np.int64)
        self._free_pool: list[tuple[int, int]] = []  # (start, length) that a flow has left behind
        # Who owns an id: 65,536 rows per port space.
        self.owner = {proto: np.full(65536, -1, np.int64) for proto in ("icmp", "udp", "tcp")}

    def add(self, flow: Flow, frame: bytes, rest: int, transmitter: int, per_id: int) -> None:
        """Fill the row of `flow`. Its template may be replaced later by `retarget`."""
        i = flow.index
        self.flows[i] = flow
        self.kind[i], self.family[i], self.transmitter[i] = flow.kind, flow.family, transmitter
        self.session[i], self.peer_ttl[i] = flow.session, 0
        self.pool_at[i], self.pool_count[i] = self._place(len(flow.ids)), len(flow.ids)
        self.pool[self.pool_at[i] : self.pool_at[i] + len(flow.ids)] = flow.ids
        self.per_id[i] = per_id if len(flow.ids) > 1 else ONE_ID
        self.owner[flow.proto][flow.ids] = i
        self.retarget(flow, frame, rest)

    def retarget(self, flow: Flow, frame: bytes, rest: int) -> None:
        """Give the flow another template: another next hop or source address."""
        i = flow.index
        self.template_number[i], self._templates = self._templates, self._templates + 1
        self.template[i] = 0
        self.template[i, : len(frame)] = np.frombuffer(frame, np.uint8)
        self.length[i], self.rest[i] = len(frame), rest
        if flow.kind == layout.SYN:
            self._prepare_reset(flow, frame)

    def remove(self, index: int) -> Flow:
        flow = self.flows.pop(index)
        self._free_pool.append((int(self.pool_at[index]), len(flow.ids)))
        self.owner[flow.proto][flow.ids] = -1
        return flow

    def _place(self, count: int) -> int:
        """Room for `count` ids in the pool."""
        for n, (start, length) in enumerate(self._free_pool):
            if length == count:
                del self._free_pool[n]
                return start
        self.pool = np.concatenate([self.pool, np.zeros(count, np.int64)])
        return len(self.pool) - count

    def ids(self, flow: Ints, sequence: Ints) -> Ints:
        """The ICMP identifier or source port of each probe."""
        if not len(self.pool):
            return np.zeros(len(flow), np.int64)
        return self.pool[self.pool_at[flow] + (sequence // self.per_id[flow]) % self.pool_count[flow]]

    def _prepare_reset(self, flow: Flow, frame: bytes) -> None:
        l4 = layout.l4_offset(flow.family)
        packet = bytearray(frame[: l4 + 20])
        set_network_length(packet, flow.family, 20)
        packet[l4 + 12] = 5 << 4
        packet[l4 + 13] = layout.TCP_RST
        packet[l4 + 14 : l4 + 20] = bytes(6)
        self.reset_template[flow.index, : len(packet)] = np.frombuffer(bytes(packet), np.uint8)
        self.reset_length[flow.index] = len(packet)
        self.reset_rest[flow.index] = transport_sum(bytes(packet), flow.family)


def describe(flow: Flow) -> dict[str, Any]:
    """What the control process wants to know once a flow has its ports."""
    return {"index": flow.index, "name": flow.name, "ids": flow.ids[:1], "kind": layout.KIND_NAMES[flow.kind]}
