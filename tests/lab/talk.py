"""Small talkers for the lab's tests: echo servers and clients whose sockets live in a host's namespace."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.lab import namespace
from probe.lab.plan import Plan

PORT = 8620
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


def prefix(word: str) -> str:
    """A prefix no other lab of this machine has; short, for people who look at `ip netns`."""
    return f"t{os.getpid()}{word}-"


@contextlib.contextmanager
def echo_servers(plan: Plan, *hosts: str) -> Iterator[None]:
    """TCP and UDP echo on PORT of these hosts."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []
    lock = threading.Lock()
    stopping = threading.Event()

    def serve_tcp(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(2048):
                connection.sendall(data)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stopping.is_set():
                connection, _ = listener.accept()
                with lock:
                    sockets.append(connection)
                start(serve_tcp, connection)

    def serve_udp(datagrams: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stopping.is_set():
                data, sender = datagrams.recvfrom(2048)
                if sender is None:  # shut down
                    return
                datagrams.sendto(data, sender)

    def start(function, argument) -> None:
        thread = threading.Thread(target=function, args=(argument,))
        threads.append(thread)
        thread.start()

    for host in hosts:
        path = plan.namespace_path(host)
        listener = namespace.inside(path, lambda: socket.create_server(("", PORT)))
        datagrams = namespace.inside(path, _bound_udp)
        sockets += [listener, datagrams]
        start(accept, listener)
        start(serve_udp, datagrams)
    try:
        yield
    finally:
        stopping.set()
        with lock:
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it; UDP says ENOTCONN and wakes too
                one.close()
        for thread in threads:
            thread.join(5)


def connect(plan: Plan, host: str, target: str, timeout_s: float = 2.0) -> socket.socket:
    """A TCP session from a host to PORT of a target. Raises TimeoutError or ConnectionError when it cannot be had."""

    def make() -> socket.socket:
        return socket.create_connection((target, PORT), timeout_s)

    return namespace.inside(plan.namespace_path(host), make)


def alive(session: socket.socket, timeout_s: float = 1.5) -> bool:
    """Whether a TCP session still carries an octet there and back. ConnectionError when it was reset."""
    session.settimeout(timeout_s)
    session.sendall(b"?")
    try:
        return bool(session.recv(1))
    except TimeoutError:
        return False


def tcp_works(plan: Plan, host: str, target: str, timeout_s: float = 2.0) -> bool:
    try:
        with connect(plan, host, target, timeout_s) as session:
            return alive(session)
    except OSError:
        return False


def udp_works(plan: Plan, host: str, target: str, timeout_s: float = 1.0) -> bool:
    with namespace.inside(plan.namespace_path(host), lambda: socket.socket(type=socket.SOCK_DGRAM)) as client:
        client.settimeout(timeout_s)
        client.connect((target, PORT))
        try:
            client.send(b"?")
            return client.recv(9) == b"?"
        except OSError:
            return False


def pings(plan: Plan, host: str, target: str, timeout_s: float = 1.0) -> bool:
    """Whether an ICMP echo request is answered by its target."""
    return ping(plan, host, target, timeout_s)[0] == 0


def ping(plan: Plan, host: str, target: str, timeout_s: float = 1.0, ttl: int = 64) -> tuple[int, str]:
    """(ICMP type of the first answer, from where); (-1, "") when there is none in time."""

    def raw() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    ident = threading.get_native_id() & 0xFFFF
    with namespace.inside(plan.namespace_path(host), raw) as client:
        client.settimeout(timeout_s)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        client.sendto(_echo_request(ident), (target, 0))
        try:
            while True:
                packet, sender = client.recvfrom(2048)
                kind = packet[(packet[0] & 15) * 4]
                if kind != 8:  # our own request, when pinging ourselves
                    return kind, sender[0]
        except TimeoutError:
            return -1, ""


def _echo_request(ident: int) -> bytes:
    header = struct.pack("!BBHHH", 8, 0, 0, ident, 1)
    total = sum(struct.unpack("!4H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", 8, 0, checksum, ident, 1)


def _bound_udp() -> socket.socket:
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("", PORT))
    return datagrams


def netns_exists(plan: Plan, host: str) -> bool:
    return Path(plan.namespace_path(host)).exists()
