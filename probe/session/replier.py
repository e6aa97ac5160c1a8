"""Sending replies back out of the interface their requests came from, checksums finished."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.border import SharedState
from probe.clock import Clock
from probe.core.arrays import distinct
from probe.link.base import FrameReceiver, FrameSender
from probe.session.turning import REPLY_TTL
from probe.wire import layout
from probe.wire.checksum import complements, row_sums
from probe.wire.stamp import ntp_from_unix_ns

Ints = npt.NDArray[np.int64]
REPLY_CHECKSUM = 0x5A5A  # of every compensated reply: any constant will do


class ReflectorLinks(Protocol):
    """Where a reflector's links come from."""

    def receivers(self) -> list[FrameReceiver]: ...

    def transmitter_on(self, ifindex: int) -> FrameSender: ...

    def expect(self, rate_pps: float) -> None:
        """How many replies a second there are at present: links may be chosen by it."""


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
            frames: The replies, padded with zeros to an even width.
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
        l4 = layout.l4_offset(family)
        reply["ttl"] = REPLY_TTL
        if family == 4:
            reply["ip_checksum"] = 0
            reply["ip_checksum"] = complements(row_sums(frames, 14, 34))
        proto = np.uint64(int(reply["proto"][0]))
        reply["checksum"] = np.where(compensated, REPLY_CHECKSUM, 0)
        if compensated.any():
            reply["comp"][compensated] = 0
        for end in distinct(ends):
            rows = np.flatnonzero(ends == end)
            part = frames[rows, : end + end % 2]
            total = row_sums(part, l4, part.shape[1]) + row_sums(part, *((26, 34) if family == 4 else (22, 54)))
            if time_field:
                stamp = self._now(time_field)
                reply[time_field][rows] = stamp
                total += stamp % np.uint64(0xFFFF)
            word = complements(total + proto + np.uint64(end - l4))
            constant = compensated[rows]
            if constant.any():
                reply["comp"][rows[constant]] = word[constant]
            reply["checksum"][rows[~constant]] = word[~constant]
        link = self._links.transmitter_on(ifindex)
        slots = self._slots(link)
        done = 0
        while done < len(frames):
            first, count = link.free(len(frames) - done)
            if not count:
                break
            slots[first : first + count, : frames.shape[1]] = frames[done : done + count]
            result = link.send(count, ends[done : done + count].astype(np.int32))
            self._shared.header["reflected"] += result.sent
            done += result.sent
            if result.sent < count:
                break
        return len(frames) - done

    def _now(self, time_field: str) -> np.uint64:
        wall = np.array([self._clock.wall_ns()], np.int64)
        return np.uint64(ntp_from_unix_ns(wall)[0] if time_field == "stamp_time" else wall[0])

    def send_one(self, frame: bytes, ifindex: int) -> None:
        """Send a control segment; if the link is busy it is lost, as on any network."""
        link = self._links.transmitter_on(ifindex)
        first, count = link.free(1)
        if count:
            self._slots(link)[first, : len(frame)] = np.frombuffer(frame, np.uint8)
            link.send(1, np.array([len(frame)], np.int32))

    def _slots(self, link: FrameSender) -> npt.NDArray[Any]:
        if id(link) not in self._raw:
            self._raw[id(link)] = link.view(layout.raw_dtype(link.slot_octets))
        return self._raw[id(link)]
