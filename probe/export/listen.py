"""Listening sockets of the web endpoints: an address to bind, or sockets handed over by systemd.

Socket activation (sd_listen_fds(3)): LISTEN_PID names the process the sockets are meant for, LISTEN_FDS how many
there are, from descriptor 3 on. Read here rather than through libsystemd, as it is two variables. The sockets may
belong to another network namespace than the process: the lab's agents are reached that way.
"""

from __future__ import annotations

import errno
import os
import re
import socket

from probe.errors import UsageError

DEFAULT_PORT = 10862
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_BACKLOG = 128
_ALLOWED = "allowed: ADDRESS:PORT, [IPV6]:PORT or :PORT (all addresses), port 0..65535"


def listening_sockets(listen: str | socket.socket) -> list[socket.socket]:
    """The sockets to serve on: `listen` itself, those of systemd if this process got any, else a new one.

    Args:
        listen: A listening socket, which is taken as it is, or `ADDRESS:PORT`; port 0 lets the kernel choose.

    Raises:
        UsageError: If the address is malformed or cannot be bound.
    """
    if isinstance(listen, socket.socket):
        return [listen]
    return activated_sockets() or [_bound(*split_address(listen))]


def activated_sockets() -> list[socket.socket]:
    """Stream sockets passed by systemd; empty when none were meant for this process.

    They are taken once: the variables are removed, so that no child process claims them as well.

    Raises:
        UsageError: If a passed descriptor is not a listening stream socket.
    """
    meant_for, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    if meant_for != str(os.getpid()) or not count.isdecimal():
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return [_adopted(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]


def _adopted(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        adopted = socket.socket(fileno=fd)
        listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageError(f"descriptor {fd} passed by systemd (LISTEN_FDS) is not a socket: {error}") from error
    if not listens or adopted.type != socket.SOCK_STREAM:
        raise UsageError(f"descriptor {fd} passed by systemd is not a listening TCP socket; use ListenStream=")
    return adopted


def split_address(text: str) -> tuple[str, int]:
    """`ADDRESS:PORT` to its parts; the address is "" for all addresses.

    Raises:
        UsageError: If it is malformed; says what is allowed.
    """
    parts = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]*)):(?P<port>\d{1,5})", text.strip())
    if parts is None or int(parts["port"]) > 65535:
        raise UsageError(f"--web.listen-address: {text!r} is not an address to listen on; {_ALLOWED}")
    return parts["v6"] or parts["name"] or "", int(parts["port"])


def _bound(host: str, port: int) -> socket.socket:
    where = f"{host or '*'}:{port}"
    try:
        if not host:
            return _all_addresses(port)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(f"--web.listen-address: cannot listen on {where}: {error.strerror or error}") from error


def _all_addresses(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError as error:
            # IPv6 may be switched off although the kernel was built with it; a port in use is a true error.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)


def url_of(listening: socket.socket, scheme: str) -> str:
    """A URL by which this host reaches the socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
