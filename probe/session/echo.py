"""The echo service (RFC 862, over TCP): what a stream types comes back at once.

One process of its own, so that it delays no probe and no probe delays it. It answers each record as it comes; what the
network does not take waits, and meanwhile nothing more is read. Connections are bounded in number.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
from collections.abc import Callable, Sequence

from probe.border import Channel, SharedState
from probe.errors import PrivilegeError, UsageError

MOST_CONNECTIONS = 256
MOST_OCTETS = 1 << 16  # read at a time, hence also waiting to be sent back
# A peer that vanished keeps its place for 20 minutes: longer than TCP keeps trying on a path that is dark.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 900), (socket.TCP_KEEPINTVL, 60), (socket.TCP_KEEPCNT, 5))
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class EchoService:
    """All connections to one port.

    Args:
        listener: Bound and listening, not blocking.
        allow: Networks that may use it; empty: all.
        most: Connections at a time; further ones are closed at once.
    """

    def __init__(self, listener: socket.socket, allow: Sequence[str] = (), most: int = MOST_CONNECTIONS):
        self._listener, self._most = listener, most
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._waiting: dict[int, bytes] = {}  # to be sent back
        self.echoed = 0  # records, as far as they come one by one

    def __len__(self) -> int:
        return len(self._connections)

    def turn(self, wait_s: float) -> None:
        """Serve whoever has something, for at most `wait_s` until there is."""
        for fd, _ in self._epoll.poll(wait_s):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._connections:
                self._serve(fd)

    def close(self) -> None:
        """End every connection, and the port."""
        for fd in list(self._connections):
            self._end(fd)
        self._epoll.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS and self._connections:
                self._end(next(iter(self._connections)))  # the oldest makes room; else accept would fail for ever
            return
        if len(self._connections) >= self._most or not self._is_allowed(str(address[0])):
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _is_allowed(self, source: str) -> bool:
        address = ipaddress.ip_address(source.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return not self._allow or any((mapped or address) in network for network in self._allow)

    def _serve(self, fd: int) -> None:
        connection, data, sent = self._connections[fd], self._waiting.pop(fd, b""), 0
        try:
            if not data:
                data = connection.recv(MOST_OCTETS)
                self.echoed += 1
                if not data:
                    self._end(fd)
                    return
            sent = connection.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError:
            self._end(fd)
            return
        if sent < len(data):
            self._waiting[fd] = data[sent:]
        self._epoll.modify(fd, select.EPOLLOUT if fd in self._waiting else select.EPOLLIN)

    def _end(self, fd: int) -> None:
        connection = self._connections.pop(fd)
        self._waiting.pop(fd, None)
        self._epoll.unregister(fd)
        connection.close()


def listen(port: int, interface: str = "") -> socket.socket:
    """A listening socket for both address families, as far as this host has them.

    Raises:
        UsageError: If the port is taken.
        PrivilegeError: If it needs a privilege.
    """
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address = "::"
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        listener, address = socket.socket(socket.AF_INET, socket.SOCK_STREAM), "0.0.0.0"
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        # A session of before keeps the port for a minute (TIME-WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if interface:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        try:
            listener.bind((address, port))
            listener.listen(64)
        except PermissionError as error:
            raise PrivilegeError(
                f"missing capability CAP_NET_BIND_SERVICE for tcp port {port}: choose a port from 1024 on, "
                "or grant it (setcap, AmbientCapabilities)"
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"tcp port {port} is in use by another program on this host (see `ss -ltnp`)"
                ) from error
            raise
        undo.pop_all()
    listener.setblocking(False)
    return listener


def run(service: EchoService, shared: SharedState, channel: Channel, stop: Callable[[], bool]) -> None:
    """Serve until told to stop or the control process is gone."""
    while not stop():
        service.turn(0.1)
        shared.header["reflected"], shared.header["sessions"] = service.echoed, len(service)
        list(channel.receive())
        if channel.closed:
            break
