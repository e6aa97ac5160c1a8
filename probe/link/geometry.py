"""Ring arithmetic of PACKET_MMAP, apart from any socket or mapping.

A TPACKET_V2 ring is `frame_nr` frames of `frame_size` octets, cut from blocks. The kernel asks that a block be
a multiple of the page size and that frames fill blocks exactly (af_packet.c, packet_set_ring). Frame and
page sizes are powers of two here, so frames also follow each other without a hole over the whole mapping:
frame k sits at `k * frame_size`, which is what lets one strided numpy array span all slots.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

FRAME_SIZE_MIN = 128
FRAME_SIZE_MAX = 16384  # holds a jumbo frame (9001 octets in AWS) and its headers
SLOTS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class RingGeometry:
    """Numbers the kernel wants in `struct tpacket_req`, checked.

    Attributes:
        frame_size: Octets from one frame to the next; a power of two, 128 to 16384.
        frame_nr: Frames in the ring.
        block_size: Octets of a block; a multiple of the page size and of `frame_size`.
        block_nr: Blocks in the ring.
    """

    frame_size: int
    frame_nr: int
    block_size: int
    block_nr: int
    page_size: int = mmap.PAGESIZE

    def __post_init__(self) -> None:
        if not FRAME_SIZE_MIN <= self.frame_size <= FRAME_SIZE_MAX or self.frame_size & (self.frame_size - 1):
            raise ValueError(f"frame size {self.frame_size}: a power of two from {FRAME_SIZE_MIN} to {FRAME_SIZE_MAX}")
        if self.block_size <= 0 or self.block_size % self.page_size:
            raise ValueError(f"block size {self.block_size}: a multiple of the page size {self.page_size}")
        if self.block_size % self.frame_size:
            raise ValueError(f"block size {self.block_size}: a multiple of the frame size {self.frame_size}")
        if not 0 < self.frame_nr <= SLOTS_MAX:
            raise ValueError(f"{self.frame_nr} frames: from 1 to {SLOTS_MAX}")
        if self.frame_nr != self.block_size // self.frame_size * self.block_nr:
            raise ValueError(f"{self.frame_nr} frames do not fill {self.block_nr} blocks")

    @property
    def octets(self) -> int:
        """Length of the mapping."""
        return self.block_size * self.block_nr

    def offset(self, slot: int) -> int:
        """Where a frame starts in the mapping, in octets."""
        return slot * self.frame_size


def ring_geometry(slots: int, slot_octets: int, *, header_octets: int, page_size: int = mmap.PAGESIZE) -> RingGeometry:
    """The smallest sound ring for what the caller wants to store.

    Args:
        slots: Frames wanted. Rounded up until blocks are full.
        slot_octets: Longest L2 frame a slot must hold.
        header_octets: What precedes the L2 frame in a slot (32 when sending, 66 when receiving, for TPACKET_V2).
        page_size: Of the running kernel: 4, 16 or 64 KiB.

    Raises:
        ValueError: If no ring of allowed frame size and count can do that.
    """
    needed = slot_octets + header_octets
    if slots < 1 or slot_octets < 1:
        raise ValueError(f"{slots} slots of {slot_octets} octets: both at least 1")
    if needed > FRAME_SIZE_MAX:
        raise ValueError(f"frames of {slot_octets} octets do not fit a slot; at most {FRAME_SIZE_MAX - header_octets}")
    frame_size = max(FRAME_SIZE_MIN, 1 << (needed - 1).bit_length())
    # Single pages: an allocation of low order does not fail on a host that has been up for months.
    block_size = max(page_size, frame_size)
    block_nr = -(-slots * frame_size // block_size)
    return RingGeometry(frame_size, block_nr * (block_size // frame_size), block_size, block_nr, page_size)
