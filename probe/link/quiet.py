"""Keeping the kernel's own answers away from the ports we probe with.

The kernel knows nothing of sessions kept on packet sockets: it would answer our peer's segments with RST and its
datagrams with port unreachable. A kernel socket that owns the port (TCP: listening) and drops everything by filter
keeps it silent, keeps others off the port, and needs no firewall rule that a crash would leave behind. The filter
runs before any TCP processing, and packet sockets still see everything.
"""

from __future__ import annotations

import errno
import random
import resource
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from probe.errors import PrivilegeError, UsageError
from probe.link import abi, grant_hint

Proto = Literal["udp", "tcp"]

_PORT_MAX = 65535
_UNPRIVILEGED_MIN = 1024
_DESCRIPTOR_RESERVE = 128  # what the rest of the process may open besides
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class QuietPorts:
    """Ports held silent in the network namespace of the calling thread.

    Args:
        rng: Chooses where a range starts. A restarted probe should not meet its former sessions in a firewall's
            table, hence at random.
    """

    def __init__(self, rng: random.Random | None = None):
        self._rng = rng or random.Random()
        self._held: dict[tuple[Proto, int], socket.socket] = {}
        self._full: set[tuple[Proto, tuple[int, int]]] = set()  # spans without a free port, when last looked at

    def reserve(
        self, proto: Proto, address: str, count: int, *, lo: int | None = None, hi: int | None = None
    ) -> list[int]:
        """Hold `count` ports, in one piece if there is a piece that long.

        Without `lo` and `hi`, ports outside `net.ipv4.ip_local_port_range` come first, above it and then below:
        the kernel gives none of those to its own clients.

        Args:
            proto: Which port space.
            address: The address that probes leave from or arrive at. The ports are held on all addresses, of both
                IP versions if possible; only a host without IPv6 sockets looks at the version of this one.
            count: How many.
            lo: Lowest port allowed.
            hi: Highest port allowed, inclusive.

        Returns:
            The ports, ascending.

        Raises:
            UsageError: If there are not that many, or not enough file descriptors for them.
            PrivilegeError: If the kernel refuses the filter or the port.
        """
        if count < 1:
            return []
        _allow_descriptors(len(self._held) + count)
        ranges = _candidates(lo, hi)
        held: dict[int, socket.socket] = {}
        try:
            if not any(self._contiguous(held, proto, address, count, span) for span in ranges):
                _scattered(held, proto, address, count, ranges)
        except BaseException:
            _close(held)
            raise
        self._held.update({(proto, port): sock for port, sock in held.items()})
        return sorted(held)

    def reserve_one(self, proto: Proto, port: int, address: str = "::") -> int:
        """Hold this very port.

        Raises:
            UsageError: If another program has it.
            PrivilegeError: If the kernel refuses the filter or the port.
        """
        _allow_descriptors(len(self._held) + 1)
        sock = _hold(proto, address, port)
        if sock is None:
            raise UsageError(f"{proto} port {port} is in use by another program on this host (see `ss -lnp`)")
        self._held[proto, port] = sock
        return port

    def release(self, proto: Proto, ports: Iterable[int]) -> None:
        """Let go of some ports; those not held are ignored."""
        self._full.clear()
        for port in ports:
            sock = self._held.pop((proto, port), None)
            if sock is not None:
                sock.close()

    def close(self) -> None:
        """Let go of all."""
        for sock in self._held.values():
            sock.close()
        self._held.clear()

    def _contiguous(
        self, held: dict[int, socket.socket], proto: Proto, address: str, count: int, span: tuple[int, int]
    ) -> bool:
        """Put a run of `count` free ports into `held`, looking from a random start on and then round."""
        low, high = span
        starts = high - low - count + 2
        if starts < 1 or (proto, span) in self._full:
            return False
        offset = self._rng.randrange(starts)
        # Two stretches, so that each only moves up: a taken port rules out every start at or below it.
        for first, last in ((low + offset, high), (low, low + offset + count - 2)):
            for port in range(first, last + 1):
                if last - port + 1 < count - len(held):
                    break
                sock = _hold(proto, address, port) if (proto, port) not in self._held else None
                if sock is None:
                    _close(held)
                    continue
                held[port] = sock
                if len(held) == count:
                    return True
            _close(held)
        if count == 1:
            self._full.add((proto, span))
        return False


def _scattered(
    held: dict[int, socket.socket], proto: Proto, address: str, count: int, ranges: list[tuple[int, int]]
) -> None:
    """Put any `count` free ports into `held`."""
    for port in (port for low, high in ranges for port in range(low, high + 1)):
        sock = _hold(proto, address, port)
        if sock is not None:
            held[port] = sock
        if len(held) == count:
            return
    spans = ", ".join(f"{low}-{high}" for low, high in ranges)
    raise UsageError(f"{count} {proto} ports wanted, {len(held)} free in {spans}; probe with fewer fresh sessions")


def _hold(proto: Proto, address: str, port: int) -> socket.socket | None:
    """A silent socket on the port; None if the port is taken."""
    sock = _wildcard_socket(proto, address)
    try:
        # Before the bind, so that not even the first segment is answered.
        abi.attach_filter(sock, abi.DROP_ALL)
    except PermissionError as error:
        sock.close()
        raise PrivilegeError(
            f"missing capability CAP_NET_ADMIN: this kernel demands it to silence a TCP port: {grant_hint()}"
        ) from error
    try:
        sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", port))
        if proto == "tcp":
            sock.listen(1)  # a port that is bound but not listening still answers with RST
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise PrivilegeError(
                f"missing capability CAP_NET_BIND_SERVICE for {proto} port {port}: choose a port from 1024 on, "
                "or grant it like CAP_NET_RAW (setcap, AmbientCapabilities)"
            ) from error
        raise
    return sock


def _wildcard_socket(proto: Proto, address: str) -> socket.socket:
    """A socket that can cover all addresses of the host: IPv6 with IPv4 mapped, else of `address`'s version."""
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    try:
        sock = socket.socket(socket.AF_INET6, kind)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT or (ip_address(address).version == 6 and address != "::"):
            raise
        return socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


def _candidates(lo: int | None, hi: int | None) -> list[tuple[int, int]]:
    """Ranges of ports to look in, best first."""
    if lo is not None or hi is not None:
        low, high = lo or _UNPRIVILEGED_MIN, hi or _PORT_MAX
        if not 0 < low <= high <= _PORT_MAX:
            raise UsageError(f"port range {low}-{high}: from 1 to {_PORT_MAX}, ascending")
        return [(low, high)]
    first, last = (int(word) for word in _EPHEMERAL.read_text().split())
    ranges = [(last + 1, _PORT_MAX), (_UNPRIVILEGED_MIN, first - 1), (max(first, _UNPRIVILEGED_MIN), last)]
    return [(low, high) for low, high in ranges if low <= high]


def _allow_descriptors(ports: int) -> None:
    """Raise the soft limit of open files as far as needed and allowed."""
    needed = ports + _DESCRIPTOR_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"{ports} quiet ports need {needed} open files, the limit is {hard}: raise it (ulimit -Hn, LimitNOFILE=) "
            "or probe with fewer fresh sessions"
        )
    target = hard if hard != resource.RLIM_INFINITY else needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def _close(held: dict[int, socket.socket]) -> None:
    for sock in held.values():
        sock.close()
    held.clear()
