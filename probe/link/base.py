"""What a session needs of a link: slots to write frames into, slots to read frames from.

Frames are Ethernet frames throughout. A link without Ethernet ignores (sending) or leaves undefined (receiving)
the first 14 octets, so that one layout serves all. Slots are reached through strided numpy views that share
memory with the link: nothing is copied, and a slot's content is the reader's only until `release`, the
writer's only until `send`. Each object belongs to one thread.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

SendError = Literal["", "link_down", "send_error"]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
UInt8Array = npt.NDArray[np.uint8]


class SendResult(NamedTuple):
    """What became of a batch.

    Attributes:
        sent: How many frames the kernel took, a prefix of the batch. The others will never leave.
        before_ns: CLOCK_MONOTONIC just before the batch was handed over.
        after_ns: CLOCK_MONOTONIC just after.
        error: Why the rest was not sent; empty when everything was.
    """

    sent: int
    before_ns: int
    after_ns: int
    error: SendError


class FrameSender(Protocol):
    """Sends frames in the order of their slots.

    After `free(n)` gave (first, count), write up to `count` frames to slots first, first+1, ... of a view, then call
    `send` once with how many. Slots not sent are given again by the next `free`.
    """

    slot_octets: int  # longest frame, Ethernet header included
    slots: int

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,), sharing memory with the link."""

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n) of the writable run at the head; a run never wraps. Count 0: the link is full."""

    def send(self, count: int, lengths: Int32Array) -> SendResult:
        """Send the `count` slots from the head, of `lengths` octets each (shape (count,)).

        Frames that could not be sent are forgotten, their slots writable again: nothing leaves later.
        """

    def close(self) -> None:
        """Give everything back; harmless when repeated."""


class FrameReceiver(Protocol):
    """Gives frames in order of arrival.

    `ready()` names a run of filled slots; read them through views; `release` them.
    """

    slot_octets: int  # octets of a frame that are kept
    slots: int

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, from its Ethernet header on, shape (slots,), sharing memory with the link."""

    def ready(self, max_batch: int = 1024) -> tuple[int, int]:
        """(first slot, count <= max_batch) of the filled run at the head; a run never wraps."""

    def stamps_ns(self, first: int, count: int) -> Int64Array:
        """Arrival times, CLOCK_REALTIME, nanoseconds; a copy."""

    def lengths(self, first: int, count: int) -> Int32Array:
        """Length of each frame as it arrived (more than is kept, if it was longer), octets; a copy."""

    def status(self, first: int, count: int) -> UInt32Array:
        """TP_STATUS_* words; bit 29: stamped by the driver's hand-over, not by the packet socket."""

    def pkttype(self, first: int, count: int) -> UInt8Array:
        """PACKET_HOST and friends."""

    def ifindex(self, first: int, count: int) -> Int32Array:
        """Interface of arrival."""

    def release(self, count: int) -> None:
        """Give the `count` slots at the head back to the link; their content is no longer yours."""

    def drops(self) -> int:
        """Frames that matched but found no free slot since the last call."""

    def take_error(self) -> SendError:
        """A pending error of the socket, cleared by asking: `link_down` once after the interface went down."""

    def fileno(self) -> int:
        """Readable when frames are ready. After POLLERR, call `take_error`."""

    def close(self) -> None:
        """Give everything back; harmless when repeated. Memory stays valid for views that are still held."""
