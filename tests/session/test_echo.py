"""The echo service over real sockets on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probe.errors import UsageError
from probe.session.echo import EchoService, listen


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[EchoService, int]]]:
    opened: list[EchoService] = []

    def make(**more: Any) -> tuple[EchoService, int]:
        listener = listen(0)
        opened.append(EchoService(listener, **more))
        return opened[-1], listener.getsockname()[1]

    yield make
    for one in opened:
        one.close()


def until(service: EchoService, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        service.turn(0.05)


def read(service: EchoService, sock: socket.socket, octets: int) -> bytes:
    sock.setblocking(False)
    heard = bytearray()

    def more() -> bool:
        try:
            heard.extend(sock.recv(1 << 20))
        except BlockingIOError:
            pass
        return len(heard) >= octets

    until(service, more)
    return bytes(heard)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_is_said_comes_back(serve: Any, address: str) -> None:
    service, port = serve()
    with socket.create_connection((address, port)) as sock:
        for word in (b"a", b"bc" * 18):
            sock.sendall(word)
            assert read(service, sock, len(word)) == word
    until(service, lambda: len(service) == 0)


def test_what_the_network_does_not_take_waits(serve: Any) -> None:
    service, port = serve()
    said = bytes(range(256)) * 40_000
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setblocking(False)
        left = memoryview(said)

        def stuck() -> bool:
            nonlocal left
            try:
                left = left[sock.send(left) :]
            except BlockingIOError:
                return True
            return not left

        until(service, stuck)
        heard = bytearray()

        def all_back() -> bool:
            stuck() if left else None
            try:
                heard.extend(sock.recv(1 << 20))
            except BlockingIOError:
                pass
            return len(heard) == len(said)

        until(service, all_back)
        assert bytes(heard) == said


def test_who_is_not_allowed_is_turned_away(serve: Any) -> None:
    service, port = serve(allow=["10.0.0.0/8"])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        until(service, lambda: _closed(sock))
    assert len(service) == 0
    service, port = serve(allow=["127.0.0.0/8"])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"x")
        assert read(service, sock, 1) == b"x"


def test_connections_are_bounded(serve: Any) -> None:
    service, port = serve(most=2)
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    until(service, lambda: _closed(held[2]))
    assert len(service) == 2
    for sock in held:
        sock.close()


def test_a_port_in_use_is_said_to_be(serve: Any) -> None:
    _, port = serve()
    with pytest.raises(UsageError, match=f"tcp port {port} is in use"):
        listen(port)


def _closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
