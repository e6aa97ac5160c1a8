"""The Session-Sender: emits probes on schedule, takes in replies, settles their fate, tells what happened.

One thread, one loop. Each turn sends what is due, and every few milliseconds drains the receive rings and settles.
Replies wait in the rings meanwhile; the kernel has stamped them on arrival, so reading them late changes no figure.
Nothing in the loop waits for anything but the next slot.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.border import FLOW_STATES, SharedState
from probe.clock import Clock, wall_offset_ns
from probe.core.arrays import distinct
from probe.core.fate import COLUMN
from probe.core.ledger import Ledger
from probe.core.schedule import Due, Schedule
from probe.errors import HaprobeError
from probe.link.base import FrameReceiver, FrameSender
from probe.session.absence import Absence
from probe.session.connections import Connections
from probe.session.findings import Findings
from probe.session.flows import ONE_ID, PORT_SPACE, Flow, FlowTable, describe
from probe.session.half_open import HalfOpen
from probe.session.ids import Ids, Ports
from probe.session.intake import MAX_BATCHES, Intake
from probe.session.liveness import CONNECTING, Liveness
from probe.session.queue import SINGLY, SINGLY_COARSE, TOGETHER, USUAL_NS, Queue
from probe.session.recording import Recording
from probe.session.streams import NoStack, Stack, Streams
from probe.session.tcp import State, TcpClient
from probe.session.witness import Witness
from probe.wire import layout

Ints = npt.NDArray[np.int64]

TICK_NS = 20_000_000  # settle, publish, tell
TICK_SHARE, LONGEST_TICK_NS = 20, 50_000_000  # a twentieth of the time, but often enough to tell of silence at once
COARSE_TICK_NS = 40_000_000  # and drain, while no flow is paced finely
DRAIN_NS = (
    20_000_000  # empty the receive rings: replies wait there, stamped already, and many cost little more than one
)
SPIN_DRAIN_NS = 5_000_000  # where each take must be short
LOOK_NS = 200_000_000  # ask so often what the interfaces have dropped
LINGER_STEP_NS = 5_000_000
AHEAD_NS = 20_000_000  # frames are written this long before they are due
COARSE_AHEAD_NS = 80_000_000
LINGER_NS = 200_000_000  # at the end
STALL_NS = 5_000_000  # a slot used later than this was not on schedule: its flow went unobserved meanwhile
# What came due in a stall of up to so many probes, and so long, is still sent. Of a longer one nothing is made up for.
LATEST_TOGETHER, LATEST_NS = 128, 20_000_000
CHRONIC_NS = 20_000_000  # stalls that follow so soon have one cause: more is asked for than can be sent
FAR = 1 << 62
SINGLE_RATE_PPS = 20_000  # up to here every probe has a wake-up of its own
# Above, several share one, but hardly two of one flow: its outages would begin and end between two batches.
SPIN_PPS, SPIN_NS = 50_000, 200_000  # for a flow as fast no sleep is short enough: up to here the engine waits awake
SHARED_NS, SHORTEST_NS, COARSE_NS = 500_000, 50_000, 1_000_000
MOST_USUAL_NS = 250_000  # of a call of one frame, and no more than a quarter of an interval
FASTEST_PPS, FASTEST_TOGETHER = 200_000, 128
MOST_AHEAD = 2500
MAX_AHEAD = 1 << 15
FRAME_OCTETS = 1600


class Links(Protocol):
    """Where links come from; the engine opens rings, tests connect memory."""

    def transmitter(self, key: tuple[str, int]) -> FrameSender: ...

    def receivers(self) -> list[FrameReceiver]: ...

    def listen(self, key: tuple[str, int], owned: dict[str, list[int]]) -> None:
        """Receive on the interface of `key`, and let the replies to all `owned` ids (per port space) through."""

    def interface_drops(self) -> int:
        """Frames that the interfaces we receive on have dropped since the last call."""


class Sender:
    """All flows of one engine.

    Args:
        links: Opens links.
        ports: Reserves ports.
        clock: Both clocks.
        shared: Counters for the control process.
        tell: Called with each event (a JSON-able dict); times in it are Unix nanoseconds.
        rng: For phases and session numbers.
        recording: Takes in every probe.
        stack: Opens the connections of streams.
        spin: Whether it may keep a processor busy to be in time.
    """

    def __init__(
        self,
        links: Links,
        ports: Ports,
        clock: Clock,
        shared: SharedState,
        tell: Callable[[dict[str, Any]], None],
        rng: random.Random | None = None,
        recording: Recording | None = None,
        stack: Stack | None = None,
        *,
        spin: bool = True,
    ):
        self._links, self._clock, self._tell = links, clock, tell
        self._shared = shared
        self._rng = rng or random.SystemRandom()
        capacity = shared.capacity
        self.table = FlowTable(capacity, FRAME_OCTETS)
        self.ledger = Ledger(capacity, live=shared.live)
        self.schedule = Schedule(capacity)
        self.anchor = wall_offset_ns(clock)
        shared.header["wall_anchor"] = self.anchor
        self._transmitters: dict[tuple[str, int], int] = {}
        self._queues: list[Queue] = []
        self._ahead_to = 0  # slots before this instant have been handed to their queues
        self._ahead = AHEAD_NS
        self._may_spin = spin
        self._spin = False  # wait for the next probe without sleeping
        self._breath = 0  # shortest pause between two batches
        self._latest = STALL_NS  # the longest stall whose slots are still sent
        self._liveness = Liveness(capacity)
        self._connections = Connections(
            self.table,
            self.ledger,
            clock,
            tell,
            self.anchor,
            on_established=self._established,
            on_ended=self._session_ended,
        )
        self.ledger.relieve = self._relieve
        self._witness = Witness(self.ledger, self.anchor, tell, recording)
        self._intake = Intake(
            self.table,
            self.ledger,
            self._connections,
            clock,
            shared,
            tell,
            self._dropped,
            self._witness.received,
            self._flush_stamps,
            self._relieve,
        )
        self._streams = Streams(
            stack or NoStack(), self.ledger, self._liveness, clock, shared, tell, self.anchor, self._tell_state
        )
        self._findings = Findings(self.ledger, self._witness, self._streams, shared, tell, self.anchor, self._relieve)
        self._gone: set[int] = set()  # transmitters whose link was gone when they last tried
        self._relief = True  # whether probes may leave in the middle of other work
        self._closing = False
        self._fine = 0  # flows that are to be paced finely
        self._limited: set[int] = set()  # flows that end by themselves and have not ended
        self._deaf = False  # whether links must be told of new ids to listen for
        self._next_tick = self._next_drain = 0
        self._tick_cost = 0  # ns, of the last tick
        self._gave_up_at = 0  # when slots were last too old
        self._lateness: list[Ints] = []
        self._lateness_reset = 0
        answered = self.ledger.last_answered_at
        self._absence = Absence(
            self.ledger, tell, self.anchor, lambda flow, ns: self._liveness.excuse(flow, ns, answered[flow])
        )
        self._half_open = HalfOpen(self.ledger.unanswered, self.ledger.last_answered_at)
        self._syns = 0  # flows of SYN probes
        self._ids = Ids(ports, self.table.owner["icmp"], self._rng)
        self._looked_at = clock.mono_ns()  # when the interfaces were asked last

    # --- flows -------------------------------------------------------------------------------------------------

    def add(self, message: dict[str, Any]) -> None:
        """Make a flow ready, from an `add` command (probe/prepare.py builds it). It starts with `begin`.

        Raises:
            HaprobeError: If there are no ids for it; it is as if it had not been asked for.
        """
        if message.get("stack") == "kernel":
            self._intake.reset(int(message["index"]))
            self._streams.add(message)
            return
        kind, family, index = int(message["kind"]), int(message["family"]), int(message["index"])
        fresh = message["session_kind"] == "fresh"
        proto = PORT_SPACE[kind]
        interval = int(message["interval_ns"])
        target = str(message["target"])
        # The link first: no ids are to be given back when its interface is gone.
        way = str(message["transmitter"][0]), int(message["transmitter"][1])
        transmitter = self._transmitter(way)
        ids, per_id = self._ids.fresh(kind, target, interval) if fresh else (self._ids.one(proto, target), ONE_ID)
        session = int(message["session"])
        frame = bytes.fromhex(message["frame"])
        flow = Flow(
            index=index,
            name=str(message["name"]),
            kind=kind,
            family=family,
            target=target,
            transmitter=way,
            proto=proto,
            interval_ns=interval,
            session=session,
            ids=ids,
            min_probes=int(message["min_probes"]),
            threshold_ns=int(message["threshold_ns"]),
            limit=message.get("limit"),
            lead_ns=int(message.get("lead_ns", 0)),
            key=bytes.fromhex(message.get("key", "")),
            coarse=bool(message.get("coarse", False)),
        )
        self.ledger.add(index, flow.name, 1e9 / interval, flow.threshold_ns, flow.min_probes)
        self._intake.reset(index)
        self._absence.forget(index)
        self._shared.flows[index] = (0, 0, np.iinfo(np.int64).max, 0, 0.0, CONNECTING)
        self.table.add(flow, frame, int(message["rest"]), transmitter, per_id)
        self._witness.add(flow)
        self.table.tcp_base[index] = self._rng.getrandbits(32)
        self._liveness.add(index, interval, flow.min_probes, flow.threshold_ns)
        self._fine += not flow.coarse
        self._syns += kind == layout.SYN
        if flow.limit is not None:
            self._limited.add(index)
        self._deaf = True  # `begin` tells the links: once for all flows that were added
        if kind == layout.TCP:
            flow.client = TcpClient(frame, family, ids[0], self._rng.getrandbits(32))
        self._tell({"event": "added", **describe(flow)})

    def refuse(self, message: dict[str, Any], error: HaprobeError) -> None:
        """Tell that the flow of a command cannot be, or has no session any more."""
        index, command = int(message["index"]), message["command"]
        self._tell({"event": "refused", "flow": index, "command": command, "reason": str(error)})

    def begin(self) -> None:
        """Start every flow that was added and has not started."""
        if self._deaf:
            owned = self._owned()
            for key in {flow.transmitter for flow in self.table.flows.values()}:
                self._links.listen(key, owned)
            self._deaf = False
        for flow in self.table.flows.values():
            if flow.client is not None and flow.client.state is State.CLOSED:
                self._connections.open(flow)
            elif flow.client is None and not flow.first_ns:
                self._begin(flow)
        self._streams.begin()

    def remove(self, index: int) -> None:
        """End a flow; the others notice nothing."""
        if index in self._streams.flows:
            self._streams.remove(index)
            return
        flow = self.table.flows.get(index)
        if flow is None:
            return
        self._stop(flow)
        self._connections.close(flow)
        self.table.remove(index)
        self.ledger.remove(index)
        self._fine -= not flow.coarse
        self._syns -= flow.kind == layout.SYN
        self._limited.discard(index)
        self._witness.remove(index)
        self._liveness.end(index)
        self._ids.release(flow.proto, flow.ids)

    def retarget(self, message: dict[str, Any]) -> None:
        """The next hop or source address of a flow has changed. Where the new way cannot be opened it keeps the old."""
        flow = self.table.flows.get(int(message["index"]))
        if flow is None:
            return
        frame = bytes.fromhex(message["frame"])
        key = (str(message["transmitter"][0]), int(message["transmitter"][1]))
        try:
            # First of all: this may fail, and what `_rewrite` has taken back must come to its queues again.
            transmitter = self._transmitter(key)
            self._links.listen(key, self._owned())
        except HaprobeError as error:  # an interface that comes and goes; the next change of path follows
            self._tell({"event": "stayed", "flow": flow.index, "reason": str(error)})
            return

        def change() -> None:
            flow.transmitter = key
            self.table.transmitter[flow.index] = transmitter
            self.table.retarget(flow, frame, int(message["rest"]))

        before = _source(self.table.template[flow.index].tobytes(), flow.family)
        self._rewrite(change)
        if flow.client is not None:
            flow.client.template = frame
        if _source(frame, flow.family) != before:
            self._moved(flow)

    def _moved(self, flow: Flow) -> None:
        """A flow has another source address: its session is not the one it was. Of TCP it needs a new one.

        That has the old port, by which replies that are still on their way are known.
        """
        client = flow.client
        if client is None or client.state in (State.ACKED, State.ESTABLISHED):
            self._tell({"event": "moved", "flow": flow.index, "at_ns": self._clock.mono_ns() + self.anchor})
        if client is not None and client.state not in (State.CLOSED, State.ENDED):
            self._stop(flow)  # without a RST, which nobody would know by the new address
            self._connect(flow)

    def renew(self, index: int) -> None:
        """Give a kept TCP flow whose session is over a new one, on another port; its sequences go on."""
        if index in self._streams.flows:
            self._streams.renew(index)
            return
        flow = self.table.flows.get(index)
        if flow is None or flow.client is None or flow.client.state not in (State.ESTABLISHED, State.ENDED):
            return
        self._stop(flow)
        self._connections.close(flow)
        old = flow.ids
        flow.ids = self._ids.one("tcp", flow.target)
        self.table.owner["tcp"][old] = -1
        self.table.owner["tcp"][flow.ids] = index
        self.table.pool[self.table.pool_at[index]] = flow.ids[0]
        self._ids.release("tcp", old)
        self._links.listen(flow.transmitter, self._owned())
        self._connect(flow)

    def _connect(self, flow: Flow) -> None:
        """Open a new connection for a kept TCP flow."""
        if flow.client is not None:
            flow.client = TcpClient(flow.client.template, flow.family, flow.ids[0], self._rng.getrandbits(32))
            self._intake.renew(flow.index)
            self._liveness.add(flow.index, flow.interval_ns, flow.min_probes, flow.threshold_ns)
            self._connections.open(flow)

    def halt(self) -> None:
        """Send no further probe; replies to those on the way still count."""
        for flow in self.table.flows.values():
            self._stop(flow)
            flow.limit, flow.first_ns = 0, flow.first_ns or 1
            self._limited.add(flow.index)
        self._streams.halt()

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
        self._absence.tell_so_far()
        self._tick(now, everything=True)
        self._tell({"event": "told"})

    def close(self) -> None:
        """End every TCP session with an exact RST and settle what is left."""
        self._closing, self._relief = True, False
        for queue in self._queues:
            queue.recall()  # a RST is exact only behind the last probe that has left
        self._flush_stamps()
        for flow in self.table.flows.values():
            self._connections.close(flow)
        self._streams.close()
        self._linger()
        self._drain()
        self._look_at_interfaces(self._clock.mono_ns())
        self._absence.tell_so_far(last=True)
        self.ledger.conclude(self._intake.drained_to)
        self._tick(self._clock.mono_ns(), everything=True)
        self._witness.close()

    def _linger(self) -> None:
        """Wait a little for the answers to the last SYNs: each leaves a connection half open until then."""
        fresh = [flow.index for flow in self.table.flows.values() if flow.kind == layout.SYN and flow.first_ns]
        until = self._clock.mono_ns() + LINGER_NS
        while (self.ledger.last_answered_at[fresh] < self.ledger.last_sent_at[fresh]).any():
            now = self._clock.mono_ns()
            if now >= until:
                break
            self._clock.sleep_until(now + LINGER_STEP_NS)
            self._drain()

    def _owned(self) -> dict[str, list[int]]:
        return {proto: np.flatnonzero(owner >= 0).tolist() for proto, owner in self.table.owner.items()}

    def _transmitter(self, key: tuple[str, int]) -> int:
        """Number of a link, opened with its control link when it is first needed."""
        if key not in self._transmitters:
            link, control = self._links.transmitter(key), self._links.transmitter((f"{key[0]}-control", key[1]))
            self._transmitters[key] = len(self._queues)  # now that both are there
            self._queues.append(Queue(link, self.table, self.ledger, self._clock, self.anchor))
            self._connections.add_link(control)
        return self._transmitters[key]

    def _begin(self, flow: Flow) -> None:
        """Schedule the flow, with a random phase so that flows do not beat against each other (RFC 3432, section 3)."""
        now = max(self._clock.mono_ns(), self._ahead_to)  # slots before `_ahead_to` have been handed out already
        flow.first_ns = now + flow.lead_ns + self._rng.randrange(flow.interval_ns)
        self.schedule.start(flow.index, flow.first_ns, flow.interval_ns, flow.limit)
        self._liveness.begin(flow.index, flow.first_ns)

    def _established(self, flow: Flow) -> None:
        """The session of a kept TCP flow is open: start probing, or go on where the last session ended."""
        if not flow.first_ns:
            self._begin(flow)
        elif flow.limit is None:
            now = max(self._clock.mono_ns(), self._ahead_to)
            self.schedule.start(flow.index, now, flow.interval_ns)
            self._liveness.begin(flow.index, now)

    def _session_ended(self, flow: Flow, at: int) -> None:
        self._stop(flow)
        flow.done = True
        self._liveness.end(flow.index)
        self._tell_state(flow.index, at)

    # --- the loop ----------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Do what is due now.

        Returns:
            When to call again, CLOCK_MONOTONIC ns.
        """
        now = self._clock.mono_ns()
        self._send(now)
        if now >= self._streams.next_ns:
            self._streams.turn(now)
        if now >= min(self._next_drain, self._next_tick):  # a tick has the more to settle right after
            # One batch at a time: at high rates there is always more, and slots must not wait for it.
            emptied = self._drain(1)
            pause = SPIN_DRAIN_NS if self._spin else DRAIN_NS if self._fine else COARSE_TICK_NS
            self._next_drain = now + pause if emptied else now
        if now >= self._next_tick:
            self._tick(now)
            # With many flows a tick takes its time: it comes the less often. One that took longer than the last one
            # may have been interrupted.
            before, self._tick_cost = self._tick_cost, self._clock.mono_ns() - now
            least = TICK_NS if self._fine else COARSE_TICK_NS
            self._next_tick = now + min(max(least, TICK_SHARE * min(before, self._tick_cost)), LONGEST_TICK_NS)
        if now >= self._ahead_to - self._ahead // 2:
            self._prepare(self._clock.mono_ns())
        following = min((q.next_due for q in self._queues), default=FAR)
        coming = self.schedule.next_ns(now)
        if coming is not None:  # of a slow flow, or one that has just begun: its frame is not written yet
            following = min(following, coming - self._ahead // 2)
        return min(self._next_tick, self._next_drain, self._streams.next_ns, max(following, now + self._breath))

    def pace(self) -> bool:
        """Send probes at their times until something else is to be done; whether that was possible.

        It is when only one link has any.
        """
        end = min(self._next_tick, self._next_drain, self._streams.next_ns, self._ahead_to - self._ahead // 2)
        busy = [queue for queue in self._queues if queue.next_due < end]
        if len(busy) != 1:
            return False
        if self._breath:
            busy[0].pace_together(end, STALL_NS, self._breath)
        else:
            busy[0].pace(end, STALL_NS, spin=self._spin)
        return True

    def _prepare(self, now: int) -> None:
        """Write the frames of the next milliseconds into their slots, so that a slot that comes costs only the
        sending.
        """
        rate = self.schedule.total_rate()
        shortest = self.schedule.shortest_ns()
        self._breath = breath(rate, shortest, fine=bool(self._fine), spin=self._may_spin)
        self._spin = rate > SINGLE_RATE_PPS and not self._breath
        self._latest = latest(rate)
        # No more frames than stay in the processor's cache until they leave.
        ahead = AHEAD_NS if self._fine else COARSE_AHEAD_NS
        self._ahead = min(ahead, int(MOST_AHEAD * 1e9 / rate)) if rate else ahead
        for queue in self._queues:
            queue.usual_ns = max(USUAL_NS, min(shortest // 4, MOST_USUAL_NS))
            queue.singly = SINGLY_COARSE if self._breath == COARSE_NS else SINGLY
            queue.together = TOGETHER if rate < FASTEST_PPS else FASTEST_TOGETHER
        self._ahead_to = max(self._ahead_to, now) + self._ahead
        due = self.schedule.take(self._ahead_to, MAX_AHEAD)
        if not len(due.flow):
            return
        self._relieve()
        of = self.table.transmitter[due.flow]
        for transmitter in distinct(of):
            mine = of == transmitter
            self._queues[transmitter].wait(due.flow[mine], due.at_ns[mine])

    def _send(self, now: int) -> None:
        for number, queue in enumerate(self._queues):
            while queue.next_due <= now:
                if queue.next_due < now - STALL_NS:
                    self._after_stall(queue, now)
                    if queue.next_due > now:
                        break
                error = queue.send(now)
                if error:
                    flow, due = queue.give_up(now)
                    self._flush_stamps()
                    if error == "link_down" and number not in self._gone:
                        self._link_gone(number, now)
                    self._unsent(flow, due, _cause(error))
                    break

    def _after_stall(self, queue: Queue, now: int) -> None:
        """Nobody watched while slots passed. If it was for long, they are given up, and never made up for.

        Giving up takes time, as the frames written for them are renumbered. Where many leave together and it comes
        again and again, all that is late goes at once, or it would make the next stall.
        """
        flow, due = queue.overdue(now - STALL_NS)
        if self._missed(flow, due, now, self._latest).any():
            chronic = (self._breath > 0 or self._spin) and now - self._gave_up_at < CHRONIC_NS
            self._gave_up_at = now
            every, due_of = queue.recall()
            missed = self._missed(every, due_of, now, (self._breath or SHARED_NS) if chronic else STALL_NS)
            self._unsent(every[missed], due_of[missed], "stall")
            queue.wait(every[~missed], due_of[~missed])
        stalled = self.schedule.missed(Due(flow, due), now, STALL_NS)
        if stalled.any():
            self._flush_stamps()  # the span begins with the last probe that left before
            self._absence.begin(flow[stalled], due[stalled], "stall")

    def _missed(self, flow: Ints, due: Ints, now: int, tolerance: int) -> npt.NDArray[np.bool_]:
        """Which slots are too old, now or when others of the same stall were given up."""
        slots = Due(flow, due)
        return self.schedule.missed(slots, now, tolerance) | self.schedule.missed(slots, self._gave_up_at, STALL_NS)

    def _flush_stamps(self) -> None:
        """Tell the ledger what has left since the last time."""
        for number, queue in enumerate(self._queues):
            flow, sequence, at, due, error = queue.stamps()
            if len(flow):
                self._gone.discard(number)
                self._relieve()
                self.ledger.stamp(flow, sequence, at, error)
                self._relieve()
                self._witness.evidence.sent(flow, sequence, at, due, error)
                if self._syns:
                    syn = self.table.kind[flow] == layout.SYN
                    self._half_open.sent(flow[syn], sequence[syn], at[syn])
                self._lateness.append(at - due)
                self._absence.end(flow, at)

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
            self._flush_stamps()  # the span begins with the last probe that left before
            self.ledger.unsent(flow, due)
            self._absence.begin(flow, due, cause)

    def _link_gone(self, number: int, now: int) -> None:
        """A link takes nothing more. If that shows late only, what was missing before went the same way."""
        self._gone.add(number)
        blind_ns = self._queues[number].blind_ns
        flow = np.flatnonzero((self.table.transmitter == number) & (self.ledger.last_sent_at > 0))
        if blind_ns and len(flow):
            since = self.ledger.link_lost(flow, now, blind_ns)
            going_on = ~self.schedule.idle(flow)
            self._absence.begin_at(flow[going_on], since[going_on], now, "link_down")

    def _drain(self, batches: int = MAX_BATCHES) -> bool:
        emptied = self._intake.drain(self._links.receivers(), batches)
        self._flush_stamps()
        return emptied

    def _relieve(self) -> None:
        """Send what has come due in the middle of taking in replies or settling."""
        if self._relief:
            for queue in self._queues:
                queue.relieve(STALL_NS, self._breath)

    def _dropped(self, start: int, end: int, drops: int) -> None:
        """A receive ring had no room: that many missing replies are our own doing."""
        self.ledger.dropped(start, end, drops)
        flow = np.array([f.index for f in self.table.flows.values() if f.first_ns], np.int64)
        self._absence.tell(flow, np.full(len(flow), start), np.full(len(flow), end), "ring_drop")

    def _look_at_interfaces(self, now: int) -> None:
        """Frames that an interface had no room for never came to a ring: missing replies may be among them."""
        before, self._looked_at = self._looked_at, now
        drops = self._links.interface_drops()
        if drops:
            self._shared.header["ring_drops"] += drops
            self.ledger.interface_dropped(before, self._clock.mono_ns(), drops)
        self._relieve()

    def _tell_excused(self, now: int) -> None:
        """Flows of which probes were lost to an interface here, or to the reflector's own doing: each such probe stands
        for half an interval before it and after it.
        """
        excused = self.ledger.drain_excused()
        if excused:
            flow, first, last = np.array(excused, np.int64).T
            half = np.array([self.table.flows[f].interval_ns // 2 for f in flow.tolist()], np.int64)
            self._absence.tell(flow, first - half, np.minimum(last + half, now), "ring_drop")

    # --- the tick ----------------------------------------------------------------------------------------------

    def _tick(self, now: int, *, everything: bool = False) -> None:
        if now >= self._looked_at + LOOK_NS or everything:
            self._look_at_interfaces(now)
        self.ledger.settle(self._intake.drained_to)
        self._tell_excused(now)
        self._relieve()
        self._findings.tick(now, everything=everything)
        self._relieve()
        self._connections.poll(now)
        for flow, sequence in self._half_open.overdue(now):
            self._connections.close_half_open(flow, sequence)
            self._relieve()
        self._update_states(now)
        self._relieve()
        self._publish(now)
        self._relieve()
        self._witness.tick(now)

    def _update_states(self, now: int) -> None:
        limited = np.fromiter(self._limited, np.int64, len(self._limited))
        for flow in [self.table.flows[i] for i in limited[self.schedule.idle(limited)].tolist()]:
            over = not flow.done and flow.first_ns and not self.schedule.active(flow.index)
            if over and not any(q.holds(flow.index) for q in self._queues):
                flow.done = True
                self._limited.discard(flow.index)
                self._flush_stamps()  # who hears of it finds the last probe among those sent
                self._tell({"event": "done", "flow": flow.index})
        index = np.array([*self.table.flows, *self._streams.flows], np.int64)
        blocked = self._absence.blocked(index)
        for f in self._liveness.update(index, self.ledger, self._intake.rtt_recent, now, blocked).tolist():
            self._tell_state(f, now)
            self._relieve()

    def _tell_state(self, flow: int, at: int) -> None:
        state = FLOW_STATES[int(self._liveness.state[flow])]
        self._tell({"event": "state", "flow": flow, "state": state, "at_ns": at + self.anchor})

    def _publish(self, now: int) -> None:
        ledger, rows, header = self.ledger, self._shared.flows, self._shared.header
        for name in ("duplicate", "reordered", "corrupt", "reset", "icmp_error"):  # bound by no law: as they stand
            ledger.settled[:, COLUMN[name]] = ledger.live[:, COLUMN[name]]
        self._streams.settled()
        self._shared.publish(ledger.settled_to + self.anchor, ledger.settled)
        rows["last_sent"] = np.where(ledger.last_sent_at > 0, ledger.last_sent_at + self.anchor, 0)
        rows["last_answered"] = np.where(ledger.last_answered_at > 0, ledger.last_answered_at + self.anchor, 0)
        rows["state"] = self._liveness.state
        header["heartbeat"] = now
        header["wall_offset"] = self._intake.offset
        header["cpu_ns"] = time.process_time_ns()
        if now - self._lateness_reset > 1_000_000_000 and self._lateness:
            late = np.concatenate(self._lateness)
            header["lateness_max"], header["lateness_p99"] = late.max(), int(np.percentile(late, 99))
            self._lateness, self._lateness_reset = [], now


def breath(rate: float, shortest_ns: int, *, fine: bool, spin: bool) -> int:
    """The shortest pause, ns, between two batches of probes; 0: each has a time of its own.

    Args:
        rate: Probes per second of all flows.
        shortest_ns: The shortest interval of one flow.
        fine: Whether any flow is paced finely.
        spin: Whether a processor may be kept busy.
    """
    if not fine or rate > SPIN_PPS:
        return COARSE_NS
    if rate <= SINGLE_RATE_PPS or (spin and shortest_ns <= SPIN_NS):
        return 0
    return min(SHARED_NS, max(SHORTEST_NS, shortest_ns // 4))


def latest(rate: float) -> int:
    """The longest stall, ns, whose slots are still sent, with so many probes per second in all."""
    return min(LATEST_NS, max(STALL_NS, int(LATEST_TOGETHER * 1e9 / rate))) if rate else LATEST_NS


def _source(frame: bytes, family: int) -> bytes:
    """The source address of a frame."""
    return frame[26:30] if family == 4 else frame[22:38]


def _cause(error: str) -> str:
    return "link_down" if error == "link_down" else "send_error"
