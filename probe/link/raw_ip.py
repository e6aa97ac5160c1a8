"""Sending through the host's own IP stack: for targets on this host and for interfaces without Ethernet.

A packet socket on the loopback interface cannot reach local addresses (the stack takes such frames for
martians), and a tunnel has no Ethernet header to write. IPPROTO_RAW sockets take a finished IP packet and route it.
Frames keep a 14-octet Ethernet header all the same, which is skipped, so that callers need one layout. The kernel
fills in the IPv4 header checksum, and an identification of its own where ours is 0. Unlike ring frames these packets
pass the host's OUTPUT rules.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import PeerError
from probe.link import abi, require_raw
from probe.link.base import APART_NS, Int32Array, SendError, SendResult

log = logging.getLogger(__name__)

_LINK_ERRORS = {errno.ENETDOWN, errno.ENXIO, errno.ENODEV}
_IPV4_DESTINATION = slice(abi.ETHERNET_OCTETS + 16, abi.ETHERNET_OCTETS + 20)
_IPV6_DESTINATION = slice(abi.ETHERNET_OCTETS + 24, abi.ETHERNET_OCTETS + 40)


class RawIpSender:
    """A `FrameSender` over IPPROTO_RAW sockets; IPv4 and IPv6 frames may be mixed in a batch.

    Args:
        interface: Leave through this interface only; None lets routing decide.
        slots: Frames that can be prepared at once.
        slot_octets: Longest frame, with the 14 octets of the Ethernet header that is skipped.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If the interface does not exist.
    """

    def __init__(self, interface: str | None = None, *, slots: int = 1024, slot_octets: int = 242):
        require_raw()
        self.slots, self.blind_ns = slots, 0
        self.slot_octets = -(-slot_octets // 8) * 8  # slots aligned for any layout
        self._frames = np.zeros((slots, self.slot_octets), np.uint8)
        self._head = 0
        self._families: dict[int, _Family] = {}
        try:
            self._families[4] = _Family(self._frames, interface, socket.AF_INET)
            self._families[6] = _Family(self._frames, interface, socket.AF_INET6)
        except OSError as error:
            # A kernel without IPv6 is fine until someone sends IPv6.
            if error.errno != errno.EAFNOSUPPORT or 4 not in self._families:
                self.close()
                if error.errno in _LINK_ERRORS:
                    raise PeerError(f"no interface {interface}") from error
                raise

    def view(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Every slot's frame as `dtype`, shape (slots,), sharing memory with the sender."""
        if np.dtype(dtype).itemsize > self.slot_octets:
            raise ValueError(f"a layout of {np.dtype(dtype).itemsize} octets in slots of {self.slot_octets}")
        return np.ndarray((self.slots,), dtype, self._frames.data, 0, (self.slot_octets,))

    def free(self, n: int) -> tuple[int, int]:
        """(first slot, count <= n): everything up to the end of the buffer, as packets are copied when sent."""
        return self._head, min(n, self.slots - self._head)

    def send(self, count: int, lengths: Int32Array, together: int = 0) -> SendResult:
        """Send the `count` slots from the head; see `FrameSender.send`."""
        first, end = self._head, self._head + count
        if not 0 < count <= self.slots - first:
            raise ValueError(f"{count} frames from slot {first} of {self.slots}")
        if int(lengths.max()) > self.slot_octets or int(lengths.min()) <= abi.ETHERNET_OCTETS:
            raise ValueError(f"a frame of {lengths.max()} or {lengths.min()} octets in slots of {self.slot_octets}")
        versions = self._frames[first:end, abi.ETHERNET_OCTETS] >> 4
        # Runs of one IP version, so that the order of the batch is kept and what is sent is a prefix of it.
        cuts = (np.flatnonzero(np.diff(versions)) + 1).tolist()
        before_ns = time.monotonic_ns()
        sent, error = 0, 0
        for start, stop in itertools.pairwise([0, *cuts, count]):
            family = self._families.get(int(versions[start]))
            if family is None:
                error = errno.EAFNOSUPPORT
                break
            done, error = family.send(first + start, lengths[start:stop])
            sent += done
            if error:
                break
        after_ns = time.monotonic_ns()
        self._head = (first + sent) % self.slots
        return SendResult(sent, [(sent, before_ns, after_ns, APART_NS)] if sent else [], _reason(error))

    def send_one(self, length: int) -> tuple[int, int, SendError]:
        """Send the slot at the head alone; see `FrameSender.send_one`."""
        before_ns = time.monotonic_ns()
        error = self.send(1, np.array([length], np.int32)).error
        return before_ns, time.monotonic_ns(), error

    def close(self) -> None:
        """Close the sockets."""
        for family in self._families.values():
            family.socket.close()


class _Family:
    """One raw socket, and a prepared message header for every slot."""

    def __init__(self, frames: npt.NDArray[np.uint8], interface: str | None, family: int):
        slots = len(frames)
        v4 = family == socket.AF_INET
        self._destinations = frames[:, _IPV4_DESTINATION if v4 else _IPV6_DESTINATION]
        self._addresses = np.zeros(slots, abi.SOCKADDR_IN if v4 else abi.SOCKADDR_IN6)
        self._addresses["family"] = family
        self._pieces = np.zeros(slots, abi.IOVEC)
        self._pieces["base"] = _pointers(frames) + abi.ETHERNET_OCTETS
        self._messages = np.zeros(slots, abi.MMSGHDR)
        self._messages["name"] = _pointers(self._addresses)
        self._messages["namelen"] = self._addresses.itemsize
        self._messages["iov"] = _pointers(self._pieces)
        self._messages["iovlen"] = 1
        self.socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        try:
            if interface is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                if not v4:  # a link-local destination means nothing without its interface
                    self._addresses["scope_id"] = socket.if_nametoindex(interface)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # an IPPROTO_RAW socket receives nothing
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def send(self, first: int, lengths: Int32Array) -> tuple[int, int]:
        """(packets sent, errno or 0) of the slots from `first`."""
        count = len(lengths)
        self._pieces["len"][first : first + count] = lengths - abi.ETHERNET_OCTETS
        self._addresses["addr"][first : first + count] = self._destinations[first : first + count]
        sent = 0
        while sent < count:
            message = self._messages.ctypes.data + (first + sent) * self._messages.itemsize
            try:
                sent += abi.sendmmsg(self.socket.fileno(), message, min(count - sent, abi.UIO_MAXIOV))
            except OSError as error:
                return sent, error.errno or errno.EIO
        return sent, 0


def _pointers(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The address of each row."""
    return np.uint64(rows.ctypes.data) + np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0])


def _reason(error: int) -> SendError:
    if error == 0:
        return ""
    log.debug("raw IP: batch not sent whole: %s", os.strerror(error))
    return "link_down" if error in _LINK_ERRORS else "send_error"
