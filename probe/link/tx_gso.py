"""Sending many UDP datagrams of one flow in one piece, which the kernel cuts up: generic segmentation offload (GSO).

Handing frames to the kernel one by one (`tx_ring.py`) costs as much as a host's whole way through routing. Datagrams
that differ in nothing but their payload can go together: one header, all payloads behind it, and a virtio_net_hdr that
says where to cut (`VIRTIO_NET_HDR_GSO_UDP_L4`, virtio_net.h; Linux 6.2). The kernel writes lengths, checksums and IPv4
identifications of the pieces (udp_offload.c, __udp_gso_segment), and the driver gets as many frames as ever.

It does so where the interface's driver cannot (`offload.py`): one that can may hand the piece on as it is, as a veth
does, and what is counted as many probes would be one packet on the way. Pieces go through the queueing discipline: past
it, the kernel refuses what it would have to cut. As only the way past it tells whether there is a carrier, one frame of
each batch goes by the ring, ahead of the others. A piece that is refused because the link goes down at that very moment
may have left in part; nobody can answer it then.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from probe.link import abi
from probe.link.base import Call, Int32Array, SendError, SendResult
from probe.link.tx_ring import CLOSING_NS, LINK_ERRORS, TxRing

log = logging.getLogger(__name__)

MOST = 64  # datagrams in one piece, where not more may share a call: of more, each costs little less
MOST_OCTETS = 16_000  # of one piece: the kernel copies it into memory in one stretch
PIECE_APART_NS = 250  # between the datagrams of a piece, at most, as they leave
FEWEST = 4  # datagrams to a piece, on average: for fewer the ring is cheaper
_BUFFER_OCTETS = 4 << 20
_UDP = socket.IPPROTO_UDP


@dataclass(frozen=True)
class _Shape:
    """Where things stand in a UDP frame of one IP version.

    Attributes:
        start: Octets 12 to 14: Ethernet type, IP version and (of IPv4) a header without options.
        protocol_at: Where the IP header names what it carries.
        addresses: Where source and destination stand; UDP follows.
        length_at: Where the IP header tells a length.
        uncounted: Octets of the frame that are not counted there.
        rewritten: Where the kernel writes a word of its own into each datagram, besides the UDP checksum.
    """

    start: bytes
    protocol_at: int
    addresses: slice
    length_at: int
    uncounted: int
    rewritten: tuple[int, ...]

    @property
    def udp_at(self) -> int:
        return int(self.addresses.stop)

    @property
    def header(self) -> int:
        return self.udp_at + 8

    @cached_property
    def mask(self) -> npt.NDArray[np.uint64]:
        """Over the header, in words: what is the same in all datagrams of a piece."""
        mask = bytearray(b"\xff" * self.header + bytes(-self.header % 8))
        for at in (*self.rewritten, self.udp_at + 6):
            mask[at : at + 2] = b"\0\0"
        return np.frombuffer(bytes(mask), np.uint64)

    def matches(self, frame: npt.NDArray[np.uint8]) -> bool:
        return frame[12:15].tobytes() == self.start and int(frame[self.protocol_at]) == _UDP


_SHAPES = (
    # IPv4: its identification and header checksum are written anew.
    _Shape(b"\x08\x00\x45", 23, slice(26, 34), length_at=16, uncounted=14, rewritten=(18, 24)),
    _Shape(b"\x86\xdd\x60", 20, slice(22, 54), length_at=18, uncounted=54, rewritten=()),
)


class TxGso:
    """A `FrameSender` onto one Ethernet interface that sends alike UDP datagrams together, and all else by a ring.

    Up to `MOST` share a call, also where `send` is told fewer: their times are known to what the call takes.

    Args:
        ifindex: Of the interface, in the calling thread's network namespace; one of `offload.cut_by_kernel`.
        slots: Frames that can be prepared at once.
        slot_octets: Longest frame to be sent, Ethernet header included.
        qdisc_bypass: Of the ring.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If there is no such interface.
    """

    def __init__(self, ifindex: int, *, slots: int = 4096, slot_octets: int = 214, qdisc_bypass: bool = True):
        self._ring = TxRing(ifindex, slots=slots, slot_octets=slot_octets, qdisc_bypass=qdisc_bypass)
        self.slots = self._ring.slots
        self.slot_octets = self._ring.slot_octets
        width = max(-(-self.slot_octets // 8) * 8, 64)  # words for any header
        self._frames = np.zeros((self.slots, width), np.uint8)
        self._words = self._frames.view(np.uint64)
        self._ring_frames = self._ring.view(np.dtype((np.uint8, self.slot_octets)))
        self._head, self.blind_ns = 0, CLOSING_NS
        self._refused = False  # whether this kernel does not know how
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setsockopt(abi.SOL_PACKET, abi.PACKET_VNET_HDR, 1)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, abi.SO_SNDBUFFORCE, _BUFFER_OCTETS)
            except PermissionError:  # needs CAP_NET_ADMIN; up to net.core.wmem_max without
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_OCTETS)
            abi.bind_packet(self._socket, 0, ifindex)
        except BaseException:
            self.close()
            raise

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,), sharing memory with the sender."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return np.ndarray((self.slots,), dtype, self._frames.data, 0, (self._frames.shape[1],))

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n): everything up to the end of the memory, as frames are copied when sent."""
        return self._head, min(n, self.slots - self._head)

    def send(self, count: int, lengths: Int32Array, together: int = 0) -> SendResult:
        """Send the `count` slots from the head; see `FrameSender.send`."""
        first = self._head
        if not 0 < count <= self.slots - first:
            raise ValueError(f"{count} frames from slot {first} of {self.slots}")
        shape, cuts = self._alike(first, lengths)
        if shape is None or (len(cuts) + 1) * FEWEST > count or not self._fit(shape, lengths[[0, *cuts]]):
            return self._by_ring(count, lengths, together)
        ahead = self._by_ring(1, lengths[:1], 1)
        if ahead.error:
            return ahead
        sent, calls, error = self._in_pieces(shape, first, [1, *cuts, count], lengths, together)
        self._head = (first + sent) % self.slots
        if error == "refused":
            log.warning("%s: this kernel cuts up no UDP datagrams: sent one by one", self._ring.interface)
            self._refused = True
            rest = self._by_ring(count - sent, lengths[sent:], together)
            return SendResult(sent + rest.sent, ahead.calls + calls + rest.calls, rest.error)
        return SendResult(sent, ahead.calls + calls, error)

    def _in_pieces(
        self, shape: _Shape, first: int, stops: list[int], lengths: Int32Array, together: int
    ) -> tuple[int, list[Call], SendError | Literal["refused"]]:
        """Send frames that are alike from each of `stops` to the next: the number sent, from slot `first` on."""
        calls: list[Call] = []
        done = stops[0]
        for stop in stops[1:]:
            length = int(lengths[done])
            most = max(min(max(together, MOST), MOST_OCTETS // (length - shape.header)), 1)
            while done < stop:
                n = min(most, stop - done)
                if not self._ring.running():
                    return done, calls, "link_down"
                before_ns = time.monotonic_ns()
                failure = self._send_piece(shape, first + done, n, length)
                after_ns = time.monotonic_ns()
                if failure == errno.EINVAL and n > 1:
                    return done, calls, "refused"
                if failure:
                    return done, calls, self._reason(failure)
                calls.append((n, before_ns, after_ns, PIECE_APART_NS))
                done += n
        return done, calls, ""

    def send_one(self, length: int) -> tuple[int, int, SendError]:
        """Send the slot at the head alone; see `FrameSender.send_one`."""
        slot, room = self._ring.free(1)
        if not room:
            now_ns = time.monotonic_ns()
            return now_ns, now_ns, "send_error"
        self._ring_frames[slot] = self._frames[self._head, : self.slot_octets]
        result = self._ring.send_one(length)
        if not result[2]:
            self._head = (self._head + 1) % self.slots
        return result

    def _alike(self, first: int, lengths: Int32Array) -> tuple[_Shape | None, list[int]]:
        """The shape of these frames, and where one is not like the one before it; None: not for us."""
        head = self._frames[first]
        shape = next((s for s in _SHAPES if s.matches(head)), None)
        if shape is None or self._refused:
            return None, []
        words = self._words[first : first + len(lengths), : len(shape.mask)]
        if (lengths == lengths[0]).all() and not ((words ^ words[0]) & shape.mask).any():
            return shape, []
        other = ((words[1:] ^ words[:-1]) & shape.mask).any(axis=1)
        other |= lengths[1:] != lengths[:-1]
        cuts = (np.flatnonzero(other) + 1).tolist()
        whole = all(shape.matches(self._frames[first + cut]) for cut in cuts[: len(lengths) // FEWEST])
        return shape if whole else None, cuts

    def _fit(self, shape: _Shape, lengths: Int32Array) -> bool:
        """Whether these frames have a payload, and are not too long for the interface: who cuts does not ask."""
        longest = self._ring.longest()
        return all(shape.header < length <= longest for length in lengths.tolist())

    def _send_piece(self, shape: _Shape, first: int, n: int, length: int) -> int:
        """Send `n` datagrams from a slot on, all `length` octets long; 0 or the errno."""
        frame = self._frames[first]
        if n == 1:
            return self._send_raw([abi.VNET_HEADER.pack(0, 0, 0, 0, 0, 0), frame[:length].tobytes()])
        payload = length - shape.header
        octets = shape.header + n * payload
        header = bytearray(frame[: shape.header])
        struct.pack_into("!H", header, shape.length_at, octets - shape.uncounted)
        udp_octets = octets - shape.udp_at
        struct.pack_into("!H", header, shape.udp_at + 4, udp_octets)
        # What a card would be given: the sum of the pseudo-header, not complemented (RFC 768).
        words = struct.unpack(f"!{(shape.addresses.stop - shape.addresses.start) // 2}H", header[shape.addresses])
        total = sum(words) + _UDP + udp_octets
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", header, shape.udp_at + 6, (total & 0xFFFF) + (total >> 16))
        how = abi.VNET_HEADER.pack(
            abi.VIRTIO_NET_HDR_F_NEEDS_CSUM, abi.VIRTIO_NET_HDR_GSO_UDP_L4, octets, payload, shape.udp_at, 6
        )
        return self._send_raw([how, header, self._frames[first : first + n, shape.header : length].tobytes()])

    def _send_raw(self, parts: list[bytes | bytearray]) -> int:
        try:
            self._socket.sendmsg(parts, [], socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _by_ring(self, count: int, lengths: Int32Array, together: int) -> SendResult:
        slot, room = self._ring.free(count)
        calls: list[Call] = []
        done = 0
        error: SendError = "send_error"  # if there is no room
        while room and done < count:
            part = slice(self._head + done, self._head + done + room)
            self._ring_frames[slot : slot + room] = self._frames[part, : self.slot_octets]
            result = self._ring.send(room, lengths[done : done + room], together)
            calls += result.calls
            done, error = done + result.sent, result.error
            if error:
                break
            slot, room = self._ring.free(count - done)
            error = "send_error" if done < count else ""
        self._head = (self._head + done) % self.slots
        return SendResult(done, calls, error)

    def _reason(self, failure: int) -> SendError:
        log.debug("%s: a piece was not sent: %s", self._ring.interface, os.strerror(failure))
        # Without a carrier the kernel refuses with ENOBUFS, as it does when there is no room.
        return "link_down" if failure in LINK_ERRORS or not self._ring.carries() else "send_error"

    def close(self) -> None:
        """Close the sockets; harmless when repeated."""
        self._socket.close()
        self._ring.close()
