"""TCP connections of the kernel's own stack, without waiting: for streams.

The kernel stamps what it sends and receives (SO_TIMESTAMPING, Documentation/networking/timestamping.rst): each octet's
last transmission by the driver, so also every retransmission, comes back on the error queue under the number of the
last octet of its segment.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from dataclasses import dataclass
from typing import Literal

from probe.core.events import EndCause
from probe.core.stream import TcpInfo
from probe.link.tcp_tap import Key, LastWord, TcpTap

SO_TIMESTAMPING = 37  # include/uapi/asm-generic/socket.h; the same on x86-64 and arm64
SO_EE_ORIGIN_TIMESTAMPING = 4  # linux/errqueue.h
# linux/net_tstamp.h: TX_SOFTWARE, RX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY
_STAMPS = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 11
_EXTENDED_ERR = struct.Struct("=IBBBBII")  # struct sock_extended_err
_TIMESPEC = struct.Struct("=qq")
_ANCILLARY = 512
_INFO_OCTETS = 136
# struct tcp_info: backoff, rto (us), total_retrans and bytes_acked at their offsets; the last is of Linux 4.1.
_INFO = struct.Struct("=4xB3xI88xI16xQ")
# Seen when the kernel has given up: ICMP errors meanwhile only name the reason.
_GIVEN_UP = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
IP_TTL, IPV6_UNICAST_HOPS, IPV6_TCLASS = 2, 16, 67  # linux/in.h, linux/in6.h


@dataclass(frozen=True, slots=True)
class Way:
    """Whereto and how.

    Attributes:
        address: The far end's; a link-local one with `%interface`, or `interface` given.
        source: Our address; "": as the kernel chooses.
        interface: The interface to keep to; "": as the kernel routes.
    """

    address: str
    port: int
    source: str = ""
    interface: str = ""
    dscp: int = 0
    ttl: int = 64


class Ended(Exception):
    """The connection is over."""

    def __init__(self, cause: EndCause, detail: str):
        super().__init__(detail)
        self.cause = cause


Progress = Literal["connecting", "connected"]


class KernelTcp:
    """One connection, from its SYN on.

    Args:
        way: Whereto.
        tap: Sees what ends it; None: nobody does.

    Raises:
        Ended: If not even a SYN can be sent.
    """

    def __init__(self, way: Way, tap: TcpTap | None = None):
        self._tap, self._key = tap, Key(b"", 0, 0)
        v6 = ":" in way.address
        self._socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
        self._written = 0
        try:
            self._socket.setblocking(False)
            self._prepare(way, v6)
            if tap is not None:
                address = socket.inet_pton(self._socket.family, way.address.partition("%")[0])
                self._key = Key(address, way.port, self._socket.getsockname()[1])
                tap.watch(self._key)
            self._socket.connect(_socket_address(way.address, way.port, way))
        except BlockingIOError:
            pass
        except OSError as error:
            self._socket.close()
            if tap is not None:
                tap.forget(self._key)
            raise _ended(error) from error

    def _prepare(self, way: Way, v6: bool) -> None:
        sock = self._socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, way.dscp << 2)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, way.ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, way.dscp << 2)
            sock.setsockopt(socket.IPPROTO_IP, IP_TTL, way.ttl)
        if way.interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.interface.encode())
        # Even without a source: its port is to be known before its SYN leaves.
        sock.bind(_socket_address(way.source, 0, way))

    def fileno(self) -> int:
        return self._socket.fileno()

    def local(self) -> str:
        """Our address."""
        return str(self._socket.getsockname()[0])

    def finish(self) -> Progress:
        """How far the handshake is.

        Raises:
            Ended: If it was refused or given up.
        """
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise _ended(OSError(number, errno.errorcode.get(number, str(number))))
        try:
            self._socket.getpeername()
        except OSError:
            return "connecting"
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, _STAMPS)  # numbers octets from here on
        return "connected"

    def write(self, data: bytes) -> int:
        """Hand octets to the kernel; how many it had room for.

        Raises:
            Ended: If the connection is over.
        """
        try:
            n = self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _ended(error) from error
        self._written += n
        return n

    def read(self, octets: int) -> tuple[bytes, int]:
        """At most so many octets that have come, and when their last one did: Unix ns by the kernel, 0 if not stamped.

        Raises:
            Ended: If the connection is over, by the far end or by the kernel.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(octets, _ANCILLARY)
        except BlockingIOError:
            return b"", 0
        except OSError as error:
            raise _ended(error) from error
        if not data:
            raise Ended("fin", "closed by the far end")
        return data, _stamp(ancillary)

    def sent(self) -> list[tuple[int, int]]:
        """(number of its last octet, Unix ns) of each segment that the kernel has sent since the last call."""
        told: list[tuple[int, int]] = []
        while True:
            try:
                _, ancillary, _, _ = self._socket.recvmsg(0, _ANCILLARY, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return told
            for level, _, data in ancillary:
                if level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6) and len(data) >= _EXTENDED_ERR.size:
                    _, origin, _, _, _, _, octet = _EXTENDED_ERR.unpack_from(data)
                    if origin == SO_EE_ORIGIN_TIMESTAMPING:
                        told.append((octet, _stamp(ancillary)))

    def last_word(self, cause: EndCause) -> LastWord | None:
        """The packet that ended the connection in this way; None if none did, or none was seen."""
        if self._tap is None or cause not in ("rst", "fin"):
            return None
        return self._tap.last_word(self._key, reset=cause == "rst")

    def info(self) -> TcpInfo:
        """What the kernel tells of the connection now."""
        raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_OCTETS)
        backoff, rto_us, total_retrans, acked = _INFO.unpack_from(raw.ljust(_INFO_OCTETS, b"\0"))
        return TcpInfo(rto_us * 1000, backoff, total_retrans, max(0, acked - 1))  # the SYN counts as one

    def close(self) -> None:
        """End it with an RST, so that no table on the way keeps the session."""
        if self._tap is not None:
            self._tap.forget(self._key)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class KernelStack:
    """Opens connections and knows which of them have something to say."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._open: dict[int, KernelTcp] = {}
        self._tap: TcpTap | None = None  # as long as there are connections

    def connect(self, way: Way) -> KernelTcp:
        """Begin a connection.

        Raises:
            Ended: If not even a SYN can be sent.
        """
        self._listen()
        try:
            connection = KernelTcp(way, self._tap)
        except Ended:
            self._hush()
            raise
        self._open[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP)
        return connection

    def ready(self) -> list[KernelTcp]:
        """Connections to read from, by data, stamps or errors."""
        told = [fd for fd, _ in self._epoll.poll(0)]
        if self._tap is not None and self._tap.fileno() in told:
            self._tap.read()
        return [self._open[fd] for fd in told if fd in self._open]

    def close(self, connection: KernelTcp) -> None:
        """End a connection."""
        fd = connection.fileno()
        if self._open.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            connection.close()
            self._hush()

    def _listen(self) -> None:
        if self._tap is None:
            try:
                self._tap = TcpTap()
            except OSError:  # a session's end is told without its sender then
                return
            self._epoll.register(self._tap.fileno(), select.EPOLLIN)

    def _hush(self) -> None:
        if self._tap is not None and not self._open:
            self._epoll.unregister(self._tap.fileno())
            self._tap.close()
            self._tap = None


def _socket_address(address: str, port: int, way: Way) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address of a way as `socket` takes it: with its zone apart, without which a link-local one means nothing."""
    host, _, zone = address.partition("%")
    zone = zone or way.address.partition("%")[2] or way.interface
    return (host, port, 0, socket.if_nametoindex(zone)) if zone and ":" in way.address else (host, port)


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING and len(data) >= _TIMESPEC.size:
            seconds, ns = _TIMESPEC.unpack_from(data)
            return int(seconds * 1_000_000_000 + ns)
    return 0


def _ended(error: OSError) -> Ended:
    return Ended("silent" if error.errno in _GIVEN_UP else "rst", error.strerror or str(error))
