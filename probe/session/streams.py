"""The streams of a sender: keystrokes on the kernel's TCP connections, and the echoes that come back.

A stream's life::

    CONNECTING ──handshake──► OPEN ──RST, FIN, the kernel gives up──► CONNECTING (a new session; the old one is over)
        └── given up after 1 s, tried again on another port

While there is no connection there is nothing to type on: such slots are not scheduled. The new session shows when new
ones work again. Streams are looked at every 5 ms, between the packets of other flows: what the kernel stamps stays
exact however late it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probe.border import SharedState
from probe.clock import Clock, wall_offset_ns
from probe.core.account import Correction
from probe.core.events import EndCause
from probe.core.histogram import bins_of
from probe.core.ledger import Ledger
from probe.core.stream import Stall, StreamAccount, TcpInfo
from probe.link.kernel_tcp import Ended, Progress, Way
from probe.link.tcp_tap import LastWord
from probe.session.liveness import CONNECTING, Liveness

LOOK_NS = 5_000_000
FAR = 1 << 62
CONNECT_NS = 1_000_000_000  # a SYN that is lost is not answered sooner: the kernel repeats it after a second
TARDY_NS = 50_000_000  # slots missed by more are not made up for
INFO_NS = 20_000_000  # between readings of TCP_INFO while an echo is overdue
IDLE_INFO_NS = 1_000_000_000
# Of 36 octets, as a keystroke in an SSH session: magic, session, sequence, zeros.
_RECORD = struct.Struct("!4sQQ16x")
_MAGIC = b"HAPS"
RECORD_OCTETS = _RECORD.size
FOREIGN = "what comes back is no echo of what was sent; an echo service is needed, such as `haprobe reflect --echo`"


class Connection(Protocol):
    """A connection (link/kernel_tcp.py); tests have one in memory."""

    def finish(self) -> Progress: ...

    def local(self) -> str: ...

    def write(self, data: bytes) -> int: ...

    def read(self, octets: int) -> tuple[bytes, int]: ...

    def sent(self) -> list[tuple[int, int]]: ...

    def info(self) -> TcpInfo: ...

    def last_word(self, cause: EndCause) -> LastWord | None: ...


class Stack(Protocol):
    """Where connections come from."""

    def connect(self, way: Way) -> Any: ...

    def ready(self) -> list[Any]: ...

    def close(self, connection: Any) -> None: ...


@dataclass(slots=True)
class Stream:
    """One stream and its present connection.

    Attributes:
        limit: Slots in all; None: until stopped.
        slot: The next one.
        rest: What the kernel had no room for of a record it has begun to take.
        heard: What has come of a record that is not whole.
        highest: Number of the last octet that the kernel has sent for the first time.
        attended_at: Up to when what happened without a record being written is known, and why.
    """

    index: int
    way: Way
    session: int
    interval_ns: int
    limit: int | None
    account: StreamAccount
    connection: Connection | None = None
    opened: bool = False
    began: bool = False
    done: bool = False
    attempts: int = 0
    connections: int = 0
    connect_at: int = FAR  # when to try, or to give up the present attempt
    asked_at: int = 0  # when the SYN left
    first_ns: int = 0
    slot: int = 0
    rest: bytes = b""
    heard: bytes = b""
    highest: int = -1
    info_at: int = 0
    looked_at: int = 0
    attended_at: int = 0

    @property
    def due(self) -> int:
        """When the next slot is."""
        return self.first_ns + self.slot * self.interval_ns

    @property
    def next_ns(self) -> int:
        """When it must be looked at for its own sake."""
        if self.done or not self.began:
            return FAR
        return self.due if self.opened else self.connect_at

    def record(self, sequence: int) -> bytes:
        return _RECORD.pack(_MAGIC, self.session, sequence)


class Streams:
    """All streams of a sender.

    Args:
        stack: Opens connections.
        ledger: Whose rows the counts go to; it holds the loss thresholds.
        liveness: Live states.
        clock: Both clocks.
        shared: Histogram and delays.
        tell: Called with each event; times in it are Unix ns.
        anchor: Unix time minus monotonic time.
        on_state: Called with (flow, time) when a live state may have changed at once.
    """

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        liveness: Liveness,
        clock: Clock,
        shared: SharedState,
        tell: Callable[[dict[str, Any]], None],
        anchor: int,
        on_state: Callable[[int, int], None],
    ):
        self._stack, self._ledger, self._liveness, self._clock = stack, ledger, liveness, clock
        self._shared, self._tell, self._anchor, self._on_state = shared, tell, anchor, on_state
        self.flows: dict[int, Stream] = {}
        self.next_ns = FAR
        self._of: dict[int, Stream] = {}  # by id of the connection

    # --- flows -----------------------------------------------------------------------------------------------------

    def add(self, message: dict[str, Any]) -> None:
        """Make a stream ready, from an `add` command; it starts with `begin`."""
        index, interval, threshold = (int(message[k]) for k in ("index", "interval_ns", "threshold_ns"))
        min_probes = int(message["min_probes"])
        self._ledger.add(index, str(message["name"]), 1e9 / interval, threshold, min_probes)
        self._liveness.add(index, interval, min_probes, threshold)
        self._shared.histogram[index] = 0
        self._shared.flows[index] = (0, 0, np.iinfo(np.int64).max, 0, 0.0, CONNECTING)
        self.flows[index] = Stream(
            index,
            Way(**message["way"]),
            int(message["session"]),
            interval,
            message.get("limit"),
            StreamAccount(index, threshold, self._ledger.live[index]),
        )
        self._tell({"event": "added", "index": index, "name": str(message["name"]), "ids": [], "kind": "stream"})

    def begin(self) -> None:
        """Open the connection of every stream that was added and has none."""
        for stream in self.flows.values():
            if not stream.began:
                stream.began, stream.connect_at = True, self._clock.mono_ns()
        self._plan()

    def remove(self, index: int) -> None:
        """End a stream and forget it."""
        stream = self.flows.pop(index)
        self._close(stream)
        self._ledger.remove(index)
        self._liveness.end(index)
        self._plan()

    def renew(self, index: int) -> None:
        """Give up the present session and open a new one."""
        stream, now = self.flows[index], self._clock.mono_ns()
        if not stream.began or stream.done:
            return
        self._close(stream)
        stream.account.ended(now)
        self._report(stream)
        self._restart(stream, now)
        self._plan()

    def halt(self) -> None:
        """Type nothing more; what is on its way may still come back."""
        for stream in self.flows.values():
            self._finish(stream)

    def close(self) -> None:
        """End every session."""
        for stream in self.flows.values():
            if stream.connection is not None and stream.opened:
                self._read(stream, self._clock.mono_ns())
            self._close(stream)

    # --- the loop --------------------------------------------------------------------------------------------------

    def turn(self, now: int) -> None:
        """Read what has come, type what is due."""
        for connection in self._stack.ready():
            stream = self._of.get(id(connection))
            if stream is not None and stream.opened:
                self._read(stream, now)
        for stream in self.flows.values():
            if stream.connection is not None and not stream.opened:
                self._await(stream, now)
            elif stream.next_ns <= now and stream.opened:
                self._type(stream, now)
            elif stream.next_ns <= now:
                self._connect(stream, now)
            if stream.opened:
                self._watch(stream, now)
                stream.looked_at = now
        self._plan(now)

    def _plan(self, now: int = 0) -> None:
        if not self.flows:
            self.next_ns = FAR
            return
        self.next_ns = min(now + LOOK_NS, *(stream.next_ns for stream in self.flows.values()))

    def _connect(self, stream: Stream, now: int) -> None:
        stream.attempts += 1
        stream.asked_at, stream.connect_at = now, now + CONNECT_NS
        try:
            stream.connection = self._stack.connect(stream.way)
        except Ended:
            return  # no route, no such source: again in a while
        self._of[id(stream.connection)] = stream

    def _await(self, stream: Stream, now: int) -> None:
        """See whether the handshake is done; give up when it takes too long."""
        assert stream.connection is not None
        try:
            progress = stream.connection.finish()
        except Ended:
            self._close(stream)
            return
        if progress == "connected":
            self._established(stream, now)
        elif now >= stream.connect_at:
            self._close(stream)
            if not stream.done:
                self._connect(stream, now)

    def _established(self, stream: Stream, now: int) -> None:
        assert stream.connection is not None
        stream.opened, stream.connections = True, stream.connections + 1
        stream.rest = stream.heard = b""
        stream.highest = -1
        stream.account.connected(now, now - stream.asked_at)
        if not stream.first_ns:
            stream.first_ns = now
        else:  # the slots that passed without a connection were none
            stream.slot = max(stream.slot, -(-(now - stream.first_ns) // stream.interval_ns))
        stream.looked_at = stream.attended_at = now
        self._liveness.begin(stream.index, now)
        event = {"event": "established", "flow": stream.index, "at_ns": now + self._anchor}
        again = {"connection": stream.connections, "attempts": stream.attempts, "local": stream.connection.local()}
        self._tell({**event, **again})
        stream.attempts = 0

    def _type(self, stream: Stream, now: int) -> None:
        """Write the record of each slot that has come."""
        assert stream.connection is not None
        late = max(TARDY_NS, stream.interval_ns)
        missed_from = max(self._ledger.last_sent_at[stream.index], stream.attended_at)
        missed = 0
        while stream.due <= now and not stream.done:
            due = stream.due
            stream.slot += 1
            if now - due > late:
                stream.account.unsent(due)
                missed += 1
            elif not self._write(stream):
                return
            if stream.limit is not None and stream.slot >= stream.limit:
                self._finish(stream)
        if missed:
            span = {"start_ns": [int(missed_from) + self._anchor], "end_ns": [now + self._anchor]}
            self._tell({"event": "unobserved", "cause": "stall", "flows": [stream.index], **span})
            stream.attended_at = now

    def _write(self, stream: Stream) -> bool:
        """Hand one record to the kernel; False if the connection turns out to be over."""
        assert stream.connection is not None
        account = stream.account
        try:
            if stream.rest:
                stream.rest = stream.rest[stream.connection.write(stream.rest) :]
            at = self._clock.mono_ns()
            record = stream.record(account.next_seq)
            taken = 0 if stream.rest else stream.connection.write(record)
        except Ended as end:
            account.unsent(self._clock.mono_ns())
            self._lost(stream, end)
            return False
        if not taken:
            account.unsent(at)
            stream.attended_at = at
            return True
        stream.rest = record[taken:]
        account.written(at, len(record))
        self._ledger.last_sent_at[stream.index] = at
        return True

    def _read(self, stream: Stream, now: int) -> None:
        """Take in what the kernel has sent and received. Its stamps lie between the last look and now."""
        assert stream.connection is not None
        offset = wall_offset_ns(self._clock)
        upto = self._clock.mono_ns()

        def instant(stamp: int) -> int:
            return min(max(stamp - offset, stream.looked_at), upto) if stamp else upto

        for octet, stamp in stream.connection.sent():
            if octet <= stream.highest:
                stream.account.retransmitted(instant(stamp))
                stream.info_at = 0
            stream.highest = max(stream.highest, octet)
        try:
            while True:
                data, stamp = stream.connection.read(RECORD_OCTETS - len(stream.heard))
                if not data:
                    return
                stream.heard += data
                if len(stream.heard) == RECORD_OCTETS and not self._echo(stream, instant(stamp)):
                    return
        except Ended as end:
            self._lost(stream, end)

    def _echo(self, stream: Stream, at: int) -> bool:
        """A whole record has come; False if it is none of ours."""
        account, index = stream.account, stream.index
        key = account.oldest()
        whole, stream.heard = stream.heard, b""
        if key is None or whole != stream.record(key.sequence):
            self._ledger.count(index, "corrupt")
            self._tell({"event": "stream_foreign", "flow": index, "detail": FOREIGN})
            account.ended(at)
            self._close(stream)
            self._restart(stream, at + CONNECT_NS)
            return False
        rtt = account.echoed(at)
        self._ledger.last_answered_at[index] = key.at
        if rtt is not None:
            row = self._shared.flows[index : index + 1]
            self._shared.histogram[index, int(bins_of(np.array([rtt]))[0])] += 1
            row["rtt_min"], row["rtt_max"] = min(int(row["rtt_min"][0]), rtt), max(int(row["rtt_max"][0]), rtt)
            row["rtt_sum"] += float(rtt)
        return True

    def _watch(self, stream: Stream, now: int) -> None:
        """See whether an echo is overdue, and ask the kernel what it does about it."""
        assert stream.connection is not None
        account = stream.account
        account.poll(now)
        since = account.quiet_since()
        overdue = bool(since) and now - since > account.patience_ns // 2
        if now >= stream.info_at + (INFO_NS if overdue else IDLE_INFO_NS):
            stream.info_at = now
            account.sampled(stream.connection.info())

    def _lost(self, stream: Stream, end: Ended) -> None:
        """The session is over. A new one is tried at once."""
        assert stream.connection is not None
        at = self._clock.mono_ns()
        word = stream.connection.last_word(end.cause)
        came = min(max(word.at_ns - wall_offset_ns(self._clock), stream.looked_at), at) if word else at
        stream.account.ended(at)
        self._report(stream)
        self._close(stream)
        if end.cause == "rst":
            self._ledger.count(stream.index, "reset")
        source = stream.way.address if end.cause in ("rst", "fin") else ""
        event = {"event": "session_end", "flow": stream.index, "cause": end.cause, "at_ns": came + self._anchor}
        ttl, peer_ttl = (word.ttl, word.peer_ttl) if word else (0, 0)
        self._tell({**event, "from": source, "ttl": ttl, "peer_ttl": peer_ttl, "detail": str(end)})
        self._restart(stream, at)
        self._liveness.end(stream.index)
        self._on_state(stream.index, at)

    def _restart(self, stream: Stream, at: int) -> None:
        """Try a new session at `at`. Nothing is known of it yet."""
        self._ledger.last_sent_at[stream.index] = self._ledger.last_answered_at[stream.index] = 0
        stream.connect_at = at

    def _finish(self, stream: Stream) -> None:
        if not stream.done:
            stream.done = True
            self._tell({"event": "done", "flow": stream.index})

    def _close(self, stream: Stream) -> None:
        if stream.connection is not None:
            self._of.pop(id(stream.connection), None)
            self._stack.close(stream.connection)
        stream.connection, stream.opened = None, False

    # --- the tick --------------------------------------------------------------------------------------------------

    def settle(self, now: int, *, open_too: bool) -> list[Correction]:
        """Bring the counts up to date and tell what there is to tell; which settled counts have changed.

        Args:
            now: CLOCK_MONOTONIC ns.
            open_too: Tell how open stalls stand as well.
        """
        corrections: list[Correction] = []
        for stream in self.flows.values():
            # A measurement of so many slots ends on time, with a connection or without.
            slots_end = stream.first_ns + (stream.limit or 0) * stream.interval_ns
            if stream.limit is not None and stream.first_ns and now >= slots_end + TARDY_NS:
                self._finish(stream)
            stream.account.settle(now, self._ledger.settled_to)
            self._report(stream, open_too=open_too)
            corrections += stream.account.drain_corrections()
        return corrections

    def settled(self) -> None:
        """Put the settled counts into the ledger's rows, to be published with the others."""
        for index, stream in self.flows.items():
            self._ledger.settled[index] = stream.account.settled

    def _report(self, stream: Stream, *, open_too: bool = False) -> None:
        for stall in stream.account.drain(open_too=open_too):
            self._tell(self._event(stream, stall))

    def _event(self, stream: Stream, stall: Stall) -> dict[str, Any]:
        """A stall with its instants moved to Unix time; 0 stays 0."""

        def wall(at: int) -> int:
            return at + self._anchor if at else 0

        until = stall.end or stall.over or self._clock.mono_ns()
        return {
            "event": "stall",
            "flow": stream.index,
            "id": stall.id,
            "start_ns": wall(stall.start),
            "end_ns": wall(until),
            "censored": "no" if stall.end else "end",
            "duration_ns": until - stall.start,
            "first_echo_ns": wall(stall.end),
            "caught_up_ns": wall(stall.caught_up),
            "next_try_ns": 0 if stall.over or stall.end else wall(stream.account.next_try_ns()),
            "first_seq": stall.first_seq,
            "waiting_max": stall.waiting_max,
            "retransmissions": stall.retransmissions,
            "retransmitted_ns": [wall(at) for at in stall.retransmitted],
            "rto_max_ns": stall.rto_max_ns,
            "backoff_max": stall.backoff_max,
            "unacked_max": stall.unacked_max,
            "total_retransmissions": stream.account.retransmissions,
        }


class NoStack:
    """For senders without streams."""

    def connect(self, way: Way) -> Any:
        raise Ended("silent", "there is no TCP here")

    def ready(self) -> list[Any]:
        return []

    def close(self, connection: Any) -> None:
        """There is none."""
