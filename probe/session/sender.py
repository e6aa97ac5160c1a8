"""The Session-Sender: emits probes on schedule, takes in replies, settles their fate, tells what happened.

One thread, one loop. Each turn sends what is due, and every few milliseconds drains the receive rings and settles.
Replies wait in the rings meanwhile; the kernel has stamped them on arrival, so reading them late changes no figure.
Nothing in the loop waits for anything but the next slot.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.border import FLOW_STATES, Channel, SharedState
from probe.clock import Clock, wall_offset_ns
from probe.core.arrays import distinct
from probe.core.events import Outage
from probe.core.fate import COLUMN, DIRECTION_FATE, FATE_COLUMN
from probe.core.histogram import BINS, bins_of
from probe.core.ledger import Ledger, Reports
from probe.core.schedule import Due, Schedule
from probe.core.sequence import unwrap_below
from probe.link.base import FrameReceiver, FrameSender
from probe.session.filler import Filler
from probe.session.flows import SYN_STEP_INVERSE, Flow, FlowTable, describe
from probe.session.queue import Queue
from probe.session.tcp import SERIAL, Segment, State, TcpClient
from probe.wire import layout
from probe.wire.dissect import Batch, address_text, frame_ends, icmp_error, intact, split
from probe.wire.stamp import TLV_REPORT, TLV_UNKNOWN

Ints = npt.NDArray[np.int64]

TICK_NS = 20_000_000  # settle, publish, tell
DRAIN_NS = (
    20_000_000  # empty the receive rings: replies wait there, stamped already, and many cost little more than one
)
AHEAD_NS = 10_000_000  # frames are written this long before they are due
STALL_NS = 5_000_000  # later than this and a slot may have been missed
FAR = 1 << 62
OPEN_OUTAGE_NS = 1_000_000_000  # tell how an open outage has grown
SUSPECT_FLOOR_NS = 40_000_000
MAX_BATCH = 2048  # frames taken from a ring at a time
SINGLE_RATE_PPS = 20_000  # up to here every probe has a wake-up of its own
MAX_AHEAD = 1 << 15
FRAME_OCTETS = 1600
LOST_COLUMN = {direction: COLUMN[FATE_COLUMN[fate]] for direction, fate in DIRECTION_FATE.items()}
CONNECTING, UP, SUSPECT, DOWN, ENDED = range(len(FLOW_STATES))
IDS_MAX = {"icmp": 16384, "udp": 2048, "tcp": 4096}
# How long a firewall may remember an idle session that never had a second packet: a fresh flow's id must rest longer.
IDS_REST_S = {"icmp": 60.0, "udp": 60.0, "tcp": 15.0}


class Ports(Protocol):
    """Where ports come from (link/quiet.py)."""

    def reserve(self, proto: Any, address: str, count: int) -> list[int]: ...

    def release(self, proto: Any, ports: Any) -> None: ...


class Links(Protocol):
    """Where links come from; the engine opens rings, tests connect memory."""

    def transmitter(self, key: tuple[str, int]) -> FrameSender: ...

    def receivers(self) -> list[FrameReceiver]: ...

    def listen(self, key: tuple[str, int], owned: dict[str, list[int]]) -> None:
        """Receive on the interface of `key`, and let the replies to all `owned` ids (per port space) through."""


class Sender:
    """All flows of one engine.

    Args:
        links: Opens links.
        ports: Reserves ports.
        clock: Both clocks.
        shared: Counters for the control process.
        tell: Called with each event (a JSON-able dict); times in it are Unix nanoseconds.
        rng: For phases and session numbers.
    """

    def __init__(
        self,
        links: Links,
        ports: Ports,
        clock: Clock,
        shared: SharedState,
        tell: Callable[[dict[str, Any]], None],
        rng: random.Random | None = None,
    ):
        self._links, self._ports, self._clock, self._tell = links, ports, clock, tell
        self._shared = shared
        self._rng = rng or random.SystemRandom()
        capacity = shared.capacity
        self.table = FlowTable(capacity, FRAME_OCTETS)
        self.ledger = Ledger(capacity, live=shared.live)
        self.schedule = Schedule(capacity)
        self.anchor = wall_offset_ns(clock)
        shared.header["wall_anchor"] = self.anchor
        self._offset = self.anchor
        self._transmitters: dict[tuple[str, int], int] = {}
        self._queues: list[Queue] = []
        self._control: list[FrameSender] = []
        self._fillers: list[Filler] = []  # of the control links
        self._ahead_to = 0  # slots before this instant have been handed to their queues
        self._breath = 0  # shortest pause between two batches
        self._views: dict[int, dict[tuple[str, int], npt.NDArray[Any]]] = {}
        self._state = np.full(capacity, CONNECTING, np.int64)
        self._rtt_recent = np.zeros(capacity, np.int64)
        self._suspect_after = np.zeros(capacity, np.int64)
        self._down_after = np.zeros(capacity, np.int64)
        self._started = np.zeros(capacity, bool)
        self._next_tick = self._next_drain = self._next_open = 0
        self._drained_to = clock.mono_ns()
        self._lateness: list[Ints] = []
        self._lateness_reset = 0
        self._gap_open = False  # whether any flow waits for the end of an unobserved span
        self._seen = np.zeros(capacity, np.int64)  # digest of the address and port its reflector saw; 0: none yet
        shared.flows["rtt_min"] = np.iinfo(np.int64).max

    # --- flows -------------------------------------------------------------------------------------------------

    def add(self, message: dict[str, Any]) -> None:
        """Make a flow ready, from an `add` command (probe/prepare.py builds it). It starts with `begin`."""
        kind, family, index = int(message["kind"]), int(message["family"]), int(message["index"])
        fresh = message["session_kind"] == "fresh"
        proto = (
            "icmp"
            if kind in (layout.ICMP4, layout.ICMP6)
            else "udp"
            if kind in (layout.UDP, layout.UDP_BASE)
            else "tcp"
        )
        interval = int(message["interval_ns"])
        count, per_id = fresh_ids(proto, kind, interval) if fresh else (1, 1 << 62)
        ids = self._reserve(proto, str(message["target"]), count)
        session = int(message["session"])
        frame = bytes.fromhex(message["frame"])
        flow = Flow(
            index=index,
            name=str(message["name"]),
            kind=kind,
            family=family,
            target=str(message["target"]),
            transmitter=(str(message["transmitter"][0]), int(message["transmitter"][1])),
            proto=proto,
            interval_ns=interval,
            session=session,
            ids=ids,
            min_probes=int(message["min_probes"]),
            threshold_ns=int(message["threshold_ns"]),
            limit=message.get("limit"),
            lead_ns=int(message.get("lead_ns", 0)),
        )
        transmitter = self._transmitter(flow.transmitter)
        self.ledger.add(index, flow.name, 1e9 / interval, flow.threshold_ns, flow.min_probes)
        self._shared.histogram[index] = 0
        self._shared.flows[index] = (0, 0, np.iinfo(np.int64).max, 0, 0.0, CONNECTING)
        self.table.add(flow, frame, int(message["rest"]), transmitter, per_id)
        self.table.tcp_base[index] = self._rng.getrandbits(32)
        self._state[index] = CONNECTING
        self._rtt_recent[index] = 0
        self._suspect_after[index] = max(SUSPECT_FLOOR_NS, (flow.min_probes + 1) * interval)
        self._down_after[index] = max(flow.threshold_ns, self._suspect_after[index])
        self._started[index] = False
        self._links.listen(flow.transmitter, self._owned())
        if kind == layout.TCP:
            flow.client = TcpClient(frame, family, ids[0], self._rng.getrandbits(32))
        self._tell({"event": "added", **describe(flow)})

    def begin(self) -> None:
        """Start every flow that was added and has not started."""
        for flow in self.table.flows.values():
            if flow.client is not None and flow.client.state is State.CLOSED:
                self._transmit_one(flow, flow.client.open(self._clock.mono_ns()))
            elif flow.client is None and not flow.first_ns:
                self._begin(flow)

    def remove(self, index: int) -> None:
        """End a flow; the others notice nothing."""
        flow = self.table.flows.get(index)
        if flow is None:
            return
        self._stop(flow)
        self._close(flow)
        self.table.remove(index)
        self.ledger.remove(index)
        self._started[index] = False
        if flow.proto != "icmp":
            self._ports.release(flow.proto, flow.ids)

    def retarget(self, message: dict[str, Any]) -> None:
        """The next hop or source address of a flow has changed."""
        flow = self.table.flows.get(int(message["index"]))
        if flow is None:
            return
        frame = bytes.fromhex(message["frame"])
        key = (str(message["transmitter"][0]), int(message["transmitter"][1]))

        def change() -> None:
            flow.transmitter = key
            self.table.transmitter[flow.index] = self._transmitter(key)
            self.table.retarget(flow, frame, int(message["rest"]))

        self._rewrite(change)
        if flow.client is not None:
            flow.client.template = frame
        self._links.listen(key, self._owned())

    def renew(self, index: int) -> None:
        """Give a kept TCP flow whose session has ended a new one, on another port; its sequences go on."""
        flow = self.table.flows.get(index)
        if flow is None or flow.client is None or flow.client.state is not State.ENDED:
            return
        old = flow.ids
        flow.ids = self._reserve("tcp", flow.target, 1)
        self.table.owner["tcp"][old] = -1
        self.table.owner["tcp"][flow.ids] = index
        self.table.pool[self.table.pool_at[index]] = flow.ids[0]
        self._ports.release("tcp", old)
        flow.client = TcpClient(flow.client.template, flow.family, flow.ids[0], self._rng.getrandbits(32))
        self._state[index] = CONNECTING
        self._links.listen(flow.transmitter, self._owned())
        self._transmit_one(flow, flow.client.open(self._clock.mono_ns()))

    def halt(self) -> None:
        """Send no further probe; replies to those on the way still count."""
        for flow in self.table.flows.values():
            self._stop(flow)
            flow.limit, flow.first_ns = 0, flow.first_ns or 1

    def _stop(self, flow: Flow) -> None:
        """No further slot of this flow is used."""
        self._rewrite(lambda: self.schedule.stop(flow.index), drop=flow.index)

    def finished(self) -> bool:
        """Whether every flow has handed out its last slot."""
        return all(f.done for f in self.table.flows.values())

    def tell_open(self) -> None:
        """Tell now how open outages stand, and that it has been told."""
        now = self._clock.mono_ns()
        self._drain()
        self._next_open = 0
        self._tick(now)
        self._tell({"event": "told"})

    def close(self) -> None:
        """End every TCP session with an exact RST and settle what is left."""
        for flow in self.table.flows.values():
            self._close(flow)
        self._drain()
        self._next_open = 0
        self._tick(self._clock.mono_ns())

    def _reserve(self, proto: str, target: str, count: int) -> list[int]:
        if proto != "icmp":
            return self._ports.reserve(proto, target, count)
        owner = self.table.owner["icmp"]
        for _ in range(1000):
            start = self._rng.randrange(1, 65536 - count)
            if (owner[start : start + count] < 0).all():
                return list(range(start, start + count))
        raise RuntimeError("no free run of ICMP identifiers")

    def _owned(self) -> dict[str, list[int]]:
        return {proto: np.flatnonzero(owner >= 0).tolist() for proto, owner in self.table.owner.items()}

    def _transmitter(self, key: tuple[str, int]) -> int:
        """Probes leave through one ring, control segments through another: they must not queue behind frames of the
        future.
        """
        if key not in self._transmitters:
            self._transmitters[key] = len(self._queues)
            self._queues.append(Queue(self._links.transmitter(key), self.table, self.ledger, self._clock, self.anchor))
            control = self._links.transmitter((f"{key[0]}-control", key[1]))
            self._control.append(control)
            self._fillers.append(Filler(control, self.table))
        return self._transmitters[key]

    def _begin(self, flow: Flow) -> None:
        """Schedule the flow, with a random phase so that flows do not beat against each other (RFC 3432, section 3)."""
        now = self._clock.mono_ns()
        flow.first_ns = now + flow.lead_ns + self._rng.randrange(flow.interval_ns)
        self.schedule.start(flow.index, flow.first_ns, flow.interval_ns, flow.limit)
        self._started[flow.index] = True

    def _close(self, flow: Flow) -> None:
        if flow.client is None:
            return
        i = flow.index
        seq = (int(self.table.tcp_base[i]) + int(self.ledger.next_seq[i]) * int(self.table.tcp_step[i])) % SERIAL
        frame = flow.client.close(seq, int(self.table.tcp_ack[i]))
        if frame is not None:
            self._transmit_one(flow, frame)

    # --- the loop ----------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Do what is due now.

        Returns:
            When to call again, CLOCK_MONOTONIC ns.
        """
        now = self._clock.mono_ns()
        self._send(now)
        if now >= self._next_drain:
            self._drain()
            self._next_drain = now + DRAIN_NS
        if now >= self._next_tick:
            self._tick(now)
            self._next_tick = now + TICK_NS
        if now >= self._ahead_to - AHEAD_NS // 2:
            self._prepare(self._clock.mono_ns())
        following = min((q.next_due for q in self._queues), default=FAR)
        return min(self._next_tick, self._next_drain, max(following, now + self._breath))

    def _prepare(self, now: int) -> None:
        """Write the frames of the next milliseconds into their slots, so that a slot that comes costs only the
        sending.
        """
        rate = self.schedule.total_rate()
        self._breath = 0 if rate <= SINGLE_RATE_PPS else 500_000 if rate <= 50_000 else 1_000_000
        self._ahead_to = max(self._ahead_to, now) if self._ahead_to > now - AHEAD_NS else now
        self._ahead_to = max(self._ahead_to, now) + AHEAD_NS
        due = self.schedule.take(self._ahead_to, MAX_AHEAD)
        if not len(due.flow):
            return
        of = self.table.transmitter[due.flow]
        for transmitter in distinct(of):
            mine = of == transmitter
            self._queues[transmitter].wait(due.flow[mine], due.at_ns[mine])

    def _send(self, now: int) -> None:
        for queue in self._queues:
            while queue.next_due <= now:
                if queue.next_due < now - STALL_NS:
                    self._give_up_missed(queue, now)
                    if queue.next_due > now:
                        break
                error = queue.send(now)
                if error:
                    flow, due = queue.give_up(now)
                    self._unsent(flow, due, _cause(error))
                    break

    def _give_up_missed(self, queue: Queue, now: int) -> None:
        """After a stall, slots that are too old are not made up for. The frames written for them are renumbered."""
        flow, due = queue.recall()
        missed = self.schedule.missed(Due(flow, due), now)
        self._unsent(flow[missed], due[missed], "stall")
        queue.wait(flow[~missed], due[~missed])

    def _flush_stamps(self) -> None:
        """Tell the ledger what has left since the last time."""
        for queue in self._queues:
            flow, sequence, at, due = queue.stamps()
            if len(flow):
                self.ledger.stamp(flow, sequence, at)
                self._lateness.append(at - due)
                self._end_unsent(flow, at)

    def _rewrite(self, change: Callable[[], None], drop: int = -1) -> None:
        """Change something that frames already written depend on: take them back, change it, write them anew.

        Args:
            change: What to do in between.
            drop: A flow whose slots are not to come back.
        """
        held = [queue.recall() for queue in self._queues]
        self._flush_stamps()
        change()
        for flow, due in held:
            keep = flow != drop
            of = self.table.transmitter[flow]
            for transmitter in distinct(of[keep]) if keep.any() else []:
                mine = keep & (of == transmitter)
                self._queues[transmitter].wait(flow[mine], due[mine])

    def _unsent(self, flow: Ints, due: Ints, cause: str) -> None:
        if len(flow):
            self.ledger.unsent(flow, due)
            self._note_unsent(flow, due, cause)

    def _note_unsent(self, flow: Ints, due: Ints, cause: str) -> None:
        """A flow stops being observed with its last probe before the slot that was missed."""
        for f in distinct(flow):
            entry = self.table.flows[f]
            if entry.unsent_since is None:
                entry.unsent_since = int(self.ledger.last_sent_at[f]) or int(due[flow == f][0])
                entry.unsent_cause = cause
        self._gap_open = True

    def _end_unsent(self, flow: Ints, at: Ints) -> None:
        if not self._gap_open:
            return
        for f in distinct(flow):
            entry = self.table.flows[f]
            if entry.unsent_since is not None:
                self._tell_unobserved(entry, entry.unsent_since, int(at[flow == f][0]), entry.unsent_cause)
                entry.unsent_since = None
        self._gap_open = any(f.unsent_since is not None for f in self.table.flows.values())

    def _tell_unobserved(self, flow: Flow, start: int, end: int, cause: str) -> None:
        self.ledger.unobserved(flow.index, start, end)
        self._tell(
            {
                "event": "unobserved",
                "flow": flow.index,
                "start_ns": start + self.anchor,
                "end_ns": end + self.anchor,
                "cause": cause,
            }
        )

    def _transmit_one(self, flow: Flow, frame: bytes) -> None:
        """Send a control segment; if the link is busy it is lost, as on any network."""
        link = self._control[int(self.table.transmitter[flow.index])]
        first, count = link.free(1)
        if count:
            link.view(layout.raw_dtype(link.slot_octets))[first, : len(frame)] = np.frombuffer(frame, np.uint8)
            link.send(1, np.array([len(frame)], np.int32))

    # --- replies -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._flush_stamps()
        self._offset = wall_offset_ns(self._clock, 3)
        for receiver in self._links.receivers():
            last_stamp = self._drained_to
            for _ in range(256):
                first, count = receiver.ready(MAX_BATCH)
                if not count:
                    break
                stamps = receiver.stamps_ns(first, count)
                last_stamp = int(stamps[-1]) - self._offset
                self._take(receiver, first, count, stamps)
                receiver.release(count)
            drops = receiver.drops()
            if drops:
                self._dropped(last_stamp, drops)
        self._drained_to = self._clock.mono_ns()

    def _dropped(self, since: int, drops: int) -> None:
        now = self._clock.mono_ns()
        start = min(max(since, self._drained_to), now)
        self._shared.header["ring_drops"] += drops
        self.ledger.dropped(start, now, drops)
        for flow in self.table.flows.values():
            if self._started[flow.index]:
                self._tell_unobserved(flow, start, now, "ring_drop")

    def _view(self, receiver: FrameReceiver, name: str, family: int) -> npt.NDArray[Any]:
        views = self._views.setdefault(id(receiver), {})
        key = (name, family)
        if key not in views:
            dtype = layout.raw_dtype(receiver.slot_octets) if name == "raw" else layout.frame_dtype(name, family)
            views[key] = receiver.view(dtype)
        return views[key]

    def _take(self, receiver: FrameReceiver, first: int, count: int, stamps: Ints) -> None:
        window = slice(first, first + count)
        network = {f: self._view(receiver, "network", f)[window] for f in (4, 6)}
        raw = self._view(receiver, "raw", 0)[window]
        status = receiver.status(first, count)
        # A kernel stamp cannot lie ahead of now; if it seems to, the wall clock has just been stepped.
        now = self._clock.mono_ns()
        at = np.minimum(stamps - self._offset, now)
        for batch in split(network[4], network[6]):
            ends = frame_ends(batch, network[batch.family])
            good = intact(raw, batch, ends, status[batch.rows])
            slots = lambda name, b=batch: self._view(receiver, name, b.family)[window]  # noqa: E731
            if batch.proto == layout.IPPROTO_UDP:
                self._take_udp(batch, slots, good, at, ends)
            elif batch.proto == layout.IPPROTO_TCP:
                self._take_tcp(batch, slots, good, at, ends)
            elif batch.proto in (layout.IPPROTO_ICMP, layout.IPPROTO_ICMPV6):
                self._take_icmp(batch, slots, good, at, raw, ends)

    def _foreign(self, count: int) -> None:
        self._shared.header["unknown_frames"] += count

    def _owned_rows(
        self, proto: str, ids: npt.NDArray[Any], good: npt.NDArray[np.bool_]
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """(owner, mask): which frames are some flow's and intact; damaged ones are counted."""
        owner = self.table.owner[proto][ids.astype(np.int64)]
        mine = owner >= 0
        self._foreign(int((~mine).sum()))
        for f in owner[mine & ~good].tolist():
            self.ledger.count(f, "corrupt")
        return owner, mine & good

    def _take_icmp(self, batch: Batch, slots: Any, good: Any, at: Ints, raw: Any, ends: Ints) -> None:
        view = slots("icmp")[batch.rows]
        reply = view["type"] == (0 if batch.family == 4 else 129)
        for i in np.flatnonzero(~reply & good).tolist():
            self._take_error(bytes(raw[batch.rows[i], : int(ends[i])]), batch.family)
        owner, mine = self._owned_rows("icmp", np.where(reply, view["id"], 0), good | ~reply)
        mine &= reply
        mine &= (view["magic"] == layout.MAGIC) & (view["session"] == self.table.session[owner])
        self._account(owner[mine], view["sequence"][mine].astype(np.int64), at[batch.rows[mine]])

    def _take_udp(self, batch: Batch, slots: Any, good: Any, at: Ints, ends: Ints) -> None:
        view = slots("udp")[batch.rows]
        owner, mine = self._owned_rows("udp", view["dport"], good)
        l4 = layout.l4_offset(batch.family)
        mine &= ends >= l4 + 8 + 44
        if not mine.any():
            return
        view, flow, when = view[mine], owner[mine], at[batch.rows[mine]]
        sequence = unwrap_below(view["sender_seq"].astype(np.int64), self.ledger.next_seq[flow], 32)
        ours = (ends[mine] >= l4 + 8 + 44 + 4 + 76) & (view["tlv_type"] == TLV_REPORT)
        ours &= view["session"] == self.table.session[flow]
        reported = ours & (view["tlv_flags"] & TLV_UNKNOWN == 0)
        residence = _ntp_difference(view["received_time"], view["stamp_time"])
        known = self._account(flow, sequence, when, residence)
        self._reported(view, flow, sequence, reported & known)
        other = known & ~reported
        if other.any():
            self.ledger.numbers(flow[other], sequence[other], view["stamp_seq"][other].astype(np.int64))

    def _take_tcp(self, batch: Batch, slots: Any, good: Any, at: Ints, ends: Ints) -> None:
        view = slots("tcp")[batch.rows]
        owner, mine = self._owned_rows("tcp", view["dport"], good)
        control = view["flags"] & (layout.TCP_SYN | layout.TCP_RST | layout.TCP_FIN) != 0
        l4 = layout.l4_offset(batch.family)
        data = mine & ~control & (ends >= l4 + 20 + 100) & (view["offset"] == 5 << 4) & (view["magic"] == layout.MAGIC)
        data &= view["session"] == self.table.session[owner]
        data &= self.table.kind[owner] == layout.TCP
        if data.any():
            part, flow = view[data], owner[data]
            sequence = part["sequence"].astype(np.int64)
            residence = (part["reply_time"] - part["received_time"]).astype(np.int64)
            known = self._account(flow, sequence, at[batch.rows[data]], residence)
            self._reported(part, flow, sequence, known)
            self._acknowledge(flow[known], part[known], ends[data][known] - l4 - 20)
        rest = mine & ~data
        if not rest.any():
            return
        fresh = rest & (self.table.kind[owner] == layout.SYN)
        if fresh.any():
            self._take_answers(view[fresh], owner[fresh], at[batch.rows[fresh]])
        for i in np.flatnonzero(rest & ~fresh).tolist():
            self._take_control(
                self.table.flows[int(owner[i])], view[i], int(at[batch.rows[i]]), int(ends[i]), batch.family
            )

    def _take_answers(self, view: npt.NDArray[Any], flow: Ints, at: Ints) -> None:
        """SYN/ACKs and RSTs: answers to fresh TCP probes. A half-open connection is closed at once."""
        syn_ack = view["flags"] & (layout.TCP_SYN | layout.TCP_ACK) == layout.TCP_SYN | layout.TCP_ACK
        reset = view["flags"] & (layout.TCP_RST | layout.TCP_ACK) == layout.TCP_RST | layout.TCP_ACK
        answer = syn_ack | reset
        distance = (view["ack"].astype(np.int64) - 1 - self.table.tcp_base[flow]) % SERIAL
        number = (distance.astype(np.uint64) * np.uint64(SYN_STEP_INVERSE)) & np.uint64(SERIAL - 1)
        sequence = unwrap_below(number.astype(np.int64), self.ledger.next_seq[flow], 32)
        answer &= (sequence >= 0) & (self.table.ids(flow, np.maximum(sequence, 0)) == view["dport"])
        self._account(flow[answer], sequence[answer], at[answer])
        for f in flow[answer & reset].tolist():
            self.ledger.count(f, "reset")
        close = answer & syn_ack
        if close.any():
            self._send_resets(flow[close], view["dport"][close].astype(np.int64), view["ack"][close].astype(np.int64))

    def _send_resets(self, flow: Ints, ports: Ints, seq: Ints) -> None:
        of = self.table.transmitter[flow]
        for transmitter in distinct(of):
            mine = np.flatnonzero(of == transmitter)
            link = self._control[transmitter]
            while len(mine):
                first, count = link.free(len(mine))
                if not count:
                    return
                part, mine = mine[:count], mine[count:]
                link.send(count, self._fillers[transmitter].fill_resets(first, flow[part], ports[part], seq[part]))

    def _take_control(self, flow: Flow, view: Any, at: int, end: int, family: int) -> None:
        client = flow.client
        if client is None:
            return
        before = client.state
        octets = end - layout.l4_offset(family) - (int(view["offset"]) >> 4) * 4
        segment = Segment(int(view["flags"]), int(view["seq"]), int(view["ack"]), max(octets, 0))
        answer = client.receive(segment, at)
        if answer is not None:
            self._transmit_one(flow, answer)
        if client.established and before is not State.ESTABLISHED:
            self._established(flow)
        if client.state is State.ENDED and before is not State.ENDED:
            self._stop(flow)
            flow.done = True
            self._state[flow.index] = ENDED
            cause = "rst" if segment.flags & layout.TCP_RST else "fin"
            self.ledger.count(flow.index, "reset")
            self._tell(
                {
                    "event": "session_end",
                    "flow": flow.index,
                    "cause": cause,
                    "at_ns": at + self.anchor,
                    "from": address_text(bytes(view["src"])),
                    "ttl": int(view["ttl"]),
                }
            )
            self._tell_state(flow.index, at)

    def _established(self, flow: Flow) -> None:
        i, client = flow.index, flow.client
        if client is None:
            return
        self.table.tcp_step[i] = int(self.table.length[i]) - layout.l4_offset(flow.family) - 20
        # The next probe is the first octet after the SYN, whatever its number: a renewed session goes on counting.
        self.table.tcp_base[i] = (client.iss + 1 - int(self.ledger.next_seq[i]) * int(self.table.tcp_step[i])) % SERIAL
        self.table.tcp_ack[i] = (client.irs + 1) % SERIAL
        flow.done = False
        if flow.first_ns and not self.schedule.active(i) and flow.limit is None:
            self.schedule.start(i, self._clock.mono_ns(), flow.interval_ns)
        elif not flow.first_ns:
            self._begin(flow)
        self._tell({"event": "established", "flow": i, "at_ns": self._clock.mono_ns() + self.anchor})

    def _acknowledge(self, flow: Ints, view: npt.NDArray[Any], octets: Ints) -> None:
        """Acknowledge the furthest octet received, over any hole: the firewall has seen at least as much."""
        end = (view["seq"].astype(np.int64) + octets) % SERIAL
        ahead = (end - self.table.tcp_ack[flow]) % SERIAL
        for f in distinct(flow):
            mine = (flow == f) & (ahead < SERIAL // 2)
            if mine.any():
                self.table.tcp_ack[f] = (self.table.tcp_ack[f] + int(ahead[mine].max())) % SERIAL

    def _take_error(self, frame: bytes, family: int) -> None:
        error = icmp_error(frame, family)
        proto = {1: "icmp", 58: "icmp", 17: "udp", 6: "tcp"}.get(error.proto) if error is not None else None
        if error is None or proto is None or self.table.owner[proto][error.number] < 0:
            self._foreign(1)
            return
        self.ledger.count(int(self.table.owner[proto][error.number]), "icmp_error")

    def _reported(self, view: npt.NDArray[Any], flow: Ints, sequence: Ints, which: Any) -> None:
        if not which.any():
            return
        part = view[which]
        columns = (
            part[name].astype(np.int64) for name in ("boot", "q", "gap_total", "gap_index", "gap_start", "gap_length")
        )
        self.ledger.reports(flow[which], sequence[which], Reports(*columns))
        self._translations(part, flow[which], sequence[which])

    def _translations(self, part: npt.NDArray[Any], flow: Ints, sequence: Ints) -> None:
        """Tell when the reflector sees a kept flow come from another address or port than before."""
        key = part["seen_port"].astype(np.int64)
        address = np.ascontiguousarray(part["seen_address"]).view(np.uint64).reshape(len(part), 2)
        key = key ^ (address[:, 0] ^ address[:, 1]).astype(np.int64)
        moved = (key != self._seen[flow]) & (self.table.per_id[flow] == 1 << 62)
        for i in np.flatnonzero(moved).tolist():
            f = int(flow[i])
            if self._seen[f] == key[i]:
                continue
            first_time, self._seen[f] = self._seen[f] == 0, key[i]
            seen = address_text(bytes(part["seen_address"][i]))
            event = {"event": "translation", "flow": f, "address": seen, "port": int(part["seen_port"][i])}
            self._tell({**event, "changed": not first_time, "sequence": int(sequence[i])})

    def _account(self, flow: Ints, sequence: Ints, at: Ints, residence: Ints | None = None) -> npt.NDArray[np.bool_]:
        """Hand replies to the ledger and their delays to the histogram; which of them answer a probe of ours."""
        if not len(flow):
            return np.zeros(0, bool)
        arrivals = self.ledger.receive(flow, sequence, at)
        self._foreign(int(arrivals.unknown.sum()))
        timed = arrivals.answered
        if timed.any():
            rtt, of = arrivals.rtt_ns[timed], flow[timed]
            self._rtt_recent[of] = rtt
            if residence is not None:  # the time a probe spent inside the reflector is not the network's
                inside = residence[timed]
                rtt = np.where((inside > 0) & (inside < rtt), rtt - inside, rtt)
            self._delays(of, np.maximum(rtt, 0))
        return ~arrivals.unknown

    def _delays(self, flow: Ints, rtt: Ints) -> None:
        rows = self._shared.flows
        np.add.at(self._shared.histogram.reshape(-1), flow * BINS + bins_of(rtt), 1)
        if (flow == flow[0]).all():
            f = int(flow[0])
            rows["rtt_min"][f] = min(rows["rtt_min"][f], rtt.min())
            rows["rtt_max"][f] = max(rows["rtt_max"][f], rtt.max())
            rows["rtt_sum"][f] += float(rtt.sum())
            return
        np.minimum.at(rows["rtt_min"], flow, rtt)
        np.maximum.at(rows["rtt_max"], flow, rtt)
        np.add.at(rows["rtt_sum"], flow, rtt)

    # --- the tick ----------------------------------------------------------------------------------------------

    def _tick(self, now: int) -> None:
        self.ledger.settle(self._drained_to)
        self._tell_findings(now)
        self._poll_clients(now)
        self._update_states(now)
        self._publish(now)

    def _tell_findings(self, now: int) -> None:
        open_too = now >= self._next_open
        if open_too:
            self._next_open = now + OPEN_OUTAGE_NS
        for index, outage in self.ledger.drain_outages(open_too=open_too):
            # All that is lost in its direction from its start on is lost in it, as long as it is open: with this a
            # reader can tell how much of an open outage lies within a span.
            lost = int(self.ledger.live[index, LOST_COLUMN[outage.direction]])
            before = lost - outage.lost if outage.censored == "end" else -1
            self._tell({"event": "outage", "flow": index, "lost_before": before, **self._wall_outage(outage)})
        for c in self.ledger.drain_corrections():
            event = {"event": "correction", "flow": c.flow, "at_ns": c.at + self.anchor}
            generation = int(self._shared.header["generation"][0])  # readings up to this one lack the correction
            self._tell({**event, "from": c.fro, "to": c.to, "count": c.count, "generation": generation})

    def _wall_outage(self, outage: Outage) -> dict[str, Any]:
        """An outage with its instants moved to Unix time; durations are untouched."""
        record = {name: getattr(outage, name) for name in outage.__slots__ if name != "flow"}
        for name in ("start_ns", "end_ns", "last_ok_ns", "first_lost_ns", "last_lost_ns", "first_ok_ns"):
            if record[name]:
                record[name] += self.anchor
        return record

    def _poll_clients(self, now: int) -> None:
        for flow in self.table.flows.values():
            client = flow.client
            if client is None or client.state not in (State.SYN_SENT, State.ACKED):
                continue
            frame = client.poll(now)
            if frame is not None:
                self._transmit_one(flow, frame)
            elif client.established:
                self._established(flow)

    def _update_states(self, now: int) -> None:
        ledger = self.ledger
        silent = ledger.last_sent_at - ledger.last_answered_at
        heard = ledger.last_answered_at > 0
        allowance = self._suspect_after + 4 * self._rtt_recent
        state = np.where(
            silent > np.maximum(self._down_after, allowance), DOWN, np.where(silent > allowance, SUSPECT, UP)
        )
        state = np.where(heard, state, np.where(silent > self._down_after, DOWN, CONNECTING))
        # Before the first probe there is no silence to speak of.
        first = np.array([f.first_ns for f in self.table.flows.values()], np.int64)
        index = np.fromiter(self.table.flows, np.int64, len(self.table.flows))
        young = index[(~heard[index]) & (now - first < self._down_after[index])]
        state[young] = CONNECTING
        state[self._state == ENDED] = ENDED
        state[~self._started] = CONNECTING
        for flow in self.table.flows.values():
            over = flow.limit is not None and not flow.done and flow.first_ns and not self.schedule.active(flow.index)
            if over and not any(q.holds(flow.index) for q in self._queues):
                flow.done = True
                self._tell({"event": "done", "flow": flow.index})
        for f in index[state[index] != self._state[index]].tolist():
            self._state[f] = state[f]
            self._tell_state(f, now)

    def _tell_state(self, flow: int, at: int) -> None:
        state = FLOW_STATES[int(self._state[flow])]
        self._tell({"event": "state", "flow": flow, "state": state, "at_ns": at + self.anchor})

    def _publish(self, now: int) -> None:
        ledger, rows, header = self.ledger, self._shared.flows, self._shared.header
        for name in ("duplicate", "reordered", "corrupt", "reset", "icmp_error"):  # bound by no law: as they stand
            ledger.settled[:, COLUMN[name]] = ledger.live[:, COLUMN[name]]
        self._shared.publish(ledger.settled_to + self.anchor, ledger.settled)
        rows["last_sent"] = np.where(ledger.last_sent_at > 0, ledger.last_sent_at + self.anchor, 0)
        rows["last_answered"] = np.where(ledger.last_answered_at > 0, ledger.last_answered_at + self.anchor, 0)
        rows["state"] = self._state
        header["heartbeat"] = now
        header["wall_offset"] = self._offset
        header["cpu_ns"] = time.process_time_ns()
        if now - self._lateness_reset > 1_000_000_000 and self._lateness:
            late = np.concatenate(self._lateness)
            header["lateness_max"], header["lateness_p99"] = late.max(), int(np.percentile(late, 99))
            self._lateness, self._lateness_reset = [], now


def _cause(error: str) -> str:
    return "link_down" if error == "link_down" else "send_error"


def fresh_ids(proto: str, kind: int, interval_ns: int) -> tuple[int, int]:
    """How many ids a fresh flow cycles through, and how many probes each serves before the next.

    A new id per probe is only new if the last session under it is forgotten, so an id must rest for IDS_REST_S. Where
    the rate would need more ids than a flow may hold, several probes in a row share one. Each TCP SYN has its own.
    """
    most = IDS_MAX[proto]
    wanted = int(IDS_REST_S[proto] * 1e9 / interval_ns) + 1
    if kind == layout.SYN:
        return max(2, min(wanted, most)), 1
    per_id = -(-wanted // most)
    return max(2, min(most, -(-wanted // per_id))), per_id


def _ntp_difference(earlier: npt.NDArray[Any], later: npt.NDArray[Any]) -> Ints:
    """Later - earlier in nanoseconds, for NTP timestamps less than half an hour apart; 0 for anything longer."""
    difference = (later.astype(np.uint64) - earlier.astype(np.uint64)).astype(np.int64)
    sane = (difference >= 0) & (difference < 1 << 43)
    difference = np.where(sane, difference, 0)
    return (difference >> 16) * 1_000_000_000 >> 16


def run(sender: Sender, channel: Channel, stop: Callable[[], bool]) -> None:
    """Turn until told to stop or the control process is gone."""
    gc.disable()  # a collection would delay a probe; what the loop allocates dies by reference count
    while not stop():
        wake = sender.turn()
        for message in channel.receive():
            command(sender, message)
        channel.flush()
        if channel.closed:
            break
        pause = wake - time.monotonic_ns()
        if pause > 0:
            time.sleep(pause / 1e9)
    sender.close()
    channel.flush()


def command(sender: Sender, message: dict[str, Any]) -> None:
    """Carry out one message of the control process."""
    act: dict[str, Callable[[], None]] = {
        "add": lambda: sender.add(message),
        "remove": lambda: sender.remove(int(message["index"])),
        "retarget": lambda: sender.retarget(message),
        "begin": sender.begin,
        "halt": sender.halt,
        "tell": sender.tell_open,
        "renew": lambda: sender.renew(int(message["index"])),
    }
    act[message["command"]]()
