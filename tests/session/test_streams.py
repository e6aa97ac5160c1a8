"""Streams over connections in memory: typing on schedule, echoes, and sessions that end."""

from __future__ import annotations

from typing import Any

import pytest

from probe.border import SharedState
from probe.clock import ManualClock, wall_offset_ns
from probe.core.events import COUNT_NAMES, Counts, FlowSpec
from probe.core.fate import COLUMN
from probe.core.ledger import Ledger
from probe.core.stream import TcpInfo
from probe.link.kernel_tcp import Ended
from probe.link.tcp_tap import LastWord
from probe.recorder import FlowTrack, Recorder
from probe.session.liveness import Liveness
from probe.session.streams import CONNECT_NS, FAR, RECORD_OCTETS, Streams

MS = 1_000_000
S = 1000 * MS
INTERVAL = 100 * MS


class Wire:
    """A connection in memory."""

    def __init__(self) -> None:
        self.progress: str = "connected"
        self.room = 1 << 20
        self.typed = b""
        self.coming: list[tuple[bytes, int]] = []
        self.stamps: list[tuple[int, int]] = []
        self.end: Ended | None = None
        self.word: LastWord | None = None
        self.closed = False

    def finish(self) -> Any:
        if self.end is not None:
            raise self.end
        return self.progress

    def local(self) -> str:
        return "192.0.2.1"

    def write(self, data: bytes) -> int:
        if self.end is not None:
            raise self.end
        taken = data[: max(0, self.room - len(self.typed))]
        self.typed += taken
        return len(taken)

    def read(self, octets: int) -> tuple[bytes, int]:
        if self.coming:
            data, stamp = self.coming.pop(0)
            if len(data) > octets:
                self.coming.insert(0, (data[octets:], stamp))
            return data[:octets], stamp
        if self.end is not None:
            raise self.end
        return b"", 0

    def sent(self) -> list[tuple[int, int]]:
        stamps, self.stamps = self.stamps, []
        return stamps

    def last_word(self, cause: str) -> LastWord | None:
        return self.word if cause in ("rst", "fin") else None

    def info(self) -> TcpInfo:
        return TcpInfo(200 * MS, 0, 0, 0)


class World:
    """One stream of ten keystrokes a second, and the clock."""

    def __init__(self, limit: int | None = None) -> None:
        self.clock = ManualClock()
        self.shared = SharedState.create(4)
        self.ledger = Ledger(4, live=self.shared.live)
        self.liveness = Liveness(4)
        self.told: list[dict[str, Any]] = []
        self.wires: list[Wire] = []
        self.refused: Ended | None = None
        self.answer = "connected"
        self.anchor = wall_offset_ns(self.clock)
        self.streams = Streams(
            self, self.ledger, self.liveness, self.clock, self.shared, self.told.append, self.anchor, lambda *_: None
        )
        way = {"address": "192.0.2.2", "port": 7}
        message = {"index": 1, "name": "s", "interval_ns": INTERVAL, "threshold_ns": 2 * S, "min_probes": 3}
        self.streams.add({**message, "way": way, "session": 99, "limit": limit})
        self.streams.begin()

    def connect(self, way: Any) -> Wire:
        if self.refused is not None:
            raise self.refused
        self.wires.append(Wire())
        self.wires[-1].progress = self.answer
        return self.wires[-1]

    def ready(self) -> list[Wire]:
        return [wire for wire in self.wires if (wire.coming or wire.stamps or wire.end) and not wire.closed]

    def close(self, wire: Wire) -> None:
        wire.closed = True

    @property
    def wire(self) -> Wire:
        return self.wires[-1]

    def recorded(self) -> FlowTrack:
        """What the control process makes of all that was told."""
        spec = FlowSpec("s", "tcp", "kept", "east-west", "192.0.2.2", 7, 10.0, stack="kernel")
        recorder, track = Recorder(), FlowTrack(spec, 1, "192.0.2.2")
        recorder.add(track)
        for message in self.told:
            recorder.take(message)
        return track

    def run(self, ns: int, *, echo: bool = True) -> None:
        """Let time pass in steps; what is typed comes back within one if asked."""
        end = self.clock.mono + ns
        while self.clock.mono < end:
            self.clock.advance(5 * MS)
            if echo and self.wires:
                self.echo()
            self.streams.turn(self.clock.mono_ns())
            self.ledger.settle(self.clock.mono_ns())
            self.streams.settle(self.clock.mono_ns(), open_too=False)

    def echo(self, wire: Wire | None = None) -> None:
        wire = wire or self.wire
        whole = len(wire.typed) // RECORD_OCTETS * RECORD_OCTETS
        if whole:
            wire.coming.append((wire.typed[:whole], self.clock.wall_ns() - MS))
            wire.typed = wire.typed[whole:]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["event"] == name]

    def counts(self) -> Counts:
        row = self.shared.live[1]
        found = Counts(**{name: int(row[COLUMN[name]]) for name in COUNT_NAMES})
        found.pending = found.sent - found.received - found.late - found.lost
        assert found.broken_laws() == []
        return found


def test_it_types_on_schedule_and_the_kernels_stamp_is_when_it_came_back() -> None:
    world = World(limit=10)
    world.run(2 * S)
    assert (world.counts().sent, world.counts().received) == (10, 10)
    assert len(world.events("done")) == 1
    # Read 5 ms after it was typed, but stamped a millisecond earlier.
    assert int(world.shared.flows[1]["rtt_max"]) == 4 * MS
    assert world.events("stall") == []


def test_a_stall_is_told_with_its_retransmissions() -> None:
    world = World()
    world.run(S)
    world.run(S, echo=False)
    wall = world.clock.wall_ns()
    world.wire.stamps = [(10**6, wall), (10**6, wall + 2 * MS)]  # a first transmission, and the same octets again
    world.run(5 * MS, echo=False)
    world.run(S)
    last = world.events("stall")[-1]
    assert last["retransmitted_ns"] == [wall + 2 * MS]
    assert (last["censored"], last["retransmissions"]) == ("no", 1)
    assert S - 2 * INTERVAL < last["duration_ns"] < S + INTERVAL
    assert world.counts().lost == 0


def test_a_full_buffer_is_unsent_and_never_lost() -> None:
    world = World()
    world.run(S)
    world.wire.room = len(world.wire.typed) + RECORD_OCTETS + 5  # one whole record, and the beginning of another
    world.run(S, echo=False)
    assert world.counts().unsent >= 7
    world.wire.room = 1 << 20
    world.run(S)
    counts = world.counts()
    assert (counts.lost, counts.corrupt, counts.pending) == (0, 0, 0)
    assert world.events("unobserved") == []


def test_no_time_is_unobserved_twice_while_the_buffer_is_full() -> None:
    world = World()
    world.run(S)
    world.wire.room = len(world.wire.typed)
    stalled = []
    for _ in range(3):
        world.run(2 * S, echo=False)
        stalled.append(world.clock.wall_ns())
        world.clock.advance(S)  # we did not run
    world.run(S, echo=False)
    spans = world.recorded().unobserved
    assert len(spans) == len(stalled)
    for span, at in zip(spans, stalled, strict=True):
        assert at - INTERVAL <= span.start_ns <= at
        assert at + S <= span.end_ns <= at + S + INTERVAL


def test_a_session_that_is_reset_is_told_and_a_new_one_tried() -> None:
    world = World()
    world.run(S)
    world.run(300 * MS, echo=False)
    world.wire.end = Ended("rst", "Connection reset by peer")
    world.run(5 * MS, echo=False)
    (end,) = world.events("session_end")
    assert (end["cause"], end["from"], end["ttl"]) == ("rst", "192.0.2.2", 0)
    assert world.counts().lost == world.counts().lost_unattributed >= 2
    assert world.wires[0].closed
    world.run(S)
    assert [event["connection"] for event in world.events("established")] == [1, 2]
    assert world.counts().received > 15
    assert world.events("unobserved") == [], "without a connection there were no slots"


@pytest.mark.parametrize(("ttl", "by"), [(61, "peer"), (63, "firewall")])
def test_the_packet_that_ended_a_session_tells_when_and_by_whom(ttl: int, by: str) -> None:
    world = World()
    world.run(S)
    came = world.clock.wall_ns() + 2 * MS
    world.wire.end, world.wire.word = Ended("rst", "Connection reset by peer"), LastWord(came, ttl, 61)
    world.run(5 * MS, echo=False)
    end = world.recorded().session_end
    assert end is not None
    assert (end.cause, end.at_ns, end.ttl, end.peer_ttl, end.by) == ("rst", came, ttl, 61, by)


def test_a_handshake_without_an_answer_is_tried_again_each_second() -> None:
    world = World()
    world.answer = "connecting"
    world.run(3 * CONNECT_NS + 50 * MS, echo=False)
    assert len(world.wires) == 4
    assert [wire.closed for wire in world.wires] == [True, True, True, False]
    world.wire.progress = "connected"
    world.run(S)
    assert world.events("established")[0]["attempts"] == 4
    assert world.counts().sent >= 9


def test_what_cannot_even_send_a_syn_is_tried_once_a_second() -> None:
    world = World()
    world.refused = Ended("silent", "Network is unreachable")
    world.run(2 * S, echo=False)
    world.refused = None
    world.run(CONNECT_NS + 50 * MS)
    assert len(world.wires) == 1
    assert world.events("established")[0]["attempts"] in (3, 4)


def test_what_is_no_echo_is_counted_and_said() -> None:
    world = World()
    world.run(50 * MS, echo=False)
    world.wire.coming.append((b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", world.clock.wall_ns()))
    world.run(50 * MS, echo=False)
    assert world.counts().corrupt == 1
    assert "echo service" in world.events("stream_foreign")[0]["detail"]
    assert world.wires[0].closed


def test_slots_that_we_missed_ourselves_are_unobserved() -> None:
    world = World()
    world.run(S)
    world.clock.advance(S)  # we did not run
    world.run(S)
    (span,) = world.recorded().unobserved
    assert span.cause == "stall"
    assert S <= span.end_ns - span.start_ns < S + 2 * INTERVAL
    assert 8 <= world.counts().unsent <= 10
    assert world.events("stall") == []


def test_renewing_gives_up_the_old_session() -> None:
    world = World()
    world.run(S)
    world.run(S, echo=False)
    world.streams.renew(1)
    world.run(S)
    assert world.wires[0].closed
    assert world.events("session_end") == []
    assert world.events("stall")[-1]["censored"] == "end"
    assert world.counts().received > 15


def test_a_limited_stream_ends_on_time_without_a_connection() -> None:
    world = World(limit=20)
    world.run(S)
    world.refused = Ended("silent", "")
    world.wire.end = Ended("silent", "Connection timed out")
    world.run(3 * S, echo=False)
    assert len(world.events("done")) == 1
    assert world.counts().scheduled < 15


def test_removing_the_last_one_leaves_nothing_to_do() -> None:
    world = World()
    world.run(S)
    world.streams.remove(1)
    assert (world.streams.next_ns, world.wire.closed) == (FAR, True)


@pytest.mark.parametrize("halted", [False, True])
def test_halting_types_nothing_more(halted: bool) -> None:
    world = World()
    world.run(S)
    if halted:
        world.streams.halt()
    before = world.counts().sent
    world.run(S)
    assert (world.counts().sent == before) == halted
    assert world.counts().pending == 0
