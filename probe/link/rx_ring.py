"""Receiving through a PACKET_MMAP ring with a slot for each frame (TPACKET_V2), stamped by the kernel.

A frame can be read as soon as it has come, which is what a reflector needs: the time that a request waits shifts its
reply, and with it the ends of an outage on the way back. Who may read later does so for less (rx_blocks.py).
"""

from __future__ import annotations

import struct

import numpy as np

from probe.errors import HaprobeError
from probe.link import abi
from probe.link.base import NO_FRAMES, Frames
from probe.link.geometry import ring_geometry
from probe.link.receiver import RingSocket, as_ethernet

FEW = 16  # frames whose status is looked at one by one


class RxRing(RingSocket):
    """A `FrameReceiver` on one interface, or on all.

    On all interfaces a frame is seen once per layer it climbs (a bridge and its port, a bond and its member), so
    name one where that matters.

    Args:
        ifindex: Interface, in the calling thread's network namespace; 0 for all.
        program: Classic BPF (`bpf.probe_filter`).
        slots: Frames in the ring, at least: at 10,000 frames/s, 8192 bridge 0.8 s in which nobody reads.
        slot_octets: Octets of a frame to keep, Ethernet header included.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If there is no such interface.
        ValueError: If no ring can be that size.
    """

    lag_ns = 0
    _statistics = abi.TPACKET_STATS

    def __init__(self, ifindex: int, program: abi.Program, *, slots: int = 8192, slot_octets: int = 190):
        self._geometry = ring_geometry(slots, slot_octets, header_octets=abi.V2_DATA_AT)
        self.slots = self._geometry.frame_nr
        self.slot_octets = self._geometry.frame_size - abi.V2_DATA_AT
        ring = self._geometry
        request = abi.TPACKET_REQ.pack(ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr)
        super().__init__(ifindex, program, abi.TPACKET_V2, request, ring.octets)
        size = self._geometry.frame_size
        self._slots = np.ndarray((self.slots, size), np.uint8, self._memory)
        self._status = np.ndarray((self.slots,), np.uint32, self._memory, abi.TP_STATUS_AT, (size,))
        self._words, self._step = memoryview(self._memory).cast("I"), size // 4  # the same, for single slots
        self._head = 0
        self._copies = _Copies(0, size)
        self._layout_checked = False

    def take(self, limit: int = 1024) -> Frames:
        """Frames that have come, at most `limit`, fewer at the end of the ring; none when there are none.

        They are copies, in memory that the next call uses again.
        """
        first = self._head
        count = self._waiting(first, limit)
        if not count:
            return NO_FRAMES
        abi.fence()
        if not self._layout_checked:
            self._check_layout(first)
        if len(self._copies.rows) < count:
            self._copies = _Copies(count, self._geometry.frame_size)
        self._copies.rows[:count] = self._slots[first : first + count]
        abi.fence()
        self._status[first : first + count] = abi.TP_STATUS_KERNEL
        self._head = (first + count) % self.slots
        return self._copies.frames(count)

    def _waiting(self, first: int, limit: int) -> int:
        """How many frames have come, from a slot on."""
        limit = min(limit, self.slots - first)
        # One by one as long as they are few: each status word lies in a cache line of its own.
        words, step = self._words, self._step
        for slot in range(first, first + min(limit, FEW)):
            if not words[slot * step] & abi.TP_STATUS_USER:
                return slot - first
        waiting = (self._status[first : first + limit] & abi.TP_STATUS_USER) == 0
        return int(waiting.argmax()) if waiting.any() else limit

    def _check_layout(self, slot: int) -> None:
        """The rows rest on where the kernel puts a frame; it decides that, so look once."""
        (net,) = struct.unpack_from("=H", self._slots[slot], abi.V2_NET_OFFSET_AT)
        if net != abi.V2_NET_AT:
            raise HaprobeError(f"the kernel puts the network header at {net} of a slot, expected {abi.V2_NET_AT}")
        self._layout_checked = True

    def _let_go(self) -> None:
        del self._status, self._slots, self._words
        super()._let_go()


class _Copies:
    """Rows of struct tpacket2_hdr, sockaddr_ll and frame, and views of their columns, made once for all batches."""

    def __init__(self, count: int, octets: int):
        self.rows = np.zeros((count, octets), np.uint8)
        head = self.rows[:, : abi.V2_HEADER_OCTETS].view(np.uint32)
        self._octets = self.rows[:, abi.V2_DATA_AT :]
        self._seconds, self._nanoseconds = head[:, abi.V2_SEC_AT // 4], head[:, abi.V2_NSEC_AT // 4]
        self._status = head[:, abi.TP_STATUS_AT // 4]
        self._ifindex = head[:, abi.V2_IFINDEX_AT // 4].view(np.int32)
        self._lengths = head[:, abi.TP_LEN_AT // 4].view(np.int32)
        self._kept = head[:, abi.V2_SNAPLEN_AT // 4].view(np.int32)
        self._mac_offset = self.rows[:, abi.V2_MAC_OFFSET_AT : abi.V2_MAC_OFFSET_AT + 2].view(np.uint16)[:, 0]

    def frames(self, count: int) -> Frames:
        """The first rows, as columns."""
        stamps = self._seconds[:count].astype(np.int64)
        stamps *= 1_000_000_000
        stamps += self._nanoseconds[:count]
        octets = self._octets[:count]
        lengths, kept = as_ethernet(
            octets, self._lengths[:count], self._kept[:count], self._mac_offset[:count], abi.V2_DATA_AT
        )
        return Frames(
            octets=octets,
            stamps_ns=stamps,
            status=self._status[:count],
            ifindex=self._ifindex[:count],
            lengths=lengths,
            kept=kept,
        )
