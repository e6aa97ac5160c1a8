"""A link inside the process, whose faults are a script: for tests of everything above a link.

Frames pass from `sender` to `receiver` of one `MemoryLink`, one direction; two of them make a full link. Time is
the injected clock's: a frame sent at t is there from t plus its delay on, and carries that instant as its stamp.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.clock import Clock
from probe.link import abi
from probe.link.base import Int32Array, Int64Array, SendError, SendResult, UInt8Array, UInt32Array


@dataclass(frozen=True)
class Script:
    """What happens to frames, by index: the first frame ever sent on the link is 0.

    Attributes:
        drop: Frames that vanish.
        delay_ns: Extra delay of single frames; a frame is overtaken by those that arrive earlier.
        duplicate: Frames that arrive twice, back to back.
        latency_ns: Delay of every frame.
    """

    drop: Container[int] = frozenset()
    delay_ns: Mapping[int, int] = field(default_factory=dict)
    duplicate: Container[int] = frozenset()
    latency_ns: int = 0


class MemoryLink:
    """One direction of a wire, as a `FrameSender` and the `FrameReceiver` at its other end.

    Args:
        clock: What the link takes the time from.
        script: Faults; may be replaced while the link is in use.
        slots: Slots at each end.
        slot_octets: Longest frame.
    """

    def __init__(self, clock: Clock, script: Script | None = None, *, slots: int = 4096, slot_octets: int = 256):
        self.script = script or Script()
        self.clock = clock
        self.sent = 0
        self._in_flight: list[tuple[int, int, bytes]] = []
        self._arrivals = 0
        self.sender = MemorySender(self, slots, slot_octets)
        self.receiver = MemoryReceiver(self, slots, slot_octets)

    def carry(self, frame: bytes) -> None:
        """Put the next frame on the wire."""
        index, script = self.sent, self.script
        self.sent += 1
        if index in script.drop:
            return
        due_ns = self.clock.mono_ns() + script.latency_ns + script.delay_ns.get(index, 0)
        for _ in range(2 if index in script.duplicate else 1):
            heapq.heappush(self._in_flight, (due_ns, self._arrivals, frame))
            self._arrivals += 1

    def arrived(self) -> list[tuple[int, bytes]]:
        """(arrival, CLOCK_REALTIME ns; frame) of what has reached the other end by now, each once."""
        now_ns, wall_ns = self.clock.mono_ns(), self.clock.wall_ns()
        frames = []
        while self._in_flight and self._in_flight[0][0] <= now_ns:
            due_ns, _, frame = heapq.heappop(self._in_flight)
            frames.append((wall_ns - (now_ns - due_ns), frame))
        return frames


class _Slots:
    """Frames in a plain array, and a head that goes round."""

    def __init__(self, link: MemoryLink, slots: int, slot_octets: int):
        self.slots = slots
        self.slot_octets = -(-slot_octets // 8) * 8
        self._link = link
        self._frames = np.zeros((slots, self.slot_octets), np.uint8)
        self._head = 0

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,)."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return np.ndarray((self.slots,), dtype, self._frames.data, 0, (self.slot_octets,))

    def close(self) -> None:
        """Nothing to give back."""


class MemorySender(_Slots):
    """The writing end; `fail_next` makes a batch fail half way."""

    def __init__(self, link: MemoryLink, slots: int, slot_octets: int):
        super().__init__(link, slots, slot_octets)
        self._failures: list[tuple[int, SendError]] = []

    def fail_next(self, sent: int, error: SendError) -> None:
        """Let the next batch end with `error` after at most `sent` frames; further calls queue up."""
        self._failures.append((sent, error))

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n) up to the end of the slots; never full, as frames are copied when sent."""
        return self._head, min(n, self.slots - self._head)

    def send(self, count: int, lengths: Int32Array) -> SendResult:
        """Put the `count` slots from the head on the wire; see `FrameSender.send`."""
        if not 0 < count <= self.slots - self._head:
            raise ValueError(f"{count} frames from slot {self._head} of {self.slots}")
        limit, error = self._failures.pop(0) if self._failures else (count, "")
        sent = min(count, limit)
        before_ns = self._link.clock.mono_ns()
        for slot in range(sent):
            self._link.carry(self._frames[self._head + slot, : int(lengths[slot])].tobytes())
        self._head = (self._head + sent) % self.slots
        return SendResult(sent, before_ns, self._link.clock.mono_ns(), error if sent < count else "")


class MemoryReceiver(_Slots):
    """The reading end; frames that arrive while all slots are filled are dropped and counted."""

    def __init__(self, link: MemoryLink, slots: int, slot_octets: int):
        super().__init__(link, slots, slot_octets)
        self._stamps_ns = np.zeros(slots, np.int64)
        self._lengths = np.zeros(slots, np.int32)
        self._filled = 0
        self._drops = 0

    def _fill(self) -> None:
        for stamp_ns, frame in self._link.arrived():
            if self._filled == self.slots:
                self._drops += 1
                continue
            slot = (self._head + self._filled) % self.slots
            kept = frame[: self.slot_octets]
            self._frames[slot, : len(kept)] = np.frombuffer(kept, np.uint8)
            self._stamps_ns[slot] = stamp_ns
            self._lengths[slot] = len(frame)
            self._filled += 1

    def ready(self, max_batch: int = 1024) -> tuple[int, int]:
        """(first slot, count <= max_batch) of what has arrived by the clock; a run never wraps."""
        self._fill()
        return self._head, min(self._filled, max_batch, self.slots - self._head)

    def stamps_ns(self, first: int, count: int) -> Int64Array:
        """Arrival times, CLOCK_REALTIME, nanoseconds."""
        return self._stamps_ns[first : first + count].copy()

    def lengths(self, first: int, count: int) -> Int32Array:
        """Length of each frame as it arrived, octets."""
        return self._lengths[first : first + count].copy()

    def status(self, first: int, count: int) -> UInt32Array:
        """As a ring would show: filled, with a software stamp."""
        return np.full(count, abi.TP_STATUS_USER | abi.TP_STATUS_TS_SOFTWARE, np.uint32)

    def pkttype(self, first: int, count: int) -> UInt8Array:
        """All addressed to this host."""
        return np.full(count, abi.PACKET_HOST, np.uint8)

    def ifindex(self, first: int, count: int) -> Int32Array:
        """All from interface 1."""
        return np.full(count, 1, np.int32)

    def release(self, count: int) -> None:
        """Empty the `count` slots at the head."""
        if count > min(self._filled, self.slots - self._head):
            raise ValueError(f"{count} frames from slot {self._head}, of which {self._filled} are filled")
        self._head = (self._head + count) % self.slots
        self._filled -= count

    def drops(self) -> int:
        """Frames that found no empty slot since the last call."""
        self._fill()
        drops, self._drops = self._drops, 0
        return drops

    def take_error(self) -> SendError:
        """Never anything."""
        return ""

    def fileno(self) -> int:
        """There is nothing to wait for: time is the test's."""
        raise OSError("a link in memory has no descriptor")
