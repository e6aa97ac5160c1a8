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
from probe.link.base import APART_NS, NO_FRAMES, Frames, Int32Array, SendError, SendResult


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


class MemorySender:
    """The writing end: frames in a plain array, and a head that goes round. `fail_next` makes a batch fail half way."""

    def __init__(self, link: MemoryLink, slots: int, slot_octets: int):
        self.slots, self.blind_ns = slots, 0
        self.slot_octets = -(-slot_octets // 8) * 8
        self._link = link
        self._frames = np.zeros((slots, self.slot_octets), np.uint8)
        self._head = 0
        self._failures: list[tuple[int, SendError]] = []

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,)."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return np.ndarray((self.slots,), dtype, self._frames.data, 0, (self.slot_octets,))

    def fail_next(self, sent: int, error: SendError) -> None:
        """Let the next batch end with `error` after at most `sent` frames; further calls queue up."""
        self._failures.append((sent, error))

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n) up to the end of the slots; never full, as frames are copied when sent."""
        return self._head, min(n, self.slots - self._head)

    def send(self, count: int, lengths: Int32Array, together: int = 0) -> SendResult:
        """Put the `count` slots from the head on the wire; see `FrameSender.send`."""
        if not 0 < count <= self.slots - self._head:
            raise ValueError(f"{count} frames from slot {self._head} of {self.slots}")
        limit, error = self._failures.pop(0) if self._failures else (count, "")
        sent = min(count, limit)
        before_ns = self._link.clock.mono_ns()
        for slot in range(sent):
            self._link.carry(self._frames[self._head + slot, : int(lengths[slot])].tobytes())
        self._head = (self._head + sent) % self.slots
        calls = [(sent, before_ns, self._link.clock.mono_ns(), APART_NS)] if sent else []
        return SendResult(sent, calls, error if sent < count else "")

    def send_one(self, length: int) -> tuple[int, int, SendError]:
        """Send the slot at the head alone; see `FrameSender.send_one`."""
        before_ns = self._link.clock.mono_ns()
        error = self.send(1, np.array([length], np.int32)).error
        return before_ns, self._link.clock.mono_ns(), error

    def close(self) -> None:
        """Nothing to give back."""


class MemoryReceiver:
    """The reading end; frames that arrive while `slots` of them wait are dropped and counted.

    Attributes:
        stale: What stands behind a frame's end, where a ring has what older frames left.
    """

    lag_ns = 0

    def __init__(self, link: MemoryLink, slots: int, slot_octets: int):
        self.slots, self.slot_octets = slots, max(slot_octets, NO_FRAMES.octets.shape[1])
        self._link = link
        self.stale = b"\xee" * self.slot_octets
        self._waiting: list[tuple[int, bytes]] = []
        self._drops = 0

    def _fill(self) -> None:
        for arrival in self._link.arrived():
            if len(self._waiting) == self.slots:
                self._drops += 1
            else:
                self._waiting.append(arrival)

    @property
    def waiting(self) -> int:
        """How many frames wait, without those that have arrived since the last look."""
        return len(self._waiting)

    def take(self, limit: int = 4096) -> Frames:
        """What has arrived by the clock, at most `limit` frames."""
        self._fill()
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        if not taken:
            return NO_FRAMES
        rows = np.tile(np.frombuffer(self.stale, np.uint8)[: self.slot_octets], (len(taken), 1))
        for row, (_, frame) in zip(rows, taken, strict=True):
            kept = frame[: self.slot_octets]
            row[: len(kept)] = np.frombuffer(kept, np.uint8)
        return Frames(
            octets=rows,
            stamps_ns=np.array([stamp for stamp, _ in taken], np.int64),
            status=np.full(len(taken), abi.TP_STATUS_USER | abi.TP_STATUS_TS_SOFTWARE, np.uint32),
            ifindex=np.ones(len(taken), np.int32),
            lengths=np.array([len(frame) for _, frame in taken], np.int32),
            kept=np.array([min(len(frame), self.slot_octets) for _, frame in taken], np.int32),
        )

    def drops(self) -> int:
        """Frames that found no room since the last call."""
        self._fill()
        drops, self._drops = self._drops, 0
        return drops

    def take_error(self) -> SendError:
        """Never anything."""
        return ""

    def fileno(self) -> int:
        """There is nothing to wait for: time is the test's."""
        raise OSError("a link in memory has no descriptor")

    def close(self) -> None:
        """Nothing to give back."""
