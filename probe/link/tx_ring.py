"""Sending through a PACKET_MMAP ring (TPACKET_V2), with an exact account of what left.

The kernel's rules this rests on (af_packet.c, tpacket_snd): one `send` takes frames marked SEND_REQUEST in ring
order from its own head and stops at the first it cannot hand to the driver. That frame and those behind it keep
their mark, and would leave with the next `send`, minutes later and with stale content, if nobody took the mark
away. So after an error the marks come off, and the kernel's head is by construction the first frame that kept
its mark. A slot is writable again once the driver has freed the frame, which is later than `send` returns.

Past the queueing discipline the kernel itself looks for a carrier. On the way through it, frames are taken and dropped
without a word: by the driver at first, by the discipline as soon as the kernel has taken the interface out of service
(link_watch.c, at most a second later). So the interface is looked at before each call, and `blind_ns` says how long it
may have been without a carrier.

The socket holds on to its interface whatever that is called, but what it is asked is asked by name. So the name is
looked up again now and then.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import PeerError
from probe.link import abi, require_raw
from probe.link.base import APART_NS, Call, Int32Array, SendError, SendResult
from probe.link.geometry import ring_geometry

log = logging.getLogger(__name__)

_ASK_NS = 100_000_000
BLIND_NS = 1_100_000_000  # a second, and until the kernel's worker has run
CLOSING_NS = 10_000_000  # an interface that goes down is not gone at once
_REFUSED = abi.TP_STATUS_SEND_REQUEST | abi.TP_STATUS_WRONG_FORMAT
_COPIED_HALF = (abi.VNET_HEADER_AT + 2) // 2  # its hdr_len, in half words
LINK_ERRORS = {errno.ENETDOWN, errno.ENXIO, errno.ENODEV}


class TxRing:
    """A `FrameSender` onto one Ethernet interface.

    Args:
        ifindex: Of the interface, in the calling thread's network namespace.
        slots: Frames in the ring, at least; rounded up to fill pages.
        slot_octets: Longest frame to be sent, Ethernet header included.
        qdisc_bypass: Hand frames straight to the driver: no queue of the kernel's delays or reorders them, and a
            refusal is seen at once. Frames are then invisible to tcpdump on this host.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If there is no such interface.
        ValueError: If no ring can be that size.
    """

    def __init__(self, ifindex: int, *, slots: int = 4096, slot_octets: int = 214, qdisc_bypass: bool = True):
        self._geometry = ring_geometry(slots, slot_octets, header_octets=abi.TX_DATA_AT)
        self.ifindex = ifindex
        self.slots = self._geometry.frame_nr
        self.slot_octets = self._geometry.frame_size - abi.TX_DATA_AT
        require_raw()
        try:
            self.interface = socket.if_indextoname(ifindex)
        except OSError as error:
            raise PeerError(f"no interface with index {ifindex}") from error
        # Protocol 0: this socket never receives anything, nor is it left with an error when the link goes down.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.qdisc_bypass = self._configure(qdisc_bypass)
            self._memory = mmap.mmap(self._socket.fileno(), self._geometry.octets)
            abi.bind_packet(self._socket, 0, ifindex)
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError) and error.errno in LINK_ERRORS:  # gone since its name was looked up
                raise PeerError(f"no interface with index {ifindex}") from error
            raise
        np.ndarray((self._geometry.octets,), np.uint8, self._memory).fill(0)  # a page's first touch costs time
        self._status = self._header(np.uint32, abi.TP_STATUS_AT)
        self._length = self._header(np.int32, abi.TP_LEN_AT)
        self._copied = self._header(np.uint16, abi.VNET_HEADER_AT + 2)  # its hdr_len
        self.blind_ns = CLOSING_NS
        self.running = abi.Running(self._socket, self.interface)
        self._head = 0
        self._known = np.zeros(self.slots, np.int32)  # lengths written into the slots, and allowed
        self._longest = 0  # what the interface takes, octets
        self._asked_ns = 0
        # The same memory for single slots: numpy takes several times as long for one number.
        self._words, self._halves = memoryview(self._memory).cast("I"), memoryview(self._memory).cast("H")
        self._step = self._geometry.frame_size // 4

    def _configure(self, qdisc_bypass: bool) -> bool:
        """Set the socket up; whether queueing disciplines are bypassed."""
        sock, ring = self._socket, self._geometry
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_VERSION, abi.TPACKET_V2)
        # A frame the device cannot take must stop the batch: with PACKET_LOSS it would be skipped and look as if sent.
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_LOSS, 0)
        # A virtio_net_hdr says how much of a frame the kernel copies when it takes it: all of it. Without, it lends the
        # ring's pages to the driver, which a veth or bridge on the way copies at twice the cost.
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_VNET_HDR, 1)
        # Frames wait for the driver to free them, charged to this buffer at about 1 KiB each; the default holds 200.
        wanted = ring.frame_nr * 1280
        try:
            sock.setsockopt(socket.SOL_SOCKET, abi.SO_SNDBUFFORCE, wanted)
        except PermissionError:  # needs CAP_NET_ADMIN; up to net.core.wmem_max without
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
        if qdisc_bypass:
            try:
                sock.setsockopt(abi.SOL_PACKET, abi.PACKET_QDISC_BYPASS, 1)
            except OSError as error:
                log.warning("%s: sending through the queueing discipline: bypass refused: %s", self.interface, error)
                qdisc_bypass = False
        request = abi.TPACKET_REQ.pack(ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr)
        sock.setsockopt(abi.SOL_PACKET, abi.PACKET_TX_RING, request)
        return qdisc_bypass

    def _header(self, dtype: npt.DTypeLike, offset: int) -> npt.NDArray[Any]:
        return np.ndarray((self.slots,), dtype, self._memory, offset, (self._geometry.frame_size,))

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,), sharing memory with the ring."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return self._header(dtype, abi.TX_DATA_AT)

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n) of the writable run at the head; count 0 while the ring is full."""
        self._ask()
        first = self._head
        taken = self._status[first : first + n] != abi.TP_STATUS_AVAILABLE
        if not taken.any():
            return first, len(taken)
        return first, int(taken.argmax())

    def send(self, count: int, lengths: Int32Array, together: int = 0) -> SendResult:
        """Send the `count` slots from the head; see `FrameSender.send`."""
        first, end = self._head, self._head + count
        if not 0 < count <= self.slots - first:
            raise ValueError(f"{count} frames from slot {first} of {self.slots}")
        mark = np.uint32(abi.TP_STATUS_SEND_REQUEST)
        known = self._known[first:end]
        marks: npt.NDArray[np.uint32] | None = None
        # Slots most often hold frames of one length, lap after lap. Comparing octets takes a quarter of the time.
        if known.tobytes() != lengths.tobytes():
            self._copied[first:end] = known[:] = lengths
            self._length[first:end] = lengths + np.int32(abi.VNET_HEADER.size)
            if int(lengths.max()) > self._longest:
                known[:] = 0
                marks = np.full(count, mark)
                marks[int((lengths > self._longest).argmax()) :] = abi.TP_STATUS_WRONG_FORMAT
        calls: list[Call] = []
        for start in range(first, end, together or count):
            stop = min(start + (together or count), end)
            if not self._in_service():
                self._head = start
                return SendResult(start - first, calls, "link_down")
            self._status[start:stop] = mark if marks is None else marks[start - first : stop - first]
            before_ns = time.monotonic_ns()
            failure = self._kick()
            after_ns = time.monotonic_ns()
            # Frames are taken in order: if the last one was, all were.
            if self._words[(stop - 1) * self._step] & _REFUSED:
                sent, error = self._failed(start, self._status[start:stop], failure)
                calls += [(sent, before_ns, after_ns, APART_NS)] * bool(sent)
                return SendResult(start + sent - first, calls, error)
            calls.append((stop - start, before_ns, after_ns, APART_NS))
        self._head = end % self.slots
        return SendResult(count, calls, "")

    def send_one(self, length: int) -> tuple[int, int, SendError]:
        """Send the slot at the head alone; see `FrameSender.send_one`."""
        if not self._in_service():
            now_ns = time.monotonic_ns()
            return now_ns, now_ns, "link_down"
        slot = self._head
        at = slot * self._step
        words, halves = self._words, self._halves
        if self._known[slot]:
            self._known[slot] = 0
        halves[2 * at + _COPIED_HALF] = length
        words[at + 1] = length + abi.VNET_HEADER.size
        words[at] = abi.TP_STATUS_SEND_REQUEST if length <= self._longest else abi.TP_STATUS_WRONG_FORMAT
        before_ns = time.monotonic_ns()
        failure = self._kick()
        after_ns = time.monotonic_ns()
        if words[at] & _REFUSED:
            return before_ns, after_ns, self._failed(slot, self._status[slot : slot + 1], failure)[1]
        self._head = (slot + 1) % self.slots
        return before_ns, after_ns, ""

    def longest(self) -> int:
        """The longest frame that the interface takes, octets, Ethernet header included; as of the last 100 ms."""
        self._ask()
        return self._longest

    def _ask(self) -> None:
        """Look now and then how long a frame may be: with a virtio_net_hdr the kernel leaves that to us."""
        now_ns = time.monotonic_ns()
        if now_ns - self._asked_ns > _ASK_NS:
            self._follow_name()
            longest = abi.mtu(self._socket, self.interface) + abi.ETHERNET_OCTETS
            if longest < self._longest:
                self._known[:] = 0
            self._longest, self._asked_ns = longest, now_ns

    def _follow_name(self) -> None:
        """Ask about our own interface from now on, though it has been renamed and another may have taken its name."""
        name = abi.name_of(self._socket, self.ifindex)
        if name not in ("", self.interface):
            log.info("%s is called %s now", self.interface, name)
            self.interface = name
            self.running.rename(name)

    def _in_service(self) -> bool:
        """Whether what the kernel is given now has a way out, as far as the kernel knows or will say by itself."""
        if self.qdisc_bypass or self.running():
            return True
        self.blind_ns = BLIND_NS
        return False

    def _kick(self) -> int:
        """Let the kernel take what is marked; 0 or the errno."""
        try:
            self._socket.send(b"", socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _failed(self, first: int, status: npt.NDArray[np.uint32], failure: int) -> tuple[int, SendError]:
        """Settle a call that was not taken whole: how many frames of it were sent, and why no more."""
        sent = int((status & _REFUSED != 0).argmax())
        status[sent:] = abi.TP_STATUS_AVAILABLE
        self._head = first + sent
        # With the carrier gone the driver refuses frames with ENOBUFS, the same as when it is merely full. Errno 0:
        # some were taken and the socket's buffer was full then.
        down = failure in LINK_ERRORS or not self.carries()
        if down:
            self.blind_ns = CLOSING_NS if self.qdisc_bypass or failure in LINK_ERRORS else BLIND_NS
        log.debug("%s: %d of %d frames sent: %s", self.interface, sent, len(status), os.strerror(failure))
        return sent, "link_down" if down else "send_error"

    def carries(self) -> bool:
        """Whether the interface is up and has a carrier."""
        self._follow_name()
        return abi.link_is_up(self._socket, self.interface)

    def close(self) -> None:
        """Close the socket; frames already taken by the kernel still leave. Views held elsewhere stay readable."""
        # The mapping keeps a duplicate of the descriptor and goes away with the last array over it.
        self._socket.close()
        if hasattr(self, "_status"):
            del self._status, self._length, self._copied, self._words, self._halves, self._memory
