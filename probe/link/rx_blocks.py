"""Receiving through a PACKET_MMAP ring of blocks (TPACKET_V3), stamped by the kernel.

The kernel packs frames into a block and hands it over whole, when it is full or RETIRE_MS old: its work per frame and
ours is smaller than with a slot for each (rx_ring.py), and a stall of the reader is bridged by memory that frames fill
densely. Frames are thus read some milliseconds after they came, which changes no stamp. `take` copies them out, so
that a block goes back at once and all that follows works on memory in cache.
"""

from __future__ import annotations

import mmap
import struct
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from probe.errors import HaprobeError
from probe.link import abi
from probe.link.base import NO_FRAMES, Frames, Int64Array
from probe.link.receiver import RingSocket, as_ethernet

RETIRE_MS = 10
# Every frame that came is handed over within this, also when the kernel's timers run late.
LAG_NS = 50_000_000
NARROWEST = 192  # octets of a row that `take` gives, at least


class RxBlocks(RingSocket):
    """A `FrameReceiver` on one interface, or on all.

    On all interfaces a frame is seen once per layer it climbs (a bridge and its port, a bond and its member), so
    name one where that matters.

    Args:
        ifindex: Interface, in the calling thread's network namespace; 0 for all.
        program: Classic BPF (`bpf.probe_filter`); its snap length is how much of a frame is kept.
        blocks: Blocks in the ring. Where few frames come, each lasts RETIRE_MS.
        block_octets: Of each; a power of two. A frame takes its length and some 90 octets.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If there is no such interface.
        ValueError: If no ring can be that size.
    """

    lag_ns = LAG_NS
    _statistics = abi.TPACKET_STATS3

    def __init__(self, ifindex: int, program: abi.Program, *, blocks: int = 1024, block_octets: int = 1 << 14):
        if blocks < 2 or block_octets % mmap.PAGESIZE or block_octets & (block_octets - 1):
            raise ValueError(f"{blocks} blocks of {block_octets} octets: at least 2, of a power of two of whole pages")
        self._blocks, self._block_octets = blocks, block_octets
        request = abi.TPACKET_REQ3.pack(block_octets, blocks, block_octets, blocks, RETIRE_MS, 0, 0)
        super().__init__(ifindex, program, abi.TPACKET_V3, request, blocks * block_octets)
        self._octets = np.frombuffer(self._memory, np.uint8)
        self._status = np.ndarray((blocks,), np.uint32, self._memory, abi.BLOCK_STATUS_AT, (block_octets,))
        self._block = 0  # the next to come
        self._rows = np.zeros((0, 0), np.uint8)
        self._layout_checked = False

    def take(self, limit: int = 4096) -> Frames:
        """Frames that have been handed over, whole blocks of them: about `limit`, none when there are none.

        They are copies, in memory that the next call uses again.
        """
        parts: list[_Part] = []
        total = 0
        for block in range(self._block, self._block + self._blocks):
            at = block % self._blocks * self._block_octets
            if not self._status[block % self._blocks] & abi.TP_STATUS_USER:
                break
            abi.fence()
            count, offset = abi.BLOCK_COUNT.unpack_from(self._memory, at + abi.BLOCK_COUNT_AT)
            if parts and total + count > limit:
                break
            parts.append(self._part(at + offset, count))
            total += count
        if not total:
            return NO_FRAMES
        rows = self._copied(parts, total)
        abi.fence()
        for _ in parts:
            self._status[self._block] = abi.TP_STATUS_KERNEL
            self._block = (self._block + 1) % self._blocks
        return _frames(rows)

    def _part(self, at: int, count: int) -> _Part:
        """Where the frames of a block lie, given the first's place."""
        if not self._layout_checked:
            self._check_layout(at)
        step, end = self._word(at, abi.NEXT_OFFSET_AT), (at // self._block_octets + 1) * self._block_octets
        if count == 1:
            return _Part(at, self._extent(at), 1, None)
        last = at + step * (count - 1)
        if last + step <= end:
            # Frames of one length, the usual case, lie evenly; one look at all of them tells.
            steps = np.ndarray((count - 1,), np.uint32, self._memory, at + abi.NEXT_OFFSET_AT, (step,))
            if (steps == step).all() and self._extent(last) <= step:
                return _Part(at, step, count, None)
        places = self._walk(at, count)
        return _Part(at, max(int(np.diff(places).max()), self._extent(int(places[-1]))), count, places)

    def _walk(self, at: int, count: int) -> Int64Array:
        """Frames of several lengths: each tells where the next is. Less than 0.1 us for each."""
        words, place, places = memoryview(self._memory).cast("I"), at // 4, []
        for _ in range(count):
            places.append(place)
            place += words[place] // 4
        return np.array(places, np.int64) * 4

    def _word(self, at: int, offset: int) -> int:
        return int.from_bytes(self._memory[at + offset : at + offset + 4], sys.byteorder)

    def _extent(self, at: int) -> int:
        """Octets that the frame at `at` takes, its headers included."""
        data = int.from_bytes(self._memory[at + abi.V3_MAC_OFFSET_AT : at + abi.V3_MAC_OFFSET_AT + 2], sys.byteorder)
        return -(-(data + self._word(at, abi.SNAPLEN_AT)) // 8) * 8

    def _copied(self, parts: list[_Part], total: int) -> npt.NDArray[np.uint8]:
        """Copy frames out with the kernel's headers before them; shape (total, ...)."""
        width = max(abi.V3_DATA_AT + NARROWEST + 6, *(part.extent for part in parts))  # multiples of 8 all
        if self._rows.shape[0] < total or self._rows.shape[1] < width:
            self._rows = np.zeros((max(total, self._rows.shape[0]), max(width, self._rows.shape[1])), np.uint8)
        done = 0
        for at, extent, count, places in parts:
            rows = self._rows[done : done + count]
            if places is None:
                rows[:, :extent] = np.ndarray((count, extent), np.uint8, self._memory, at, (extent, 1))
            else:
                windows = np.lib.stride_tricks.sliding_window_view(self._octets, extent)
                inside = places < len(windows)  # the ring's last frame may end before a whole window does
                rows[inside, :extent] = windows[places[inside]]
                for row in np.flatnonzero(~inside).tolist():
                    rest = self._octets[places[row] :]
                    rows[row, : len(rest)] = rest
            done += count
        return self._rows[:total]

    def _check_layout(self, at: int) -> None:
        """The rows rest on where the kernel puts a frame; it decides that, so look once."""
        (net,) = struct.unpack_from("=H", self._memory, at + abi.V3_NET_OFFSET_AT)
        if net != abi.V3_NET_AT:
            raise HaprobeError(f"the kernel puts the network header at {net} of a frame, expected {abi.V3_NET_AT}")
        self._layout_checked = True

    def _let_go(self) -> None:
        del self._status, self._octets
        super()._let_go()


class _Part(NamedTuple):
    """Frames of one block: so many of at most `extent` octets, headers included, from `at` on; that far apart, or at
    `places`.
    """

    at: int
    extent: int
    frames: int
    places: Int64Array | None


def _frames(rows: npt.NDArray[np.uint8]) -> Frames:
    """Rows of struct tpacket3_hdr, sockaddr_ll and frame, as columns."""
    head = rows[:, : abi.V3_HEADER_OCTETS].view(np.uint32)
    stamps = head[:, abi.V3_SEC_AT // 4].astype(np.int64)
    stamps *= 1_000_000_000
    stamps += head[:, abi.V3_NSEC_AT // 4]
    octets, mac_offset = rows[:, abi.V3_DATA_AT :], rows[:, abi.V3_MAC_OFFSET_AT : abi.V3_MAC_OFFSET_AT + 2]
    lengths, kept = as_ethernet(
        octets,
        head[:, abi.V3_LEN_AT // 4].view(np.int32),
        head[:, abi.SNAPLEN_AT // 4].view(np.int32),
        mac_offset.view(np.uint16)[:, 0],
        abi.V3_DATA_AT,
    )
    return Frames(
        octets=octets,
        stamps_ns=stamps,
        status=head[:, abi.V3_STATUS_AT // 4],
        ifindex=head[:, abi.V3_IFINDEX_AT // 4].view(np.int32),
        lengths=lengths,
        kept=kept,
    )
