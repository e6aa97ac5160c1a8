"""Constants, layouts and the few calls of the Linux packet interface that Python's `socket` does not name.

Every value is part of the kernel's user interface and the same on x86-64 and aarch64; the header is named at
each group. Nothing here keeps state, except the lock behind `fence`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
import threading
from typing import NamedTuple, Protocol

import numpy as np

# linux/if_ether.h, linux/if_arp.h, linux/if_packet.h
ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETHERNET_OCTETS = 14
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772
PACKET_HOST = 0
PACKET_OUTGOING = 4

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_TX_RING = 13
PACKET_LOSS = 14
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
PACKET_VNET_HDR = 15
TPACKET_V2, TPACKET_V3 = 1, 2

TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1
TP_STATUS_AVAILABLE = 0
TP_STATUS_SEND_REQUEST = 1
TP_STATUS_SENDING = 2
TP_STATUS_WRONG_FORMAT = 4
TP_STATUS_TS_SOFTWARE = 1 << 29

# struct tpacket2_hdr, for sending: offsets in a slot, octets. As long as PACKET_TX_HAS_OFF is unset, data begins right
# behind it: with PACKET_VNET_HDR a struct virtio_net_hdr, then the L2 frame (af_packet.c).
TP_STATUS_AT = 0
TP_LEN_AT = 4
VNET_HEADER_AT = 32
VNET_HEADER = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1  # linux/virtio_net.h
VIRTIO_NET_HDR_GSO_UDP_L4 = 5
TX_DATA_AT = VNET_HEADER_AT + VNET_HEADER.size

# The same, for receiving; struct sockaddr_ll follows at 32.
V2_SNAPLEN_AT = 8
V2_MAC_OFFSET_AT = 12
V2_NET_OFFSET_AT = 14
V2_SEC_AT = 16
V2_NSEC_AT = 20
V2_IFINDEX_AT = 32 + 4
V2_HEADER_OCTETS = 40
# Network header of a received frame: align16(TPACKET2_HDRLEN 52 + at least 16 for the L2 header). An Ethernet header
# ends there, so it starts 14 octets earlier; on interfaces without L2 header the network header has the same place.
V2_NET_AT = 80
V2_DATA_AT = V2_NET_AT - ETHERNET_OCTETS

# struct tpacket_block_desc with struct tpacket_hdr_v1, for receiving: offsets in a block.
BLOCK_STATUS_AT = 8
BLOCK_COUNT_AT = 12
BLOCK_COUNT = struct.Struct("=II")  # num_pkts, offset_to_first_pkt
# struct tpacket3_hdr, 48 octets, then struct sockaddr_ll: offsets from the start of a frame.
NEXT_OFFSET_AT = 0
V3_SEC_AT = 4
V3_NSEC_AT = 8
SNAPLEN_AT = 12
V3_LEN_AT = 16
V3_STATUS_AT = 20
V3_MAC_OFFSET_AT = 24
V3_NET_OFFSET_AT = 26
V3_IFINDEX_AT = 48 + 4
V3_HEADER_OCTETS = 56
V3_NET_AT = 96  # likewise, with TPACKET3_HDRLEN 68
V3_DATA_AT = V3_NET_AT - ETHERNET_OCTETS

# asm-generic/socket.h, linux/net_tstamp.h, linux/sockios.h, linux/if.h
SO_ATTACH_FILTER = 26
SO_SNDBUFFORCE = 32
SO_TIMESTAMPING = 37
SOF_TIMESTAMPING_RX_SOFTWARE = 1 << 3
SOF_TIMESTAMPING_SOFTWARE = 1 << 4
SIOCGIFNAME = 0x8910
SIOCGIFFLAGS = 0x8913
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCETHTOOL = 0x8946
ETHTOOL_GLINK = 0x0A  # linux/ethtool.h
IFF_UP = 0x1
IFF_RUNNING = 0x40
IFF_NOARP = 0x80

TPACKET_REQ = struct.Struct("=IIII")  # block_size, block_nr, frame_size, frame_nr
TPACKET_STATS = struct.Struct("=II")  # packets (drops included), drops; cleared by reading
# The first, then retire_blk_tov (ms), sizeof_priv, feature_req_word
TPACKET_REQ3 = struct.Struct("=IIIIIII")
TPACKET_STATS3 = struct.Struct("=III")  # the second, then freezes
SOCK_FILTER = struct.Struct("=HBBI")  # code, jt, jf, k
SOCK_FPROG = struct.Struct("@HP")  # len, pointer to the filter; linux/filter.h
SOCKADDR_LL = struct.Struct("=H2siHBB8s")  # family, protocol (network order), ifindex, hatype, pkttype, halen, addr
IFREQ_INDEX = struct.Struct("=16si20x")
IFREQ_FLAGS = struct.Struct("=16sH22x")
IFREQ_MTU = struct.Struct("=16si20x")
IFREQ_POINTER = struct.Struct("@16sP16x")

# struct mmsghdr and friends (bits/socket.h, 64 bit), as numpy layouts so that a batch is prepared in arrays.
MMSGHDR = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "msg_len"],
        "formats": ["u8", "u4", "u8", "u8", "u4"],
        "offsets": [0, 8, 16, 24, 56],
        "itemsize": 64,
    }
)
IOVEC = np.dtype([("base", "u8"), ("len", "u8")])
SOCKADDR_IN = np.dtype([("family", "u2"), ("port", ">u2"), ("addr", "u1", 4), ("zero", "u1", 8)])
SOCKADDR_IN6 = np.dtype(
    [("family", "u2"), ("port", ">u2"), ("flowinfo", ">u4"), ("addr", "u1", 16), ("scope_id", "u4")]
)
UIO_MAXIOV = 1024  # linux/uio.h: most messages one sendmmsg takes

_libc = ctypes.CDLL(None, use_errno=True)
_libc.bind.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Instruction(NamedTuple):
    """One classic BPF instruction (struct sock_filter)."""

    code: int
    jt: int
    jf: int
    k: int


Program = tuple[Instruction, ...]
DROP_ALL: Program = (Instruction(0x06, 0, 0, 0),)


class _HasSetsockopt(Protocol):
    def setsockopt(self, level: int, optname: int, value: bytes, /) -> None: ...


def attach_filter(sock: _HasSetsockopt, program: Program) -> None:
    """Attach a classic BPF filter; the kernel copies it.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN on a TCP socket of a current kernel, EINVAL for an unsound program.
    """
    code = ctypes.create_string_buffer(b"".join(SOCK_FILTER.pack(*ins) for ins in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, SOCK_FPROG.pack(len(program), ctypes.addressof(code)))


def bind_packet(sock: socket.socket, protocol: int, ifindex: int) -> None:
    """Bind a packet socket by interface index; 0 means every interface.

    `socket.bind` takes a name only, which cannot say "every" and may be another interface's by now.
    """
    address = SOCKADDR_LL.pack(socket.AF_PACKET, protocol.to_bytes(2, "big"), ifindex, 0, 0, 0, bytes(8))
    if _libc.bind(sock.fileno(), address, len(address)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def sendmmsg(fd: int, address: int, count: int) -> int:
    """Send `count` messages (struct mmsghdr at `address`) without waiting; how many left, never 0.

    Raises:
        OSError: If not even the first could be sent.
    """
    sent = int(_libc.sendmmsg(fd, address, count, socket.MSG_DONTWAIT))
    if sent < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return sent


def name_of(sock: socket.socket, ifindex: int) -> str:
    """The present name of an interface of the namespace of `sock`; empty when it is gone."""
    try:
        answer = fcntl.ioctl(sock.fileno(), SIOCGIFNAME, IFREQ_INDEX.pack(b"", ifindex))
    except OSError:
        return ""
    return os.fsdecode(answer[:16].partition(b"\0")[0])


def hardware_type(ifindex: int) -> int:
    """ARPHRD_* of an interface of the calling thread's namespace; -1 when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = os.fsencode(name_of(sock, ifindex))
        try:
            return int(IFREQ_FLAGS.unpack(fcntl.ioctl(sock.fileno(), SIOCGIFHWADDR, IFREQ_FLAGS.pack(name, 0)))[1])
        except OSError:
            return -1


def link_is_up(sock: socket.socket, name: str) -> bool:
    """Whether an interface of the namespace of `sock` is up and has a carrier.

    The carrier is asked of the driver: IFF_RUNNING and the operational state lag behind it by up to a second.
    """
    try:
        answer = fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, IFREQ_FLAGS.pack(name.encode(), 0))
    except OSError:  # renamed or gone
        return False
    if not IFREQ_FLAGS.unpack(answer)[1] & IFF_UP:
        return False
    link = (ctypes.c_uint32 * 2)(ETHTOOL_GLINK, 0)
    try:
        fcntl.ioctl(sock.fileno(), SIOCETHTOOL, IFREQ_POINTER.pack(name.encode(), ctypes.addressof(link)))
    except OSError:  # a driver that does not know
        return True
    return bool(link[1])


class Running:
    """Whether the kernel hands frames on to an interface: less than a microsecond a look, and no lock that others hold.

    Without a carrier it takes the interface out of service a moment later (net/core/link_watch.c, linkwatch_do_dev:
    first this flag goes, then the queueing discipline becomes one that throws all away and reports success).

    Args:
        sock: Of the interface's namespace.
        name: Of the interface.
    """

    def __init__(self, sock: socket.socket, name: str):
        self._descriptor = sock.fileno()
        self._request = bytearray(IFREQ_FLAGS.pack(name.encode(), 0))
        self._flags = memoryview(self._request)[16:18].cast("H")

    def rename(self, name: str) -> None:
        """The interface has this name now."""
        self._request[:16] = os.fsencode(name).ljust(16, b"\0")

    def __call__(self) -> bool:
        try:
            fcntl.ioctl(self._descriptor, SIOCGIFFLAGS, self._request, True)
        except OSError:  # renamed or gone: sending tells
            return True
        return bool(self._flags[0] & IFF_RUNNING)


def mtu(sock: socket.socket, name: str) -> int:
    """The MTU of an interface of the namespace of `sock`, octets; 0 when it is gone."""
    try:
        return int(IFREQ_MTU.unpack(fcntl.ioctl(sock.fileno(), SIOCGIFMTU, IFREQ_MTU.pack(name.encode(), 0)))[1])
    except OSError:
        return 0


_fence_lock = threading.Lock()
_fence_lock.acquire()
_STRONGLY_ORDERED = platform.machine() in {"x86_64", "AMD64"}


def fence() -> None:
    """Order the memory accesses before this call against those after it.

    Needed between reading a slot's status and its data, and between reading the data and giving the slot back. x86-64
    keeps that order by itself. Elsewhere a lock's release followed by an acquire is a full barrier: nothing moves
    down past the release or up past the acquire, and those two keep their order. Only one thread may use a ring.
    """
    if not _STRONGLY_ORDERED:
        _fence_lock.release()
        _fence_lock.acquire()
