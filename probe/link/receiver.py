"""What both kinds of receive ring have in common: a packet socket, its filter, its stamps, its mapping and one layout.

The socket asks for software receive stamps itself: only then does the kernel stamp every frame when the driver
hands it over (`TP_STATUS_TS_SOFTWARE` set), instead of when it reaches this socket. It is an ETH_P_ALL socket, which
sees frames before any firewall of the host does. The filter is attached before the socket is bound to a
protocol, so no foreign frame slips in; our own transmissions are hidden from it.
"""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import sys

import numpy as np
import numpy.typing as npt

from probe.errors import PeerError
from probe.link import abi, require_raw
from probe.link.base import Int32Array, SendError, UInt8Array

_ETHER_TYPES = np.array([abi.ETH_P_IP, abi.ETH_P_IPV6], ">u2")


def as_ethernet(
    octets: UInt8Array, lengths: Int32Array, kept: Int32Array, mac_offset: npt.NDArray[np.uint16], ethernet_at: int
) -> tuple[Int32Array, Int32Array]:
    """Let packets without an Ethernet header look as if they had one: its type, of which their version tells, and its
    length. The kernel keeps room for it, puts the packet where it would with one, and says so in `mac_offset`.

    Args:
        octets: From where the header is or would be; what is written is written here.
        lengths: As the kernel counts them; so is `kept`.
        kept: Likewise.
        mac_offset: Where each frame begins (tp_mac).
        ethernet_at: The same for one that has the header.

    Returns:
        `lengths` and `kept` with it.
    """
    if mac_offset.tobytes() == ethernet_at.to_bytes(2, sys.byteorder) * len(mac_offset):  # quicker than by numbers
        return lengths, kept
    absent = mac_offset != ethernet_at
    rows = np.flatnonzero(absent)
    six = (octets[rows, abi.ETHERNET_OCTETS] >> 4 == 6).astype(np.intp)
    octets[rows, abi.ETHERNET_OCTETS - 2 : abi.ETHERNET_OCTETS] = _ETHER_TYPES[six].view(np.uint8).reshape(-1, 2)
    added = absent * np.int32(abi.ETHERNET_OCTETS)
    return lengths + added, kept + added


class RingSocket:
    """A packet socket with a receive ring; `take` is its subclasses'.

    Args:
        ifindex: Interface, in the calling thread's network namespace; 0 for all.
        program: Classic BPF (`bpf.probe_filter`).
        version: TPACKET_V2 or TPACKET_V3.
        request: struct tpacket_req or tpacket_req3.
        octets: Of the mapping.

    Raises:
        PrivilegeError: Without CAP_NET_RAW.
        PeerError: If there is no such interface.
    """

    _statistics: struct.Struct  # struct tpacket_stats or tpacket_stats_v3

    def __init__(self, ifindex: int, program: abi.Program, version: int, request: bytes, octets: int):
        require_raw()
        self._socket = sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.setsockopt(abi.SOL_PACKET, abi.PACKET_VERSION, version)
            sock.setsockopt(abi.SOL_PACKET, abi.PACKET_IGNORE_OUTGOING, 1)
            stamping = abi.SOF_TIMESTAMPING_RX_SOFTWARE | abi.SOF_TIMESTAMPING_SOFTWARE
            sock.setsockopt(socket.SOL_SOCKET, abi.SO_TIMESTAMPING, stamping)
            abi.attach_filter(sock, program)
            sock.setsockopt(abi.SOL_PACKET, abi.PACKET_RX_RING, request)
            self._memory = mmap.mmap(sock.fileno(), octets)
            abi.bind_packet(sock, abi.ETH_P_ALL, ifindex)
        except OSError as error:
            sock.close()
            if error.errno in {errno.ENODEV, errno.ENXIO}:
                raise PeerError(f"no interface with index {ifindex}") from error
            raise

    def set_filter(self, program: abi.Program) -> None:
        """Replace the filter, at once for frames that arrive from now on."""
        abi.attach_filter(self._socket, program)

    def drops(self) -> int:
        """Frames that passed the filter but found the ring full, since the last call."""
        answer = self._socket.getsockopt(abi.SOL_PACKET, abi.PACKET_STATISTICS, self._statistics.size)
        return int(self._statistics.unpack(answer)[1])

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
        """Stop receiving; harmless when repeated."""
        if self._socket.fileno() < 0:
            return
        # Arrays over the mapping keep the socket alive behind our back; without a filter it would go on filling.
        abi.attach_filter(self._socket, abi.DROP_ALL)
        self._socket.close()
        self._let_go()

    def _let_go(self) -> None:
        """Forget the mapping and what lies over it."""
        del self._memory
