"""Receiving through a PACKET_MMAP ring (TPACKET_V2), stamped by the kernel.

The socket asks for software receive stamps itself: only then does the kernel stamp every frame when the driver
hands it over (`TP_STATUS_TS_SOFTWARE` set), instead of when it reaches this socket. It is an ETH_P_ALL socket, which
sees frames before any firewall of the host does. The filter is attached before the socket is bound to a
protocol, so no foreign frame slips in; our own transmissions are hidden from it.
"""

from __future__ import annotations

import errno
import logging
import mmap
import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import HaprobeError, PeerError
from probe.link import abi, require_raw
from probe.link.base import Int32Array, Int64Array, SendError, UInt8Array, UInt32Array
from probe.link.geometry import ring_geometry

log = logging.getLogger(__name__)


class RxRing:
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

    def __init__(self, ifindex: int, program: abi.Program, *, slots: int = 8192, slot_octets: int = 190):
        self._geometry = ring_geometry(slots, slot_octets, header_octets=abi.RX_DATA_AT)
        self.slots = self._geometry.frame_nr
        self.slot_octets = self._geometry.frame_size - abi.RX_DATA_AT
        require_raw()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._configure(program)
            self._memory = mmap.mmap(self._socket.fileno(), self._geometry.octets)
            abi.bind_packet(self._socket, abi.ETH_P_ALL, ifindex)
        except OSError as error:
            self._socket.close()
            if error.errno in {errno.ENODEV, errno.ENXIO}:
                raise PeerError(f"no interface with index {ifindex}") from error
            raise
        self._status = self._header(np.uint32, abi.TP_STATUS_AT)
        self._length = self._header(np.int32, abi.TP_LEN_AT)
        self._mac = self._header(np.uint16, abi.TP_MAC_AT)
        self._net = self._header(np.uint16, abi.TP_NET_AT)
        self._sec = self._header(np.uint32, abi.TP_SEC_AT)
        self._nsec = self._header(np.uint32, abi.TP_NSEC_AT)
        self._pkttype = self._header(np.uint8, abi.SLL_PKTTYPE_AT)
        self._ifindex = self._header(np.int32, abi.SLL_IFINDEX_AT)
        self._head = 0
        self._layout_checked = False

    def _configure(self, program: abi.Program) -> None:
        sock, ring = self._socket, self._geometry
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_VERSION, abi.TPACKET_V2)
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_IGNORE_OUTGOING, 1)
        stamping = abi.SOF_TIMESTAMPING_RX_SOFTWARE | abi.SOF_TIMESTAMPING_SOFTWARE
        sock.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, stamping)
        abi.attach_filter(sock, program)
        request = abi.TPACKET_REQ.pack(ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr)
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_RX_RING, request)

    def _header(self, dtype: npt.DTypeLike, offset: int) -> npt.NDArray[Any]:
        return np.ndarray((self.slots,), dtype, self._memory, offset, (self._geometry.frame_size,))

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, from its Ethernet header on; see `FrameReceiver.view`."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return self._header(dtype, abi.RX_DATA_AT)

    def set_filter(self, program: abi.Program) -> None:
        """Replace the filter, at once for frames that arrive from now on."""
        abi.attach_filter(self._socket, program)

    def ready(self, max_batch: int = 1024) -> tuple[int, int]:
        """(first slot, count <= max_batch) of the filled run at the head; a run never wraps."""
        first = self._head
        if not self._status[first] & abi.TP_STATUS_USER:
            return first, 0
        waiting = (self._status[first : first + max_batch] & abi.TP_STATUS_USER) == 0
        count = int(waiting.argmax()) if waiting.any() else len(waiting)
        abi.fence()
        if not self._layout_checked:
            self._check_layout(first)
        return first, count

    def _check_layout(self, slot: int) -> None:
        """The views rest on where the kernel puts a frame; it decides that, so look once."""
        if self._net[slot] != abi.RX_NET_AT:
            raise HaprobeError(
                f"the kernel puts the network header at {self._net[slot]} of a slot, expected {abi.RX_NET_AT}"
            )
        self._layout_checked = True

    def stamps_ns(self, first: int, count: int) -> Int64Array:
        """Arrival times, CLOCK_REALTIME, nanoseconds; shape (count,)."""
        stamps = self._sec[first : first + count].astype(np.int64)
        stamps *= 1_000_000_000
        stamps += self._nsec[first : first + count]
        return stamps

    def lengths(self, first: int, count: int) -> Int32Array:
        """Length of each frame as it arrived, octets, Ethernet header included even where there is none."""
        # Without an L2 header the kernel counts from the network header, and says so in tp_mac.
        return self._length[first : first + count] + (self._mac[first : first + count] - np.int32(abi.RX_DATA_AT))

    def status(self, first: int, count: int) -> UInt32Array:
        """TP_STATUS_* words, sharing memory with the ring."""
        return self._status[first : first + count]

    def pkttype(self, first: int, count: int) -> UInt8Array:
        """PACKET_HOST and friends, sharing memory with the ring."""
        return self._pkttype[first : first + count]

    def ifindex(self, first: int, count: int) -> Int32Array:
        """Interface of arrival, sharing memory with the ring."""
        return self._ifindex[first : first + count]

    def release(self, count: int) -> None:
        """Give the `count` slots at the head back to the kernel."""
        first, end = self._head, self._head + count
        if end > self.slots:
            raise ValueError(f"{count} frames from slot {first} of {self.slots}")
        abi.fence()
        self._status[first:end] = abi.TP_STATUS_KERNEL
        self._head = end % self.slots

    def drops(self) -> int:
        """Frames that passed the filter but found the ring full, since the last call."""
        answer = self._socket.getsockopt(abi.SOL_PACKET, abi.PACKET_STATISTICS, abi.TPACKET_STATS.size)
        return int(abi.TPACKET_STATS.unpack(answer)[1])

    def take_error(self) -> SendError:
        """A pending error of the socket, cleared by asking; reception resumes by itself once the link is up."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error == 0:
            return ""
        return "link_down" if error == errno.ENETDOWN else "send_error"

    def fileno(self) -> int:
        """Readable while the ring holds frames."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop receiving. Slots stay readable through views that are still held, but do not change any more."""
        if self._socket.fileno() < 0:
            return
        # Arrays over the mapping keep the socket alive behind our back; without a filter it would go on filling.
        abi.attach_filter(self._socket, abi.DROP_ALL)
        self._socket.close()
        del self._status, self._length, self._mac, self._net, self._sec, self._nsec, self._pkttype, self._ifindex
        del self._memory
