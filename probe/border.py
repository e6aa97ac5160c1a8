"""The border between the control process and an engine: counters out through shared memory, messages both ways.

Shared memory holds arrays that one engine writes and the control process reads. `settled` and `settled_to` change
together under a generation count (odd while being written), so that a reader never mixes two instants. Messages are
JSON objects over a SOCK_SEQPACKET pair: commands in, events out, at the rate of events and never of probes. The engine
holds privileges and the control process faces the network, so what crosses is data that is checked, not code.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.fate import COLUMN, COLUMNS
from probe.core.histogram import BINS

Ints = npt.NDArray[np.int64]
MAX_MESSAGE = 1 << 17

HEADER = np.dtype(
    [
        ("generation", np.int64),
        ("settled_to", np.int64),  # Unix ns; everything sent up to here is settled
        ("heartbeat", np.int64),  # CLOCK_MONOTONIC ns of the engine's last tick
        ("wall_anchor", np.int64),  # Unix ns minus monotonic ns, fixed for the engine's life
        ("wall_offset", np.int64),  # the same as just measured: differs after a clock step
        ("ring_drops", np.int64),
        ("unknown_frames", np.int64),  # frames that belong to no probe of ours
        ("reflected", np.int64),
        ("sessions", np.int64),  # reflector: sessions held
        ("lateness_max", np.int64),  # ns, of the last second
        ("lateness_p99", np.int64),
        ("cpu_ns", np.int64),
    ]
)
FLOW = np.dtype(
    [
        ("last_sent", np.int64),  # Unix ns
        ("last_answered", np.int64),  # Unix ns, TX time of the newest probe that was answered
        ("rtt_min", np.int64),
        ("rtt_max", np.int64),
        ("rtt_sum", np.float64),
        ("state", np.int64),  # index into FLOW_STATES
    ]
)
LEAST_STEP_NS = 1_000_000  # two readings of both clocks differ by less
FLOW_STATES = ("connecting", "up", "suspect", "down", "ended")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent reading of an engine's counters."""

    generation: int
    settled_to: int
    settled: Ints  # (capacity, COLUMNS)
    live: Ints
    histogram: npt.NDArray[np.uint32]  # (capacity, BINS)
    flows: npt.NDArray[Any]  # FLOW records
    header: np.void


class SharedState:
    """The counters of one engine, in an anonymous memory file that both processes map.

    Args:
        fd: The memory file; closed with `close`.
        capacity: Number of flow rows.
    """

    def __init__(self, fd: int, capacity: int):
        self.fd = fd
        self.capacity = capacity
        self._map = mmap.mmap(fd, self.octets(capacity))
        offset = 0
        self.header = np.frombuffer(self._map, HEADER, 1, offset)
        offset += HEADER.itemsize
        self.live = np.frombuffer(self._map, np.int64, capacity * COLUMNS, offset).reshape(capacity, COLUMNS)
        offset += self.live.nbytes
        self.settled = np.frombuffer(self._map, np.int64, capacity * COLUMNS, offset).reshape(capacity, COLUMNS)
        offset += self.settled.nbytes
        self.flows = np.frombuffer(self._map, FLOW, capacity, offset)
        offset += self.flows.nbytes
        self.histogram = np.frombuffer(self._map, np.uint32, capacity * BINS, offset).reshape(capacity, BINS)

    @staticmethod
    def octets(capacity: int) -> int:
        return HEADER.itemsize + capacity * (2 * COLUMNS * 8 + FLOW.itemsize + BINS * 4)

    @classmethod
    def create(cls, capacity: int) -> SharedState:
        fd = os.memfd_create("haprobe-counters")
        os.posix_fallocate(fd, 0, cls.octets(capacity))  # all of it now: a page's first touch costs time
        return cls(fd, capacity)

    def clock_step_ns(self) -> int:
        """By how much the wall clock was set since the engine began, whose times stay on the clock as it was then."""
        anchor, offset = int(self.header["wall_anchor"][0]), int(self.header["wall_offset"][0])
        return offset - anchor if offset and abs(offset - anchor) > LEAST_STEP_NS else 0

    def publish(self, settled_to: int, settled: Ints) -> None:
        """Replace `settled` and `settled_to` in one step, as readers see it."""
        header = self.header
        header["generation"] += 1
        self.settled[:] = settled
        header["settled_to"] = settled_to
        header["generation"] += 1

    def read(self) -> Snapshot:
        """A consistent copy; waits out a writer, which takes microseconds."""
        before = settled_to = 0
        settled = np.zeros_like(self.settled)
        for _ in range(1000):
            before = int(self.header["generation"][0])
            if before % 2 == 0:
                settled_to, settled = int(self.header["settled_to"][0]), self.settled.copy()
                if int(self.header["generation"][0]) == before:
                    break
            time.sleep(0.0001)
        return Snapshot(
            before,
            settled_to,
            settled,
            self._read_live(),
            self.histogram.copy(),
            self.flows.copy(),
            self.header[0].copy(),
        )

    def _read_live(self) -> Ints:
        """A copy of `live` that breaks no law: one that does was taken while the engine was between two columns."""
        live = self.live.copy()
        for _ in range(50):
            if _lawful(live):
                break
            time.sleep(0.0001)
            live = self.live.copy()
        return live

    def close(self) -> None:
        """Drop the file descriptor; the memory goes with the last array that shows it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _lawful(counts: Ints) -> bool:
    """Whether every row obeys the contract's laws."""
    column = {name: counts[:, place] for name, place in COLUMN.items()}
    decided = column["received"] + column["late"] + column["lost"] + column["dropped_locally"]
    directions = column["lost_forward"] + column["lost_reverse"] + column["lost_unattributed"]
    sound = (column["scheduled"] == column["sent"] + column["unsent"]) & (column["sent"] >= decided)
    return bool((sound & (column["lost"] == directions)).all() and (counts >= 0).all())


class Channel:
    """JSON messages over one end of a SOCK_SEQPACKET pair. Sending never blocks: what does not fit waits its turn."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._waiting: deque[bytes] = deque()
        self.closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message and send what the socket takes.

        Raises:
            ValueError: If it is longer than MAX_MESSAGE: the other side would read a part of it.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(data)} octets; at most {MAX_MESSAGE} fit")
        self._waiting.append(data)
        self.flush()

    def flush(self) -> bool:
        """Send what waits; True when nothing is left."""
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return False
            except OSError:  # the other side is gone; `receive` will tell
                self._waiting.clear()
                self.closed = True
                return True
            self._waiting.popleft()
        return True

    def receive(self) -> Iterator[dict[str, Any]]:
        """Every message that has arrived. Sets `closed` when the other side has gone."""
        while True:
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            yield json.loads(data)

    def close(self) -> None:
        """Close our end."""
        self._socket.close()
        self.closed = True
