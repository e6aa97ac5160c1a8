"""Sending replies back out of the interface their requests came from, checksums finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.border import SharedState
from probe.clock import Clock
from probe.core.arrays import distinct, pick
from probe.errors import PeerError
from probe.link.base import FrameReceiver, FrameSender
from probe.session.turning import REPLY_TTL
from probe.wire import layout
from probe.wire.checksum import complements, row_sums
from probe.wire.stamp import ntp_from_unix_ns

Ints = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
TOGETHER = 256  # replies that share a send time; a microsecond or so each
REPLY_CHECKSUM = 0x5A5A  # of every compensated reply: any constant will do


class ReflectorLinks(Protocol):
    """Where a reflector's links come from."""

    def receivers(self) -> list[FrameReceiver]: ...

    def transmitter_on(self, ifindex: int, octets: int) -> FrameSender:
        """The way out of an interface for frames of up to `octets`."""

    def expect(self, rate_pps: float) -> None:
        """How many replies a second there are at present: links may be chosen by it."""

    def is_local(self, address: bytes, ifindex: int) -> bool:
        """Whether an address is this host's, and what comes in on that interface does not come again on another."""

    def interface_drops(self) -> int:
        """Frames that the interfaces we receive on have dropped since the last call."""


class Replier:
    """The sending side of a reflector.

    Args:
        links: Opens links.
        clock: For the time at which a reply leaves.
        shared: Counts what was sent.
    """

    def __init__(self, links: ReflectorLinks, clock: Clock, shared: SharedState):
        self._links, self._clock, self._shared = links, clock, shared
        self._raw: dict[int, npt.NDArray[Any]] = {}

    def send(
        self,
        frames: npt.NDArray[np.uint8],
        reply: npt.NDArray[Any],
        ends: Ints,
        family: int,
        ifindex: int,
        compensated: Any,
        time_field: str = "",
    ) -> int:
        """Finish checksums and send.

        Args:
            frames: The replies, one a row.
            reply: The same as records.
            ends: Where each ends.
            family: 4 or 6.
            ifindex: Where they leave.
            compensated: Which of them have a compensator: those keep one checksum for the whole session.
            time_field: `stamp_time` (NTP) or `reply_time` (Unix ns): written last, when everything else is done, so
                that next to nothing of our own time counts as the network's. Zero until then.

        Returns:
            How many could not be sent.
        """
        reply["ttl"] = REPLY_TTL
        if family == 4:
            reply["ip_checksum"] = 0
            reply["ip_checksum"] = complements(row_sums(frames, 14, 34))
        if compensated.all():
            reply["checksum"], reply["comp"] = REPLY_CHECKSUM, 0
        else:
            reply["checksum"] = np.where(compensated, REPLY_CHECKSUM, 0)
            if compensated.any():
                reply["comp"][compensated] = 0
        total = _transport_sums(frames, ends, family) + np.uint64(int(reply["proto"][0]))
        longest = int(ends.max())
        link = self._link(ifindex, longest)
        if link is None:
            return len(frames)
        slots, lengths = self._slots(link), ends.astype(np.int32)
        done = 0
        while done < len(frames):
            first, count = link.free(min(len(frames) - done, TOGETHER))
            if not count:
                break
            part = slice(done, done + count)
            self._finish(reply[part], total[part], compensated[part], time_field)
            slots[first : first + count, :longest] = frames[part, :longest]
            result = link.send(count, lengths[part])
            self._shared.header["reflected"] += result.sent
            done += result.sent
            if result.sent < count:
                break
        return len(frames) - done

    def _finish(self, reply: npt.NDArray[Any], total: UInt64s, compensated: Any, time_field: str) -> None:
        """Write the time at which these leave, and what makes their checksums right."""
        if time_field:
            stamp = self._now(time_field)
            reply[time_field] = stamp
            total = total + stamp % np.uint64(0xFFFF)
        word = complements(total)
        if compensated.all():
            reply["comp"] = word
            return
        if compensated.any():
            reply["comp"][compensated] = word[compensated]
        reply["checksum"][~compensated] = word[~compensated]

    def _now(self, time_field: str) -> np.uint64:
        wall = np.array([self._clock.wall_ns()], np.int64)
        return np.uint64(ntp_from_unix_ns(wall)[0] if time_field == "stamp_time" else wall[0])

    def send_few(self, replies: list[bytearray], ifindex: int, finish: Callable[[bytearray], None]) -> int:
        """Send a few replies, each by itself.

        Args:
            replies: Each as long as it is.
            ifindex: Where they leave.
            finish: Writes the time at which a reply leaves and what makes its checksum right; called for one reply
                after the other, each time right before it goes.

        Returns:
            How many could not be sent.
        """
        link = self._link(ifindex, max(map(len, replies)))
        if link is None:
            return len(replies)
        slots = self._slots(link)
        sent = 0
        for reply in replies:
            first, count = link.free(1)
            if not count:
                break
            finish(reply)
            slots[first, : len(reply)] = reply
            if link.send_one(len(reply))[2]:
                break
            sent += 1
        self._shared.header["reflected"] += sent
        return len(replies) - sent

    def send_one(self, frame: bytes, ifindex: int) -> None:
        """Send a control segment; if the link is busy it is lost, as on any network."""
        link = self._link(ifindex, len(frame))
        first, count = (0, 0) if link is None else link.free(1)
        if link is not None and count:
            self._slots(link)[first, : len(frame)] = np.frombuffer(frame, np.uint8)
            link.send_one(len(frame))

    def _link(self, ifindex: int, octets: int) -> FrameSender | None:
        """The way out of an interface; None if that has gone since the request came in by it."""
        try:
            return self._links.transmitter_on(ifindex, octets)
        except (PeerError, OSError):
            return None

    def _slots(self, link: FrameSender) -> npt.NDArray[Any]:
        if id(link) not in self._raw:
            self._raw[id(link)] = link.view(layout.raw_dtype(link.slot_octets))
        return self._raw[id(link)]


def _transport_sums(frames: npt.NDArray[np.uint8], ends: Ints, family: int) -> UInt64s:
    """Word sum of each packet's addresses, transport header, payload and transport length."""
    l4 = layout.l4_offset(family)
    total = (ends - l4).astype(np.uint64)
    for end in distinct(ends):
        which = np.flatnonzero(ends == end)
        total[which] += row_sums(pick(frames, which), 26 if family == 4 else 22, end)
    return total
