"""What a session needs of a link: slots to write frames into, and what has arrived, as rows.

Frames are Ethernet frames throughout, so that one layout serves all. A link without Ethernet ignores the first 14
octets (sending), or leaves them undefined but for the type in the last two (receiving). Slots to send are reached
through strided numpy views that share memory with the link, and are the writer's only until `send`. Each object belongs
to one thread.
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


# A call that sent frames: how many, CLOCK_MONOTONIC (ns) just before and just after it, and how far apart they left in
# it at most, ns.
Call = tuple[int, int, int, int]
APART_NS = 2000  # the last of these, of calls whose frames go one by one


class SendResult(NamedTuple):
    """What became of a batch.

    Attributes:
        sent: How many frames the kernel took, a prefix of the batch. The others will never leave.
        calls: Each call that sent any.
        error: Why the rest was not sent; empty when everything was.
    """

    sent: int
    calls: list[Call]
    error: SendError


class FrameSender(Protocol):
    """Sends frames in the order of their slots.

    After `free(n)` gave (first, count), write up to `count` frames to slots first, first+1, ... of a view, then call
    `send` once with how many. Slots not sent are given again by the next `free`.
    """

    slot_octets: int  # longest frame, Ethernet header included
    slots: int
    blind_ns: int  # for how long before the last `link_down` frames may have been taken and thrown away; 0: not at all

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,), sharing memory with the link."""

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n) of the writable run at the head; a run never wraps. Count 0: the link is full."""

    def send(self, count: int, lengths: Int32Array, together: int = 0) -> SendResult:
        """Send the `count` slots from the head, `together` in a call (0: all), of `lengths` octets (shape (count,)).

        Frames that could not be sent are forgotten, their slots writable again: nothing leaves later.
        """

    def send_one(self, length: int) -> tuple[int, int, SendError]:
        """Send the slot at the head alone, as fast as can be.

        Returns:
            CLOCK_MONOTONIC just before and just after, and why it was not sent.
        """

    def close(self) -> None:
        """Give everything back; harmless when repeated."""


class Frames(NamedTuple):
    """Received frames, in order of arrival, as columns. Their memory is the receiver's: good until its next `take`.

    Attributes:
        octets: One frame a row, from its Ethernet header on; uint8, shape (n, 190 or more). What follows a frame's end
            is undefined. Rows may be changed.
        stamps_ns: Arrival times, CLOCK_REALTIME, nanoseconds; int64.
        status: TP_STATUS_* words; bit 29: stamped by the driver's hand-over, not by the packet socket.
        ifindex: Interface of arrival; int32.
        lengths: Octets of each frame as it arrived, Ethernet header included even where there is none; int32.
        kept: How many of them there are: fewer, if it was longer than a link keeps; int32.
    """

    octets: UInt8Array
    stamps_ns: Int64Array
    status: UInt32Array
    ifindex: Int32Array
    lengths: Int32Array
    kept: Int32Array

    def only(self, rows: list[int]) -> Frames:
        """A copy of these rows."""
        return Frames(
            octets=self.octets[rows],
            stamps_ns=self.stamps_ns[rows],
            status=self.status[rows],
            ifindex=self.ifindex[rows],
            lengths=self.lengths[rows],
            kept=self.kept[rows],
        )


_NONE = np.zeros(0, np.int32)
NO_FRAMES = Frames(np.zeros((0, 192), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.uint32), _NONE, _NONE, _NONE)


class FrameReceiver(Protocol):
    """Gives frames in order of arrival."""

    lag_ns: int  # every frame that arrived this long ago can be taken

    def take(self, limit: int = 4096) -> Frames:
        """What has arrived, about `limit` frames at most; no frames when there are none."""

    def drops(self) -> int:
        """Frames that matched but found no room since the last call."""

    def take_error(self) -> SendError:
        """A pending error of the socket, cleared by asking: `link_down` once after the interface went down."""

    def fileno(self) -> int:
        """Readable when frames are ready. After POLLERR, call `take_error`."""

    def close(self) -> None:
        """Give everything back; harmless when repeated."""
