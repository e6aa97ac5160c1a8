"""A sending host, a reflecting host and the wires between them, in simulated time, with the truth of every probe.

Sender, reflector, recorder and all that they are made of are the real ones; only sockets and clocks are not. Loops
turn when they ask to, as in their processes: the sender when its next slot comes, the reflector when a packet does or
none has for a while, and then not before its pause is over.

    sender ──out──► reflector     a fault stands at the middle of each wire
       ▲               │
       └─────back──────┘          (echo requests are answered on arrival, as a kernel does)
"""

from __future__ import annotations

import heapq
import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.border import SharedState
from probe.clock import ManualClock
from probe.core.events import FlowSpec
from probe.core.fate import COLUMN, DROPPED, LATE, LOST, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.errors import PeerError, UsageError
from probe.link.base import SendResult
from probe.link.memory import MemoryLink, MemorySender
from probe.recorder import FlowTrack, Recorder
from probe.report.document import laws, new_document
from probe.session.reflector import Reflector
from probe.session.sender import Sender
from tests.core.network import COLUMN_OF, expected_outages
from tests.session.flow import KINDS, template

MS = 1_000_000
S = 1000 * MS
L4 = 34
# Where a frame holds the probe's session and sequence, from the transport header; apart from the product's layouts.
COOKIE = {1: 8 + 8, 17: 8 + 44 + 4, 6: 20 + 8}
FAR = 1 << 62
IDLE_NS = 100 * MS  # a reflector without packets turns so often


@dataclass
class Probe:
    """What became of one probe."""

    sent: int
    crossed: int = 0  # the failing point of the way out
    # On which way; also "ring": by the sender's or the reflector's own ring or interface; "late": so was its answer,
    # which would not have counted.
    lost: str = ""
    reached: bool = False  # the reflector's hands
    answered: int = 0  # when its first reply came to the sender's ring, 0: never


@dataclass
class Weather:
    """How a wire treats what is put on it now; a share is of the frames, at random."""

    dark: bool = False
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: int = 0  # overtaking
    extra: int = 0  # delay of all


class Wire(MemoryLink):
    """One direction. Frames meet the weather of the instant in which they cross its middle."""

    def __init__(self, world: World, way: str, *, latency: int, slots: int):
        super().__init__(world.clock, slots=slots, slot_octets=256)
        self.world, self.way, self.latency = world, way, latency
        self.weather = Weather()
        self.faults: list[tuple[int, int]] = []  # by the clock, besides the weather
        # When the interface at its end has no room, and when it dropped what. It gives the count so much later.
        self.crowded: list[tuple[int, int]] = []
        self.refused: list[int] = []
        self.counted_late = self._counted = 0
        # A firewall before the middle of the wire, and one behind it: whether a frame passes.
        self.before: Callable[[bytes], bool] = lambda _frame: True
        self.behind: Callable[[bytes], bool] = lambda _frame: True
        self._number = 0
        self._flying: list[tuple[int, int, bytes]] = []

    def carry(self, frame: bytes) -> None:
        self.carry_at(frame, self.clock.mono_ns())

    def carry_at(self, frame: bytes, at: int) -> None:
        weather, rng = self.weather, self.world.rng
        crossing = at + self.latency // 2
        probe = self.world.probe_of(frame, at if self.way == "out" else None)
        for _ in range(2 if rng.random() < weather.duplicate else 1):
            gone = not self.before(frame)
            gone = gone or weather.dark or any(a <= crossing < b for a, b in self.faults) or rng.random() < weather.loss
            if gone or not self.behind(frame):
                if probe is not None and not probe.answered:
                    probe.lost = "forward" if self.way == "out" and not probe.reached else probe.lost or "reverse"
                continue
            due = at + self.latency + weather.extra + (rng.randrange(weather.jitter) if weather.jitter else 0)
            heapq.heappush(self._flying, (due, self._number, frame))
            self._number += 1

    def next_arrival(self) -> int:
        return self._flying[0][0] if self._flying else FAR

    def arrived(self) -> list[tuple[int, bytes]]:
        """What came to the other end by now, with the stamp that the wall clock of its arrival gives."""
        frames = []
        room = self.receiver.slots - self.receiver.waiting
        while self._flying and self._flying[0][0] <= self.clock.mono_ns():
            due, _, frame = heapq.heappop(self._flying)
            if self.way == "out" and frame[23] == 1:
                self.world.back.carry_at(echo(frame), due)
                probe = self.world.probe_of(frame)
                if probe is not None:
                    probe.reached = True
                continue
            if any(a <= due < b for a, b in self.crowded):
                self.refused.append(due)
                self.world.arrived(self.way, frame, due, kept=False)
                continue
            self.world.arrived(self.way, frame, due, kept=len(frames) < room)
            frames.append((due + self.world.offset_at(due), frame))
        return frames

    def interface_drops(self) -> int:
        """Frames that the interface at its end is now known to have dropped, since the last call."""
        before = self._counted
        self._counted = sum(at <= self.clock.mono_ns() - self.counted_late for at in self.refused)
        return self._counted - before


class Door(MemorySender):
    """A sending end that can be shut."""

    error = ""

    def send(self, count: int, lengths: Any, together: int = 0) -> SendResult:
        if self.error:
            return SendResult(0, [], self.error)  # type: ignore[arg-type]
        return super().send(count, lengths, together)


def echo(frame: bytes) -> bytes:
    """An echo reply, as a kernel makes it."""
    reply = bytearray(frame)
    reply[26:30], reply[30:34] = frame[30:34], frame[26:30]
    reply[L4] = 0
    (checksum,) = struct.unpack_from("!H", frame, L4 + 2)
    struct.pack_into("!H", reply, L4 + 2, (checksum + 0x0800) % 0xFFFF)
    return bytes(reply)


class Ports:
    """Gives out ports, one after the other."""

    def __init__(self) -> None:
        self.next, self.end = 20_000, 1 << 16

    def reserve(self, proto: Any, address: str, count: int) -> list[int]:
        if self.next + count > self.end:
            raise UsageError("no port left")
        self.next += count
        return list(range(self.next - count, self.next))

    def release(self, proto: Any, ports: Any) -> None:
        """They are not given out again."""


class SenderLinks:
    def __init__(self, world: World):
        self._world = world

    def transmitter(self, key: tuple[str, int]) -> Door:
        if key[1] in self._world.vanished:
            raise PeerError(f"no interface with index {key[1]}")
        door = Door(self._world.out, 4096, 256)
        self._world.doors.append(door)
        return door

    def receivers(self) -> list[Any]:
        return [self._world.back.receiver]

    def listen(self, key: tuple[str, int], owned: dict[str, list[int]]) -> None:
        """Everything is heard, on interfaces that are there."""
        if key[1] in self._world.deaf:
            raise PeerError(f"no interface with index {key[1]}")

    def interface_drops(self) -> int:
        self._world.looks.append(self._world.clock.mono)
        return self._world.back.interface_drops()


class FarLinks:
    def __init__(self, world: World):
        self._world = world

    def receivers(self) -> list[Any]:
        return [self._world.out.receiver]

    def transmitter_on(self, ifindex: int, octets: int) -> MemorySender:
        return self._world.back.sender

    def expect(self, rate_pps: float) -> None:
        """One link is enough."""

    def is_local(self, address: bytes, ifindex: int) -> bool:
        return address == socket.inet_aton("192.0.2.2")

    def interface_drops(self) -> int:
        return self._world.out.interface_drops()


@dataclass
class Life:
    """A flow of the world, and its truth."""

    track: FlowTrack
    kind: str
    threshold: int
    k: int
    first: int  # sequence that it began with
    probes: dict[int, Probe] = field(default_factory=dict)
    present: bool = True


class World:
    """Both hosts.

    Args:
        seed: Of everything random.
        latency: Of each wire.
        ring, far_ring: Slots of the sender's and of the reflector's receive ring.
        pause: The reflector's pause after a batch, ns; None: as its process does.
    """

    def __init__(
        self, seed: int, *, latency: int = 2 * MS, ring: int = 4096, far_ring: int = 4096, pause: int | None = None
    ):
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.out = Wire(self, "out", latency=latency, slots=far_ring)
        self.back = Wire(self, "back", latency=latency, slots=ring)
        self.doors: list[Door] = []
        self.vanished: set[int] = set()  # interfaces of the sender that cannot be opened
        self.deaf: set[int] = set()  # and those that were gone a moment later
        self.shared, self.far_shared = SharedState.create(8), SharedState.create(1)
        self.told: list[dict[str, Any]] = []
        self.recorder = Recorder()
        self.recorder.attach(self.shared)
        self.ports = Ports()
        self.sender = Sender(SenderLinks(self), self.ports, self.clock, self.shared, self._tell, random.Random(seed))
        self.flows: dict[int, Life] = {}
        self.reflector = self._new_reflector()
        self.ring_drops = self.restarts = 0
        self.looks: list[int] = []  # when the sender asked its interface
        self._pause = pause
        self._steps: list[tuple[int, int]] = [(0, self.clock.wall - self.clock.mono)]
        self._sessions: dict[int, Life] = {}
        self._ports: dict[int, Life] = {}
        self._wake = self._far_wake = self._far_idle = self._next_sample = 0
        self.sender_stalled = self.reflector_stalled = False

    def _tell(self, event: dict[str, Any]) -> None:
        message = json.loads(json.dumps(event))
        self.told.append({**message, "mono": self.clock.mono})
        self.recorder.take(message)

    def _new_reflector(self) -> Reflector:
        return Reflector(
            FarLinks(self),
            self.clock,
            self.far_shared,
            udp=862,
            tcp=8620,
            allow=[],
            error_estimate=1,
            rng=random.Random(self.rng.random()),
        )

    def close(self) -> None:
        self.shared.close()
        self.far_shared.close()

    # --- flows -------------------------------------------------------------------------------------------------

    def add(
        self,
        index: int,
        kind: str,
        *,
        rate: int = 500,
        threshold: int = 300 * MS,
        k: int = 3,
        start: int = 0,
        coarse: bool = False,
        session_kind: str = "kept",
    ) -> Life:
        """A flow, which begins with sequence `start`."""
        port = 8620 if KINDS[kind]["protocol"] == "tcp" else KINDS[kind].get("port", 862)
        session = 0x1000_0000_0000 + len(self._sessions) + 1
        made = template(kind, 4, session=session, port=port)
        spec = FlowSpec(f"{kind}-{session & 0xFF}", KINDS[kind]["protocol"], "kept", "p", "192.0.2.2", port, rate)
        life = Life(FlowTrack(spec, index, "192.0.2.2"), kind, threshold, k, start)
        self.flows[index] = self._sessions[session] = life
        self.recorder.add(life.track)
        self.sender.add(
            {
                "index": index,
                "name": spec.name,
                "kind": made.kind,
                "family": 4,
                "session_kind": session_kind,
                "target": "192.0.2.2",
                "interval_ns": spec.interval_ns,
                "session": session,
                "min_probes": k,
                "threshold_ns": threshold,
                "frame": made.frame.hex(),
                "rest": made.rest,
                "transmitter": ["ethernet", 1],
                "coarse": coarse,
            }
        )
        if kind == "udp_base":
            self._ports[self.sender.table.flows[index].ids[0]] = life
        # As if the flow had been running for long: every number below was sent and settled.
        self.sender.ledger.next_seq[index] = self.sender.ledger._settled_seq[index] = start
        self.sender.begin()
        self._wake = 0  # a command comes between two turns
        return life

    def retarget(self, index: int, ifindex: int, source: str = "") -> None:
        """The flow's way leads out of another interface, perhaps from another address."""
        life, session = self.flows[index], int(self.sender.table.session[index])
        made = template(life.kind, 4, session=session, port=life.track.spec.port, source=source)
        way = {"frame": made.frame.hex(), "rest": made.rest, "transmitter": ["ethernet", ifindex]}
        self.sender.retarget({"index": index, **way})
        self._wake = 0

    def remove(self, index: int) -> None:
        self.flows.pop(index).present = False
        self.sender.remove(index)
        self.recorder.remove(index)

    # --- the truth ---------------------------------------------------------------------------------------------

    def probe_of(self, frame: bytes, sent: int | None = None) -> Probe | None:
        """The probe that a frame is, or answers; with `sent`, a new one."""
        life, sequence = self._read(frame)
        if life is None:
            return None
        if sent is not None and sequence not in life.probes:
            life.probes[sequence] = Probe(sent)
        return life.probes.get(sequence)

    def _read(self, frame: bytes) -> tuple[Life | None, int]:
        at = L4 + COOKIE[frame[23]]
        if len(frame) >= at + 16:
            session, sequence = struct.unpack_from("!QQ", frame, at)
            return self._sessions.get(session), sequence
        if frame[23] != 17:
            return None, 0
        # Plain STAMP: its sequence number, or the reflector's copy of it; a flow is told by its port.
        sport, dport = struct.unpack_from("!HH", frame, L4)
        life = self._ports.get(dport if sport == 862 else sport)
        (number,) = struct.unpack_from("!I", frame, L4 + 8 + (24 if sport == 862 else 0))
        return life, life.first + ((number - life.first) & 0xFFFFFFFF) if life is not None else 0

    def arrived(self, way: str, frame: bytes, at: int, *, kept: bool) -> None:
        probe = self.probe_of(frame)
        if probe is None or probe.answered:
            return
        if not kept:
            self.ring_drops += 1
            if not probe.reached or way == "back":
                life, _ = self._read(frame)
                in_time = life is not None and at - probe.sent <= life.threshold
                probe.lost = "ring" if in_time or way == "out" else "late"
        elif way == "out":
            probe.reached = True
        else:
            probe.answered = at

    def offset_at(self, mono: int) -> int:
        """Wall minus monotonic clock, as it was at an instant."""
        return next(offset for since, offset in reversed(self._steps) if since <= mono)

    def step_wall(self, ns: int) -> None:
        self.clock.step_wall(ns)
        self._steps.append((self.clock.mono, self.clock.wall - self.clock.mono))

    # --- time --------------------------------------------------------------------------------------------------

    def run(self, ns: int) -> None:
        """Let time pass."""
        end = self.clock.mono + ns
        while self.clock.mono < end:
            now = self.clock.mono
            if not self.sender_stalled and now >= self._wake:
                self._wake = max(self.sender.turn(), now + 1000)
            self._echo_and_reflect(now)
            if now >= self._next_sample:
                self._next_sample = now + 300 * MS
                self.recorder.sample()
            following = [end, self._next_sample]
            following += [] if self.sender_stalled else [self._wake]
            arrival = self.out.next_arrival()
            if not self.reflector_stalled:
                arrival = max(min(arrival, self._far_idle), self._far_wake)
            following += [max(arrival, now + 1)]
            self.clock.advance(max(1, min(following) - now))

    def _echo_and_reflect(self, now: int) -> None:
        if self.reflector_stalled:
            self.out.receiver.take(0)  # frames come in, and wait
        elif now >= self._far_wake and (
            self.out.next_arrival() <= now or self.out.receiver.waiting or now >= self._far_idle
        ):
            self._far_idle = now + IDLE_NS
            answered = self.reflector.turn()
            if answered:
                self._far_wake = now + (self.reflector.pause_ns(answered) if self._pause is None else self._pause)

    def restart_reflector(self) -> None:
        """It forgets everything, and what its ring held is gone."""
        self.restarts += 1
        self.out.receiver.take(self.out.receiver.slots)
        self.reflector = self._new_reflector()

    def shut(self, error: str) -> None:
        """From now on the sender's links refuse frames; "" opens them again."""
        for door in self.doors:
            door.error = error

    def settle(self) -> None:
        """Fair weather until every fate is decided and told."""
        self.out.weather, self.back.weather = Weather(), Weather()
        self.sender_stalled = self.reflector_stalled = False
        self.shut("")
        self.run(500 * MS)
        self.sender.halt()
        self.run(max(life.threshold for life in self.flows.values()) + 2 * S)
        self.sender.tell_open()
        self.recorder.sample()

    # --- what was told -----------------------------------------------------------------------------------------

    def document(self, start: int | None = None, end: int | None = None) -> dict[str, Any]:
        flows = [self.recorder.flow_document(t, start, end) for t in self.recorder.tracks()]
        return new_document(run={}, flows=flows)

    def fates(self, index: int) -> list[int]:
        life = self.flows[index]
        sequence = np.arange(life.first, int(self.sender.ledger.next_seq[index]))
        return self.sender.ledger.fates(index, sequence).tolist()

    def events(self, kind: str, index: int | None = None) -> Iterator[dict[str, Any]]:
        return (e for e in self.told if e["event"] == kind and (index is None or e.get("flow") == index))

    def check(self) -> None:
        """What must hold whatever has happened; after `settle`."""
        document = self.document()
        assert laws(document, settled=True) == []
        for (index, life), flow in zip(sorted(self.flows.items()), document["flows"], strict=True):
            self._check_flow(index, life, flow)
        readings = self.recorder.history._times
        for start, end in zip(readings[::3], readings[2::4], strict=False):
            assert laws(self.document(start, end)) == []

    def _check_flow(self, index: int, life: Life, flow: dict[str, Any]) -> None:
        counts, fates = flow["counts"], self.fates(index)
        assert counts["sent"] == len(fates)
        assert [int(c) for c in self.shared.live[index]] == [int(c) for c in self.sender.ledger.settled[index]]
        for name in COLUMN_OF.values():
            assert counts[name] == sum(COLUMN_OF[fate] == name for fate in fates), name
        at = []
        for sequence, fate in enumerate(fates, life.first):
            self._check_fate(life, life.probes.get(sequence), fate, sequence)
            at.append(life.probes[sequence].sent if sequence in life.probes else at[-1] if at else 0)
        told = {
            (o["direction"], o["first_lost_seq"] - life.first, o["last_lost_seq"] - life.first, o["lost"])
            for o in flow["outages"]
        }
        assert told == {entry[:4] for entry in expected_outages(fates, at, life.k)}
        if not self.restarts and not any(probe.lost for probe in life.probes.values()):
            assert flow["outages"] == [] and counts["lost"] == 0

    def _check_fate(self, life: Life, probe: Probe | None, fate: int, sequence: int) -> None:
        where = (life.kind, sequence, fate, probe)
        assert probe is not None, where
        if fate in (RECEIVED, LATE):
            assert probe.answered, where
        elif fate in (LOST, LOST_FORWARD, LOST_REVERSE):
            # What a restart of the reflector swept away, or made it refuse, met no fault on its way.
            assert not probe.answered and (probe.lost or self.restarts), where
            # Plain STAMP has no room for a reflector to tell of its ring.
            assert probe.lost != "ring" or life.kind == "udp_base" or self._mixed(), where
            if fate != LOST and probe.lost and probe.lost != "ring":
                assert (fate == LOST_REVERSE) == probe.reached, where
        else:
            assert fate == DROPPED and self.ring_drops, where

    def _mixed(self) -> bool:
        """Whether more than one of sender, reflector and network lost probes: of losses close together nobody can tell
        which is whose.
        """
        lost = [probe for life in self.flows.values() for probe in life.probes.values() if probe.lost]
        rings = {probe.reached for probe in lost if probe.lost == "ring"}
        return len(rings) == 2 or (len(rings) == 1 and any(probe.lost != "ring" for probe in lost))


@contextmanager
def world(seed: int = 1, **options: Any) -> Iterator[World]:
    made = World(seed, **options)
    try:
        yield made
    finally:
        made.close()


__all__ = ["COLUMN", "MS", "Life", "Probe", "S", "Weather", "World", "world"]
